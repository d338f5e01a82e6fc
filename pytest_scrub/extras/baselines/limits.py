"""How far the figures of a claim may move, as `--scrub-compare-fail` says it, and what else may be
another than it was, as `--scrub-compare-allow` does."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

GAP, ACCURACY, NULL, EXPLAINED = "gap", "accuracy", "null", "explained"
WORST, POWER = "worst", "power"
FIGURES = (GAP, ACCURACY, NULL, EXPLAINED, WORST, POWER)
# what a claim is about; the others follow from it, or are what one search found in one network, and
# a network that was trained again has others
GATING = (GAP, ACCURACY)
ALL = "all"
# what may be allowed to be another than it was
ACCEPTANCE, DATA, MISSING = "acceptance", "data", "missing"
ALLOWED = (ACCEPTANCE, DATA, MISSING)


@dataclass(frozen=True)
class Limit:
    """How far one figure may move: `size` in the figure's unit, or a share of what it was where
    `relative`; one without `gates` is only shown."""

    size: float = 0.0
    relative: bool = False
    gates: bool = True

    def of(self, old: float) -> float:
        """In the figure's unit, where it was `old`."""
        return self.size * abs(old) if self.relative else self.size


Limits = Mapping[str, Limit]
# no further than the intervals allow
NONE: Limits = MappingProxyType({one: Limit(gates=one in GATING) for one in FIGURES})


def parsed(text: str) -> Limits:
    """The limits of all figures from a text such as `gap:10%,worst:0.05`, in which `all` stands for
    those that it leaves out; without it, those are as in `NONE`.

    **Raises** `ValueError` with what is wrong and what to write.
    """
    found: dict[str, Limit] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        figure, colon, size = (word.strip() for word in part.partition(":"))
        if figure not in (*FIGURES, ALL):
            raise ValueError(
                f"knows the figures {', '.join(FIGURES)}, and {ALL} of them, not {figure!r}; write "
                f"{WORST}:0.05, for instance"
            )
        if not colon:
            raise ValueError(
                f"does not say how far {figure!r} may move; write {figure}:0.05 or {figure}:10%"
            )
        if figure in found:
            raise ValueError(f"has two limits for {figure!r}; leave out one of them")
        found[figure] = _limit(figure, size)
    others = found.pop(ALL, None)
    return {**(NONE if others is None else dict.fromkeys(FIGURES, others)), **found}


def allowed(text: str) -> frozenset[str]:
    """What may change, from a text such as `acceptance,data`.

    **Raises** `ValueError` with what is wrong and what to write.
    """
    words = [word.strip() for word in text.split(",")]
    for word in words:
        if word not in ALLOWED:
            raise ValueError(f"takes {', '.join(ALLOWED)}, one or more of them, not {word!r}")
    return frozenset(words)


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
