"""The labels that a claim says its swaps lead to, as a function of a swap set."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from pytest_scrub.common.user_code import call_user_function
from pytest_scrub.data.feature_values import FeatureValues
from pytest_scrub.errors import DataError, HypothesisError, located_at
from pytest_scrub.swaps.slots import REFERENCE, Slot, predicted_path
from pytest_scrub.tree.paths import predicted_from
from pytest_scrub.tree.predictions import Prediction, arguments_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from pytest_scrub.data.dataset import Dataset
    from pytest_scrub.swaps.swap_set import Rows
    from pytest_scrub.tree.nodes import Node

LOOKED_AT = 16  # references of a batch, whose labels are computed alone


@dataclass(frozen=True, eq=False)
class PredictedLabels:
    """The labels of swap sets of one tree, as its output predicts them.

    - `said`: the prediction; `root`: the output.
    - `places`: of every argument the slot whose rows it reads, or `REFERENCE`.
    """

    dataset: Dataset
    root: Node
    said: Prediction
    places: dict[str, int]

    @classmethod
    def of(cls, root: Node, dataset: Dataset, slots: Sequence[Slot]) -> PredictedLabels | None:
        """Those of a tree with these slots; None where it predicts no change.

        **Raises** `HypothesisError` where a prediction reads what is not there, and `DataError`
        where the dataset has no labels that could change.
        """
        said, sources = root.predicts, predicted_from(root)
        if said is None:
            return None
        if dataset.labels is None:
            with located_at(root):
                raise DataError(
                    "predicts= says what label a swap leads to, and the dataset has none; give the "
                    "Dataset labels="
                )
        index = {slot.path: i for i, slot in enumerate(slots)}
        places = {}
        for argument, path in sources.items():
            if path is None:
                places[argument] = REFERENCE
                continue
            i = index[path]
            if said.apart:
                owner = slots[i].shares
                i = index[predicted_path(slots[i if owner is None else owner].path)]
            places[argument] = i
        return cls(dataset, root, said, places)

    @property
    def read(self) -> frozenset[int]:
        """The slots whose rows decide the label, whether or not an activation is taken from
        them."""
        return frozenset(self.places.values()) - {REFERENCE}

    def labels(self, rows: Rows) -> Tensor:
        """The labels `[R, ...]`, of the type and on the device of the dataset's.

        **Arguments**

        - `rows`: int64 `[slots + 1, R]`, donors and, last, at `REFERENCE`, the references.

        **Raises** `HypothesisError` where a function fails, or gives anything else than a label
        for each.
        """
        with located_at(self.root):
            return self._labels(rows)

    def prove_alone(self, rows: Rows) -> None:
        """**Raises** `HypothesisError` where a label is another one alone than beside others."""
        together = self.labels(rows)
        for nth in np.unique(np.linspace(0, rows.shape[1] - 1, LOOKED_AT).astype(np.int64)):
            if not torch.equal(self.labels(rows[:, [nth]])[0], together[nth]):
                with located_at(self.root):
                    raise HypothesisError(
                        f"{self.said.what} gives a reference another label when it is called for "
                        "it alone; compute each label from its own rows, the same every time"
                    )

    def _labels(self, rows: Rows) -> Tensor:
        assert self.dataset.labels is not None  # as seen at the start
        what, function = self.said.what, self.said.function
        own = self.dataset.labels
        arguments = arguments_of(what, function)
        read = [FeatureValues(self.dataset, rows[self.places[argument]]) for argument in arguments]
        hint = "".join(
            f"; {argument}[{feature!r}] are values of one feature, {argument} itself holds all"
            for argument in arguments[-1:]
            for feature in self.dataset.feature_names[:1]
        )
        given = call_user_function(what, function, *read, kind=HypothesisError, hint=hint)
        found = _as_tensor(what, given)
        wanted = (rows.shape[1], *own.shape[1:])
        if tuple(found.shape) != wanted:
            raise HypothesisError(
                f"{what} has to return one label for each reference, {list(wanted)} as the "
                f"dataset's are, not {list(found.shape)}"
            )
        is_index = not (own.is_floating_point() or own.is_complex())
        if is_index and (found.is_floating_point() or found.is_complex()):
            raise HypothesisError(
                f"{what} returns {str(found.dtype).removeprefix('torch.')} numbers, but the "
                "dataset's labels are whole numbers; let it return whole numbers"
            )
        found = found.to(device=own.device, dtype=own.dtype, copy=True)
        if own.is_floating_point() and not bool(found.isfinite().all()):
            raise HypothesisError(f"{what} is NaN or infinite for some swaps; mend the function")
        return found


def _as_tensor(what: str, given: Any) -> Tensor:
    try:
        values: NDArray[Any] | Tensor = given
        if not isinstance(given, Tensor):
            values = np.asarray(given)
        return torch.as_tensor(values).detach()
    except (TypeError, ValueError, RuntimeError) as error:
        of = f" of {values.dtype}" if isinstance(values, np.ndarray) else ""
        raise HypothesisError(
            f"{what} returns {type(given).__name__}{of}, of which no labels can be made; return an "
            "array of labels, which are numbers"
        ) from error
