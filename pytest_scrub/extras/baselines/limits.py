"""How far the figures of a claim may move, as `--scrub-compare-fail` says it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

GAP, NULL, EXPLAINED, WORST, POWER = "gap", "null", "explained", "worst", "power"
FIGURES = (GAP, NULL, EXPLAINED, WORST, POWER)


@dataclass(frozen=True)
class Limit:
    """How far one figure may move: `size` in the figure's unit, or a share of what it was where
    `relative`."""

    size: float = 0.0
    relative: bool = False

    def of(self, old: float) -> float:
        """In the figure's unit, where it was `old`."""
        return self.size * abs(old) if self.relative else self.size


Limits = Mapping[str, Limit]
NONE: Limits = MappingProxyType(dict.fromkeys(FIGURES, Limit()))


def parsed(text: str) -> Limits:
    """The limits of all figures from a text such as `gap:10%,worst:0.05`; zero for one that it
    leaves out.

    **Raises** `ValueError` with what is wrong and what to write.
    """
    found: dict[str, Limit] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        figure, colon, size = (word.strip() for word in part.partition(":"))
        if figure not in FIGURES:
            raise ValueError(
                f"knows the figures {', '.join(FIGURES)}, not {figure!r}; write {WORST}:0.05, for "
                "instance"
            )
        if not colon:
            raise ValueError(
                f"does not say how far {figure!r} may move; write {figure}:0.05 or {figure}:10%"
            )
        if figure in found:
            raise ValueError(f"has two limits for {figure!r}; leave out one of them")
        found[figure] = _limit(figure, size)
    return {**NONE, **found}


def _limit(figure: str, text: str) -> Limit:
    try:
        size = float(text.removesuffix("%"))
    except ValueError:
        size = math.nan
    if not size >= 0:
        raise ValueError(
            f"takes a number of zero or more for {figure!r}, or a percentage, not {text!r}"
        )
    return Limit(size / 100, True) if text.endswith("%") else Limit(size)
