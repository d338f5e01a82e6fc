"""Whether the example claims say the same thing every time.

`--ways` runs them with one seed in five ways: as they stand, in reverse order, in two workers, the
last claim of each file alone, and with a quarter of the batch size on another number of threads;
verdicts must be the same and figures agree to six digits of the metric's scale. `--seeds N` runs
them with N seeds, `--names N` ten of them under N names. A claim *contradicts itself* where it is
held in one run and refuted in another: none may whose figure, pooled over the runs, lies more than
three widths of its interval from its bound, and of the pairs of runs of any other at most 5 %.
`--keep FOLDER` holds the verdicts of each seed, and a seed that is there already is read, so that
an interrupted run goes on where it was. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import os
import shutil
import statistics
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
# Every claim N times, under as many names.
RENAMED = """
def pytest_generate_tests(metafunc):
    metafunc.fixturenames.append("nth_name")
    metafunc.parametrize("nth_name", range({}))
"""
OF_TEN_NAMES = (
    "example_circuits/brackets/test_brackets.py::test_both_at_once",
    "example_circuits/brackets/test_brackets.py::test_mlp_2_gets_the_count_from_layer_1_and_head_2_1",
    "example_circuits/brackets/test_brackets.py::test_the_split_is_exact",
    "example_circuits/brackets/test_brackets.py::test_the_other_way_round",
    "example_circuits/induction/test_induction.py::test_two_heads_write_the_answer",
    "example_circuits/induction/test_induction.py::test_one_head_is_enough",
    "example_circuits/induction/test_induction.py::test_head_0_0_is_idle",
    "example_circuits/induction/test_induction.py::test_the_heads_only_know_where_the_answer_is",
    "example_circuits/stories/test_stories.py::test_three_heads_carry_the_gender",
    "example_circuits/stories/test_stories.py::test_they_read_the_first_tokens_of_noun_and_name",
)
DIGITS = 1e-6

FAR, MOST_PAIRS = 3, 0.05  # widths of the interval, and the share of pairs of runs

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
    runs: dict[str, list[Verdict]] = defaultdict(list)
    for seed in range(count):
        for claim, verdict in of_seed(seed, keep).items():
            runs[claim].append(verdict)
        print(f"seed {seed} done", flush=True)
    spent = [v.samples / v.budget for found in runs.values() for v in found if _is_clear(v)]
    print(
        "clear claims (a gap under a third or over three times the tolerance) drew "
        f"{max(spent):.0%} at most"
    )
    return agreement(runs) | {
        "seeds": count, "clear_runs": len(spent), "clear_most_drawn": max(spent),
        "clear_mean_drawn": sum(spent) / len(spent),
        "clear_above_a_fifth": sorted({
            claim for claim,
            found in runs.items() for v in found if _is_clear(v) and v.samples > v.budget / 5
        }),
    }  # fmt: skip


def names(count: int) -> dict[str, Any]:
    """Ten claims, each under so many names: what they are called settles their random streams."""
    runs: dict[str, list[Verdict]] = defaultdict(list)
    for claim in OF_TEN_NAMES:
        found = run(claim, plugin=RENAMED.format(count))
        assert len(found) == count, f"{claim} ran {len(found)} times"
        runs[claim] += found.values()
        print(f"{claim} done", flush=True)
    return agreement(runs) | {"names": count}


def agreement(runs: Mapping[str, list[Verdict]]) -> dict[str, Any]:
    """What the runs of each claim say together."""
    undecided: dict[str, int] = {}
    contradictions: dict[str, dict[str, float]] = {}
    for claim, verdicts in sorted(runs.items()):
        found = Counter(verdict.outcome for verdict in verdicts)
        if len(found) > 1 or found[UNDECIDED]:
            print(f"{claim}: {dict(found)}")
        if found[UNDECIDED]:
            undecided[claim] = found[UNDECIDED]
        if pairs := found[HELD] * found[REFUTED]:
            pairs_of_runs = len(verdicts) * (len(verdicts) - 1) / 2
            contradictions[claim] = {"pairs": pairs / pairs_of_runs, "widths": _widths(verdicts)}
            print("  contradicts itself:", contradictions[claim])
    return {
        "claims": len(runs),
        "runs": sum(map(len, runs.values())),
        "contradictions": contradictions,
        "too_many": [
            claim for claim, one in contradictions.items()
            if one["widths"] > FAR or one["pairs"] > MOST_PAIRS
        ],
        "undecided": undecided,
    }  # fmt: skip


def _widths(verdicts: list[Verdict]) -> float:
    """How far the figures that refute a claim, pooled over all runs, lie from their bounds, in
    widths of their intervals: the farthest of them."""
    figures: dict[str, list[tuple[float, float]]] = defaultdict(list)
    refuting = set[str]()
    for verdict in verdicts:
        every = [("average", verdict.gap, verdict.tolerance, verdict.average == REFUTED)]
        for one in () if verdict.search is None else verdict.search.attempts:
            if one.interval is not None and one.bound is not None:
                every.append((one.adversary, one.interval, one.bound, one.refutes))
        for route, interval, bound, refutes in every:
            if interval.is_known:
                width = interval.high - interval.low
                figures[route].append((abs(interval.mean) - bound, width))
            if refutes:
                refuting.add(route)
    far = []
    for route in refuting:
        distances, widths = zip(*figures[route], strict=True)
        width = statistics.fmean(widths)
        far.append(abs(statistics.fmean(distances)) / width if width else math.inf)
    return max(far)


def _is_clear(verdict: Verdict) -> bool:
    gap = abs(verdict.gap.mean)
    return (
        verdict.average != "untested" and not verdict.tolerance / 3 <= gap <= verdict.tolerance * 3
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ways", action="store_true")
    parser.add_argument("--seeds", type=int, default=0)
    parser.add_argument("--names", type=int, default=0)
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
    if args.names:
        record["names"] = names(args.names)
    print(json.dumps(record))


if __name__ == "__main__":
    main()
