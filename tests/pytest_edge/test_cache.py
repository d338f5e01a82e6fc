"""Activations in pytest's cache: what a second run of a suite does without, and when it has to do
it again."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.pytest_edge.conftest import Suite
from tests.sizes import few_in_quick, only_in_full

# Every forward pass of the network, with what it is for, is noted in a file that all workers write
# to.
NETWORK = """
from collections import OrderedDict
import torch
from torch import nn

# it tells the sign of the first number, by one unit; all others disturb it a little
def network():
    torch.manual_seed(0)
    first, second = nn.Linear(6, 16), nn.Linear(16, 3)
    first.weight.data[0] = 9 * torch.eye(6)[0]
    second.weight.data[:2, 0] = torch.tensor([-9.0, 9.0])
    return nn.Sequential(OrderedDict(first=first, bend=nn.Tanh(), second=second))
"""
CONFTEST = """
import json, pathlib
import pytest, torch
from network import network
from pytest_scrub import Dataset, ModuleGraph
from pytest_scrub.engine.store import ActivationStore

@pytest.fixture(scope="session", autouse=True)
def counted():
    def note(line):
        with pathlib.Path("passes.txt").open("a") as file:
            file.write(line + "\\n")

    def capture(store, sites, places):
        note(f"captured {len(places)}")
        return original(store, sites, places)

    original, tanh = ActivationStore._capture, torch.tanh
    factor = json.loads(pathlib.Path("factor.json").read_text())
    # torch's own code calls another function than it did: nothing of the network says so
    torch.tanh = tanh if factor == 1 else lambda x: tanh(x) * factor
    ActivationStore._capture = capture
    yield
    ActivationStore._capture, torch.tanh = original, tanh

@pytest.fixture(scope="session")
def scrub_model():
    return ModuleGraph(network())

@pytest.fixture(scope="session")
def scrub_data():
    x = torch.randn(300, 6, generator=torch.Generator().manual_seed(1))
    return Dataset(x, labels=(x[:, 0] > 0).long(), features={"sign": (x[:, 0] > 0).numpy()})
"""
CLAIMS = """
from pytest_scrub import ANYTHING, claim, module, output

@claim(tolerance=1)
def test_one():
    return output(module("first", agrees_on="sign"), rest="sign")

@claim(tolerance=1)
def test_two():
    return output(module("second", agrees_on="sign"), rest="sign")
