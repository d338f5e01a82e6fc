"""Whether `--scrub-compare` cries wolf, and whether it notices a wolf.

The figures of example claims are saved with seed 0 and compared with those of other seeds
(`--seeds N`), where nothing may be said to have moved. Then one weight matrix of the induction
network gets Gaussian noise, of so many of its standard deviations (`--noise`), and its claims are
compared at the same seed, with adversaries. Claims that do not hold pass here, so that the exit
code is the comparison's alone. All of it happens in a copy. Further arguments are pytest's, such as
`-n 2`, or `--scrub-adversary=quick` for the other seeds, too. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
CIRCUITS = (
    "example_circuits/induction",
    "example_circuits/brackets",
    "example_circuits/pitfalls/interference",
)
# most of the time
SLOW = "mlp_1_gets or mlp_2_gets or one_part_counts or other_head_moves or keeps_the_whole"
WEIGHT = "blocks.1.attn.v.weight"
PLUGIN = """
import os
import pytest, torch

@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport(item, call):
    report = yield
    if "scrub_verdict" in dict(report.user_properties):
        report.outcome, report.longrepr = "passed", None
        vars(report).pop("wasxfail", None)
    return report

@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(fixturedef, request):
    found, noise = (yield), float(os.environ["NOISE"])
    if noise and fixturedef.argname == "scrub_model" and fixturedef.baseid.endswith("induction"):
        weight = dict(found.weights())[os.environ["WEIGHT"]]
        random = torch.randn(weight.shape, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            weight += noise * weight.std() * random
        fixturedef.cached_result = (found.rebuilt(), *fixturedef.cached_result[1:])
    return found
"""
EVERY = "--scrub-compare-fail=all:0"  # a wolf may be in any figure


def run(folder: Path, *args: str, noise: float = 0.0, weight: str = WEIGHT) -> tuple[int, str]:
    """The exit code, and what was said of the baseline."""
    environment = {
        **os.environ, "PYTHONPATH": f"{folder}{os.pathsep}{ROOT}",
        "NOISE": str(noise), "WEIGHT": weight,
        "OMP_NUM_THREADS": "1",
        "COLUMNS": "100",
    }  # fmt: skip
    options = (
        "-p",
        "no:randomly",
        "-p",
        "no:cacheprovider",
        "-p",
        "wolf",
        "--scrub-adversary=none",
    )
    command = [sys.executable, "-m", "pytest", *options, *args]
    done = subprocess.run(
        command, cwd=folder, env=environment, check=False, capture_output=True, text=True
    )
    _, title, said = done.stdout.partition("compared with the baseline")
    saves = any(arg.startswith("--scrub-save") for arg in args)
    if done.returncode not in (0, 1) or not (saves or title):
        sys.exit(f"pytest ended with {done.returncode}:\n{done.stdout}\n{done.stderr}")
    return done.returncode, said


def told(said: str) -> list[str]:
    """The lines below the table: what fails the run."""
    lines = said.splitlines()
    start = next(
        (i for i, line in enumerate(lines) if " not as in the baseline " in line), len(lines)
    )
    return [line.strip() for line in lines[start + 1 :] if line.startswith("  ")]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--noise", type=float, nargs="*", default=[0.01, 0.1, 1.0])
    parser.add_argument("--weight", default=WEIGHT)
    parser.add_argument(
        "--slow", action="store_true", help="with the claims that take most of the time"
    )
    own, given = parser.parse_known_args()
    chosen = () if own.slow else ("-k", f"not ({SLOW})")
    record: dict[str, Any] = {"seeds": own.seeds, "alarms": {}, "noise": {}, "weight": own.weight}
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shutil.copytree(ROOT / "example_circuits", folder / "example_circuits")
        (folder / "wolf.py").write_text(PLUGIN)
        (folder / "pytest.ini").write_text("[pytest]\n")
        code, _ = run(folder, *CIRCUITS, *chosen, "--scrub-save", *given)
        record["claims"] = len(list((folder / ".scrub/baselines/main").glob("*.json")))
        print(f"saved {record['claims']} claims, exit code {code}", flush=True)
        for seed in range(own.seeds + 1):
            code, said = run(
                folder, *CIRCUITS, *chosen, "--scrub-compare", EVERY, f"--scrub-seed={seed}", *given
            )
            print(f"seed {seed}: exit code {code}", *told(said), sep="\n  ", flush=True)
            if code:
                record["alarms"][seed] = told(said)
        searched = (CIRCUITS[0], *chosen, *given, "--scrub-adversary=quick")
        run(folder, *searched, "--scrub-save=searched")
        for noise in (0.0, *own.noise):
            code, said = run(
                folder, *searched, "--scrub-compare=searched", EVERY, noise=noise, weight=own.weight
            )
            print(f"noise {noise:g}: exit code {code}", *told(said), sep="\n  ", flush=True)
            record["noise"][f"{noise:g}"] = told(said)
        print(said)
    print(f"{time.monotonic() - started:.0f} seconds")
    print(json.dumps(record))


if __name__ == "__main__":
    main()
