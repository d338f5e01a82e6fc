"""Verdicts as text: the summary's one line per claim, and the whole story of one that did not
hold."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from pytest_scrub.common.visible import visible
from pytest_scrub.reports.counterexample import search_lines
from pytest_scrub.reports.predicted import (
    ANSWERS,
    answer_rows,
    decided_by_rival,
    predicted_lines,
)
from pytest_scrub.reports.run import Claimed
from pytest_scrub.reports.strength import (
    control_lines,
    null_lines,
    power_lines,
    slice_lines,
    why_weak,
)
from pytest_scrub.settings import EITHER
from pytest_scrub.statistics.acceptance import MOST_SLACK, untested_nodes
from pytest_scrub.statistics.intervals import FEWEST_CHANGED, fewest_alike
from pytest_scrub.verdict import (
    FELL,
    HELD,
    NO_ROOM,
    OUTCOMES,
    REFUTED,
    ROUNDED,
    TOO_FEW,
    UNDECIDED,
    UNKNOWN,
    UNTESTED,
    WEAK,
    WHY_UNKNOWN,
    Attempt,
    Deciding,
    Estimate,
    NodeReport,
    Slice,
    Slices,
    Verdict,
)

if TYPE_CHECKING:
    from rich.panel import Panel

COLOURS: dict[str, str] = {outcome: mark.colour for outcome, mark in OUTCOMES.items()}
MOST_UNITS = 5  # of those never active, that are named
LEAST_NAME = 24  # characters of a claim's name that a narrow terminal still shows
FIGURES = (
    "", "unscrubbed", "scrubbed", "gap", "allowed", "recovered", "explained", "worst",
    "power",
)  # fmt: skip


def summary_lines(claims: Sequence[Claimed], width: int) -> Iterator[tuple[str, str]]:
    """`(word, line)` for a header and each claim; where a line would be too wide, the names have
    lines of their own.

    Columns that no claim has anything for are left out, and names are cut that are wider than the
    terminal. Figures are in the metric's unit, which stands below, or beside names where it
    differs.
    """
    verdicts = [one.verdict for one in claims if one.verdict is not None]
    for whole in (True, False):
        table = zip(FIGURES, *(_figures(one, whole=whole) for one in verdicts), strict=True)
        columns = [column for column in table if any(column[1:])]
        widths = [max(map(len, column)) for column in columns]
        if sum(widths) + len(widths) <= width:
            break
    padded = [
        [cell.rjust(size) if i else cell.ljust(size) for cell in column]
        for i, (column, size) in enumerate(zip(columns, widths, strict=True))
    ]
    gap = "  " if sum(widths) + 2 * len(widths) <= width else " "
    header, *lines = map(gap.join, zip(*padded, strict=True)) if padded else [""]
    beside = width - len(header) - len(gap)
    metrics = {verdict.metric for verdict in verdicts}
    names = [
        f"{one.test}, in {one.verdict.metric}" if one.verdict and len(metrics) > 1 else one.test
        for one in claims
    ]
    name_above = max(map(len, names)) > beside
    room = max(width if name_above else beside, LEAST_NAME)
    yield "", header.rstrip() if name_above else f"{header}{gap}claim"
    for one, name in zip(claims, (_shortened(name, room) for name in names), strict=True):
        if name_above:
            yield "", name
        if one.verdict is None:
            named = "" if name_above else f"{one.test}: "
            text = f"{one.outcome:<10} {named}{one.message or 'no verdict'}"
            yield one.word, text if len(text) <= width else f"{text[: width - 3]}..."
        elif name_above:
            yield one.verdict.word, lines.pop(0).rstrip()
        else:
            yield one.verdict.word, f"{lines.pop(0)}{gap}{name}"
    if len(metrics) == 1:
        yield "", f"figures in {metrics.pop()}"


def _figures(verdict: Verdict, *, whole: bool) -> tuple[str, ...]:
    """The cells of a claim; `whole`: with what the worst found was held against."""
    worst = verdict.worst
    found = worst_found(verdict) if whole or worst is None else f"{worst.found:.3g}"
    power = verdict.power
    return (
        verdict.word,
        f"{verdict.unscrubbed:.3g}",
        f"{verdict.scrubbed:.3g}",
        _around(verdict.gap),
        f"{verdict.tolerance:.3g}" if verdict.min_gap is None else f">= {verdict.min_gap:.3g}",
        "" if verdict.recovered is None else f"{verdict.recovered:.1%}",
        "" if verdict.explained is None else f"{verdict.explained:.1%}",
        found or ("" if verdict.search is None else "-"),
        "" if power is None else f"{power.refuted}/{len(power.mutants)}",
    )


def worst_found(verdict: Verdict) -> str:
    """The worst that was found, if any; with what is accepted of it where that decided, and that it
    is only shown where it decides nothing."""
    search = verdict.search
    if search is None or (worst := search.worst) is None:
        return ""
    decided = verdict.deciding
    if decided.what == f"found by {worst.adversary}":
        return f"{decided.gap.mean:.3g} of {decided.of:.3g}"
    return f"{worst.found:.3g}{', shown' * (not search.gates)}"


def _around(gap: Estimate) -> str:
    if gap.exact:
        return f"{gap.mean:.3g} (exact)"
    return f"{gap.mean:.3g} ± {f'{gap.around:.2g}' if gap.is_known else '?'}"


def verbose_suffix(verdict: Verdict) -> str:
    """What a claim's line says after its result in a verbose run."""
    decided = verdict.deciding
    if not decided.what:
        return f"{verdict.result} {_around(decided.gap)} of {decided.of:.3g}"
    return f"{verdict.result}: {_decided(decided)}"


