"""Claims that say which label swaps lead to, as text: how often the network answers so, and what
else could be said of its answers."""

from __future__ import annotations

from collections.abc import Iterator

from pytest_scrub.common.visible import visible
from pytest_scrub.verdict import HELD, REFUTED, UNDECIDED, UNTESTED, Predicted, Rival, Verdict

ANSWERS = (
    "the label by", "is the answer", "differs from the claim's", "there it is the answer",
    "there the claim's is",
)  # fmt: skip


def answer_rows(predicted: Predicted) -> list[tuple[str, ...]]:
    """Predictions by what the network did under the swaps: `ANSWERS` of each."""
    return [
        (
            visible(one.by),
            _percent(one.agrees),
            *(
                (_percent(one.differs), _share(one.agrees_there), _share(one.claim_there))
                if nth
                else ("", "", "")
            ),
        )
        for nth, one in enumerate(predicted.answers)
    ]


def _percent(share: float) -> str:
    return f"{share:.1%}"


def _share(share: float | None) -> str:
    return "" if share is None else _percent(share)


def rival_line(rival: Rival, metric: str) -> str:
    """How a rival does beside the claim."""
    says = {
        HELD: f"predicts worse, by {rival.gap}",
        REFUTED: f"predicts as well or better, worse by {rival.gap}",
        UNDECIDED: f"may predict as well, worse by {rival.gap}",
        UNTESTED: "is not told from the claim",
    }[rival.outcome]
    in_metric = "" if rival.outcome == UNTESTED else f" in {metric}"
    return (
        f"{visible(rival.name)} {says}{in_metric}; it says another label for "
        f"{rival.differs:.1%} of the swaps"
    )


def predicted_lines(verdict: Verdict) -> Iterator[str]:
    """How many swaps should change the label, and how many do as is said."""
    predicted = verdict.predicted
    if predicted is None:
        return
    accuracy = "no classes are answered"
    if predicted.accuracy is not None:
        accuracy = f"interchange accuracy {predicted.accuracy:.1%}, {predicted.samples} samples"
    yield f"changed:   {predicted.changed:.1%} of the swaps should change the label; {accuracy}"
    yield from (f"rival:     {rival_line(rival, verdict.metric)}" for rival in predicted.rivals)


def decided_by_rival(verdict: Verdict) -> str | None:
    """The first line of a claim that a rival decided, without its gap; None where none did."""
    rival = None if verdict.predicted is None else verdict.predicted.deciding
    if rival is None or verdict.outcome != verdict.average:
        return None
    does = "predicts as well" if verdict.outcome == REFUTED else "may predict as well"
    return (
        f"claim {verdict.outcome}: the rival {visible(rival.name)} {does}, worse by {rival.gap} in "
        f"{verdict.metric}"
    )
