"""Prompts that end before an indirect object, and what a claim about them needs to know of each.

"When Mary and John walked into the store, John handed a ring to" goes on with " Mary". The name
that comes again is the subject S, once as S1 and once as S2; the other one is the indirect object
IO, which comes once. A prompt is ABBA where the IO stands before S1, as here, and BABA where it
stands behind it.

Nothing here knows a network. `dataset` takes `encode`, a function from a piece of text (a word with
the space before it, or a punctuation mark) to token ids: that of a tokenizer, or of the vocabulary
of `word_ids`.
"""

from __future__ import annotations

import math
import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from pytest_scrub import DataError, Dataset

Encode = Callable[[str], Sequence[int]]

# Each is one token of GPT-2 with the space before it; `dataset` looks whether it is one of the
# tokenizer at hand.
NAMES = (
    "Mary",
    "John",
    "Tom",
    "James",
    "Sarah",
    "David",
    "Alice",
    "Paul",
    "Laura",
    "Peter",
    "Emily",
    "Jack",
)
PLACES = ("store", "garden", "school", "station", "museum", "library", "hotel", "church")
THINGS = ("ring", "book", "drink", "letter", "ticket", "camera", "phone", "basket")
ABBA, BABA = "ABBA", "BABA"
ORDERS = (ABBA, BABA)
# None begins with a name, which would have no space before it and so be another token.
TEMPLATES = (
    "When {first} and {second} walked into the {place}, {s2} handed a {thing} to",
    "After {first} and {second} left the {place}, {s2} gave a {thing} to",
    "While {first} and {second} waited at the {place}, {s2} passed a {thing} to",
    "Then {first} and {second} met at the {place}, and {s2} gave a {thing} to",
    "Because {first} and {second} worked at the {place}, {s2} showed a {thing} to",
    "Yesterday {first} and {second} went to the {place}. There {s2} gave a {thing} to",
    "As soon as {first} and {second} reached the {place}, {s2} offered a {thing} to",
    "Once {first} and {second} were alone in the {place}, {s2} threw a {thing} to",
    "Today {first} and {second} had lunch near the {place}. Later {s2} brought a {thing} to",
    "The day {first} and {second} saw the {place}, {s2} lent a {thing} to",
    "Although {first} and {second} did not like the {place}, {s2} sold a {thing} to",
    "At the {place}, {first} and {second} had a long talk, and {s2} gave a {thing} to",
    "Before {first} and {second} closed the {place}, {s2} returned a {thing} to",
    "On the way to the {place}, {first} and {second} got lost, and {s2} handed a {thing} to",
    "Friends since they met at the {place}, {first} and {second} parted, and {s2} sent a {thing} "
    "to",
)
# As GPT-2's own splitting: no token ever crosses from one piece into the next.
PIECE = re.compile(r" ?(?:\{\w+\}|\w+)|[^\w\s]")
PAD = 0  # any token would do: it stands behind the end, where nothing that is read can look


@dataclass(frozen=True)
class Prompt:
    """One prompt, in words."""

    template: int
    order: str
    io: str
    s: str
    place: str
    thing: str

    def pieces(self) -> list[tuple[str, str]]:
        """`(role, text)`: the role is `io`, `s1` or `s2`, or what any other piece says."""
        first, second = ("io", "s1") if self.order == ABBA else ("s1", "io")
        roles = {"{first}": first, "{second}": second, "{s2}": "s2"}
        words = {
            "io": self.io,
            "s1": self.s,
            "s2": self.s,
            "{place}": self.place,
            "{thing}": self.thing,
        }
        found = []
        for piece in PIECE.findall(TEMPLATES[self.template]):
            space, word = piece[: len(piece) - len(piece.lstrip())], piece.lstrip()
            role = roles.get(word, word)
            found.append((role, space + words.get(role, word)))
        return found

    @property
    def text(self) -> str:
        return "".join(text for _, text in self.pieces())


def prompts(n: int, seed: int) -> list[Prompt]:
    """`n` different prompts, drawn uniformly from all there are; the same `seed` gives the same
    ones."""
    others = len(NAMES) - 1
    sizes = (len(TEMPLATES), len(ORDERS), len(NAMES), others, len(PLACES), len(THINGS))
    made = []
    for number in random.Random(seed).sample(range(math.prod(sizes)), n):
        digits, left = [], number
        for size in sizes:
            left, digit = divmod(left, size)
            digits.append(digit)
        template, order, io, other, place, thing = digits
        s = (io + 1 + other) % len(NAMES)  # any name but the IO
        made.append(
            Prompt(template, ORDERS[order], NAMES[io], NAMES[s], PLACES[place], THINGS[thing])
        )
    return made


def word_ids() -> Encode:
    """An `encode` for networks without a tokenizer: one id, from 1 up, for every piece that a
    prompt can hold."""
    known = {f" {word}" for word in (*NAMES, *PLACES, *THINGS)}
    known |= {
        piece for template in TEMPLATES for piece in PIECE.findall(template) if "{" not in piece
    }
    ids = {piece: number for number, piece in enumerate(sorted(known), start=1)}
    return lambda piece: [ids[piece]]


def name_token(name: str, encode: Encode) -> int:
    """**Raises** `DataError` where a name is more than one token, as then no position holds all of
    it."""
    ids = encode(f" {name}")
    if len(ids) != 1:
        raise DataError(
            f"the name {name!r} is {len(ids)} tokens for this tokenizer; take a network with "
            "GPT-2's, or names that are one token each"
        )
    return int(ids[0])


def dataset(of: Sequence[Prompt], encode: Encode) -> Dataset:
    """The prompts as rows, padded on the right; the label is the IO, read at the last token of each
    prompt.

    Features: the tokens `io` and `s`, the `order` and the `template`, and positions: `io_at`,
    `s1_at`, `after_s1`, `s2_at` and `end`.

    **Raises** `DataError` where a name is more than one token.
    """
    tokens = {name: name_token(name, encode) for name in NAMES}
    rows, positions = [], []
    for prompt in of:
        row: list[int] = []
        at: dict[str, int] = {}
        for role, text in prompt.pieces():
            at[role] = len(row)
            row += map(int, encode(text))
        rows.append(row)
        positions.append((at["io"], at["s1"], at["s1"] + 1, at["s2"], len(row) - 1))
    longest = max(map(len, rows))
    padded = torch.tensor([row + [PAD] * (longest - len(row)) for row in rows])
    texts = {tuple(row): prompt.text for row, prompt in zip(padded.tolist(), of, strict=True)}
    columns = zip(
        ("io_at", "s1_at", "after_s1", "s2_at", "end"), zip(*positions, strict=True), strict=True
    )
    io = [tokens[prompt.io] for prompt in of]
    return Dataset(
        padded,
        labels=torch.tensor(io),
        label_pos="end",
        features={
            "io": io,
            "s": [tokens[prompt.s] for prompt in of],
            "order": [prompt.order for prompt in of],
            "template": [prompt.template for prompt in of],
            **{name: list(column) for name, column in columns},
        },
        show=lambda row: texts[tuple(row["tokens"].tolist())],
        name="indirect objects",
    )