def _decided(decided: Deciding) -> str:
    """The figure that decided a claim, where that was not its average."""
    return f"{decided.gap:.3g} of {decided.of:.3g}, {visible(decided.what)}"


def progress_line(verdict: Verdict, seconds: float, width: int) -> str:
    """One line for a claim that has just been judged: with the figure that decided it, and as much
    about that as there is room for."""
    decided = verdict.deciding
    least = "at least " * (verdict.min_gap is not None)
    short = f"{_around(decided.gap)} of {least}{decided.of:.3g}"
    said = [short]
    if decided.what:
        said = [_decided(decided), f"{decided.gap:.3g} of {decided.of:.3g}", short]
    lines = [f"  {verdict.word:<9} {gap:<24} {seconds:6.1f} s  " for gap in said]
    # out of line with the others, before a name is cut
    lines.append(f"  {verdict.word:<9} {short} {seconds:5.1f} s  ")
    name = verdict.claim.rpartition("::")[2]
    rooms = (len(name), LEAST_NAME)
    fitting = (one for room in rooms for one in lines if len(one) + room <= width)
    figures = next(fitting, lines[-1])
    return figures + _shortened(name, max(width - len(figures), LEAST_NAME))


def _shortened(name: str, room: int) -> str:
    """A test's id without its file, or only its end, where there is no room for more."""
    for candidate in (name, name.partition("::")[2] or name):
        if len(candidate) <= room:
            return candidate
    return f"...{name[3 - room :]}"


def framed(verdict: Verdict) -> Panel:
    """A verdict's story for a terminal or a notebook, in the colour of its outcome."""
    from rich.panel import Panel
    from rich.text import Text

    return Panel(
        Text(story(verdict)), title=Text(verdict.claim), border_style=COLOURS[verdict.word]
    )


def story(verdict: Verdict) -> str:
    """Prediction, what happened, and the table node by node; the first line is enough by itself."""
    beside: Sequence[tuple[Callable[[Any], Iterable[str]], Any]] = (
        (search_lines, verdict.search),
        (slice_lines, verdict.slices),
        (power_lines, verdict.power),
        (control_lines, verdict.controls),
    )
    drawn = f"{verdict.samples} of at most {verdict.budget} samples"
    if verdict.gap.exact:
        drawn = f"all {verdict.samples} swap sets"
    parts = [
        [headline(verdict)],
        _explained(verdict),
        [verdict.hypothesis, *indirect_lines([verdict])],
        _table(verdict),
        *(
            table_lines([ANSWERS, *answer_rows(found)])
            for found in [verdict.predicted]
            if found and found.answers
        ),
        *(lines(found) for lines, found in beside if found),
        [f"{drawn}, seed {verdict.seed}; {verdict.interval_kind}"],
    ]
    text = "\n\n".join(map("\n".join, parts))
    return f"{text}\n{UNKNOWN}: {WHY_UNKNOWN}" if UNKNOWN in text else text


def indirect_lines(verdicts: Iterable[Verdict]) -> list[str]:
    """What of them was read along every path for the network's own reasons, each network once."""
    claims = Counter((verdict.model, verdict.indirect) for verdict in verdicts if verdict.indirect)
    return [
        f"{model}: {count} claim{'s' * (count > 1)} read along every path, since {reason}"
        for (model, reason), count in claims.items()
    ]


