"""All sums modulo 113, and which frequency each neuron of the network goes by.

A frequency k turns a number x into an angle, k * x / 113 of a full turn. A neuron goes by k where
more than half of what it varies by, over all pairs of numbers, is a function of the angles of a and
of b at that frequency and no higher one.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pytest_scrub import Dataset, near

P = 113  # also the token of the equals sign
FREQUENCIES = range(1, P // 2 + 1)
WIDTH = 0.05  # of a bin of cosines and sines
SECTORS = 16  # of a full turn
MOST = 0.5
FEWEST = 10  # neurons that make a frequency one of the network's


def rows() -> Tensor:
    """The whole domain, `[P * P, 3]`: a, b and the equals sign."""
    a, b = torch.cartesian_prod(torch.arange(P), torch.arange(P)).T
    return torch.stack([a, b, torch.full_like(a, P)], 1)


def sector(k: int, x: Tensor) -> Tensor:
    """In which sixteenth of a turn the angle of x at a frequency lies."""
    return k * x % P * SECTORS // P


def shares(hidden: Tensor) -> Tensor:
    """Of what neurons vary by on all pairs, `[P * P, neurons]`, what each frequency explains,
    `[neurons, frequencies]`."""
    grid = (hidden - hidden.mean(0)).T.reshape(-1, P, P)
    power = torch.fft.fft2(grid).abs().square()
    waves = [torch.tensor([0, k, P - k]) for k in FREQUENCIES]
    explained = torch.stack([power[:, at][:, :, at].sum((1, 2)) for at in waves], 1)
    return explained / power.sum((1, 2))[:, None]


def by_frequency(hidden: Tensor) -> dict[int, list[int]]:
    """The neurons that go by each of the network's frequencies."""
    share, best = shares(hidden).max(1)
    found = {
        k: ((best == i) & (share > MOST)).nonzero()[:, 0].tolist()
        for i, k in enumerate(FREQUENCIES)
    }
    return {k: units for k, units in found.items() if len(units) >= FEWEST}


def dataset(frequencies: list[int]) -> Dataset:
    """Every pair once, with features of each frequency: `cos_6` and `sin_6` of the angle of a + b,
    `sector_6` of that of a + b and `apart_6` of that of a - b."""
    tokens = rows()
    a, b = tokens[:, 0], tokens[:, 1]
    features = {"sum": (a + b) % P}
    for k in frequencies:
        angle = 2 * math.pi * (k * (a + b) % P) / P
        features |= {
            f"cos_{k}": near(torch.cos(angle), WIDTH),
            f"sin_{k}": near(torch.sin(angle), WIDTH),
            f"sector_{k}": sector(k, a + b),
            f"apart_{k}": sector(k, a - b),
        }
    return Dataset(
        tokens,
        labels=(a + b) % P,
        label_pos=-1,
        features=features,
        show=lambda row: "{} + {}".format(*row["tokens"][:2].tolist()),
        name="sums modulo 113",
    )
