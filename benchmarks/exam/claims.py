"""What the exam asks: a claim, what is true of it, and how that is known.

A claim is *false* where some allowed distribution of swaps lies beyond its bound, and *true* where
none does. Claims that say something untrue of the program and allow nothing that hurts, and claims
that say nothing, stand *apart*: they are neither, and none of them should be held.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pytest_scrub import Dataset
from pytest_scrub.tree.nodes import Node

TRUE, FALSE, APART = "true", "false", "apart"

# Kinds of claims that are not true.
WRONG_FEATURE = "wrong feature"
LOTTERY = "random feature"  # a fifth of the references have a partner
COARSER = "coarser feature"
OTHER_COMPONENT = "other component"
DROPPED = "dropped child"
SWAPPED = "swapped slots"
WRONG_POSITION = "wrong position"
REDUNDANT = "idle but redundant"
TAUTOLOGY = "tautology"
CANCELS = "cancellation"
MEMORISED = "memorised subset"
LEAK = "small leak"
KINDS = (
    WRONG_FEATURE, LOTTERY, COARSER, OTHER_COMPONENT, DROPPED, SWAPPED, WRONG_POSITION, REDUNDANT,
    TAUTOLOGY, CANCELS, MEMORISED, LEAK,
)  # fmt: skip
# Kinds of claims that are true.
AS_IT_IS = "as it is"
FINER = "finer feature"  # what it says, and more that happens not to hurt


@dataclass(frozen=True, eq=False)
class Ground:
    """What claims are made about: a network, its data, and how they are judged.

    - `options`: of `check`, such as the metric and what is accepted.
    """

    name: str
    model: Any
    data: Dataset
    options: Mapping[str, Any]


@dataclass(frozen=True)
class Known:
    """What was found out about a claim without the tool that is examined.

    - `beyond`: whether some allowed distribution of swaps lies beyond the bound.
    - `how`: in words, with the figures.
    """

    beyond: bool
    how: str


@dataclass(frozen=True, eq=False)
class Question:
    """A claim with its answer.

    - `kind`: one of `KINDS`, or, of what is true, `AS_IT_IS` or `FINER`.
    - `truth`: `TRUE`, `FALSE` or `APART`.
    - `proof`: how the answer is found anew, or why it is so by construction, in one line.
    """

    ground: Ground
    name: str
    kind: str
    says: Node
    truth: str
    proof: Callable[[Question], Known] | str
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def id(self) -> str:
        return f"{self.ground.name}: {self.name}"

    @property
    def told(self) -> dict[str, Any]:
        """The options of `check`."""
        return {**self.ground.options, **self.options, "name": self.id}


@dataclass(frozen=True)
class Sheet:
    """The questions about one ground, as they are written down."""

    ground: Ground
    proof: Callable[[Question], Known] | str
    questions: list[Question] = field(default_factory=list)

    def add(self, truth: str, kind: str, name: str, says: Node, **given: Any) -> None:
        proof = given.pop("proof", self.proof)
        self.questions.append(Question(self.ground, name, kind, says, truth, proof, given))

    def true(self, name: str, says: Node, **given: Any) -> None:
        self.add(TRUE, given.pop("kind", AS_IT_IS), name, says, **given)

    def finer(self, name: str, says: Node, **given: Any) -> None:
        self.add(TRUE, FINER, name, says, **given)

    def false(self, kind: str, name: str, says: Node, **given: Any) -> None:
        self.add(FALSE, kind, name, says, **given)

    def apart(self, kind: str, name: str, says: Node, **given: Any) -> None:
        self.add(APART, kind, name, says, **given)
