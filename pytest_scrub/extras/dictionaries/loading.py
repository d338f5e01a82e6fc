"""Which format a dictionary is in."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pytest_scrub import Dictionary, ModelError
from pytest_scrub.errors import hides_scrub_errors
from pytest_scrub.extras.dictionaries import circuit_tracer, sae_lens

__tracebackhide__ = hides_scrub_errors


def load_dictionary(
    source: Any,
    *,
    layer: int | None = None,
    at: str | None = None,
    reads: str | None = None,
    scale: float | None = None,
    names: Mapping[int, str] | None = None,
) -> Dictionary:
    """A dictionary from a folder or from an object of SAELens, neither of which needs SAELens.

    **Arguments**

    - `source`: a folder with SAELens's `cfg.json` and `sae_weights.safetensors`, or with
      circuit-tracer's `config.yaml` and `layer_*.safetensors`; or an SAE that SAELens made.
    - `layer`: which of a folder's transcoders.
    - `at`, `reads`: the hooks at which it stands and which it reads, where it does not say.
    - `scale`: what activations were multiplied with when it was trained, where its `cfg.json` says
      that they were (`expected_average_only_in`) but not with what.
    - `names`: what pictures and tables call units, by number.

    **Raises** `ModelError` for what is none of these, or is not understood whole.
    """
    hooks = {"at": at, "reads": reads}
    if sae_lens.is_sae(source):
        return sae_lens.of_object(source, scale=scale, names=names, **hooks)
    if not isinstance(source, str | Path):
        raise ModelError(
            f"a dictionary is loaded from a folder or from an SAE of SAELens, not from a "
            f"{type(source).__name__}; Dictionary.of(...) takes any object with encode and decode"
        )
    folder = Path(source)
    if (folder / sae_lens.CONFIG).is_file():
        return sae_lens.of_folder(folder, scale=scale, names=names, **hooks)
    if circuit_tracer.is_folder(folder):
        return circuit_tracer.of_folder(folder, layer, names=names, **hooks)
    raise ModelError(
        f"{source} is no folder of a dictionary: it has neither {sae_lens.CONFIG} (SAELens) nor "
        f"{circuit_tracer.CONFIG} or layer_0.safetensors (circuit-tracer)"
    )
