"""What draws say of a claim that predicts which label swaps lead to: how often the network answers
so, and whether rivals do as well."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch

from pytest_scrub.engine.evaluator import Evaluator
from pytest_scrub.statistics.acceptance import Acceptance, Interval, decided_by
from pytest_scrub.statistics.intervals import (
    Numbers,
    clopper_pearson,
    confidence_sequence,
    unseen_tail,
)
from pytest_scrub.statistics.sampling import BURN_IN, Sample
from pytest_scrub.swaps.swap_set import SwapSet
from pytest_scrub.tree.predictions import CLAIM, NO_CHANGE, NO_SWAP
from pytest_scrub.verdict import (
    HELD,
    REFUTED,
    STRADDLES,
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
        self._known_answers: dict[int, tuple[Answers, ...]] = {}  # by how many draws they are of

    def __call__(self, drawn: Sample) -> Predicted | None:
        """What these draws say; None of a claim that predicts no change."""
        if not self._is_said:
            return None
        self._look(drawn)
        count = len(drawn)
        changed = self._share(drawn, self._changed[:count])
        rivals = tuple(self._rival(name, drawn) for name in self.rivals)
        alike = [rival.name for rival in rivals if rival.outcome == UNTESTED]
        samples = count if drawn.exact else min(count, BURN_IN)
        if samples not in self._known_answers:
            self._known_answers[samples] = self._answers(drawn)
        answers = self._known_answers[samples]
        anyway = [one for one in answers if one.by == NO_SWAP and one.differs < LEAST_CHANGED]
        untested = None
        if changed.mean < LEAST_CHANGED:
            untested = (
                f"only {changed.mean:.1%} of the swaps should change the label (at least "
                f"{LEAST_CHANGED:.0%} are needed), so hardly anything is predicted"
            )
        elif changed.low < LEAST_CHANGED:
            untested = (
                f"{changed:.1%} of the swaps should change the label, which does not tell that it "
                f"is {LEAST_CHANGED:.0%} of them (samples= says how many are drawn)"
            )
        elif anyway:
            untested = (
                f"without any swap the network answers what is predicted already, for all but "
                f"{anyway[0].differs:.1%} of the swaps (at least {LEAST_CHANGED:.0%} are needed)"
            )
        elif alike:
            untested = (
                f"{' and '.join(alike)} predict{'s' * (len(alike) == 1)} the same label for all "
                f"but a few of the swaps (at least {LEAST_CHANGED:.0%} have to differ)"
            )
        accuracy = None
        if answers:
            confidence = None if drawn.exact else self._acceptance.confidence
            accuracy = clopper_pearson(answers[0].agrees, samples, confidence)
        return Predicted(changed, untested, accuracy, answers, samples, rivals)

    def _share(self, drawn: Sample, which: npt.NDArray[np.bool_]) -> Estimate:
        """Of all draws so far, with an interval that may be looked at after every one."""
        sided = drawn.units(np.where(which, 1.0, -1.0))  # as far apart as a bounded metric can be
        found = drawn.interval(sided, drawn.largest_weight, self._acceptance.confidence, 0.0)
        mean = drawn.mean(which.astype(np.float64))
        low, high = (min(max((end + 1) / 2, 0.0), 1.0) for end in (found.low, found.high))
        return Estimate(mean, min(low, mean), max(high, mean), exact=found.exact)

    def _look(self, drawn: Sample) -> None:
        """Evaluate what was drawn since the last look."""
        new = drawn.swap_set[len(self._changed) :]
        if not len(new):
            return
        evaluator = self._evaluator
        labels = evaluator.labels(new)
        unlike_own = _unlike(labels, _own_labels(evaluator, new))
        self._changed = np.concatenate([self._changed, unlike_own])
        for name in self.rivals:
            theirs = evaluator.against(name)
            differ, found = _unlike(labels, theirs.labels(new)), np.zeros(len(new))
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
        answer = _answered(evaluator.outputs, swap_set)
        labels = {CLAIM: evaluator.labels(swap_set)}
        labels |= {name: evaluator.against(name).labels(swap_set) for name in self.rivals}
        labels[NO_CHANGE] = _own_labels(evaluator, swap_set)
        own = labels[NO_CHANGE]
        if answer is None or own is None or answer.shape != own.shape or own.is_floating_point():
            return ()
        labels[NO_SWAP] = _answered(lambda few: evaluator.clean_outputs(few.references), swap_set)
        said = {by: ~_unlike(answer, of) for by, of in labels.items()}
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

    gap, high = at(acceptance.confidence), at(acceptance.to_refute).high
    if not (gap.exact or math.isfinite(largest)):
        # few of a rival's worst swaps make its mean, and each rival may be the one that lacks them
        high += unseen_tail(units, 1 - acceptance.to_refute)
    if high <= rounding:
        return REFUTED, gap
    return HELD if gap.low > rounding else UNDECIDED, gap


def _answered(outputs: Callable[[SwapSet], torch.Tensor], swap_set: SwapSet) -> torch.Tensor | None:
    """The classes `[R, ...]` with the largest outputs, or the tokens that are said; None where
    outputs are neither."""
    found = []
    for start in range(0, len(swap_set), BURN_IN):
        some = outputs(swap_set[start : start + BURN_IN])
        if some.ndim < 2:
            return None
        found.append(some.argmax(-1) if some.is_floating_point() else some)
    return torch.cat(found)


def _own_labels(evaluator: Evaluator, swap_set: SwapSet) -> torch.Tensor:
    labels = evaluator.dataset.labels
    assert labels is not None  # whoever predicts one has some
    return labels[torch.tensor(swap_set.references, device=labels.device)]


def _unlike(some: torch.Tensor | None, others: torch.Tensor | None) -> npt.NDArray[np.bool_]:
    """bool `[R]`: where two labels are different, at any position."""
    assert some is not None
    assert others is not None
    unlike = some != others.to(some.device)
    found: npt.NDArray[np.bool_] = unlike.reshape(len(unlike), -1).any(1).cpu().numpy()
    return found


def with_rivals(
    predicted: Predicted | None, found: OnAverage, why: str | None
) -> tuple[OnAverage, str | None, Predicted | None]:
    """What a claim comes to whose gap comes to `found`, and why that is undecided; with the rival
    that decided, where one did."""
    together = outcome_with(predicted, found, is_last=True)
    if predicted is None or together == found:
        return found, why, predicted
    deciding = [one.name for one in predicted.rivals if one.outcome == together != UNTESTED]
    predicted = replace(predicted, decided_by=deciding[0] if deciding else None)
    return together, STRADDLES if together == UNDECIDED else None, predicted


def outcome_with(
    predicted: Predicted | None, found: OnAverage, *, is_last: bool = False
) -> OnAverage:
    """What a claim comes to whose gap comes to this: it has to predict better than its rivals, and
    enough that changes. Undecided while more draws may tell that, `is_last` where there are none.
    """
    if predicted is None or found == UNTESTED:
        return found
    is_open = predicted.changed.low < LEAST_CHANGED <= predicted.changed.high
    if is_open and not is_last:
        return UNDECIDED
    if predicted.changed.mean < LEAST_CHANGED or (predicted.untested and found != REFUTED):
        return UNTESTED
    return decided_by([found, *(rival.outcome for rival in predicted.rivals)])
