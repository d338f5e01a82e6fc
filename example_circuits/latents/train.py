"""Train two dictionaries on the bracket checker: an SAE of the stream before its last layer, and a
transcoder of its last MLP. Two minutes on one core.

    python -m example_circuits.latents.train

writes the folders `res2` and `tc2` beside this file, in SAELens's format, and prints what they
reach. One seed gives the same weights on one machine.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.functional import normalize

from example_circuits.brackets import data
from example_circuits.brackets.train import CONFIG, load

SEED = 0
TRAINING_STRINGS, HELD_OUT_STRINGS = 40_000, 4_000
STEPS, BATCH, LEARNING_RATE = 3_000, 1_024, 3e-3
AT_ONCE = 4_000  # strings
HERE = Path(__file__).parent

Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class Place:
    """Where a dictionary stands, and what it is to be.

    - `everywhere`: trained at all visible positions, or at position 0 alone, where the network's
      answer is read.
    - `k`: how many units may be active (top-k); without it, codes are what a ReLU leaves, and
      `sparsity` what their sum costs beside the variance that is not explained.
    """

    name: str
    reads: str
    writes: str
    everywhere: bool
    units: int
    k: int | None = None
    sparsity: float = 0.0

    @property
    def is_transcoder(self) -> bool:
        return self.reads != self.writes

    @property
    def config(self) -> dict[str, Any]:
        """What SAELens has in `cfg.json`."""
        hooks = {"hook_name": self.reads}
        if self.is_transcoder:
            hooks["hook_name_out"] = self.writes
        return {
            "architecture": "transcoder" if self.is_transcoder else "topk",
            "d_in": CONFIG["d_model"],
            "d_sae": self.units,
            **({"d_out": CONFIG["d_model"]} if self.is_transcoder else {"k": self.k}),
            "apply_b_dec_to_input": not self.is_transcoder,
            "normalize_activations": "none",
            "dtype": "float32",
            "metadata": {"model_name": "example_circuits/brackets", **hooks},
        }


RES2 = Place(
    "res2",
    reads="blocks.2.hook_resid_pre",
    writes="blocks.2.hook_resid_pre",
    everywhere=True,
    units=128,
    k=6,
)
TC2 = Place(
    "tc2",
    reads="blocks.2.mlp.hook_in",
    writes="blocks.2.hook_mlp_out",
    everywhere=False,
    units=64,
    sparsity=0.02,
)


@torch.no_grad()
def activations(texts: list[str], place: Place) -> tuple[Tensor, Tensor]:
    """What is read and what is written there, `[vectors, d_model]` each."""
    network, hooks = load(), (place.reads, place.writes)
    ids, mask = map(torch.from_numpy, data.tokens(texts))
    found: list[tuple[Tensor, ...]] = []
    for tokens, visible in zip(ids.split(AT_ONCE), mask.split(AT_ONCE), strict=True):
        _, cache = network.run_with_cache(
            tokens, attention_mask=visible, names_filter=lambda name: name in hooks
        )
        where = visible.bool() if place.everywhere else (slice(None), 0)
        found.append(tuple(cache[hook][where] for hook in hooks))
    reads, writes = map(torch.cat, zip(*found, strict=True))
    return reads, writes


def codes(own: Tensors, place: Place, x: Tensor) -> Tensor:
    """How active each unit is, `[vectors, units]`."""
    read = x if place.is_transcoder else x - own["b_dec"]
    active = (read @ own["W_enc"] + own["b_enc"]).relu()
    if place.k is None:
        return active
    most = active.topk(place.k, dim=-1)
    return torch.zeros_like(active).scatter(-1, most.indices, most.values)


def train(place: Place, x: Tensor, y: Tensor) -> Tensors:
    """The tensors of a dictionary, with rows of length one."""
    generator = torch.Generator().manual_seed(SEED)
    rows = normalize(torch.randn(place.units, y.shape[1], generator=generator))
    own = {
        "W_enc": rows.T.clone(),
        "b_enc": torch.zeros(place.units),
        "W_dec": rows.clone(),
        "b_dec": y.mean(0),
    }
    optimizer = torch.optim.Adam([t.requires_grad_() for t in own.values()], lr=LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / STEPS)
    variance = y.var(0).sum()
    for _ in range(STEPS):
        some = torch.randint(len(x), (BATCH,), generator=generator)
        active = codes(own, place, x[some])
        left = y[some] - active @ own["W_dec"] - own["b_dec"]
        loss = left.square().sum(1).mean() / variance
        loss = loss + place.sparsity * active.sum(1).mean() / variance.sqrt()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        with torch.no_grad():
            own["W_dec"].copy_(normalize(own["W_dec"]))
    return {name: tensor.detach().contiguous() for name, tensor in own.items()}


@torch.no_grad()
def report(place: Place, own: Tensors, x: Tensor, y: Tensor) -> None:
    active = codes(own, place, x)
    left = y - active @ own["W_dec"] - own["b_dec"]
    explained = float(1 - left.square().sum() / (y - y.mean(0)).square().sum())
    at_once = float((active > 0).sum(1).double().mean())
    dead = int((active == 0).all(0).sum())
    print(
        f"{place.name}: {explained:.1%} of the variance of strings held out, {at_once:.1f} units "
        f"active at once, {dead} of {place.units} never"
    )


def main() -> None:
    torch.set_num_threads(1)
    seen, held_out = (
        data.strings(n, SEED + i) for i, n in enumerate((TRAINING_STRINGS, HELD_OUT_STRINGS))
    )
    for place in (RES2, TC2):
        began = time.process_time()
        own = train(place, *activations(seen, place))
        report(place, own, *activations(held_out, place))
        print(f"  {time.process_time() - began:.0f} s of the processor", flush=True)
        (HERE / place.name).mkdir(exist_ok=True)
        save_file(own, HERE / place.name / "sae_weights.safetensors")
        (HERE / place.name / "cfg.json").write_text(json.dumps(place.config, indent=2) + "\n")


if __name__ == "__main__":
    main()