def headline(verdict: Verdict) -> str:
    """The outcome in one line."""
    gap = f"gap {verdict.gap} in {verdict.metric}, {verdict.accepts}"
    if verdict.outcome == UNTESTED:
        names = ", ".join(node.slot for node in untested_nodes(verdict.nodes))
        said = None if names or verdict.predicted is None else verdict.predicted.untested
        return f"claim untested: {said or f'too little is swapped at {names}'}"
    if verdict.outcome == WEAK:
        return why_weak(verdict)
    if verdict.word == FELL:
        decided = verdict.deciding
        return (
            f"claim {verdict.result}: {decided.gap} of {decided.of:.4g}, {decided.what}; on "
            f"average {gap}"
        )
    if (attempt := verdict.undecided_attempt) is not None:
        return (
            f"claim undecided: {gap} on average, but {attempt.deciding} of {_bound(attempt)} for "
            f"the worst swaps found by {attempt.adversary}"
        )
    return _decided_beside(verdict, gap) or f"claim {verdict.outcome}: {gap}"


def _decided_beside(verdict: Verdict, gap: str) -> str | None:
    """The first line where a rival, a slice or single swaps decided on average, and not the gap of
    all swaps."""
    if (by_rival := decided_by_rival(verdict)) is not None:
        return f"{by_rival}; {gap}"
    if (deciding := _deciding_slice(verdict)) is None:
        return _decided_by_single_swaps(verdict, gap)
    slices, one = deciding
    return (
        f"claim {verdict.outcome} where {slices.by} = {one.value}: gap "
        f"{one.gap or 'not drawn'} in {verdict.metric}, tolerance {slices.tolerance:.4g} for "
        "each slice"
    )


def _decided_by_single_swaps(verdict: Verdict, gap: str) -> str | None:
    """The first line where too many single swaps change too much, though the average does not."""
    if verdict.min_within is None or verdict.outcome != REFUTED:
        return None
    if abs(verdict.gap.mean) > verdict.tolerance:
        return None
    decided = verdict.deciding
    return (
        f"claim refuted: {verdict.min_within:.1%} of single swaps only stay within "
        f"{decided.gap.mean:.4g} of {decided.of:.4g}; on average {gap}"
    )


def _deciding_slice(verdict: Verdict) -> tuple[Slices, Slice] | None:
    """The slice that decided, where it was not the gap of all references, and all of them."""
    slices = verdict.slices
    if slices is None or verdict.outcome not in (REFUTED, UNDECIDED):
        return None
    return next(((slices, one) for one in slices.slices if one.outcome == verdict.outcome), None)


def _explained(verdict: Verdict) -> Iterator[str]:
    if verdict.min_gap is not None:
        yield (
            f"predicted: swaps in which every node moves make the {verdict.metric} worse by at "
            f"least {verdict.min_gap:.4g}, from the unscrubbed {verdict.unscrubbed:.4g}"
        )
    else:
        yield from _within(verdict)
    yield (
        f"measured:  scrubbed {verdict.scrubbed:.4g}, gap {verdict.gap}; {verdict.share_worse:.1%} "
        f"of samples got worse, mean absolute change {verdict.absolute_change:.4g}"
    )
    yield from predicted_lines(verdict)
    if verdict.recovered is None:
        yield f"recovered: not defined, as {verdict.recovered_reason}"
    else:
        yield (
            f"recovered: {verdict.recovered:.1%} of the way from the random baseline "
            f"{verdict.baseline:.4g}"
        )
    yield from null_lines(verdict)
    if verdict.share is not None:
        share = verdict.share
        sure, of = f"with {_percent(verdict.confidence)} confidence ", "independent draws"
        if share.exact:
            sure, of = "", "swap sets, which are all"
        asked = "" if verdict.min_within is None else f"; {verdict.min_within:.1%} are asked for"
        yield (
            f"single swaps: {sure}{share.share:.0%} of them stay within {share.within:.4g}, and "
            f"{share.tolerated:.0%} within the tolerance ({share.draws} {of}){asked}"
        )
    yield from remedy(verdict)


def _within(verdict: Verdict) -> Iterator[str]:
    """How little is to change."""
    how_far = "within" if verdict.direction == EITHER else "at most"
    of = "of" if verdict.direction == EITHER else "worse than"
    leaves = "leaves the"
    if verdict.predicted is not None:
        leaves = "leads to the labels that it predicts: against these it leaves the"
    yield (
        f"predicted: swapping what the claim allows {leaves} {verdict.metric} {how_far} "
        f"{verdict.tolerance:.4g} {of} the unscrubbed {verdict.unscrubbed:.4g}"
    )