"""


class Cached:
    """A suite about a torch module, and the forward passes of its last run."""

    def __init__(self, suite: Suite) -> None:
        self.suite, self.path = suite, suite.pytester.path
        files = {
            "network.py": NETWORK,
            "conftest.py": CONFTEST,
            "factor.json": "1",
        }
        for name, text in {**files, "test_claims.py": CLAIMS}.items():
            (self.path / name).write_text(text)

    def run(self, *args: str, alone: bool = False, code: int = 0):
        (self.path / "passes.txt").unlink(missing_ok=True)
        ran = self.suite.run(*args, alone=alone)
        assert ran.result.ret == code, ran.text
        return ran

    def replace(self, name: str, old: str, new: str) -> None:
        text = (self.path / name).read_text()
        assert text.count(old) == 1
        (self.path / name).write_text(text.replace(old, new))

    @property
    def captured(self) -> int:
        """Rows that forward passes were run on for caching."""
        noted = self.path / "passes.txt"
        return (
            sum(int(line.split()[1]) for line in noted.read_text().splitlines())
            if noted.exists()
            else 0
        )

    @property
    def files(self) -> list[Path]:
        return sorted((self.path / ".pytest_cache" / "d" / "scrub").glob("*"))


@pytest.fixture
def cached(suite: Suite) -> Cached:
    return Cached(suite)


def test_a_second_run_captures_nothing_and_says_the_same(cached: Cached) -> None:
    first = cached.run()
    assert cached.captured > 100
    second = cached.run()
    assert cached.captured == 0
    assert second.verdicts == first.verdicts  # to the last bit
    assert len(second.verdicts) == 2
    assert "warning" not in second.text
    assert cached.run("-k", "two").verdicts["test_two"] == first.verdicts["test_two"]
    assert cached.captured == 0


def test_the_figures_are_those_of_a_run_without_a_cache(cached: Cached) -> None:
    without = cached.run("-p", "no:cacheprovider")
    captured = cached.captured
    assert cached.files == []
    assert cached.run("--scrub-cache=0").verdicts == without.verdicts
    assert cached.captured == captured
    assert cached.files == []
    assert cached.run().verdicts == without.verdicts
    assert cached.captured == captured
    assert cached.files
    assert cached.run("--scrub-cache=0").verdicts == without.verdicts
    assert cached.captured == captured


def test_cache_clear_forgets(cached: Cached) -> None:
    first = cached.run()
    captured = cached.captured
    cleared = cached.run("--cache-clear")
    assert cached.captured == captured
    assert cleared.verdicts == first.verdicts
    cached.run("--cache-clear", "--collect-only", "-q")
    assert cached.files == []


@few_in_quick(3)
@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("network.py", "nn.Tanh()", "nn.Sigmoid()"),
        ("network.py", "nn.Tanh()", "nn.Softplus(beta=2)"),
        ("network.py", "manual_seed(0)", "manual_seed(1)"),
        ("conftest.py", "manual_seed(1)", "manual_seed(2)"),
        (
            "conftest.py",
            "ModuleGraph(network())",
            "ModuleGraph(network(), output=lambda out: 2 * out)",
        ),
    ],
    ids=["class", "attribute", "weights", "data", "output"],
)
def test_a_change_is_seen(cached: Cached, name: str, old: str, new: str) -> None:
    first = cached.run()
    captured = cached.captured
    cached.replace(name, old, new)
    second = cached.run()
    assert cached.captured >= captured * 0.9  # other data may need a few rows less
    assert "warning" not in second.text
    assert second.verdicts == cached.run("--scrub-cache=0").verdicts != first.verdicts


def test_a_change_that_is_in_no_code_is_found_out(cached: Cached) -> None:
    first = cached.run()
    captured = cached.captured
    (cached.path / "factor.json").write_text("1.5")
    second = cached.run()
    assert cached.captured == captured
    assert (
        "ScrubWarning: activations of torch module Sequential that an earlier run has kept are not "
        "used" in second.text
    )
    assert second.outcomes == {"passed": 2, "warnings": 1}
    assert second.verdicts == cached.run("--scrub-cache=0").verdicts != first.verdicts
    assert "warning" not in cached.run().text
    assert cached.captured == 0


OWN = """

class Own(nn.Sequential):
    pass
"""


def test_a_network_of_own_code_is_captured_in_every_run(cached: Cached) -> None:
    first = cached.run()
    assert cached.files
    cached.run("--cache-clear", "--collect-only", "-q")
    path = cached.path / "network.py"
    path.write_text(path.read_text().replace("nn.Sequential(", "Own(") + OWN)
    for _ in range(2):
        own = cached.run()
        assert cached.captured > 100
        assert cached.files == []
        assert "warning" not in own.text
    figures = {name: (one.gap, one.outcome) for name, one in first.verdicts.items()}
    assert {name: (one.gap, one.outcome) for name, one in own.verdicts.items()} == figures


@only_in_full
def test_workers(cached: Cached) -> None:
    """They read and write by themselves; the second run has what both have captured, and of the
    same file both."""
    alone = cached.run()
    captured = cached.captured
    ran = cached.run("-n", "2", alone=True)
    assert cached.captured == 0
    assert ran.verdicts == alone.verdicts
    ran = cached.run("-n", "2", "--cache-clear", alone=True)
    assert cached.captured >= captured
    assert {name: verdict.outcome for name, verdict in ran.verdicts.items()} == {
        "test_one": "held",
        "test_two": "held",
    }
    cached.run()
    assert cached.captured < captured / 2  # a worker may have got the claim of the other


@only_in_full
def test_workers_share_the_work(cached: Cached) -> None:
    """Two workers capture little more together than one alone: each begins at its own end, and
    takes what is there."""
    slow = "        import time; time.sleep(1e-3 * len(places))\n        return original"
    cached.replace("conftest.py", "        return original", slow)
    cached.replace("conftest.py", "randn(300", "randn(3000")
    # Both read the same activations on nearly all rows, as soon as each has its claim.
    (cached.path / "test_claims.py").write_text("""
import pytest
from pytest_scrub import claim, module, output

@pytest.mark.parametrize("nth", range(2))
@claim(tolerance=1e-9)
def test_one(nth):
    return output(module("first", agrees_on="sign"))
