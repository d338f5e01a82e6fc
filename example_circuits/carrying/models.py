"""Causal models of written addition, one for each digit of the sum, and rivals that carry
otherwise. `ones` and `tens` are sums of two digits, 0 to 18."""

from __future__ import annotations

from example_circuits.carrying.data import HUNDREDS, ONES, TENS
from pytest_scrub import CausalModel


def carry(ones):
    return ones // 10


WRITTEN = {
    HUNDREDS: CausalModel(carry=carry, answer=lambda tens, carry: (tens + carry) // 10),
    TENS: CausalModel(carry=carry, answer=lambda tens, carry: (tens + carry) % 10),
    ONES: CausalModel(answer=lambda ones: ones % 10),
}
FROM_NINE_ON = CausalModel(
    carry=lambda ones: ones >= 9, answer=lambda tens, carry: (tens + carry) % 10
)
RIVALS = {
    "no carry": CausalModel(answer=lambda tens: tens % 10),
    "carry of the tens": CausalModel(
        carry=lambda tens: tens // 10, answer=lambda tens, carry: (tens + carry) % 10
    ),
}
