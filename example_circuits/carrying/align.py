"""Look for carry and digits in the residual stream of the adding network. Minutes on one core.

    python -m example_circuits.carrying.align

writes aligned.safetensors beside this file, orthonormal columns for each variable and place, and
prints how often the network then answers as the causal model does on pairs that were not used.

Both ways are the field's. *Linear*: the stream is turned, and the first columns are a variable's,
the next ones another's (distributed alignment search, Geiger et al. 2023). *Boundless*: how many
each has is learnt too, by boundaries that are soft at first (Wu et al. 2023). Either only looks:
what was found is claimed in test_carrying.py, on all pairs.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.utils.parametrizations import orthogonal
from transformer_lens.config import TransformerBridgeConfig
from transformer_lens.model_bridge import TransformerBridge

from example_circuits.carrying.data import (
    HUNDREDS,
    TENS,
    features,
    is_held_out,
    pairs,
    sums,
)
from example_circuits.carrying.models import WRITTEN

HERE = Path(__file__).parent
STEPS, BATCH, LEARNING_RATE = 500, 256, 0.02
SOFT, HARD = 4.0, 0.05  # how soft boundaries are at first and in the end, in columns
A_COLUMN = 0.01  # what each column of a boundless alignment costs, in nats
STAYS = 1 / 3  # how often a variable is not interchanged
PAIRS = sums(pairs())
FEATURES = features(PAIRS)


class Place:
    """The network from one position of one of its streams on, to one digit that it writes."""

    def __init__(self, network: Any, layer: int, pos: int, writes: int) -> None:
        self.layers, self.pos, self.writes = network.layers[layer:], pos, writes
        self.norm, self.head = network.ln_out, network.head
        tokens = torch.from_numpy(PAIRS)
        with torch.no_grad():
            self.clean = network.tok_embed(tokens) + network.pos(torch.arange(tokens.shape[1]))
            for block in network.layers[:layer]:
                (self.clean,) = block(self.clean)

    @property
    def width(self) -> int:
        return self.clean.shape[-1]

    def logits(self, rows: Tensor, here: Tensor) -> Tensor:
        """What is written where the stream of `rows` is `here` at this position."""
        own = self.clean[rows]
        stream = torch.cat([own[:, : self.pos], here[:, None], own[:, self.pos + 1 :]], 1)
        for block in self.layers:
            (stream,) = block(stream)
        written: Tensor = self.head(self.norm(stream[:, self.writes]))
        return written

    def predicted(self, rows: Tensor, of: Mapping[str, Tensor]) -> Tensor:
        """What the causal model writes where each variable is that of rows of its own."""
        model = WRITTEN[self.writes]
        given = {name: model.values(_features(donors), {})[name] for name, donors in of.items()}
        return torch.as_tensor(model.values(_features(rows), given)["answer"])

    def interchanged(
        self, rows: Tensor, of: Mapping[str, Tensor], turn: Tensor, shares: Sequence[Tensor]
    ) -> Tensor:
        """The logits where each variable's share of every turned column is from its own rows."""
        here = own = self.clean[rows, self.pos]
        for donors, share in zip(of.values(), shares, strict=True):
            apart = (self.clean[donors, self.pos] - own) @ turn
            here = here + (apart * share) @ turn.T
        return self.logits(rows, here)


def network() -> Any:
    """The trained network without the bridge's own work at every call; it stays as it is."""
    config = TransformerBridgeConfig(**json.loads((HERE / "carrying.json").read_text()))
    bridge: TransformerBridge = TransformerBridge.boot_native(config)  # type: ignore[attr-defined]
    bridge.load_state_dict(load_file(HERE / "carrying.safetensors"))
    return bridge.eval().requires_grad_(False).original_model


def _features(rows: Tensor) -> dict[str, Any]:
    return {name: values[rows.numpy()] for name, values in FEATURES.items()}


class Fixed(nn.Module):
    """As many columns for each variable as is said."""

    def __init__(self, widths: Sequence[int], columns: int) -> None:
        super().__init__()
        ends = np.cumsum(widths).tolist()
        places = torch.arange(columns)
        self.held = [
            ((places >= start) & (places < end)).float()
            for start, end in zip([0, *ends], ends, strict=False)
        ]

    def forward(self, soft: float) -> list[Tensor]:
        return self.held

    def cost(self) -> float:
        return 0.0


