"""Images that `show=` returns, as a report draws them and as text tells of them."""

from __future__ import annotations

import base64
import struct
import zlib
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from pytest_scrub.errors import DataError

LARGEST = 256  # pixels of a side: what is larger is drawn from every second pixel, or third, ...
PNG = b"\x89PNG\r\n\x1a\n"
# PNG's own number of a kind, by how many numbers a pixel has: grey, colour, colour and opacity
KINDS = {1: 0, 3: 2, 4: 6}
ORANGE = (232, 89, 12)  # is seen on white and on black

Pixels = npt.NDArray[np.uint8]


class Picture(NamedTuple):
    """An image.

    - `pixels`: uint8 `[height, width]`, or `[height, width, 3 or 4]`; `text`: what it is, in words.
    """

    pixels: Pixels
    text: str

    @property
    def uri(self) -> str:
        """It as a PNG in a data URI."""
        return f"data:image/png;base64,{base64.b64encode(_png(self.pixels)).decode()}"


def picture_of(shown: Any, row: int) -> Picture | None:
    """An image that `show=` returned for a row: of Pillow, or an array or tensor `[height, width]`
    or `[height, width, 3]`, uint8 or floats; None where it is none.

    Floats beyond 0 to 1 are stretched, and the text says so.

    **Raises** `DataError` where numbers are no image.
    """
    if hasattr(shown, "convert") and hasattr(shown, "mode"):  # Pillow's
        shown = np.asarray(shown.convert("RGB"))
    if hasattr(shown, "detach") and hasattr(shown, "cpu"):  # torch's
        shown = shown.detach().cpu()
        shown = (shown.double() if shown.is_floating_point() else shown).numpy()
    if not isinstance(shown, np.ndarray):
        return None
    is_image = shown.ndim == 2 or (shown.ndim == 3 and shown.shape[2] == 3)
    if not is_image or not shown.size:
        raise DataError(
            f"show= returned numbers of shape {list(shown.shape)} for row {row}; an image is "
            "[height, width] or [height, width, 3], such as image.permute(1, 2, 0)"
        )
    pixels, how = _pixels(shown, row)
    step = -(-max(pixels.shape[:2]) // LARGEST)
    how += f", one in {step} drawn" * (step > 1)
    height, width = pixels.shape[:2]
    return Picture(pixels[::step, ::step], f"image of {width} x {height} pixels (row {row}){how}")


def opaque_where(shares: npt.NDArray[np.float64]) -> str:
    """A PNG in a data URI, with pixels as opaque as numbers `[height, width]` from 0 to 1 say."""
    pixels = np.empty((*shares.shape, 4), dtype=np.uint8)
    pixels[..., :3], pixels[..., 3] = ORANGE, np.rint(255 * shares)
    return Picture(pixels, "").uri


def _pixels(numbers: npt.NDArray[Any], row: int) -> tuple[Pixels, str]:
    """From 0, black, to 255, and what is to be said of that."""
    if numbers.dtype == np.uint8:
        return numbers, ""
    if numbers.dtype.kind != "f":
        raise DataError(
            f"show= returned an image of {numbers.dtype} for row {row}; give uint8 from 0 to 255, "
            "or floats"
        )
    if not np.isfinite(numbers).all():
        raise DataError(f"show= returned an image with numbers that are not finite for row {row}")
    numbers = numbers.astype(np.float64)
    low, high, how = 0.0, 1.0, ""
    if numbers.min() < low or numbers.max() > high:
        low, high = float(numbers.min()), float(numbers.max())
        how = f", black is {low:.3g} and white {high:.3g}"
    return np.rint((numbers - low) / (high - low or 1.0) * 255).astype(np.uint8), how


def _png(pixels: Pixels) -> bytes:
    """The file, which takes no library."""
    height, width = pixels.shape[:2]
    kind = KINDS[1 if pixels.ndim == 2 else pixels.shape[2]]
    header = struct.pack(">2I5B", width, height, 8, kind, 0, 0, 0)
    lines = b"".join(b"\0" + line.tobytes() for line in pixels)  # each unfiltered
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(lines)), (b"IEND", b""))
    return PNG + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in parts
    )
