"""Images that `show=` returns, read back by a library that did not write them."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from pytest_scrub.data.dataset import Dataset
from pytest_scrub.data.pictures import LARGEST, ORANGE, opaque_where, picture_of
from pytest_scrub.errors import DataError

Image = pytest.importorskip("PIL.Image", reason="Pillow is not installed: no image is read back")

RANDOM = np.random.default_rng(0)
GREY = RANDOM.integers(0, 256, (5, 7), dtype=np.uint8)
COLOURED = RANDOM.integers(0, 256, (5, 7, 3), dtype=np.uint8)


def read(uri: str) -> npt.NDArray[np.uint8]:
    kind, _, data = uri.partition(",")
    assert kind == "data:image/png;base64"
    image = Image.open(io.BytesIO(base64.b64decode(data, validate=True)))
    image.load()
    assert image.format == "PNG"
    return np.asarray(image)


@pytest.mark.parametrize(
    ("shown", "pixels"),
    [
        (GREY, GREY),
        (COLOURED, COLOURED),
        (COLOURED[:, ::2], COLOURED[:, ::2]),  # not in one piece
        (torch.from_numpy(COLOURED), COLOURED),
        (torch.from_numpy(GREY).float() / 255, GREY),
        ((torch.from_numpy(GREY).double() / 255).requires_grad_(), GREY),
        ((COLOURED / 255).astype(np.float16), COLOURED),
        (torch.tensor([[0.0, 1.0]], dtype=torch.bfloat16), [[0, 255]]),
        (Image.fromarray(COLOURED), COLOURED),
        (Image.fromarray(GREY), np.repeat(GREY[:, :, None], 3, 2)),
        (Image.fromarray(GREY > 127), np.repeat((GREY > 127)[:, :, None] * np.uint8(255), 3, 2)),
    ],
)
def test_an_image_is_what_was_returned(shown: Any, pixels: Any) -> None:
    picture = picture_of(shown, 3)
    assert picture is not None
    np.testing.assert_array_equal(read(picture.uri), pixels)
    height, width = np.shape(pixels)[:2]
    assert picture.text == f"image of {width} x {height} pixels (row 3)"


def test_numbers_beyond_0_to_1_are_stretched_and_it_is_said() -> None:
    picture = picture_of(np.array([[-2.0, 0.0], [1.0, 2.0]]), 0)
    assert picture is not None
    np.testing.assert_array_equal(read(picture.uri), [[0, 128], [191, 255]])
    assert picture.text == "image of 2 x 2 pixels (row 0), black is -2 and white 2"
    flat = picture_of(torch.full((2, 2), 7.0), 0)
    assert flat is not None
    assert flat.text.endswith("black is 7 and white 7")
    assert not read(flat.uri).any()


def test_large_ones_are_drawn_from_fewer_pixels_and_it_is_said() -> None:
    large = RANDOM.integers(0, 256, (2 * LARGEST + 1, 9), dtype=np.uint8)
    picture = picture_of(large, 0)
    assert picture is not None
    np.testing.assert_array_equal(read(picture.uri), large[::3, ::3])
    assert picture.text == f"image of 9 x {2 * LARGEST + 1} pixels (row 0), one in 3 drawn"
    whole = picture_of(large[:LARGEST], 0)
    assert whole is not None
    np.testing.assert_array_equal(read(whole.uri), large[:LARGEST])


@pytest.mark.parametrize(
    ("shown", "sentence"),
    [
        (torch.zeros(3, 8, 8), r"numbers of shape \[3, 8, 8\] for row 1; an image is \[height"),
        (torch.zeros(8), r"numbers of shape \[8\] for row 1; an image is"),
        (torch.zeros(0, 8), r"numbers of shape \[0, 8\] for row 1; an image is"),
        (torch.tensor([[0.0, float("nan")]]), "an image with numbers that are not finite for"),
        (np.array([[np.inf]]), "an image with numbers that are not finite for row 1"),
        (torch.ones(2, 2).long(), "an image of int64 for row 1; give uint8"),
        (torch.ones(2, 2).bool(), "an image of bool for row 1; give uint8"),
        (None, "None for row 1; return a str, or an image"),
        ([[0.0]], r"\[\[0.0\]\] for row 1; return a str, or an image"),
    ],
)
def test_what_is_no_image_is_refused(shown: Any, sentence: str) -> None:
    data = Dataset(torch.zeros(2, 3), show=lambda row: shown)
    for ask in (data.show, data.picture):
        with pytest.raises(DataError, match=rf"^show= returned {sentence}"):
            ask(1)


def test_rows_that_are_told_in_words_have_no_picture() -> None:
    data = Dataset(torch.zeros(2, 3), show=lambda row: "a\nb")
    assert (data.show(0), data.picture(0)) == ("a\\nb", None)
    assert Dataset(torch.zeros(2, 3)).picture(0) is None


def test_shares_are_seen_through_as_far_as_they_are_small() -> None:
    shares = np.array([[1.0, 0.0, 0.0], [0.5, 0.25, 1.0000001]])
    pixels = read(opaque_where(shares))
    assert (pixels[..., :3] == ORANGE).all()
    np.testing.assert_array_equal(pixels[..., 3], [[255, 0, 0], [128, 64, 255]])
