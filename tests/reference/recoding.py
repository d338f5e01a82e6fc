"""A map that is not linear and has an inverse, as alignments that are not linear are said."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

WIDTH = 16


class Coupling(nn.Module):
    """Each half is moved by what a network makes of the other (Dinh et al., "NICE", 2015)."""

    def __init__(self, layers: int, hidden: int = 32) -> None:
        super().__init__()
        half = WIDTH // 2
        self.moves = nn.ModuleList(
            nn.Sequential(nn.Linear(half, hidden), nn.ReLU(), nn.Linear(hidden, half))
            for _ in range(layers)
        )

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        one, other = hidden.chunk(2, -1)
        for move in self.moves:
            one, other = other, one + move(other)
        return torch.cat([one, other], -1)

    def back(self, features: torch.Tensor) -> torch.Tensor:
        """What it was made of."""
        one, other = features.chunk(2, -1)
        for move in reversed(self.moves):
            one, other = other - move(one), one
        return torch.cat([one, other], -1)


class Inverse(nn.Module):
    """The way back of a map."""

    def __init__(self, into: Coupling) -> None:
        super().__init__()
        self.into = into

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return self.into.back(features)


class Reads(nn.Module):
    """Says whether two bits of what a map makes of what it is given are unlike."""

    def __init__(self, into: Coupling) -> None:
        super().__init__()
        self.into = into

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        features = self.into(hidden)
        return torch.stack([0 * features[:, 0], -9 * features[:, 0] * features[:, 1]], -1)


def that_knows_bits(
    tokens: int, seed: int
) -> tuple[nn.Module, torch.Tensor, dict[str, np.ndarray[tuple[int, ...], np.dtype[np.int64]]]]:
    """A network that knows two bits of every token, beside much else, in a code of its own, with
    the map of that code and the way back in it; the tokens; and the bits."""
    generator = torch.Generator().manual_seed(seed)
    bits = torch.randint(2, (tokens, 2), generator=generator)
    known = torch.randn(tokens, WIDTH, generator=generator)
    known[:, :2] = 2.0 * bits - 1
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        code, into = Coupling(3), Coupling(3)
    into.load_state_dict(code.state_dict())
    with torch.no_grad():
        embed = nn.Embedding.from_pretrained(code.back(known))
    model = nn.Sequential(embed, into, Inverse(into), Reads(code)).eval()
    return model, torch.arange(tokens), {
        "bit": bits[:, 0].numpy(), "more": bits[:, 1].numpy(),
    }  # fmt: skip
