"""SAEs that the real SAELens makes, writes and loads, at a `HookedTransformer`: the same codes, and
claims that are what its own encode and decode give.

Not collected with the other tests, as SAELens needs TransformerLens 3: `make compat` runs this file
in an environment of its own.
"""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from pytest_scrub import (
    ANYTHING,
    EXACT,
    Dataset,
    Dictionary,
    Evaluator,
    error,
    latents,
    load_dictionary,
    output,
    with_dictionaries,
)
from pytest_scrub.metrics import Metric
from pytest_scrub.network.encoders import NORMS
from tests.extras.dictionaries.written import (
    HOOK,
    HOOK_MID,
    HOOK_OUT,
    HOOK_Z,
    SAES,
    made_by_sae_lens,
)

sae_lens = pytest.importorskip("sae_lens")
transformer_lens = pytest.importorskip("transformer_lens")

WIDTH, ROWS, LENGTH = 16, 12, 5
TOKENS = torch.randint(20, (ROWS, LENGTH), generator=torch.Generator().manual_seed(0))
DATA = Dataset(TOKENS, features={"first": TOKENS[:, 0].numpy() % 3})
CLOSE = {"rtol": 1e-9, "atol": 1e-9}
CLAIMED = [1, 4, 7]


@pytest.fixture(scope="module")
def model() -> Any:
    config = transformer_lens.HookedTransformerConfig(
        n_layers=3, d_model=WIDTH, n_ctx=LENGTH, d_head=4, n_heads=4, d_mlp=24, d_vocab=20,
        act_fn="relu", normalization_type="LN", dtype=torch.float64,
    )  # fmt: skip
    made = transformer_lens.HookedTransformer(config).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in made.parameters():
            drawn = torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
            parameter.add_(0.3 * drawn)
    return made


FOUR = ("standard", "gated", "topk", "jumprelu")
ALL = [*((name, HOOK) for name in SAES), *product(FOUR, [HOOK_Z, HOOK_MID])]


def written_and_loaded(name: str, folder: Path, at: str) -> Any:
    """An SAE as SAELens has it after a file."""
    sae = made_by_sae_lens(name, WIDTH, "float64", at=at)
    sae.save_model(folder)
    return type(sae).load_from_disk(folder, dtype="float64")


def scale_of(found: Dictionary, x: Tensor) -> Tensor | float:
    divided_by = NORMS[found.encoder.norm](x)[1] if found.encoder.undone else None
    return 1.0 if divided_by is None else divided_by


@pytest.mark.parametrize(("name", "at"), ALL)
def test_codes_are_the_packages_own(name: str, at: str, tmp_path: Path) -> None:
    theirs = written_and_loaded(name, tmp_path, at)
    x = torch.randn(ROWS, LENGTH, WIDTH, dtype=torch.float64)
    with torch.no_grad():
        codes = theirs.encode(x.unflatten(-1, (4, -1)) if at == HOOK_Z else x)
    for found in (load_dictionary(tmp_path), load_dictionary(theirs)):
        torch.testing.assert_close(found.encode(x), codes * scale_of(found, x), **CLOSE)
    assert codes.count_nonzero()


def everything(out: Tensor, batch: Any) -> Tensor:
    return out.flatten(1).sum(1)


@pytest.mark.parametrize(("name", "at"), ALL)
def test_claims_are_what_its_own_encode_and_decode_give(
    name: str, at: str, tmp_path: Path, model: Any
) -> None:
    """Latents, and the error, of a donor in a run on the reference."""
    theirs = written_and_loaded(name, tmp_path, at)
    rows = np.arange(ROWS)
    donors = rows[::-1].copy()
    for given in (tmp_path, theirs):
        graph = with_dictionaries(model, sae=given)
        for node in (
            latents("sae", CLAIMED, agrees_on=ANYTHING, via="any", name="it"),
            error("sae", agrees_on=ANYTHING, via="any", name="it"),
        ):
            claim = output(node, rest=EXACT)
            evaluator = Evaluator(graph, DATA, claim, Metric("sum", everything))
            slots = {"output/it": donors, "output/rest": rows}
            swaps = np.stack([slots[path] for path in evaluator.space.paths])
            mine = evaluator.outputs(evaluator.space.swap_set(rows, swaps))
            expected = by_hooks(model, theirs, donors, is_error=node.component.endswith("error"))
            torch.testing.assert_close(mine, expected, **CLOSE)


def by_hooks(model: Any, sae: Any, donors: np.ndarray[Any, Any], *, is_error: bool) -> Tensor:
    """The network on all rows with these units, or the error, of others put in, by its hooks and
    the SAE's own encode and decode."""
    is_transcoder = "transcoder" in sae.cfg.architecture()
    at = HOOK_OUT if is_transcoder else sae.cfg.metadata.hook_name
    seen: dict[str, Tensor] = {}

    def added(read: Tensor, stands: Tensor) -> Tensor:
        """What the units, or the error, add where this is read and this stands there; without the
        bias, which is nobody's."""
        codes = sae.encode(read)
        chosen = codes if is_error else torch.zeros_like(codes)
        chosen[..., CLAIMED] = codes[..., CLAIMED]
        units = sae.decode(chosen)
        sae.encode(read)  # what it divides by, which decoding forgets
        units = units - sae.decode(torch.zeros_like(codes))
        return stands - units if is_error else units

    def exchange(value: Tensor, hook: Any) -> Tensor:
        own = added(seen["read"] if is_transcoder else value, value)
        return value + own[torch.as_tensor(donors)] - own

    def note(value: Tensor, hook: Any) -> None:
        seen["read"] = value

    hooks = [("blocks.1.hook_resid_mid", note), (at, exchange)]
    with torch.no_grad():
        found: Tensor = model.run_with_hooks(TOKENS, fwd_hooks=hooks)
    return found
