"""Whether the example claims say the same thing every time.

`--ways` runs them with one seed in five ways: as they stand, in reverse order, in two workers, the
last claim of each file alone, and with a quarter of the batch size on another number of threads;
verdicts must be the same and figures agree to six digits of the metric's scale. `--seeds N` runs
them with N seeds; no claim may be held in one run and refuted in another. `--keep FOLDER` holds the
verdicts of each seed, and a seed that is there already is read, so that an interrupted run goes on
where it was. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import shutil
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pytest_scrub.pytest_edge.options import FOLDER, VERDICT_PROPERTY
from pytest_scrub.verdict import HELD, REFUTED, UNDECIDED, Verdict

ROOT = Path(__file__).parent.parent
EXAMPLES = "example_circuits"
QUARTER = """
import pytest_scrub.engine.evaluator as evaluator, pytest_scrub.engine.store as store
evaluator.MOST_COLUMNS //= 4
evaluator.COLUMNS_OF_A_RERUN //= 4
evaluator.BATCH_BYTES //= 4
store.CAPTURE_BATCH //= 4
"""
REVERSED = """
def pytest_collection_modifyitems(items):
    items.reverse()
"""
DIGITS = 1e-6

Verdicts = dict[str, Verdict]


def run(*args: str, plugin: str = "", threads: int = 1) -> Verdicts:
    """The verdicts of the example claims, in a process of its own that has no saved counterexample
    to try first."""
    with tempfile.TemporaryDirectory() as folder:
        shutil.rmtree(ROOT / FOLDER, ignore_errors=True)
        junit = Path(folder) / "junit.xml"
        (Path(folder) / "variant.py").write_text(plugin)
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "PYTHONPATH": folder}
        options = [
            "-q",
            "-p",
            "no:randomly",
            "-p",
            "no:cacheprovider",
            "-p",
            "variant",
            f"--junitxml={junit}",
        ]
        targets = [] if any("::" in arg for arg in args) else [EXAMPLES]
        command = [sys.executable, "-m", "pytest", *targets, *options, *args]
        subprocess.run(command, cwd=ROOT, env=environment, check=False, capture_output=True)
        cases = ElementTree.parse(junit).iter("property")
        texts = [
            found.attrib["value"] for found in cases if found.attrib["name"] == VERDICT_PROPERTY
        ]
    return {verdict.claim: verdict for verdict in map(Verdict.from_json, texts)}


def differences(one: Any, other: Any, scale: float, path: str = "") -> Iterator[str]:
    """Where two verdicts differ by more than six digits of the metric's scale."""
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        for key in one:
            yield from differences(one[key], other[key], scale, f"{path}.{key}")
    elif isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)):
        if len(one) != len(other):
            yield f"{path}: {len(one)} against {len(other)}"
        for i, pair in enumerate(zip(one, other, strict=False)):
            yield from differences(*pair, scale, f"{path}[{i}]")
    elif isinstance(one, float) and isinstance(other, float):
        if abs(one - other) > DIGITS * max(abs(one), abs(other), scale):
            yield f"{path}: {one:.9g} against {other:.9g}"
    elif one != other:
        yield f"{path}: {one!r} against {other!r}"


def ways() -> dict[str, Any]:
    plain = run()
    print(f"{len(plain)} claims")
    record: dict[str, Any] = {"claims": len(plain)}
    last_of_each_file = {claim.partition("::")[0]: claim for claim in plain}.values()
    for name, other in (
        ("reversed", lambda: run(plugin=REVERSED)),
        ("two workers", lambda: run("-n", "2")),
        ("alone", lambda: {claim: run(claim)[claim] for claim in last_of_each_file}),
        ("quarter batches, two threads", lambda: run(plugin=QUARTER, threads=2)),
    ):
        found = other()
        verdicts = [claim for claim in found if found[claim].outcome != plain[claim].outcome]
        figures = []
        for claim in found:
            verdict = plain[claim]
            scale = max(abs(verdict.unscrubbed), abs(verdict.scrubbed), abs(verdict.baseline))
            pair = (dataclasses.asdict(one) for one in (verdict, found[claim]))
            figures += [f"{claim} {text}" for text in differences(*pair, scale)]
        print(
            f"{name}: {len(found)} claims, {len(verdicts)} other verdicts, {len(figures)} other "
            "figures",
            *figures[:20],
            sep="\n  ",
        )
        record[name] = {
            "claims": len(found),
            "other_verdicts": len(verdicts),
            "other_figures": len(figures),
        }
    return record


def of_seed(seed: int, keep: Path) -> Verdicts:
    """The verdicts with one seed, from the folder where an earlier run left them."""
    kept = keep / f"seed-{seed}.jsonl"
    if not kept.exists():
        found = run(f"--scrub-seed={seed}", "-n", "2", "--dist", "loadscope")
        partial = kept.with_suffix(".partial")
        partial.write_text("".join(f"{verdict.to_json()}\n" for verdict in found.values()))
        partial.rename(kept)
    verdicts = map(Verdict.from_json, kept.read_text().splitlines())
    return {verdict.claim: verdict for verdict in verdicts}


def seeds(count: int, keep: Path) -> dict[str, Any]:
    outcomes: dict[str, Counter[str]] = defaultdict(Counter)
    last: dict[str, list[Verdict]] = defaultdict(list)
    for seed in range(count):
        for claim, verdict in of_seed(seed, keep).items():
            outcomes[claim][verdict.outcome] += 1
            last[claim].append(verdict)
        print(f"seed {seed} done", flush=True)
    torn = [claim for claim, found in outcomes.items() if found[HELD] and found[REFUTED]]
    undecided = {claim: found[UNDECIDED] for claim, found in outcomes.items() if found[UNDECIDED]}
    for claim, found in sorted(outcomes.items()):
        if len(found) > 1:
            print(f"{claim}: {dict(found)}")
    for claim, times in undecided.items():
        one = next(verdict for verdict in last[claim] if verdict.outcome == UNDECIDED)
        print(
            f"{claim}: undecided {times} times, {abs(one.gap.mean) - one.tolerance:+.4g} from the "
            "tolerance"
        )
    spent = [v.samples / v.budget for found in last.values() for v in found if _is_clear(v)]
    print(
        "clear claims (a gap under a third or over three times the tolerance) drew "
        f"{max(spent):.0%} at most"
    )
    return {
        "claims": len(outcomes), "seeds": count, "held_and_refuted": torn, "undecided": undecided,
        "clear_runs": len(spent), "clear_most_drawn": max(spent),
        "clear_mean_drawn": sum(spent) / len(spent),
        "clear_above_a_fifth": sorted({
            claim for claim,
            found in last.items() for v in found if _is_clear(v) and v.samples > v.budget / 5
        }),
    }  # fmt: skip


def _is_clear(verdict: Verdict) -> bool:
    gap = abs(verdict.gap.mean)
    return (
        verdict.average != "untested" and not verdict.tolerance / 3 <= gap <= verdict.tolerance * 3
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ways", action="store_true")
    parser.add_argument("--seeds", type=int, default=0)
    parser.add_argument("--keep", type=Path, default=None)
    args = parser.parse_args()
    record: dict[str, Any] = {}
    if args.ways:
        record["ways"] = ways()
    if args.seeds:
        with tempfile.TemporaryDirectory() as folder:
            keep = args.keep or Path(folder)
            keep.mkdir(parents=True, exist_ok=True)
            record["seeds"] = seeds(args.seeds, keep)
    print(json.dumps(record))


if __name__ == "__main__":
    main()
