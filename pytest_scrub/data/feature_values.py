"""What a dataset knows of some of its rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from pytest_scrub.errors import DataError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from pytest_scrub.data.dataset import Dataset


class FeatureValues(Mapping[str, "NDArray[Any]"]):
    """The feature values of one row for each reference of a batch: `rows["carry"]` is an array
    `[batch]`, or `[batch, ...]` of a feature that has several values for a row.

    - `dataset`: whose rows they are.
    - `rows`: int64 `[batch]`.
    """

    def __init__(self, dataset: Dataset, rows: NDArray[np.int64]) -> None:
        self.dataset, self.rows = dataset, rows.copy()  # as they are those of a swap set
        self.rows.flags.writeable = False  # what is written there would be read as other rows

    def __getitem__(self, feature: str) -> NDArray[Any]:
        """**Raises** `DataError` for a feature that the dataset does not have."""
        values: NDArray[Any] = self.dataset.feature(feature)[self.rows]
        return values

    def __getattr__(self, name: str) -> Any:
        """**Raises** `AttributeError`, which says how features are written."""
        raise AttributeError(f"rows have no {name!r}; a feature is written rows[{name!r}]")

    def __iter__(self) -> Iterator[str]:
        return iter(self.dataset.feature_names)

    def __len__(self) -> int:
        return len(self.dataset.feature_names)

    def __contains__(self, feature: object) -> bool:
        return feature in self.dataset.feature_names

    @property
    def labels(self) -> NDArray[Any]:
        """The labels of these rows, `[batch, ...]`; **raises** `DataError` where one has none."""
        if self.dataset.labels is None:
            raise DataError("the dataset has no labels; give the Dataset labels=")
        if (self.rows >= self.dataset.labelled).any():
            raise DataError(
                "rows that extend() added without labels= have none; predict the label from "
                "features that are functions of the inputs"
            )
        rows = self.rows.copy()  # torch warns of arrays that it could not write to
        found: NDArray[Any] = self.dataset.labels[rows].cpu().numpy()
        return found
