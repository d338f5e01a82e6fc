"""How the truth about a claim is known: all allowed swaps, one after another."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from benchmarks.exam.claims import FALSE, TRUE, Known, Question
from pytest_scrub import Evaluator
from pytest_scrub.swaps.null import null_of
from pytest_scrub.tree.nodes import ANYTHING, Node

MOST_COMBINATIONS = 6_000_000
DRAWS = 2000
TRIED = 20  # for each reference, to say how bad swaps can get at least
SEED = 0
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Extremes:
    """Means over references of the change of the metric.

    - `average`: of uniformly drawn swaps, where it was looked at.
    - `highest`, `lowest`: of the worst swaps of each reference, either way. Every allowed
      distribution of swaps lies between the two.
    """

    average: float | None
    highest: float
    lowest: float

    def known(self, tolerance: float) -> Known:
        worst = max(self.highest, -self.lowest)
        how = f"between {self.lowest:.4g} and {self.highest:.4g} of {tolerance:g}"
        if self.average is not None:
            how = f"average {self.average:.4g}, {how}"
        return Known(worst > tolerance, how)


def extremes_of(evaluator: Evaluator) -> Extremes:
    """Over every allowed swap set of every reference."""
    space = evaluator.space
    rows = space.reference_rows
    if (count := float(space.combinations(rows).sum())) > MOST_COMBINATIONS:
        raise ValueError(f"{count:.3g} combinations are too many to enumerate")
    clean = np.zeros(len(space.dataset))
    clean[rows] = evaluator.unscrubbed(rows)
    highest, lowest = np.full(len(clean), -np.inf), np.full(len(clean), np.inf)
    average = 0.0
    for swap_set, chances in space.enumerate():
        changes = evaluator.evaluate(swap_set) - clean[swap_set.references]
        average += float(chances @ changes)
        np.maximum.at(highest, swap_set.references, changes)
        np.minimum.at(lowest, swap_set.references, changes)
    return Extremes(average, float(highest[rows].mean()), float(lowest[rows].mean()))


def evaluator_of(question: Question) -> Evaluator:
    ground = question.ground
    metric = question.told.get("metric")
    return Evaluator(ground.model, ground.data, question.says, metric)


def enumerated(question: Question) -> Known:
    """For a claim with `tolerance=`."""
    return extremes_of(evaluator_of(question)).known(question.told["tolerance"])


def says_something(question: Question) -> bool:
    """Whether the claim forbids anything: without its features, allowed swaps lie beyond what it
    accepts. Claims that name none say that something does not matter."""
    without = _without_features(question.says)
    if without == question.says:
        return True
    tolerance = float(question.told["tolerance"])
    loose = evaluator_of(replace(question, says=without))
    if loose.space.combinations(loose.space.reference_rows).sum() <= MOST_COMBINATIONS:
        return extremes_of(loose).known(tolerance).beyond
    rng = np.random.default_rng(SEED)
    rows = np.repeat(rng.choice(loose.space.reference_rows, DRAWS // TRIED), TRIED)
    drawn = loose.space.draw(len(rows), rng, rows)
    changes = np.abs(loose.evaluate(drawn) - loose.unscrubbed(rows)).reshape(-1, TRIED)
    return bool(changes.max(1).mean() > tolerance)


def _without_features(node: Node) -> Node:
    return replace(
        node,
        reads=tuple(
            replace(_without_features(one), agrees_on=one.agrees_on if _keeps(one) else ANYTHING)
            for one in node.reads
        ),
    )


def _keeps(node: Node) -> bool:
    """A computed value needs the feature that it is computed from."""
    assert node.agrees_on is not None
    return node.agrees_on.exact or node.computed_by is not None


def drawn_beyond(question: Question) -> Known:
    """For a claim with `tolerance=` that is false on average already: by three standard errors of
    many draws."""
    evaluator = evaluator_of(question)
    drawn = evaluator.space.draw(2 * DRAWS, np.random.default_rng(SEED))
    changes = evaluator.evaluate(drawn) - evaluator.unscrubbed(drawn.references)
    mean, error = float(changes.mean()), float(changes.std() / len(changes) ** 0.5)
    tolerance = float(question.told["tolerance"])
    return Known(
        abs(mean) - 3 * error > tolerance,
        f"{len(drawn)} draws change it by {mean:.4g}, standard error {error:.2g}, of {tolerance:g}",
    )


def falls_short(question: Question) -> Known:
    """For a claim with `min_explained=`: whether it explains less of what drawn swaps cost when
    its features know nothing, by three standard errors of many draws."""
    evaluator = evaluator_of(question)
    rng = np.random.default_rng(SEED)
    drawn = evaluator.space.draw(DRAWS * 2, rng)
    clean = evaluator.unscrubbed(drawn.references)
    gap = evaluator.evaluate(drawn) - clean
    null = null_of(evaluator.space)
    assert null is not None
    of_null = evaluator.allowing(null.space(rng))
    room = of_null.evaluate(of_null.space.draw(len(drawn), rng, drawn.references)) - clean
    bound = 1 - float(question.told["min_explained"])
    apart = gap - bound * room
    error = float(apart.std() / len(apart) ** 0.5)
    explained = 1 - gap.mean() / room.mean()
    return Known(
        bool(apart.mean() > 3 * error),
        f"{len(drawn)} draws explain {explained:.3g} of the room of {room.mean():.4g}",
    )


def agrees(question: Question, known: Known) -> bool:
    """Whether what is known is what was written down."""
    if question.truth == TRUE and not known.beyond and "tolerance" in question.told:
        return says_something(question)
    return known.beyond == (question.truth == FALSE)
