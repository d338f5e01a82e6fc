"""Two texts one above the other, with what differs in pieces of its own."""

from __future__ import annotations

import operator
import re
from dataclasses import dataclass
from difflib import SequenceMatcher
from itertools import groupby, zip_longest

MOST_COMPARED = 2000  # words or characters; longer texts are compared place by place
RUN = 24  # characters of one piece at most, so that a narrow page can break lines


@dataclass(frozen=True)
class Piece:
    """A stretch of two texts that belongs together."""

    own: str
    donor: str

    @property
    def same(self) -> bool:
        """Whether the two agree here."""
        return self.own == self.donor


def aligned(own: str, donor: str) -> list[Piece]:
    """Two texts, word by word where both have several, else character by character.

    Where one has as many units as the other these are compared place by place, as a network does,
    unless most of them are the same after a shift.
    """
    by_words = len(own.split()) > 1 and len(donor.split()) > 1
    ours, theirs = (
        re.findall(r"\s*\S+|\s+$", text) if by_words else list(text) for text in (own, donor)
    )
    stretches = _shifted(ours, theirs) or _in_place(ours, theirs, by_words)
    return [
        Piece(own[i : i + RUN], donor[i : i + RUN])
        for own, donor in stretches
        for i in range(0, max(len(own), len(donor)), RUN)
    ]


def _shifted(ours: list[str], theirs: list[str]) -> list[tuple[str, str]]:
    """Stretches whose places differ; none where the texts are to be compared place by place."""
    if max(len(ours), len(theirs)) > MOST_COMPARED:
        return []
    matcher = SequenceMatcher(None, ours, theirs, autojunk=False)
    if len(ours) == len(theirs):
        same_place = sum(map(operator.eq, ours, theirs))
        shifted = sum(match.size for match in matcher.get_matching_blocks())
        if same_place >= shifted or 2 * shifted <= len(ours):
            return []
    return [("".join(ours[i:j]), "".join(theirs[k:m])) for _, i, j, k, m in matcher.get_opcodes()]


def _in_place(ours: list[str], theirs: list[str], by_words: bool) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    pairs = zip_longest(ours, theirs, fillvalue="")
    for same, run in groupby(pairs, lambda pair: pair[0] == pair[1]):
        if by_words and not same:
            found += run  # each word lies above its own
        else:
            own, donor = map("".join, zip(*run, strict=True))
            found.append((own, donor))
    return found
