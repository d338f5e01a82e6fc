"""The claims of a run over the checkpoints of a training: each claim, checkpoint by checkpoint."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence

from pytest_scrub.common.visible import visible
from pytest_scrub.reports.run import Claimed, Run

SAME = "are identical: no weight of the network differs between them; nothing else is compared"


def by_claim(run: Run) -> dict[str, list[Claimed]]:
    """The claims that were run for checkpoints, by their tests without those, and each in the order
    of the training."""
    found = [(one.over, one) for one in run.claims if one.over is not None]
    claims: dict[str, list[Claimed]] = defaultdict(list)
    for over, one in sorted(found, key=lambda pair: pair[0]):
        claims[over.claim].append(one)
    return claims


def over_lines(run: Run) -> Iterator[tuple[str, str]]:
    """`(word, line)`: every claim, and below it what became of it at each checkpoint."""
    for claim, claims in by_claim(run).items():
        yield "", visible(claim)
        rows = [_cells(one) for one in claims]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        for one, row in zip(claims, rows, strict=True):
            cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
            yield one.word, f"  {'  '.join(cells)}".rstrip()


def _cells(one: Claimed) -> tuple[str, ...]:
    assert one.over is not None
    name, verdict = visible(one.over.checkpoint), one.verdict
    if verdict is None:
        return name, one.told, "no verdict", ""
    explained = "" if verdict.explained is None else f"explained {verdict.explained:.1%}"
    return name, f"{verdict.word}{one.beside}", f"gap {verdict.gap}", explained


def same_networks(run: Run) -> list[str]:
    """Which checkpoints gave a claim one and the same network, a line for each such set."""
    alike: dict[tuple[str, ...], None] = {}
    for claims in by_claim(run).values():
        alike |= dict.fromkeys(names for names in _of_one_network(claims) if len(names) > 1)
    return [
        f"{', '.join(map(visible, names[:-1]))} and {visible(names[-1])} {SAME}" for names in alike
    ]


def never_changed(run: Run) -> int:
    """How many claims had one network whatever the checkpoint: their fixture takes no notice of
    it."""
    groups = [_of_one_network(claims) for claims in by_claim(run).values()]
    return sum(len(networks) == 1 and len(networks[0]) > 1 for networks in groups)


def _of_one_network(claims: Sequence[Claimed]) -> list[tuple[str, ...]]:
    """The checkpoints of a claim, those together that gave it the same network."""
    networks: dict[str, tuple[str, ...]] = defaultdict(tuple)
    for one in claims:
        if one.over is not None and one.verdict is not None:
            networks[one.verdict.model_digest] += (one.over.checkpoint,)
    return list(networks.values())
