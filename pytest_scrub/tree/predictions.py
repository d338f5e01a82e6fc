"""What a claim says that swaps make of the output: another label than the reference's own."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pytest_scrub.common.calls import short_repr
from pytest_scrub.errors import HypothesisError

REFERENCE_ARGUMENT = "reference"
Predicts = Callable[..., Any]


@dataclass(frozen=True)
class Prediction:
    """The labels that swaps should lead to, as an output says them.

    - `function`: computes them from the feature values of the reference and of named nodes' rows.
    - `rivals`: other such functions, by name: what else could explain what the network does.
    - `apart`: it reads the rows of another draw of the same swaps, as under the null.
    """

    function: Predicts
    rivals: tuple[tuple[str, Predicts], ...] = ()
    apart: bool = False

    @property
    def functions(self) -> dict[str, Predicts]:
        """The claim's own and its rivals, as errors call them."""
        rivals = {f"the rival {name!r}": function for name, function in self.rivals}
        return {"predicts=": self.function, **rivals}

    def __str__(self) -> str:
        names = [getattr(each, "__name__", "a function") for each in self.functions.values()]
        against = f", not {' or '.join(name for name, _ in self.rivals)}" if self.rivals else ""
        return f"predicts {names[0]}{against}"


def prediction(predicts: object, rivals: object) -> Prediction | None:
    """What `predicts=` and `rivals=` of an output say. **Raises** `HypothesisError`."""
    if predicts is None:
        if rivals is not None:
            raise HypothesisError(
                "rivals= are other predictions than predicts=, and that is not given; give it, or "
                "leave rivals= out"
            )
        return None
    given: dict[object, object] = {}
    if rivals is not None:
        if not isinstance(rivals, Mapping) or not all(
            isinstance(name, str) and name for name in rivals
        ):
            raise HypothesisError(
                f"rivals= takes a dict of a name and a function for each, not {short_repr(rivals)}"
            )
        given = {**rivals}
    for what, function in {"predicts=": predicts, **given}.items():
        if not callable(function):
            where = what if what == "predicts=" else f"the rival {what!r}"
            raise HypothesisError(
                f"{where} is a function of the reference and of named nodes, such as "
                f"lambda reference, carry: ..., not {short_repr(function)}"
            )
    own = Prediction(predicts, tuple(given.items()))  # type: ignore[arg-type]  # as just seen
    for what, function in own.functions.items():
        arguments_of(what, function)
    return own


def arguments_of(what: str, function: Predicts) -> list[str]:
    """What a function reads, by the names of its arguments; those with a default are its own.

    **Raises** `HypothesisError` where they have no names.
    """
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        raise HypothesisError(
            f"the arguments of {what} are to be named after what it reads, and it does not say how "
            "they are called; write a function such as lambda reference, carry: ..."
        ) from None
    asked = [each for each in parameters if each.default is each.empty]
    for each in asked:
        if each.kind not in (each.POSITIONAL_ONLY, each.POSITIONAL_OR_KEYWORD):
            raise HypothesisError(
                f"the arguments of {what} are named after what it reads, which {each} is not; "
                "write one argument for the reference and for each node, such as "
                "lambda reference, carry: ..."
            )
    return [each.name for each in asked]
