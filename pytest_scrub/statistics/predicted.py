"""What draws say of a claim that predicts which label swaps lead to: how often the network answers
so, and whether rivals do as well."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch

from pytest_scrub.engine.evaluator import Evaluator
from pytest_scrub.statistics.acceptance import Acceptance, Interval
from pytest_scrub.statistics.intervals import Numbers, confidence_sequence
from pytest_scrub.statistics.sampling import BURN_IN, Sample
from pytest_scrub.swaps.swap_set import SwapSet
from pytest_scrub.verdict import (
    HELD,
    REFUTED,
    UNDECIDED,
    UNTESTED,
    Answers,
    Decided,
    Estimate,
    OnAverage,
    Predicted,
    Rival,
)

# Of the swaps: those that should change the label, and those that part a claim from a rival.
LEAST_CHANGED = 0.10
CLAIM, NO_CHANGE = "the claim", "no change"


class Predictions:
    """What is known of the draws so far; each is looked at once."""

    def __init__(self, evaluator: Evaluator, acceptance: Acceptance) -> None:
        self._evaluator, self._acceptance = evaluator, acceptance
        said = evaluator.hypothesis.predicts
        self.rivals = [] if said is None else [name for name, _ in said.rivals]
        self._is_said = said is not None
        self._changed = np.empty(0, dtype=np.bool_)
        self._differ = {name: np.empty(0, dtype=np.bool_) for name in self.rivals}
        self._of_rival = {name: np.empty(0) for name in self.rivals}

    def __call__(self, drawn: Sample) -> Predicted | None:
        """What these draws say; None of a claim that predicts no change."""
        if not self._is_said:
            return None
        self._look(drawn)
        count = len(drawn)
        changed = drawn.mean(self._changed[:count].astype(np.float64))
        rivals = tuple(self._rival(name, drawn) for name in self.rivals)
        alike = [rival.name for rival in rivals if rival.outcome == UNTESTED]
        untested = None
        if changed < LEAST_CHANGED:
            untested = (
                f"only {changed:.1%} of the swaps should change the label, so that hardly anything "
                "is predicted"
            )
        elif alike:
            untested = f"{' and '.join(alike)} predict{'s' * (len(alike) == 1)} the same label"
            untested += " for nearly all swaps"
        answers = self._answers(drawn)
        accuracy = answers[0].agrees if answers else None
        samples = count if drawn.exact else min(count, BURN_IN)
        return Predicted(changed, untested, accuracy, answers, samples, rivals)

    def _look(self, drawn: Sample) -> None:
        """Evaluate what was drawn since the last look."""
        new = drawn.swap_set[len(self._changed) :]
        if not len(new):
            return
        evaluator = self._evaluator
        labels = evaluator.labels(new)
        assert labels is not None  # those of the claim
        own = _own_labels(evaluator, new)
        self._changed = np.concatenate([self._changed, _unlike(labels, own)])
        for name in self.rivals:
            theirs = evaluator.against(name)
            other = theirs.labels(new)
            assert other is not None
            differ, found = _unlike(labels, other), np.zeros(len(new))
            before = drawn.scrubbed[len(self._differ[name]) :]
            found[differ] = theirs.evaluate(new[differ]) - before[differ]
            self._differ[name] = np.concatenate([self._differ[name], differ])
            self._of_rival[name] = np.concatenate(
                [self._of_rival[name], self._acceptance.sign * found]
            )

    def _rival(self, name: str, drawn: Sample) -> Rival:
        count, acceptance = len(drawn), self._acceptance
        differs = drawn.mean(self._differ[name][:count].astype(np.float64))
        units = drawn.units(self._of_rival[name][:count])
        largest = acceptance.largest_change * drawn.largest_weight
        rounding = drawn.mean(drawn.rounding)
        outcome, gap = against_rival(acceptance, units, largest, rounding, drawn.interval)
        return Rival(name, differs, gap, UNTESTED if differs < LEAST_CHANGED else outcome)

    def _answers(self, drawn: Sample) -> tuple[Answers, ...]:
        """Of the first draws, or of all that there are; none where outputs are no classes."""
        first = drawn if drawn.exact else replace(
            drawn, swap_set=drawn.swap_set[:BURN_IN], scrubbed=drawn.scrubbed[:BURN_IN]
        )  # fmt: skip
        swap_set, evaluator = first.swap_set, self._evaluator
        outputs = evaluator.outputs(swap_set)
        labels = {CLAIM: evaluator.labels(swap_set)}
        labels |= {name: evaluator.against(name).labels(swap_set) for name in self.rivals}
        labels[NO_CHANGE] = _own_labels(evaluator, swap_set)
        answer = outputs.argmax(-1) if outputs.ndim > 1 else None
        own = labels[NO_CHANGE]
        if answer is None or own is None or answer.shape != own.shape or own.is_floating_point():
            return ()
        said = {by: ~_unlike(answer, of) for by, of in labels.items() if of is not None}
        weights = np.ones(len(first)) if first.weights is None else first.weights

        def share(of: npt.NDArray[np.bool_], there: npt.NDArray[np.bool_]) -> float | None:
            whole = float(weights[there].sum())
            return float(weights[of & there].sum()) / whole if whole else None

        everywhere, found = np.ones(len(first), dtype=np.bool_), list[Answers]()
        for by, agrees in said.items():
            differs = _unlike(labels[CLAIM], labels[by])
            found.append(
                Answers(
                    by,
                    share(agrees, everywhere) or 0.0,
                    share(differs, everywhere) or 0.0,
                    share(agrees, differs),
                    share(said[CLAIM], differs),
                )
            )
        return tuple(found)


def against_rival(
    acceptance: Acceptance,
    units: Numbers,
    largest: float = math.inf,
    rounding: float = 0.0,
    interval: Interval = confidence_sequence,
) -> tuple[Decided, Estimate]:
    """Whether a claim predicts better than a rival, and by how much with an interval.

    **Arguments**

    - `units`: how much worse the metric is by the rival's labels than by the claim's, float64
      `[units]`, zero where both say the same; `largest`: the largest such value.
    - `rounding`: differences up to this are none.
    """

    def at(confidence: float) -> Estimate:
        return interval(units, largest, confidence, rounding)

    gap = at(acceptance.confidence)
    if at(acceptance.to_refute).high <= rounding:
        return REFUTED, gap
    return HELD if gap.low > rounding else UNDECIDED, gap


def _own_labels(evaluator: Evaluator, swap_set: SwapSet) -> torch.Tensor:
    labels = evaluator.dataset.labels
    assert labels is not None  # whoever predicts one has some
    return labels[torch.tensor(swap_set.references, device=labels.device)]


def _unlike(some: torch.Tensor | None, others: torch.Tensor | None) -> npt.NDArray[np.bool_]:
    """bool `[R]`: where two labels are different, at any position."""
    assert some is not None
    assert others is not None
    unlike: npt.NDArray[np.bool_] = (some != others).reshape(len(some), -1).any(1).cpu().numpy()
    return unlike


def outcome_with(predicted: Predicted | None, found: OnAverage) -> OnAverage:
    """What a claim comes to whose gap comes to this: it has to predict better than its rivals."""
    if predicted is None or found == UNTESTED:
        return found
    if predicted.changed < LEAST_CHANGED or (predicted.untested and found != REFUTED):
        return UNTESTED
    if found == REFUTED:
        return found
    outcomes = {rival.outcome for rival in predicted.rivals}
    return REFUTED if REFUTED in outcomes else UNDECIDED if UNDECIDED in outcomes else found
