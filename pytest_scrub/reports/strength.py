"""How much claims say, as text: their slices, their power, and their controls."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pytest_scrub.verdict import (
    HELD,
    HURTS,
    NO_FEATURE,
    NO_ROOM,
    UNDECIDED,
    Control,
    Power,
    Slices,
    Verdict,
)

MOST_SLICES = 10  # lines


def slice_lines(sliced: Slices) -> Iterator[str]:
    """The gap of every slice, worst first."""
    gate = "shown only" if sliced.tolerance is None else f"each within {sliced.tolerance:.4g}"
    sure = f"intervals corrected for {len(sliced.slices)} slices"
    if all(one.gap is not None and one.gap.exact for one in sliced.slices):
        sure = "of all allowed swap sets"
    yield f"by {sliced.by} ({gate}; {sure}):"
    for one in sliced.slices[:MOST_SLICES]:
        gap = "not drawn" if one.gap is None else f"gap {one.gap}"
        outcome = "" if one.outcome is None else f", {one.outcome}"
        yield (
            f"  {sliced.by} = {one.value}: {gap}, {one.samples} samples of {one.references} "
            f"references{outcome}"
        )
    if len(sliced.slices) > MOST_SLICES:
        yield f"  and {len(sliced.slices) - MOST_SLICES} more, none worse"


def power_lines(power: Power) -> Iterator[str]:
    """How many false claims were refuted, and what those mean that were not."""
    judged = len(power.mutants)
    left = f", {power.left_out} more not judged" if power.left_out else ""
    if power.power is None:
        yield (
            f"power: no false claim could be made from it ({power.equivalent} equivalent "
            f"ones{left})"
        )
        return
    required = "" if power.required is None else f", {power.required:.0%} asked for"
    yield (
        f"power: {power.refuted} of {judged} false claims made from it are refuted "
        f"({power.power:.0%}{required}; {power.equivalent} equivalent ones left out{left})"
    )
    for mutant in power.survivors:
        says = (
            mutant.means
            if mutant.outcome == HELD
            else f"{mutant.what}, which these samples did not decide"
        )
        yield f"  {mutant.outcome}, gap {mutant.gap:.3g}: {says}"


def control_lines(controls: Sequence[Control]) -> Iterator[str]:
    """What became of the claim where it should not hold."""
    for control in controls:
        parts = []
        if control.outcome is not None and control.gap is not None:
            parts.append(f"{control.outcome}, gap {control.gap:.4g}")
        if control.accuracy is not None:
            parts.append(f"interchange accuracy {control.accuracy:.1%}")
        if not control.passed:
            parts.append(_objection(control))
        if control.note is not None:
            parts.append(control.note)
        yield f"control, {control.name}: {'; '.join(parts)}"


def _objection(control: Control) -> str:
    if control.outcome is None:
        return "so nothing tells whether it holds there too"
    if control.outcome == HELD:
        return "it holds there too, so it says nothing"
    return "it may hold there too, as these samples do not decide it"


def strength_lines(verdicts: Sequence[Verdict]) -> Iterator[str]:
    """Power and controls of claims that had them judged, in their order."""
    for verdict in verdicts:
        lines = [
            *([] if verdict.power is None else power_lines(verdict.power)),
            *control_lines(verdict.controls),
        ]
        if lines:
            yield ""
            yield verdict.claim
            yield from (f"  {line}" for line in lines)


def null_lines(verdict: Verdict) -> Iterator[str]:
    """What the claim would be if its features knew nothing, and how much it explains."""
    null = verdict.null
    if null is None:
        reason = verdict.null_reason
        if verdict.predicted is not None and reason == NO_FEATURE:
            reason = "the label predicted is the reference's alone; no change is a rival instead"
        if reason is not None:
            yield f"null:      none, as {reason}"
        return
    yield (
        f"null:      with {null.what} the gap would be {null.gap}, mean absolute change "
        f"{null.absolute_change:.4g} "
        f"({f'all {null.samples} swap sets' if null.gap.exact else f'{null.samples} samples'})"
    )
    if null.worst is not None:
        yield f"           and the worst found by {null.worst.adversary} {null.worst.gap}"
    if verdict.explained is None:
        yield f"explained: not defined, as {verdict.explained_reason}"
    else:
        yield f"explained: {verdict.explained:.1%} of what the claim would cost then"


def no_better(verdict: Verdict) -> str | None:
    """How a claim that held is not told from its null; None where it is, or has none."""
    null = verdict.null
    if null is None:
        is_exempt = verdict.null_reason in (None, NO_FEATURE, HURTS)
        return None if is_exempt else verdict.null_reason
    if NO_ROOM in (verdict.undecided, null.undecided):
        return (
            f"with {null.what} the metric would be no worse (gap {null.gap}), so there is nothing "
            "to explain; signed metrics can cancel in the null too, a divergence does not"
        )
    if null.told:
        return None
    if null.outcome == HELD:
        return f"it would hold as well with {null.what} (gap {null.gap})"
    return (
        f"{null.samples} samples do not show that it would fail with {null.what} (gap {null.gap}); "
        "draw more with samples= or --scrub-samples"
    )


def why_weak(verdict: Verdict) -> str:
    """Why a claim that held is weak, in one line."""
    reasons = [reason] if (reason := no_better(verdict)) else []
    for says, outcomes in (
        ("it holds as well", (HELD,)),
        ("these samples do not decide whether it holds", (UNDECIDED,)),
        ("nothing tells whether it holds", (None,)),
    ):
        there = [
            f"{control.name}{'' if control.remedy is None else f' ({control.remedy})'}"
            for control in verdict.controls
            if not control.passed and control.outcome in outcomes
        ]
        if there:
            reasons.append(f"{says} with {' and with '.join(there)}")
    power = verdict.power
    if power is not None and power.required is not None and (power.power or 0.0) < power.required:
        share = "none" if power.power is None else f"{power.power:.0%}"
        reasons.append(
            f"{share} of the false claims made from it are refuted, where {power.required:.0%} are "
            "asked for"
        )
    held = f"it {HELD}, but " if verdict.average == HELD else ""
    return f"claim weak: {held}{'; '.join(reasons)}"