""")
    options = ("--scrub-samples=4000", "--scrub-on-undecided=warn")
    alone = cached.run("--scrub-cache=0", *options)
    captured = cached.captured
    assert captured > 2000
    ran = cached.run("-n", "2", *options, alone=True)
    assert captured <= cached.captured < 1.5 * captured
    assert {n: v.outcome for n, v in ran.verdicts.items()} == {
        n: v.outcome for n, v in alone.verdicts.items()
    }
    for name, verdict in ran.verdicts.items():
        assert verdict.gap.mean == pytest.approx(alone.verdicts[name].gap.mean, rel=1e-5)


@only_in_full
def test_two_runs_at_once(cached: Cached) -> None:
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:randomly",
        "--scrub-samples=200",
        "--scrub-adversary=none",
    ]
    runs = [
        subprocess.Popen(command, cwd=cached.path, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    for run in runs:
        text, _ = run.communicate(timeout=120)
        assert run.returncode == 0, text
        assert "warning" not in text
    cached.run()
    assert cached.captured == 0
    assert all(path.suffix == ".safetensors" for path in cached.files)


def test_the_folder_is_bounded(cached: Cached) -> None:
    cached.replace(
        "network.py", "nn.Linear(6, 16), nn.Linear(16, 3)", "nn.Linear(6, 3000), nn.Linear(3000, 3)"
    )
    cached.run("--scrub-cache=1")
    taken = sum(path.stat().st_size for path in cached.files)
    assert 0 < taken <= 1 << 20
    cached.run("--scrub-cache=1")
    assert sum(path.stat().st_size for path in cached.files) <= 1 << 20
    cached.run("--scrub-cache=100")
    assert sum(path.stat().st_size for path in cached.files) > 1 << 20


FULL = """
import safetensors, pytest
import pytest_scrub.extras.disk_cache.activations as activations

@pytest.fixture(scope="session", autouse=True)
def full_disk():
    def fails(tensors, path, metadata):
        raise safetensors.SafetensorError("I/O error: No space left on device (os error 28)")

    original, activations.save_file = activations.save_file, fails
    yield
    activations.save_file = original
"""


def test_a_full_disk_is_one_warning(cached: Cached) -> None:
    first = cached.run()
    before = {path: path.read_bytes() for path in cached.files}
    (cached.path / "conftest.py").write_text(CONFTEST + FULL)
    ran = cached.run("--scrub-samples=300")
    assert ran.outcomes == {"passed": 2, "warnings": 1}
    assert "No space left on device" in ran.text
    assert str(cached.files[0].parent) in ran.text.replace("\n", "")
    assert {path: path.read_bytes() for path in cached.files} == before
    (cached.path / "conftest.py").write_text(CONFTEST)
    assert cached.run().verdicts == first.verdicts


def test_a_folder_that_cannot_be_made_is_one_warning(cached: Cached) -> None:
    (cached.path / "taken").write_text("a file")
    ran = cached.run("-o", "cache_dir=taken/cache")
    assert ran.outcomes["passed"] == 2
    assert "activations cannot be kept in pytest's cache" in ran.text


def test_an_interrupted_run_keeps_what_it_has(cached: Cached) -> None:
    (cached.path / "test_claims.py").write_text(
        CLAIMS
        + """
def test_three():
    raise KeyboardInterrupt
"""
    )
    cached.run("--fulltrace", alone=True, code=2)
    assert cached.files
    cached.run("-k", "one or two", alone=True)
    assert cached.captured == 0


def test_a_run_that_a_signal_interrupts_keeps_what_it_has(cached: Cached) -> None:
    (cached.path / "test_claims.py").write_text(
        CLAIMS
        + """
def test_three():
    import pathlib, time
    pathlib.Path("waiting").touch()
    time.sleep(60)
"""
    )
    conftest = cached.path / "conftest.py"
    # A process in the background may have been told to ignore interrupts, and so its children.
    restored = "import signal\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n"
    conftest.write_text(f"{conftest.read_text()}\n{restored}")
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-p",
        "no:randomly",
        "--scrub-samples=200",
        "--scrub-adversary=none",
    ]
    run = subprocess.Popen(command, cwd=cached.path, stdout=subprocess.PIPE, text=True)
    until = time.monotonic() + 60
    while not (cached.path / "waiting").exists():
        assert time.monotonic() < until
        time.sleep(0.05)
    run.send_signal(signal.SIGINT)
    text, _ = run.communicate(timeout=60)
    assert run.returncode == 2, text
    cached.run("-k", "one or two")
    assert cached.captured == 0
