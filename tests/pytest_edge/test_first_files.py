"""`--scrub-init`: what it writes runs as it is, and nothing is ever written over."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import transformers as hf
import yaml

from tests.data.test_prompts import trained
from tests.pytest_edge.conftest import Suite
from tests.sizes import only_in_full

FILES = ("conftest.py", "test_claims.py", ".github/workflows/claims.yml")


def init(suite: Suite, *args: str) -> pytest.RunResult:
    return suite.pytester.runpytest_inprocess(*args)


def written(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


@pytest.mark.parametrize(
    ("kind", "held", "refuted"),
    [
        ("toy", "only_reads_whether_the_ones_reach_ten", "only_reads_whether_the_ones_are_even"),
        pytest.param(
            "module", "each_tower_says_the_sum", "the_left_tower_says_the_first", marks=only_in_full
        ),
    ],
)
def test_what_is_written_runs(suite: Suite, kind: str, held: str, refuted: str) -> None:
    path = suite.pytester.path
    result = init(suite, f"--scrub-init={kind}", "claims")
    assert result.ret == pytest.ExitCode.OK
    assert written(path / "claims") == sorted(FILES)
    result.stdout.fnmatch_lines([f"wrote conftest.py, * in {path}/claims; run them: pytest claims"])
    ran = suite.run("--scrub-samples=4000", "claims", alone=True, adversary=None)
    assert ran.outcomes == {"passed": 1, "xfailed": 1}
    outcomes = {verdict.outcome: name for name, verdict in ran.verdicts.items()}
    assert held in outcomes["held"]
    assert refuted in outcomes["refuted"]


@only_in_full
@pytest.mark.parametrize("kind", ["hugging-face", "transformer-lens"])
def test_a_transformer_of_ones_own_is_claimed_about(
    suite: Suite, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    tokenizer, config = trained(), {"n_layer": 11, "n_head": 12, "n_embd": 24, "vocab_size": 400}
    network = hf.GPT2LMHeadModel(hf.GPT2Config(**config, n_positions=64)).eval()
    network.save_pretrained(suite.pytester.path / "network")
    tokenizer.save_pretrained(suite.pytester.path / "network")
    monkeypatch.setenv("SCRUB_NETWORK", str(suite.pytester.path / "network"))
    assert init(suite, f"--scrub-init={kind}", "claims").ret == pytest.ExitCode.OK
    # names that this tokenizer has as one token
    conftest = suite.pytester.path / "claims" / "conftest.py"
    lines = conftest.read_text().splitlines()
    names = next(n for n, line in enumerate(lines) if line.startswith("NAMES = "))
    lines[names] = 'NAMES = ["Mary", "John"]'
    conftest.write_text("\n".join(lines).replace("rows=1000", "rows=32"))
    ran = suite.run("claims", alone=True)
    assert len(ran.verdicts) == 2  # of random weights, whatever they are


def test_a_workflow_installs_what_the_claims_need(suite: Suite) -> None:
    path = suite.pytester.path
    for kind, package in {"toy": "pytest-scrub", "hugging-face": "[transformer-lens]"}.items():
        init(suite, f"--scrub-init={kind}", kind)
        workflow = yaml.safe_load((path / kind / FILES[2]).read_text())
        runs = [step.get("run", "") for step in workflow["jobs"]["claims"]["steps"]]
        assert any(run.endswith(f"{package}'") and run.startswith("pip") for run in runs), runs


def test_nothing_is_written_over(suite: Suite) -> None:
    mine = suite.pytester.path / "claims" / "test_claims.py"
    mine.parent.mkdir()
    mine.write_text("mine")
    result = init(suite, "--scrub-init=toy", "claims")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert "writes test_claims.py, which" in "\n".join(result.errlines)
    assert mine.read_text() == "mine"
    assert written(mine.parent) == ["test_claims.py"]


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (("--scrub-init=toys",), "takes a kind of network, toy, module, hugging-face"),
        (("--scrub-init", "a_folder"), "takes a kind of network, toy, module, hugging-face"),
        (("--scrub-init=toy", "a", "b"), "takes one folder, not a b"),
        (("--scrub-init=toy", "test.py::test"), "takes one folder, not test.py::test"),
        (("--scrub-init=toy",), "writes conftest.py, which"),
        (("--scrub-init=toy", "conftest.py"), "cannot write into"),
        (("-oscrub_init=toy", "claims"), "scrub_init in the ini file would run no claim"),
    ],
)
def test_what_cannot_be_written(suite: Suite, given: tuple[str, ...], says: str) -> None:
    before = written(suite.pytester.path)
    result = init(suite, *given)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert says in "\n".join(result.errlines)
    assert written(suite.pytester.path) == before
