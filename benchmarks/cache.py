"""What the second run of the example claims does without, because the first has kept its
activations.

Both are run in one process, without adversaries, with a cache folder of their own. A claim counts
as one whose time was caching where, in the first run, forward passes for caching took more than
half of the time of its test's call. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

from pytest_scrub.pytest_edge.options import VERDICT_PROPERTY

ROOT = Path(__file__).parent.parent
EXAMPLES = "example_circuits"
MOSTLY = 0.5  # of a claim's time
# Times what is done for caching, and what the cache itself costs, and puts them among a test's
# properties.
METER = """
import json, time
from collections import Counter
import pytest

spent = Counter()

def timed(holder, name, what, inner=()):
    function = getattr(holder, name)
    def measured(*args, **kwargs):
        started, before = time.perf_counter(), sum(spent[other] for other in inner)
        try:
            return function(*args, **kwargs)
        finally:
            beside = sum(spent[other] for other in inner) - before
            spent[what] += time.perf_counter() - started - beside
            spent["n " + what] += 1
    setattr(holder, name, measured)

def pytest_configure(config):
    import pytest_scrub.pytest_edge.session as session
    import pytest_scrub.extras.disk_cache.activations as activations
    from pytest_scrub.engine.store import ActivationStore
    timed(ActivationStore, "_capture", "capturing")
    timed(ActivationStore, "_fresh", "comparing")
    timed(ActivationStore, "_look_up", "reading", ("comparing",))
    timed(activations, "key_parts", "key")
    timed(activations.ActivationFiles, "keep", "writing")
    timed(ActivationStore, "__init__", "proving", ("key",))

@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item):
    spent.clear()
    return (yield)

@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    if call.when == "call":
        item.user_properties.append(("meter", json.dumps({**spent, "call": call.duration})))
    elif call.when == "teardown":
        item.user_properties.append(("teardown", json.dumps({**spent, "call": call.duration})))
    return (yield)
"""

Claims = dict[str, dict[str, Any]]


def run(folder: Path, *args: str) -> Claims:
    """What every claim spent, in seconds and calls, and its verdict; in a process of its own."""
    (folder / "meter.py").write_text(METER)
    junit = folder / "junit.xml"
    command = [
        sys.executable, "-m", "pytest", EXAMPLES, "-q", "-p", "no:randomly", "-p", "meter",
        f"--junitxml={junit}",
        "--scrub-adversary=none", "-o", f"cache_dir={folder / 'cache'}", *args,
    ]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(folder)}
    subprocess.run(command, cwd=ROOT, env=environment, check=False, capture_output=True)
    claims: Claims = {}
    for case in ElementTree.parse(junit).iter("testcase"):
        found = {one.attrib["name"]: one.attrib["value"] for one in case.iter("property")}
        if VERDICT_PROPERTY in found:
            name = f"{case.get('classname')}::{case.get('name')}"
            claims[name] = {**json.loads(found["meter"]), "verdict": found[VERDICT_PROPERTY]}
            claims[name]["end"] = json.loads(found["teardown"])["call"]
    return claims


def total(claims: Claims, what: str) -> float:
    return sum(claim.get(what, 0.0) for claim in claims.values())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("options", nargs="*", help="more options of pytest, after --")
    options = parser.parse_args().options
    with tempfile.TemporaryDirectory() as name:
        first, second = (run(Path(name), *options) for _ in range(2))
        size = sum(path.stat().st_size for path in (Path(name) / "cache" / "d" / "scrub").glob("*"))
    mostly = [
        claim
        for claim, spent in first.items()
        if spent.get("capturing", 0.0) > MOSTLY * spent["call"]
    ]
    print(
        "first run: s, of that capturing, passes; second run: s, comparing, reading, passes for "
        "caching"
    )
    for claim, spent in first.items():
        later = second[claim]
        print(
            f"{'*' if claim in mostly else ' '} {spent['call']:6.2f} "
            f"{spent.get('capturing', 0):6.2f} {spent.get('n capturing', 0):4}   "
            f"{later['call']:6.2f} {later.get('comparing', 0):6.2f} {later.get('reading', 0):6.2f} "
            f"{later.get('n capturing', 0):4}   {claim}"
        )
    of_interest = [
        {claim: spent for claim, spent in run.items() if claim in mostly} for run in (first, second)
    ]
    record: dict[str, Any] = {
        "claims": len(first),
        "same_figures": all(first[claim]["verdict"] == second[claim]["verdict"] for claim in first),
        "cache_mib": round(size / 2**20, 1),
        "mostly_caching": len(mostly),
    }
    for name, runs in (("all", (first, second)), ("mostly_caching", of_interest)):
        times = [total(run, "call") for run in runs]
        record[f"{name}_seconds"] = [round(seconds, 2) for seconds in times]
        record[f"{name}_times_faster"] = round(times[0] / times[1], 2) if times[1] else None
    for what in (
        "capturing",
        "n capturing",
        "comparing",
        "n comparing",
        "reading",
        "writing",
        "key",
        "proving",
        "end",
    ):
        record[what.replace("n ", "passes ")] = [
            round(total(run, what), 2) for run in (first, second)
        ]
    print(json.dumps(record))


if __name__ == "__main__":
    main()
