"""What adversaries found, as text."""

from __future__ import annotations

from collections.abc import Iterator

from pytest_scrub.adversaries.saved import Replay
from pytest_scrub.verdict import UNDECIDED, Attempt, Counterexample, Search


def search_lines(search: Search) -> Iterator[str]:
    """Every adversary, the counterexample, and what would mend the claim."""
    gate = "" if search.gates else ", shown only"
    yield (
        f"adversaries (tolerance {search.tolerance:.4g}{gate}; {search.budget} evaluations at "
        "most):"
    )
    for attempt in search.attempts:
        yield f"  {_attempt(attempt, search.tolerance)}"
    if search.counterexample is not None:
        yield ""
        yield from counterexample_lines(search.counterexample)
    if search.mends:
        yield ""
        yield "what would mend it, smallest first (a hint: state it as a claim of its own):"
        yield from (f"  {mend.what}: gap {mend.gap:.4g} {mend.where}" for mend in search.mends)
    yield from (f"note: {note}" for note in search.notes)


def _attempt(attempt: Attempt, tolerance: float) -> str:
    if not attempt.searched or attempt.concentration is None:
        return f"{attempt.adversary}: {attempt.how}"
    gap = f"{attempt.found:.4g}" if attempt.interval is None else attempt.told(attempt.interval)
    bound = None if attempt.bound is None else f"{attempt.bound:.4g}"
    of = "" if bound in (None, f"{tolerance:.4g}") else f" of {bound}"
    cost = f"{attempt.evaluations} evaluations"
    if attempt.ranking:
        cost += f" and {attempt.ranking:.4g} forward passes to rank"
    parts = [
        f"{attempt.adversary}: {'worst ' if not attempt.exhaustive else 'true worst '}gap {gap}{of}"
        f"{', which refutes' if attempt.refutes else ''}",
        *_longer(attempt),
        *_against_null(attempt),
        f"{attempt.how}",
        f"{attempt.references} references, {attempt.concentration:.0%} of which took one of the "
        "same ten rows as donor",
        cost + (", stopped by the deadline" if attempt.late else ""),
    ]
    return "; ".join(parts)


def _longer(attempt: Attempt) -> Iterator[str]:
    """The interval that did not decide, where the shown one alone would seem to."""
    if attempt.longer is not None and attempt.outcome == UNDECIDED:
        why = "as few references show little of a long tail"
        yield f"{attempt.longer} has to lie on one side, {why}"


def _against_null(attempt: Attempt) -> Iterator[str]:
    """What the same search finds for the null, where that is the measure."""
    if attempt.of_null is not None:
        explained = 1 - attempt.found / attempt.of_null.mean if attempt.of_null.mean else 0.0
        yield f"{attempt.told(attempt.of_null)} for the null: {explained:.1%} explained"


def counterexample_lines(counterexample: Counterexample) -> Iterator[str]:
    """One reference, its donors, and what the network makes of them."""
    yield f"counterexample (pruned from {counterexample.found_by}):"
    yield f"  reference  {counterexample.reference}"
    for swap in counterexample.swaps:
        yield f"  {swap.slot}"
        yield f"    own input  {swap.own}"
        yield f"    donor      {swap.donor}"
        also = f" (and on {', '.join(swap.also)})" if swap.also else ""
        yield (
            f"    agree on {swap.agrees_on}{also}; differ in "
            f"{swap.differs or 'nothing that is an input'}"
        )
    yield (
        f"  metric     {counterexample.unscrubbed:.4g} unscrubbed, {counterexample.scrubbed:.4g} "
        f"scrubbed: gap {counterexample.gap:.6g}"
    )
    yield (
        f"  output     {counterexample.clean_output} unscrubbed; "
        f"{counterexample.scrubbed_output} scrubbed"
    )
    if counterexample.predicted is not None:
        yield (
            f"  label      {counterexample.predicted} predicted of these swaps, "
            f"{counterexample.label} the reference's own"
        )
    if counterexample.file is not None:
        yield f"  replay     pytest --scrub-replay {counterexample.file}"


def replay_text(replayed: Replay) -> str:
    """Whether a saved counterexample still breaks its claim, and the counterexample."""
    saved, shown = replayed.saved, replayed.counterexample
    still = "still breaks the claim" if replayed.breaks else "no longer breaks the claim"
    lines = [
        f"the saved counterexample {still}: gap {shown.gap:.6g} (saved {saved.minimal.gap:.6g}), "
        f"tolerance {replayed.tolerance:.4g} (saved {saved.tolerance:.4g})"
    ]
    if not replayed.same_model:
        lines.append("the network's weights have changed since it was saved")
    if not replayed.breaks:
        lines.append("nothing else of the claim was checked; run it without --scrub-replay")
    return "\n".join([*lines, "", *counterexample_lines(shown)])
