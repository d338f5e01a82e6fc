"""A verdict for whoever has five seconds: what was claimed, by how much it held or not, and what
breaks it."""

from __future__ import annotations

from collections.abc import Iterator

from pytest_scrub.settings import WORSE
from pytest_scrub.tree.nodes import ANYTHING, EXACT
from pytest_scrub.verdict import REFUTED, UNTESTED, CircuitNode, Verdict

MOST_NAMED = 8  # swaps that are said one by one
LONGEST = 60  # characters of an input that is shown
SAME_AS_IT_WAS, FREE = str(EXACT), str(ANYTHING)


def in_short(verdict: Verdict) -> Iterator[tuple[str, str]]:
    """Rows of a name and a sentence."""
    yield "claimed", _claimed(verdict)
    if verdict.outcome != UNTESTED:
        yield "found", _found(verdict)
        if breaks := _breaks(verdict):
            yield "what breaks it" if verdict.outcome == REFUTED else "worst that was found", breaks


def _claimed(verdict: Verdict) -> str:
    swaps = _swaps(verdict.circuit.nodes)
    if len(swaps) > MOST_NAMED:
        swaps = [*swaps[: MOST_NAMED - 1], f"{len(swaps) - MOST_NAMED + 1} more swaps are made"]
    among = f", with {'; '.join(swaps)}" if swaps else ""
    if verdict.min_gap is not None:
        return f"mean {verdict.metric} gets worse by {verdict.min_gap:.4g} or more{among}"
    metric, begin = verdict.metric, ""
    if said := next(filter(None, (node.predicts for node in verdict.circuit.nodes)), ""):
        metric, begin = f"{verdict.metric} against that label", f"{said}: "
    which = "gets worse" if verdict.direction == WORSE else "changes"
    return f"{begin}mean {metric} {which} by {verdict.tolerance:.4g} at most{among}"


def _swaps(nodes: tuple[CircuitNode, ...]) -> list[str]:
    """What is taken from which inputs, what is taken alike together."""
    swapped: dict[str, dict[str, None]] = {}
    for node in nodes:
        name = " + ".join(node.components) + (f" (into {node.into})" if node.into else "")
        if node.edited is not None:
            swapped.setdefault(f"changed: {node.edited}", {})[name] = None
        elif node.rest is None and node.agrees_on is not None:
            said = "computed" if node.is_computed else "taken"
            swapped.setdefault(f"{said} {_from(node.agrees_on)}", {})[name] = None
    for node in nodes:
        if node.rest is not None:
            what = "everything else" + f" that {node.components[0]} reads" * (
                node.parent is not None
            )
            swapped.setdefault(f"taken {_from(node.rest)}", {})[what] = None
    return [f"{_listed(list(names))} {said}" for said, names in swapped.items()]


def _from(agreement: str) -> str:
    if agreement == SAME_AS_IT_WAS:
        return "from the input itself"
    return "from any input" if agreement == FREE else f"from any input with the same {agreement}"


def _listed(names: list[str]) -> str:
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))


def _found(verdict: Verdict) -> str:
    decided = verdict.deciding
    said = f"gap {decided.gap.mean:.4g} {decided.what}".strip()
    if not decided.of:
        return said
    times = abs(decided.gap.mean) / decided.of
    share = f"{times:.3g} times" if times >= 1 else f"{times:.1%} of"
    return f"{said}, {share} what is {'claimed' if verdict.min_gap is not None else 'accepted'}"


def _breaks(verdict: Verdict) -> str:
    found = None if verdict.search is None else verdict.search.counterexample
    if found is None:
        worst = verdict.worst
        return f"gap {worst.found:.4g}, by {worst.adversary}" if worst and verdict.held else ""
    from_to = f"takes {verdict.metric} from {found.unscrubbed:.4g} to {found.scrubbed:.4g}"
    swaps = [
        f"{swap.donor} in place of {swap.own} at {swap.slot}"
        for swap in found.swaps
        if swap.own_picture is None and max(len(swap.own), len(swap.donor)) <= LONGEST
    ]
    if len(swaps) < len(found.swaps) or len(swaps) > 2:
        swaps = [f"another input at {_listed([swap.slot for swap in found.swaps])}"]
    return f"{_listed(swaps)} {from_to}"
