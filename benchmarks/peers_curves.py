"""What an evaluation costs should follow the claim: not what the network has besides, nor how many
rows there are.

One claim, head 1.0 reads head 0.3, on networks that differ in one thing at a time, and a clean
forward pass to compare.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import torch

from benchmarks.peers_timing import Contender, Race, figure, race
from pytest_scrub import Dataset, Evaluator, head, load_model, output
from pytest_scrub.common.seeds import stream

D_MODEL, D_HEAD, D_MLP, SEQ, VOCABULARY, HEADS, LAYERS = 128, 32, 512, 16, 100, 4, 2
ROWS, COLUMNS, BATCH = 256, 8192, 64
BEYOND = 1.25  # how many times the least cost the most may be, on a machine that others share


@dataclass(frozen=True)
class Curve:
    """One thing that varies: what it is called, its values, and their settings."""

    name: str
    title: str
    values: tuple[int, ...]

    def settings(self, value: int) -> dict[str, int]:
        return {"heads": HEADS, "layers": LAYERS, "rows": ROWS, self.name: value}


CURVES = (
    Curve("heads", "heads in each layer (two are claimed)", (4, 8, 16, 32)),
    Curve("rows", "rows of the dataset", (256, 1024, 4096, 16384, 65536)),
    Curve("layers", "layers of the network (the first two are claimed)", (2, 4, 8, 12)),
)


def contenders(curve: Curve) -> list[Contender]:
    """For every value, the evaluator and the clean forward pass."""
    made = []
    for value in curve.values:
        evaluator, network = problem(**curve.settings(value))
        swap_set = evaluator.space.draw(COLUMNS, stream(0, curve.name))
        tokens = evaluator.dataset.inputs["tokens"][:BATCH]
        made += [
            Contender(f"scrubbed {value}", COLUMNS, lambda e=evaluator, s=swap_set: e.evaluate(s)),
            Contender(f"forward {value}", BATCH, lambda n=network, t=tokens: n(t)),
        ]
    return made


def problem(heads: int, layers: int, rows: int) -> tuple[Evaluator, torch.nn.Module]:
    from transformer_lens.config import TransformerBridgeConfig
    from transformer_lens.model_bridge import TransformerBridge

    config = TransformerBridgeConfig(
        n_layers=layers, n_heads=heads, d_head=D_HEAD, d_model=D_MODEL, d_mlp=D_MLP, n_ctx=SEQ,
        d_vocab=VOCABULARY,
        act_fn="gelu", normalization_type="LN", attention_dir="causal", seed=0,
    )  # fmt: skip
    bridge = TransformerBridge.boot_native(config).eval()
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(VOCABULARY, (rows, SEQ), generator=generator)
    labels = torch.randint(VOCABULARY, (rows,), generator=generator)
    features = {"last": tokens[:, -1] % 2, "before": tokens[:, -2] % 2}
    data = Dataset(tokens, labels=labels, label_pos=-1, features=features, name="random tokens")
    claim = output(head(1, 0, agrees_on="last", reads=[head(0, 3, agrees_on="before")]))
    return Evaluator(load_model(bridge), data, claim), bridge.original_model


def measure() -> dict[str, Race]:
    found = {}
    for curve in CURVES:
        print(f"curve: {curve.title}", flush=True)
        found[curve.name] = race(contenders(curve), threads=(1,))
    return found


def growth(result: Race, curve: Curve, what: str = "scrubbed") -> float:
    """How many times its cost at the first value the cost at the last one is: the median over
    rounds."""
    return result.ratio(f"{what} {curve.values[0]}", f"{what} {curve.values[-1]}")


def tables(found: dict[str, Race]) -> list[str]:
    lines = []
    for curve in CURVES:
        result = found[curve.name]
        cells = {
            what: [figure(1e6 / result.median(f"{what} {value}")) for value in curve.values]
            for what in ("scrubbed", "forward")
        }
        lines += [
            "",
            f"| {curve.title} | " + " | ".join(f"{value:,}" for value in curve.values) + " |",
        ]
        lines += ["| --- |" + " ---: |" * len(curve.values)]
        lines += [f"| µs of CPU time for a scrubbed evaluation | {' | '.join(cells['scrubbed'])} |"]
        lines += [f"| µs for a clean forward pass | {' | '.join(cells['forward'])} |"]
    return lines


def plot(found: dict[str, Race], to: Path) -> None:
    """One panel for every curve: cost against what varies, both on logarithmic scales."""
    matplotlib.use("svg")
    from matplotlib import pyplot as plt

    # The same figures give the same file: no date, no random ids.
    with plt.rc_context({"svg.hashsalt": "peers", "svg.fonttype": "none", "font.size": 9}):
        shown, axes = plt.subplots(1, len(CURVES), figsize=(10, 3.2), sharey=True)
        for axis, curve in zip(axes, CURVES, strict=True):
            panel(axis, curve, found[curve.name])
        axes[0].set_ylabel("µs of CPU time, one thread")
        axes[0].legend(frameon=False)
        shown.tight_layout()
        shown.savefig(to, metadata={"Date": None})
        plt.close(shown)


def panel(axis, curve: Curve, result: Race) -> None:
    labels: Sequence[tuple[str, str]] = (
        ("forward", "clean forward pass"),
        ("scrubbed", "scrubbed evaluation"),
    )
    for what, label in labels:
        axis.plot(
            curve.values,
            [1e6 / result.median(f"{what} {value}") for value in curve.values],
            marker="o",
            label=label,
        )
    axis.set_xscale("log", base=2)
    axis.set_yscale("log")
    axis.set_xticks(curve.values, [f"{value:,}" for value in curve.values])
    axis.minorticks_off()
    axis.set_xlabel(curve.title)
    axis.grid(alpha=0.3)