def _percent(share: float) -> str:
    return f"{share * 100:.4g} %"


def remedy(verdict: Verdict) -> Iterator[str]:
    """What follows, or what to change where nothing does."""
    if verdict.outcome == UNTESTED:
        for node in untested_nodes(verdict.nodes):
            yield _why_untested(node, verdict)
        if verdict.predicted is not None and verdict.predicted.untested is not None:
            yield (
                f"untested:  {verdict.predicted.untested}; agree on less, add rows, or predict "
                "what tells more of them apart"
            )
    elif verdict.average == REFUTED and (deciding := _deciding_slice(verdict)) is not None:
        slices, one = deciding
        yield f"so the claim is false where {slices.by} = {one.value}, whatever it is elsewhere"
    elif verdict.average == REFUTED and decided_by_rival(verdict) is not None:
        yield (
            "so what the network answers says no more for the claim than for its rival; claim what "
            "the rival says, or swap what tells the two apart"
        )
    elif verdict.average == REFUTED and verdict.min_gap is not None:
        yield "so the claim is false of this network and data: swaps hurt less than it says"
    elif verdict.average == REFUTED:
        moved = "falls" if verdict.gap.mean < 0 else "rises"
        yield (
            f"so the claim is false of this network and data: scrubbed, the {verdict.metric} "
            f"{moved} by more than the tolerance allows"
        )
    elif (
        verdict.average == HELD
        and verdict.search is not None
        and verdict.search.gates
        and verdict.search.unsearched
    ):
        yield "held on average only: nothing was searched for worse swaps, for the reasons below"
    elif verdict.average == HELD and (found := _would_refute(verdict)) is not None:
        yield (
            f"held on average only: {found.interval or found.found} found by {found.adversary} is "
            "shown and does not gate, and would refute it"
        )
    elif (attempt := verdict.undecided_attempt) is not None:
        yield f"undecided: {_why_search_is_undecided(attempt, verdict)}"
    elif verdict.average == UNDECIDED and verdict.undecided != NO_ROOM:
        yield f"undecided: {_why_undecided(verdict)}"


def _would_refute(verdict: Verdict) -> Attempt | None:
    """What a search found that lies beyond what is accepted, where it is only shown."""
    search = verdict.search
    return None if search is None or search.gates or not search.refutes else search.worst


def _why_undecided(verdict: Verdict) -> str:
    """Why a claim is undecided, and what would decide it."""
    if decided_by_rival(verdict) is not None:
        return f"how much worse the rival predicts may be nothing; {_more(verdict)}"
    if verdict.undecided == ROUNDED:
        return (
            f"the network computes in {verdict.precision}, so a gap in a metric as large as this "
            f"one may be off by {verdict.rounding:.2g}, which is more than {MOST_SLACK:.0%} of the "
            "tolerance and decides the claim; give the network in float64, a metric without large "
            "terms that no swap changes, or a larger tolerance"
        )
    if verdict.undecided != TOO_FEW:
        return f"the interval straddles the tolerance; {_more(verdict)}"
    draws, confidence, where = verdict.samples, verdict.confidence, ""
    if (deciding := _deciding_slice(verdict)) is not None:
        slices, one = deciding
        draws, confidence = one.samples, 1 - (1 - confidence) / len(slices.slices)
        where = f" where {slices.by} = {one.value}"
    return (
        f"too few of the {draws} draws{where} differ from the others to give an interval for a "
        f"metric without bounds: {FEWEST_CHANGED} have to, or none of {fewest_alike(confidence)}; "
        f"{_more(verdict)}, or give the metric its bounds, if it has any: Metric(..., lower=, "
        "upper=)"
    )


def _why_search_is_undecided(attempt: Attempt, verdict: Verdict) -> str:
    """What would decide a claim that held on average, but whose search is undecided."""
    assert verdict.search is not None
    more = "a later deadline=" if attempt.late else _larger_budget(attempt, verdict.search.budget)
    return (
        f"what {attempt.adversary} found for {attempt.references} references does not say on which "
        f"side of {_bound(attempt)} the worst swaps lie; search more, with {more}"
    )


def _bound(attempt: Attempt) -> str:
    return "the null's share" if attempt.bound is None else f"{attempt.bound:.4g}"


