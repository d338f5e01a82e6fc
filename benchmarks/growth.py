"""What judging a claim takes as the claim grows: features, siblings, depth and rows.

    python benchmarks/growth.py [CURVE ...]

A true claim at defaults, on one thread, about a graph of functions and about a small transformer
with random weights. Every point is a process of its own, and every curve is held against its own
smallest point: `per_unit` is the CPU time of one more feature, node or row as a multiple of what it
is there, so 1 is linear and less is better. `seconds` are CPU seconds of the claim, `peak` the most
MiB that it was resident beyond what it was before. The last line is one JSON object.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
MIB = 1 << 20
CURVES = {
    "features": (50, 100, 200, 400),
    "siblings": (38, 75, 150, 300),
    "depth": (19, 38, 75, 150),
    "rows": (62_500, 250_000, 1_000_000),
}
ROWS, LENGTH, VOCABULARY = 2_000, 4, 50
HEADS, D_HEAD = 10, 4  # of a layer where heads are siblings
TOLERANCE = {"functions": 0.05, "transformer": 2.0}  # of random weights, more is lost
MOST_SECONDS = 900  # of one point


def run(kind: str, curve: str, size: int) -> None:
    sys.path.insert(0, str(ROOT))
    import torch

    from pytest_scrub import check

    torch.set_num_threads(1)
    claim, network, data = made(kind, "siblings", 2, 200)
    check(
        claim, network, data, tolerance=TOLERANCE[kind]
    )  # what the libraries take at their first use
    claim, network, data = made(kind, curve, size, size if curve == "rows" else ROWS)
    before, started = resident("VmRSS"), time.process_time()
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    verdict = check(claim, network, data, tolerance=TOLERANCE[kind])
    print(
        json.dumps(
            {
                "seconds": time.process_time() - started,
                "peak": (resident("VmHWM") - before) / MIB,
                "outcome": verdict.outcome,
            }
        )
    )


def made(kind: str, curve: str, size: int, rows: int):
    """A claim, its network and its data."""
    import torch

    from pytest_scrub import Dataset

    torch.manual_seed(0)
    tokens = torch.randint(0, VOCABULARY, (rows, LENGTH))
    number = size if curve == "features" else 1
    columns = torch.randint(0, 2, (number - 1, rows)).bool()
    features = {"parity": tokens[:, -1] % 2, **{f"f{i}": one for i, one in enumerate(columns)}}
    at = None if kind == "functions" else -1
    data = Dataset(tokens, labels=tokens[:, -1] % 2, label_pos=at, features=features)
    shape = {"siblings": (size, 1), "depth": (1, size)}.get(curve, (1, 1))
    make = functions if kind == "functions" else transformer
    return *make(*shape), data


def functions(siblings: int, depth: int):
    """As many chains of nodes, each with most of the parity and a little of all that is read."""
    import torch

    from pytest_scrub import FunctionGraph, module, output

    def scaled(x, weight):
        return torch.stack([(1 - 2 * (x % 2)), x / VOCABULARY], -1).float() * weight

    def named(first: str, body) -> object:
        space = {"body": body}
        exec(f"def function({first}): return body({first})", space)
        return space["function"]

    def first(tokens):
        return scaled(tokens[:, -1], 1 / siblings)

    def passed(x):
        return x * 1.0

    nodes, tops = {}, []
    for i in range(siblings):
        below = "tokens"
        for level in range(depth):
            name = f"n{i}_{level}"
            nodes[name] = named(below, passed if level else first)
            below = name
        tops.append(below)
    both = torch.tensor([[1.0, -1.0], [0.01, -0.01]])
    body = {"both": both}
    names = ", ".join(tops)
    exec(f"def out({names}): return ({' + '.join(tops)}) @ both", body)
    claimed = []
    for top in tops:
        i = top.split("_")[0]
        claim = module(f"{i}_0", agrees_on="parity")
        for level in range(1, depth):
            claim = module(f"{i}_{level}", agrees_on="parity", reads=[claim])
        claimed.append(claim)
    return output(*claimed), FunctionGraph(**nodes, output=body["out"])


def transformer(siblings: int, depth: int):
    """As many heads that the output reads, or as many layers of which each reads the one below."""
    from transformer_lens.config import TransformerBridgeConfig
    from transformer_lens.model_bridge import TransformerBridge

    from pytest_scrub import head, load_model, output

    heads = min(HEADS, siblings)
    layers = max(depth, -(-siblings // heads))
    config = TransformerBridgeConfig(
        d_model=4 * D_HEAD, d_head=D_HEAD, n_layers=layers, n_heads=heads, n_ctx=LENGTH,
        d_vocab=VOCABULARY, attn_only=True, d_mlp=0, normalization_type="LN", act_fn="relu",
    )  # fmt: skip
    network = TransformerBridge.boot_native(config)
    network.eval()
    if depth == 1:
        places = [(i // heads, i % heads) for i in range(siblings)]
        return output(*(head(*at, agrees_on="parity") for at in places)), load_model(network)
    claim = head(0, 0, agrees_on="parity")
    for layer in range(1, depth):
        claim = head(layer, 0, agrees_on="parity", reads=[claim])
    return output(claim), load_model(network)


def resident(what: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(what))


def measured(kind: str, curve: str, size: int) -> dict:
    """One point, in a process of its own; without figures where it takes too long."""
    command = [sys.executable, __file__, "--run", kind, curve, str(size)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    try:
        done = subprocess.run(
            command, check=True, capture_output=True, text=True, env=environment,
            timeout=MOST_SECONDS,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return {"seconds": None, "peak": None, "outcome": "not ended"}
    return json.loads(done.stdout.splitlines()[-1])


def main(curves: list[str]) -> None:
    figures = {}
    for curve in curves:
        for kind in TOLERANCE:
            first = None
            for size in CURVES[curve]:
                point = measured(kind, curve, size)
                first = first or {**point, "size": size}
                figures[f"{kind}_{curve}_{size}"] = point
                if point["seconds"] is None:
                    print(f"{kind}, {size:,} {curve}: not ended in {MOST_SECONDS} s", flush=True)
                    continue
                times = first["size"] / size
                for what in ("seconds", "peak"):
                    point[f"{what}_per_unit"] = point[what] / max(first[what], 1e-9) * times
                print(
                    f"{kind}, {size:,} {curve}: {point['seconds']:.1f} CPU-seconds "
                    f"({point['seconds_per_unit']:.2f} a unit), peak {point['peak']:.0f} MiB "
                    f"({point['peak_per_unit']:.2f} a unit), {point['outcome']}",
                    flush=True,
                )
    print(json.dumps(figures))


if __name__ == "__main__":
    if "--run" in sys.argv:
        run(sys.argv[2], sys.argv[3], int(sys.argv[4]))
    else:
        main(sys.argv[1:] or list(CURVES))
