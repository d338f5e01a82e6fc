"""A dictionary by itself: what it is made of, and what is refused."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pytest_scrub import Dictionary, ModelError

WIDTH, UNITS = 4, 6
HOOK = "blocks.2.hook_mlp_out"
GENERATOR = torch.Generator().manual_seed(0)
W_ENC, W_DEC = (
    torch.randn(shape, generator=GENERATOR) for shape in ((WIDTH, UNITS), (UNITS, WIDTH))
)
B_ENC, B_DEC = torch.randn(UNITS, generator=GENERATOR), torch.randn(WIDTH, generator=GENERATOR)
X = torch.randn(3, 2, WIDTH, generator=GENERATOR)


def made(**options: Any) -> Dictionary:
    given = {"W_enc": W_ENC, "b_enc": B_ENC, "W_dec": W_DEC, "b_dec": B_DEC, "at": HOOK}
    return Dictionary(**{**given, **options})


def test_codes_of_tensors() -> None:
    before = X @ W_ENC + B_ENC
    torch.testing.assert_close(made().encode(X), before.relu())
    jumps = made(threshold=torch.full((UNITS,), 0.5)).encode(X)
    torch.testing.assert_close(jumps, before * (before > 0.5))
    largest = made(k=2).encode(X)
    assert (largest.count_nonzero(-1) <= 2).all()
    assert torch.equal(largest.max(-1).values, before.relu().max(-1).values)


def test_units_error_and_bias_add_up_to_the_place() -> None:
    place = torch.randn_like(X)
    dictionary = made()
    some = [dictionary.only(torch.tensor(units)) for units in ([0, 3], [1, 2, 4, 5])]
    units = sum(one.codes(X) @ one.rows for one in some)
    torch.testing.assert_close(units + dictionary.error(X, place) + B_DEC, place)


class Coder(nn.Module):
    """Another's dictionary, which is no `Dictionary`."""

    def __init__(self, square: bool = False) -> None:
        super().__init__()
        self.weight, self.square = nn.Parameter(W_ENC.clone()), square

    def encode(self, x: Tensor) -> Tensor:
        return (x @ self.weight + B_ENC.to(x)).relu()

    def decode(self, codes: Tensor) -> Tensor:
        return (codes**2 if self.square else codes) @ W_DEC.to(codes) + B_DEC.to(codes)


def test_any_object_that_encodes_and_decodes() -> None:
    found = Dictionary.of(Coder(), width=WIDTH, at=HOOK)
    torch.testing.assert_close(found.rows, W_DEC)
    torch.testing.assert_close(found.bias, B_DEC)
    torch.testing.assert_close(found.encode(X), made().encode(X))
    assert found.only(torch.tensor([1])).codes(X).shape == (3, 2, 1)
    assert [name for name, _ in found.tensors()] == ["W_dec", "b_dec", "weight"]


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "codes": ({"W_enc": W_ENC[:, :5]}, "W_enc gives 5 codes, but W_dec has 6 rows"),
    "bias": ({"b_enc": B_DEC}, "b_enc of a dictionary is 6 numbers, one dimension, floating-point"),
    "number": ({"W_dec": W_DEC.int()}, "W_dec of a dictionary is a matrix, floating-point numbers"),
    "nan": ({"b_dec": B_DEC * float("nan")}, "b_dec of a dictionary is NaN or infinite somewhere"),
    "none": ({"W_dec": [[1.0]]}, "W_dec of a dictionary is a tensor, not [[1.0]]"),
    "k and threshold": (
        {"k": 2, "threshold": B_ENC},
        "threshold= and k= are two ways in which code",
    ),
    "k": ({"k": 7}, "k= is from 1 to the 6 units, not 7"),
    "hook": ({"at": "blocks.2.mlp.hook_post"}, "stands at blocks.2.mlp.hook_post, where no dictio"),
    "reads": ({"reads": 3}, "the dictionary reads 3, where no dictionary can stand"),
    "read": ({"at": "blocks.0.mlp.hook_in"}, "stands at blocks.0.mlp.hook_in, which an MLP reads;"),
    "names": ({"names": {6: "dogs"}}, "names= has a name for unit 6, but the dictionary has units"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_is_refused(case: str) -> None:
    options, message = REFUSED[case]
    with pytest.raises(ModelError, match=re.escape(message)):
        made(**options)


def test_objects_that_are_no_dictionaries() -> None:
    with pytest.raises(ModelError, match="or an object with encode and decode, not 3"):
        Dictionary.of(3, width=WIDTH, at=HOOK)
    with pytest.raises(
        ModelError, match=r"cannot be called on 5 numbers .* is width= what it reads"
    ):
        Dictionary.of(Coder(), width=5, at=HOOK)
    with pytest.raises(ModelError, match="does not add up what it gives for single codes"):
        Dictionary.of(Coder(square=True), width=WIDTH, at=HOOK)
