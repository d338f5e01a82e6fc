"""--scrub-memory: activations that have no room lie in files, and nothing else changes."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import pytest

from pytest_scrub.pytest_edge.amounts import amount
from tests.pytest_edge.conftest import FOUR_OUTCOMES, TORCH_CLAIMS, Suite
from tests.sizes import only_in_full

# Notes what every store holds where, once all claims are done.
NOTE = """
    import pathlib
    from pytest_scrub.engine.store import ActivationStore

    stores = []
    made = ActivationStore.__init__

    def noted(self, *args, **kwargs):
        made(self, *args, **kwargs)
        stores.append(self)

    ActivationStore.__init__ = noted

    def pytest_sessionfinish(session):
        ActivationStore.__init__ = made
        kept = [kept for store in stores for kept in store._kept.values()]
        most = max(s.memory.held for s in stores)
        pathlib.Path("held.txt").write_text(f"{sum(k.bytes for k in kept)} {most}")
"""


def plain(verdict) -> dict[str, object]:
    figures = dataclasses.asdict(verdict)
    return {
        name: figures[name] for name in ("unscrubbed", "scrubbed", "baseline", "absolute_change")
    }


def held(suite: Suite) -> tuple[int, int]:
    """Bytes of activations, and those of them that were in memory at the end."""
    everything, here = (suite.pytester.path / "held.txt").read_text().split()
    return int(everything), int(here)


@only_in_full
def test_ten_times_what_there_is_room_for(suite: Suite) -> None:
    suite.extend_conftest(NOTE)
    suite.write(FOUR_OUTCOMES)
    roomy = suite.run("--scrub-cache=0", adversary="default")
    everything, here = held(suite)
    assert here == everything > 1000
    suite.forget()
    tight = suite.run(f"--scrub-memory={everything // 10}B", "--scrub-cache=0", adversary="default")
    # to the last digit: a function of one row does not see the others
    assert tight.verdicts == roomy.verdicts
    assert held(suite)[1] <= everything // 10


@pytest.mark.parametrize("reserves", [True, pytest.param(False, marks=only_in_full)])
def test_ten_times_what_there_is_room_for_of_a_torch_module(
    suite: Suite, reserves: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    suite.extend_conftest(NOTE)
    if not reserves:
        monkeypatch.delattr("os.posix_fallocate")  # as on macOS
    suite.write(TORCH_CLAIMS)
    roomy = suite.run("--scrub-cache=0")
    everything, _ = held(suite)
    tight = suite.run(f"--scrub-memory={everything // 10}B", "--scrub-cache=0")
    assert held(suite)[1] <= everything // 10
    for name, verdict in roomy.verdicts.items():
        assert tight.verdicts[name].outcome == verdict.outcome
        assert plain(tight.verdicts[name]) == pytest.approx(plain(verdict), rel=1e-5)


def test_a_disk_without_room_is_one_error(suite: Suite, monkeypatch: pytest.MonkeyPatch) -> None:
    suite.write(FOUR_OUTCOMES)
    monkeypatch.setattr(
        "os.posix_fallocate",
        lambda *args: (_ for _ in ()).throw(OSError(28, "No space left on device")),
    )
    ran = suite.run("--scrub-memory=1B", "--scrub-cache=0")
    assert "have no room in memory and could not be put into" in ran.messages["test_held"]
    assert "No space left on device" in ran.messages["test_held"]


@pytest.mark.parametrize(
    ("text", "free", "expected"),
    [
        ("25%", 1000, 250),
        ("25 %", 0, 0),
        ("4GiB", 0, 4 << 30),
        ("1.5 MiB", 0, 3 << 19),
        ("500MB", 0, 5 * 10**8),
    ],
)
def test_amounts(text: str, free: int, expected: int) -> None:
    assert amount(text, free) == expected


@pytest.mark.parametrize(
    "text", ["", "4", "4 gigabytes", "-1GiB", "0GiB", "0%", "101%", "GiB", str(math.nan)]
)
def test_malformed_amounts_are_one_sentence(suite: Suite, text: str) -> None:
    with pytest.raises(ValueError, match="takes "):
        amount(text, 1000)
    if text:
        ran = suite.run(f"--scrub-memory={text}", alone=False)
        assert ran.result.ret == pytest.ExitCode.USAGE_ERROR
        ran.result.stderr.fnmatch_lines(
            [f"ERROR: --scrub-memory takes *not '{text}'"] if "101" not in text else ["*100%*"]
        )


@only_in_full
def test_no_file_is_left_behind(
    suite: Suite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    suite.write(FOUR_OUTCOMES)
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    suite.run("--scrub-memory=1B", "--scrub-cache=0", alone=True)
    assert not any(path for path in folder.iterdir() if path.name.startswith("pytest-scrub"))
