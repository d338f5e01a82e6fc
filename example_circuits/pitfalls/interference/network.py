"""A network that writes a bag of words into a few numbers and answers questions from those
alone."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from example_circuits.pitfalls.interference.data import WORDS


class Bag(nn.Module):
    """Every word has a direction in `width` dimensions; a bag is written as the sum of its words'
    directions.

    The answer is read along the asked word's own direction. With fewer dimensions than words,
    directions cannot all be orthogonal: words that are in the bag as well interfere with the
    answer.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.written = nn.Linear(WORDS, width, bias=False)
        self.question = nn.Embedding(WORDS, width)
        self.threshold = nn.Parameter(torch.zeros(()))

    def forward(self, bag: Tensor, asked: Tensor) -> Tensor:
        """Logits of no and yes `[batch, 2]`, for bags `[batch, WORDS]` and words `[batch]`."""
        written, question = self.written(bag), self.question(asked)
        yes = (written * question).sum(dim=-1) - self.threshold
        return torch.stack([torch.zeros_like(yes), yes], dim=-1)
