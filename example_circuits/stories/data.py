"""Prompts that end where a story has to say "she" or "he", and what a claim about them needs to
know of each.

"One day, a kind princess named Sue was so happy that" goes on with " she". Noun and name are of one
gender, and both come once; nothing else in a prompt says it.

Nothing here knows a network. `dataset` takes `encode`, a function from a word to token ids.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from pytest_scrub import Dataset

Encode = Callable[[str], Sequence[int]]

SHE, HE = "she", "he"
OPENINGS = (
    "One day, a",
    "One day, there was a",
    "Once upon a time, there was a",
    "Once there was a",
)
ADJECTIVES = ("", "little", "big", "young", "happy", "kind", "brave")
# Words that the network itself takes for female or male: with these it prefers the right pronoun in
# every prompt. (With "grandma" or "Jenny" it does not.)
NOUNS = {
    SHE: ("girl", "lady", "mom", "princess", "sister"),
    HE: ("boy", "brother", "king", "man", "prince"),
}
NAMES = {
    SHE: ("Anna", "Ella", "Julia", "Lily", "Lucy", "Maya", "Mia", "Sally", "Sara", "Sue"),
    HE: ("Ben", "Bob", "Jack", "Joe", "Leo", "Mark", "Max", "Sam", "Tim", "Tommy"),
}
ENDINGS = (
    "was sad because",
    "was scared because",
    "smiled because",
    "was very happy because",
    "was so happy that",
    "was so tired that",
    "was so excited that",
    "was tired, so",
    "wanted to play, so",
)
START = 1  # which every story begins with
PAD = 0  # any token would do: it stands behind the end, where nothing that is read can look


@dataclass(frozen=True)
class Prompt:
    """One prompt, in words."""

    gender: str
    opening: str
    adjective: str
    noun: str
    name: str
    ending: str

    @property
    def parts(self) -> tuple[str, ...]:
        return (self.opening, self.adjective, self.noun, "named", self.name, self.ending)

    @property
    def text(self) -> str:
        return " ".join(filter(None, self.parts))

    def tokens(self, encode: Encode) -> tuple[list[int], dict[str, int]]:
        """The token ids, and where noun and name start and end."""
        row, at = [START], {}
        for role, part in zip(("", "", "noun", "", "name", ""), self.parts, strict=True):
            if role:
                at[f"{role}_start"] = len(row)
            for word in part.split():
                row += map(int, encode(word))
            if role:
                at[f"{role}_end"] = len(row) - 1
        return row, at


def prompts(n: int, seed: int) -> list[Prompt]:
    """`n` different prompts, drawn uniformly from all there are; the same `seed` gives the same
    ones."""
    sizes = (2, len(OPENINGS), len(ADJECTIVES), len(NOUNS[SHE]), len(NAMES[SHE]), len(ENDINGS))
    made = []
    for number in random.Random(seed).sample(range(math.prod(sizes)), n):
        digits, left = [], number
        for size in sizes:
            left, digit = divmod(left, size)
            digits.append(digit)
        gender, opening, adjective, noun, name, ending = digits
        which = (SHE, HE)[gender]
        made.append(
            Prompt(
                which,
                OPENINGS[opening],
                ADJECTIVES[adjective],
                NOUNS[which][noun],
                NAMES[which][name],
                ENDINGS[ending],
            )
        )
    return made


def pronoun(which: str, encode: Encode) -> int:
    """The token of a pronoun. **Raises** `ValueError` where it is more than one."""
    ids = encode(which)
    if len(ids) != 1:
        raise ValueError(f"{which!r} is {len(ids)} tokens for this tokenizer, not one")
    return int(ids[0])


def dataset(of: Sequence[Prompt], encode: Encode) -> Dataset:
    """The prompts as rows, padded on the right; the label is the pronoun of the gender, read at the
    last token of each prompt.

    Features: the words `noun`, `name`, its `initial`, and `ending`; the `gender` of noun and name,
    and the pronoun of the other one, `rival`; and positions: the first and last tokens of noun and
    name, and the `end`.
    """
    tokens = {which: pronoun(which, encode) for which in (SHE, HE)}
    rows, positions = zip(*(prompt.tokens(encode) for prompt in of), strict=True)
    longest = max(map(len, rows))
    padded = torch.tensor([row + [PAD] * (longest - len(row)) for row in rows])
    texts = {tuple(row): prompt.text for row, prompt in zip(padded.tolist(), of, strict=True)}
    return Dataset(
        padded,
        labels=torch.tensor([tokens[prompt.gender] for prompt in of]),
        label_pos="end",
        features={
            "gender": [prompt.gender for prompt in of],
            "rival": [tokens[HE if prompt.gender == SHE else SHE] for prompt in of],
            "noun": [prompt.noun for prompt in of],
            "name": [prompt.name for prompt in of],
            "initial": [prompt.name[0] for prompt in of],
            "ending": [prompt.ending for prompt in of],
            **{where: [at[where] for at in positions] for where in positions[0]},
            "end": [len(row) - 1 for row in rows],
        },
        show=lambda row: texts[tuple(row["tokens"].tolist())],
        name="she or he",
    )
