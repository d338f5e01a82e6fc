"""What a claim says that swaps make of the output: another label than the reference's own."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from pytest_scrub.common.calls import short_repr
from pytest_scrub.errors import HypothesisError

REFERENCE_ARGUMENT = "reference"
# what else the network's answers are held against, and how reports call it
CLAIM, NO_CHANGE, NO_SWAP = "the claim", "no change", "no swap"
Predicts = Callable[..., Any]


@dataclass(frozen=True)
class Prediction:
    """The labels that swaps should lead to, as an output says them.

    - `function`: computes them from the feature values of the reference and of named nodes' rows.
    - `rivals`: other such functions, by name: what else could explain what the network does.
    - `what`: how errors call it.
    - `apart`: it reads the rows of another draw of the same swaps, as under the null.
    """

    function: Predicts
    rivals: tuple[tuple[str, Predicts], ...] = ()
    what: str = "predicts="
    apart: bool = False

    @property
    def functions(self) -> dict[str, Predicts]:
        """The claim's own and its rivals, as errors call them."""
        rivals = (self.against(name) for name, _ in self.rivals)
        return {self.what: self.function, **{each.what: each.function for each in rivals}}

    def against(self, rival: str) -> Prediction:
        """What a rival says instead."""
        return replace(
            self, function=dict(self.rivals)[rival], rivals=(), what=f"the rival {rival!r}"
        )

    def __str__(self) -> str:
        names = [getattr(each, "__name__", "a function") for each in self.functions.values()]
        others = [name for name, _ in self.rivals if name != NO_CHANGE]
        against = f", not {' or '.join(others)}" * bool(others)
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
        if taken := {CLAIM, NO_CHANGE, NO_SWAP} & {*rivals}:
            raise HypothesisError(
                f"rivals= has one called {min(taken)!r}, which reports call something else; give "
                "it another name"
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
        if type(function).__hash__ is None:
            raise HypothesisError(
                f"{what} cannot be told from other functions, as {type(function).__name__} has no "
                "hash; give a function, or a frozen dataclass"
            )
        arguments_of(what, function)
    if set(arguments_of("predicts=", own.function)) <= {REFERENCE_ARGUMENT}:
        # no other draw could tell it from what is so without any swap
        own = replace(own, rivals=(*own.rivals, (NO_CHANGE, _unchanged)))
    return own


def _unchanged(reference: Any) -> Any:
    """The label that the reference has anyway."""
    return reference.labels


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