def _larger_budget(attempt: Attempt, budget: int) -> str:
    """What may be enough: an interval is half as wide with four times the references."""
    found = attempt.deciding
    if found is None or not found.is_known or attempt.bound is None:
        return f"a budget= above {budget}"
    times = (found.around / max(abs(abs(found.mean) - attempt.bound), 1e-12)) ** 2
    if not 1 < times < 1000:
        return f"a budget= above {budget}"
    return f"a budget= of about {float(f'{times * budget:.2g}'):,.0f}"


def _more(verdict: Verdict) -> str:
    """Which draws would decide a claim that is undecided."""
    more = f"samples= of the claim or --scrub-samples above {verdict.budget}"
    if verdict.generalize:
        return (
            f"every reference counts once, so add rows (and {more}, where there are more "
            "references than that)"
        )
    if _deciding_slice(verdict) is not None:
        return f"draw more, with {more}, or slice by what has fewer values"
    return f"draw more, with {more}"


def _why_untested(node: NodeReport, verdict: Verdict) -> str:
    if not node.must_be_tested:
        is_idle = any(rest.is_rest and rest.moved and rest.fixed for rest in verdict.nodes)
        swapped = "that was swapped reaches the output" if is_idle else "was swapped"
        return (
            f"untested:  {node.slot} takes no donor but the row itself, and nothing else "
            f"{swapped}; claim what it agrees on, or let the rest be swapped"
        )
    if node.fixed:
        return (
            f"untested:  {node.slot} is the same on all donors that agree on {node.agrees_on}, and "
            "nothing else was swapped: it holds by construction; agree on less, or let the rest "
            "be swapped"
        )
    if node.silent and not node.moved:
        return (
            f"untested:  {node.slot} is never active: unit {_listed(node.silent)} is zero on every "
            "row that was looked at; claim what is active, or add rows on which this is"
        )
    if node.made_up_by:
        return (
            f"untested:  what {node.slot} changes is made up for by {', '.join(node.made_up_by)}, "
            "swapped with it: together they add the same on every donor; give them donors of their "
            "own, or claim one of them alone"
        )
    if node.with_other >= verdict.min_with_other:
        return (
            f"untested:  {node.slot} was swapped in {node.moved:.1%} of the samples (at least "
            f"{verdict.min_moved:.0%} are needed); add rows that share {node.agrees_on} but differ "
            "elsewhere, or agree on less"
        )
    wanting = (
        f" (none has, for instance, with {'; with '.join(node.wanting)})" if node.wanting else ""
    )
    return (
        f"untested:  {node.slot} has a donor of other content for {node.with_other:.1%} of the "
        f"references (at least {verdict.min_with_other:.0%} are needed); add rows that share "
        f"{node.agrees_on} but differ elsewhere{wanting}, or agree on less"
    )


def _table(verdict: Verdict) -> Iterator[str]:
    """Node by node: donors per reference, how often something was swapped, the gap when only it is,
    and the gap when its features alone know nothing."""
    header = (
        "node", "agrees on", "donors (min/median/max)", "references with another donor",
        f"gap alone in {verdict.metric}", "gap if it knew nothing",
    )  # fmt: skip
    rows = (
        (
            node.slot,
            f"{node.agrees_on}{_fixed(node)}{_silent(node)}{_made_up(node)}",
            f"{node.donors[0]}/{node.donors[1]:g}/{node.donors[2]}",
            f"{node.with_other:.0%}",
            "" if node.alone is None else str(node.alone),
            ""
            if node.unknowing is None
            else f"{node.unknowing}{', so it says nothing' * node.says_nothing}",
        )
        for node in verdict.nodes
    )
    return table_lines([header, *rows])


def _fixed(node: NodeReport) -> str:
    if not node.fixed:
        return ""
    return " (reaches nothing)" if node.is_rest else " (fixes it)"


def _silent(node: NodeReport) -> str:
    return f" (never active: {_listed(node.silent)})" if node.silent else ""


def _made_up(node: NodeReport) -> str:
    return f" (made up for by {', '.join(node.made_up_by)})" if node.made_up_by else ""


def _listed(units: Sequence[int]) -> str:
    """The first few of many."""
    more = len(units) - MOST_UNITS
    shown = ", ".join(map(str, units[:MOST_UNITS]))
    return f"{shown} and {more} more" if more > 0 else shown


def table_lines(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """The rows of a table, one a line."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        yield "  ".join(map(str.ljust, row, widths)).rstrip()
