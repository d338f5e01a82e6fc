"""`--scrub-ray`: the same verdicts from a cluster, and one sentence where there is none."""

from __future__ import annotations

import json
import re
import socket
import sys
import time
from dataclasses import asdict

import pytest

from pytest_scrub.verdict import Verdict
from tests.pytest_edge.conftest import TORCH_CLAIMS, Ran, Suite
from tests.pytest_edge.test_cost import report_loaded
from tests.sizes import few_in_quick, only_in_full

pytestmark = pytest.mark.xdist_group("ray")


@pytest.fixture
def warm() -> None:
    """Ray starts its workers with the Python that it runs in: this one."""


HELD = """
    @claim(tolerance=0.5)
    def test_held():
        return output(module("A", agrees_on="a"))
"""
MANY = "--scrub-samples=1000"
# Rows enough for more than one piece of work, each of another content.
MANY_ROWS = """
    @pytest.fixture(scope="session")
    def scrub_data():
        return rows(1000)
"""
RESTS = """
    @claim(tolerance=0.5)
    def test_refuted():
        return output(module("B", agrees_on="b"))

    @claim(tolerance=0.5, metric=lambda output, batch: output[:, 0] / (batch.rows != 7))
    def test_misstated():
        return output(module("A", agrees_on="a"))
"""


def numbers(verdict: Verdict) -> list[float]:
    text = json.dumps(asdict(verdict), default=str)
    return [float(number) for number in re.findall(r"-?\d+\.?\d*(?:[eE][-+]?\d+)?", text)]


def assert_same(there: Ran, here: Ran) -> None:
    assert there.outcomes == here.outcomes
    assert there.verdicts.keys() == here.verdicts.keys()
    assert here.verdicts
    for name, verdict in here.verdicts.items():
        assert there.verdicts[name].outcome == verdict.outcome
        assert numbers(there.verdicts[name]) == pytest.approx(numbers(verdict), rel=1e-5, abs=1e-7)
    assert {name: text.splitlines()[0] for name, text in there.messages.items()} == {
        name: text.splitlines()[0] for name, text in here.messages.items()
    }


@pytest.fixture
def tasks(cluster: str, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, int]]:
    """What crews of runs in this process have given out."""
    from pytest_scrub.extras.ray import executor

    given: list[dict[str, int]] = []

    class Counted(executor.RayExecutor):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            given.append(self.tasks)

    monkeypatch.setattr(executor, "RayExecutor", Counted)
    return given


@pytest.mark.parametrize("ini", [pytest.param(True, marks=only_in_full), False])
def test_the_same_verdicts(
    suite: Suite, cluster: str, tasks: list[dict[str, int]], ini: bool
) -> None:
    suite.write(MANY_ROWS + HELD + RESTS)
    here = suite.run(MANY, adversary="default")
    suite.forget()
    if ini:
        suite.pytester.makeini(f"[pytest]\nscrub_ray = {cluster}")
    there = suite.run(MANY, *([] if ini else [f"--scrub-ray={cluster}"]), adversary="default")
    assert here.outcomes == {"passed": 1, "failed": 2}
    assert_same(there, here)
    assert len(tasks) == 1
    assert all(tasks[0].values())


@only_in_full
def test_the_same_verdicts_of_a_torch_module(
    suite: Suite, cluster: str, tasks: list[dict[str, int]]
) -> None:
    suite.write(TORCH_CLAIMS)
    options = (MANY, "--scrub-mutate", "--scrub-controls")
    here = suite.run(*options, adversary="quick")
    suite.forget()
    there = suite.run(
        *options, f"--scrub-ray={cluster}", "-p", "no:cacheprovider", adversary="quick"
    )
    assert_same(there, here)
    assert all(tasks[0].values())


