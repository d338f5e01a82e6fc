"""Tensors of a file."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from pytest_scrub import ModelError


def read_tensors(path: Path) -> dict[str, Tensor]:
    """**Raises** `ModelError` where there is no such file, or it is none."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{path} is no .safetensors file that can be read ({error})") from error
