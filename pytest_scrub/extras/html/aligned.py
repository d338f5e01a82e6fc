"""Two texts one above the other, with what differs in pieces of its own."""

from __future__ import annotations

import re
from dataclasses import dataclass
from difflib import SequenceMatcher
from itertools import groupby

MOST_COMPARED = 2000  # words or characters; longer texts are compared place by place
RUN = 24  # characters of one piece, so that a long line can be broken


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
    if max(len(ours), len(theirs)) > MOST_COMPARED:
        return _in_place(ours, theirs)
    matcher = SequenceMatcher(None, ours, theirs, autojunk=False)
    if len(ours) == len(theirs):
        same_place = sum(one == other for one, other in zip(ours, theirs, strict=True))
        shifted = sum(match.size for match in matcher.get_matching_blocks())
        if same_place >= shifted or 2 * shifted <= len(ours):
            return _in_place(ours, theirs)
    return [
        piece
        for _, i, j, k, m in matcher.get_opcodes()
        for piece in _broken("".join(ours[i:j]), "".join(theirs[k:m]))
    ]


def _in_place(ours: list[str], theirs: list[str]) -> list[Piece]:
    most = max(len(ours), len(theirs))
    pairs = zip(ours + [""] * (most - len(ours)), theirs + [""] * (most - len(theirs)), strict=True)
    pieces = []
    for same, run in groupby(pairs, key=lambda pair: pair[0] == pair[1]):
        both = list(run)
        # Words that differ stay apart, so that each lies above its own; characters are of one width
        # anyway.
        by_words = any(len(unit) > 1 for pair in both for unit in pair)
        parts = (
            both
            if by_words and not same
            else [("".join(side[0] for side in both), "".join(s[1] for s in both))]
        )
        pieces += [piece for part in parts for piece in _broken(*part)]
    return pieces


def _broken(own: str, donor: str) -> list[Piece]:
    """In pieces that are not too long for a narrow page."""
    most = max(len(own), len(donor))
    return [Piece(own[i : i + RUN], donor[i : i + RUN]) for i in range(0, most, RUN)]