@only_in_full
def test_workers_of_xdist_share_one_cluster_which_ends_with_them(suite: Suite) -> None:
    suite.write(MANY_ROWS + HELD)
    suite.write(MANY_ROWS + RESTS, name="test_others")
    here = suite.run(MANY)
    suite.extend_conftest("""
        import pathlib

        @pytest.fixture(scope="session", autouse=True)
        def noted(scrub_session, worker_id):
            import ray

            yield
            pathlib.Path(f"{worker_id}.txt").write_text(ray.get_runtime_context().gcs_address)
            assert all(scrub_session.executor.tasks.values())
    """)
    there = suite.run(MANY, "--scrub-ray=local", "-n", "2", "--dist", "loadfile", alone=True)
    assert_same(there, here)
    noted = {path.name: path.read_text() for path in suite.pytester.path.glob("*.txt")}
    assert noted.keys() == {"gw0.txt", "gw1.txt"}
    (address,) = set(noted.values())
    host, _, port = address.rpartition(":")
    with pytest.raises(OSError, match=r"\w"):
        socket.create_connection((host, int(port)), timeout=1)


def refused(result: pytest.RunResult) -> str:
    """What is said before any claim is run, in one line."""
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert "test_claims.py" not in result.stdout.str()
    (line,) = [line for line in result.stderr.lines if line]
    return line


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=only_in_full)])
def test_a_cluster_that_is_not_there(
    suite: Suite, cluster: str, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    import ray

    monkeypatch.setattr(ray, "is_initialized", lambda: False)  # by the tests around this one
    suite.write(HELD)
    started = time.monotonic()
    with socket.socket() as taken:
        taken.bind(("", 0))  # and does not listen
        address = f"localhost:{taken.getsockname()[1]}"
        run = suite.pytester.runpytest_subprocess if workers else suite.pytester.runpytest_inprocess
        said = refused(run(f"--scrub-ray={address}", "-n", str(workers)))
    assert time.monotonic() - started < 30
    assert said.startswith(f"ERROR: the Ray cluster at {address} cannot be joined (")
    assert said.endswith("; start one with `ray start --head`, or let --scrub-ray=local do so")


def test_ray_is_not_installed(suite: Suite, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    suite.write(HELD)
    said = refused(suite.pytester.runpytest_inprocess("--scrub-ray=local"))
    assert (
        said
        == "ERROR: --scrub-ray needs ray, which is not installed: pip install pytest-scrub[ray]"
    )


@pytest.mark.parametrize(
    "address", ["here", "ray://10.0.0.1:10001", "10.0.0.1", "http://10.0.0.1:80"]
)
def test_an_address_that_is_none(suite: Suite, address: str) -> None:
    suite.write("raise AssertionError('collected')")
    result = suite.pytester.runpytest_inprocess(f"--scrub-ray={address}")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert [line for line in result.stderr.lines if line] == [
        f"ERROR: --scrub-ray takes local, auto, or the HOST:PORT of a Ray cluster, not {address!r}"
    ]


@few_in_quick(1)
@pytest.mark.parametrize(
    "options",
    [
        pytest.param(("--collect-only",), marks=only_in_full),
        ("--scrub-list",),
        pytest.param(("-k", "plain"), marks=only_in_full),
        ("-k", "plain", "-o", "scrub_ray=auto"),
    ],
)
def test_nobody_joins_where_no_claim_is_run(
    pytester: pytest.Pytester, options: tuple[str, ...]
) -> None:
    pytester.makeconftest(report_loaded(("ray", "torch")))
    pytester.makepyfile("""
        from pytest_scrub import claim, module, output

        @claim(tolerance=1)
        def test_claim():
            return output(module("A", agrees_on="a"))

        def test_plain():
            pass
    """)
    address = () if "-o" in options else ("--scrub-ray=local",)
    result = pytester.runpytest_subprocess(*address, *options, "-p", "no:randomly")
    assert result.ret == 0
    result.stdout.fnmatch_lines(["loaded: end"])


@only_in_full
def test_what_a_claim_holds_that_cannot_be_sent(suite: Suite, cluster: str) -> None:
    suite.write(
        MANY_ROWS
        + """
    import threading

    def locked(lock):
        def mine(output, batch):
            with lock:
                return torch.nn.functional.cross_entropy(output, batch.labels, reduction="none")
        return mine

    @claim(tolerance=0.5, metric=locked(threading.Lock()))
    def test_locked():
        return output(module("A", agrees_on="a"))
    """
    )
    ran = suite.run(MANY, f"--scrub-ray={cluster}")
    assert (
        "the metric mine cannot be sent to Ray's workers (TypeError: cannot pickle"
        in ran.messages["test_locked"]
    )
    assert "leave --scrub-ray out" in ran.messages["test_locked"]