class Boundless(nn.Module):
    """Columns from boundary to boundary, which are learnt."""

    def __init__(self, variables: int, columns: int) -> None:
        super().__init__()
        self.widths = nn.Parameter(torch.full((variables,), columns / (variables + 1)))
        self.places = torch.arange(columns) + 0.5

    def forward(self, soft: float) -> list[Tensor]:
        ends = self.widths.clamp(min=1).cumsum(0)
        starts = torch.cat([ends.new_zeros(1), ends[:-1]])
        return [
            torch.sigmoid((self.places - start) / soft) * torch.sigmoid((end - self.places) / soft)
            for start, end in zip(starts, ends, strict=True)
        ]

    def cost(self) -> Tensor:
        return A_COLUMN * self.widths.clamp(min=1).sum()


def found(place: Place, names: Sequence[str], shares: nn.Module, seed: int) -> dict[str, Tensor]:
    """Orthonormal columns for each variable, found on the pairs that are not held out."""
    torch.manual_seed(seed)
    used = torch.from_numpy(np.flatnonzero(~is_held_out(seed)))
    turn = orthogonal(nn.Linear(place.width, place.width, bias=False))
    learnt = [{"params": turn.parameters(), "lr": LEARNING_RATE}]
    if list(shares.parameters()):
        learnt.append({"params": shares.parameters(), "lr": 0.2})
    optimizer = torch.optim.Adam(learnt)
    for step in range(STEPS):
        rows, of = drawn(used, names)
        held = shares(SOFT * (HARD / SOFT) ** (step / STEPS))
        logits = place.interchanged(rows, of, turn.weight, held)
        loss = cross_entropy(logits, place.predicted(rows, of)) + shares.cost()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        for group in optimizer.param_groups:
            group["lr"] *= 1 - 1 / STEPS
    weight, held = turn.weight.detach(), shares(HARD)
    return {
        name: weight[:, share > 0.5].contiguous() for name, share in zip(names, held, strict=True)
    }


def drawn(
    rows: Tensor, names: Sequence[str], most: int = BATCH
) -> tuple[Tensor, dict[str, Tensor]]:
    """References, and for each variable the rows it is taken from: others, or some of the
    references themselves, so that some of the variables are interchanged and all of them."""
    own, *others = rows[torch.randint(len(rows), (len(names) + 1, most))]
    stays = torch.rand(len(names), most) < STAYS
    return own, {
        name: torch.where(stay, own, other)
        for name, stay, other in zip(names, stays, others, strict=True)
    }


@torch.no_grad()
def accuracy(place: Place, columns: Mapping[str, Tensor], seed: int) -> float:
    """How often the network answers as the causal model does, on pairs that are held out."""
    torch.manual_seed(seed)
    held_out = torch.from_numpy(np.flatnonzero(is_held_out(seed)))
    rows, of = drawn(held_out, list(columns), most=4000)
    turn = torch.cat(list(columns.values()), 1)
    shares = Fixed([one.shape[1] for one in columns.values()], turn.shape[1])(HARD)
    said = place.interchanged(rows, of, turn, shares).argmax(-1)
    return float((said == place.predicted(rows, of)).float().mean())


# Layer, position, where the answer is written, variable, columns (None: as many as are learnt).
SEARCHES: dict[str, tuple[int, int, int, str, int | None]] = {
    "carry": (1, 4, TENS, "carry", 4),
    "carry, boundless": (1, 4, TENS, "carry", None),
    "tens, for the hundreds": (1, 5, HUNDREDS, "tens", 8),
    "tens, for the tens": (1, 6, TENS, "tens", 8),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0, help="that the network was trained with")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=HERE / "aligned.safetensors")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    trained, columns = network(), {}
    for name, (layer, pos, writes, variable, width) in SEARCHES.items():
        place = Place(trained, layer, pos, writes)
        shares = Boundless(1, place.width) if width is None else Fixed([width], place.width)
        one = found(place, [variable], shares, arguments.seed)
        columns[name] = one[variable]
        print(
            f"{name}: {one[variable].shape[1]} columns at stream {layer}, position {pos}; "
            f"interchange accuracy {accuracy(place, one, arguments.seed):.4f} on held-out pairs",
            flush=True,
        )
    save_file(columns, arguments.out)


if __name__ == "__main__":
    main()
