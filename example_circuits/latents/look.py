"""What latents of the bracket checker are active for.

    python -m example_circuits.latents.look

prints, for the most varied units of both dictionaries, what share of a unit's variance each feature
explains, on strings that claims are not tested on: at position 0, where the answer is read, and for
the SAE at all other positions too.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor

from example_circuits.brackets import data
from example_circuits.brackets.train import load
from example_circuits.latents.train import HERE, RES2, TC2, codes

STRINGS, SEED = 12_000, 11
SHOWN = 20  # units

Values = Mapping[str, NDArray[Any]]


def explained(code: Tensor, values: NDArray[Any]) -> float:
    """The share of a code's variance that knowing a feature leaves nothing of."""
    which = torch.from_numpy(np.unique(values, return_inverse=True)[1].reshape(-1))
    sums = torch.zeros(int(which.max()) + 1).index_add(0, which, code)
    left = code - (sums / which.bincount())[which]
    return float(1 - left.square().sum() / (code - code.mean()).square().sum())


def table(active: Tensor, values: Values) -> None:
    print(f"{'unit':>5} {'active':>7} {'deviation':>9}  " + " ".join(f"{v:>14}" for v in values))
    deviation = active.std(0)
    for unit in deviation.argsort(descending=True)[:SHOWN].tolist():
        code = active[:, unit]
        shares = " ".join(f"{explained(code, value):>14.0%}" for value in values.values())
        print(
            f"{unit:>5} {float((code > 0).float().mean()):>7.0%} {deviation[unit]:>9.2f}  {shares}"
        )


@torch.no_grad()
def main() -> None:
    torch.set_num_threads(1)
    ids, mask = data.tokens(data.strings(STRINGS, SEED))
    hooks = {RES2.reads, TC2.reads}
    _, seen = load().run_with_cache(
        torch.from_numpy(ids),
        attention_mask=torch.from_numpy(mask),
        names_filter=lambda name: name in hooks,
    )
    own = {p.name: load_file(HERE / p.name / "sae_weights.safetensors") for p in (RES2, TC2)}
    rows = {name: feature(ids) for name, feature in data.FEATURES.items()}
    for place in (TC2, RES2):
        print(f"{place.name} at position 0")
        table(codes(own[place.name], place, seen[place.reads][:, 0]), rows)
    visible = mask.astype(bool)
    visible[:, 0] = False
    position, bracket = np.broadcast_to(np.arange(ids.shape[1]), ids.shape), ids
    suffix, difference = data.suffixes(ids), np.broadcast_to(rows["difference"][:, None], ids.shape)
    values = {
        "bracket": bracket,
        "position": position,
        "both": 100 * bracket + position,
        "suffix": suffix,
        "suffix/bracket": 10 * suffix + bracket,
        "difference": difference,
        "diff./bracket": 10 * difference + bracket,
    }
    print("res2 at all other positions")
    active = codes(own["res2"], RES2, seen[RES2.reads][torch.from_numpy(visible)])
    table(active, {name: value[visible] for name, value in values.items()})


if __name__ == "__main__":
    main()
