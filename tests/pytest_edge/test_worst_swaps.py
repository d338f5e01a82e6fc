"""Claims that adversaries search: options, outcomes, saved counterexamples and their replay."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.pytest_edge.conftest import Suite
from tests.sizes import few_in_quick, only_in_full

# B is small, and yet it says the label where `b` is extreme: averages forgive that, the worst swaps
# do not.
CLAIMS = """
@claim(tolerance=0.05)
def test_falls():
    return output(module("A", agrees_on="a"))

@claim(tolerance=0.5)
def test_refuted():
    return output(module("B", agrees_on="b"))
"""
SEARCH = "--scrub-adversary=default"


@pytest.fixture
def falling(suite: Suite) -> Suite:
    suite.write(CLAIMS)
    return suite


def saved(suite: Suite) -> list[Path]:
    return sorted((suite.pytester.path / ".scrub").glob("*.json"))


def test_a_claim_that_holds_on_average_falls_to_the_adversary(falling: Suite) -> None:
    ran = falling.run(SEARCH)
    ran.result.assert_outcomes(failed=2)
    verdict, message = ran.verdicts["test_falls"], ran.reports["test_falls"]
    assert (verdict.average, verdict.outcome) == ("held", "refuted")
    assert verdict.search is not None
    worst = verdict.search.worst
    assert worst is not None
    assert worst.gap > 0.05 > verdict.gap.high
    assert message.startswith("claim held on average, fell to the search: ")
    assert (
        f": {verdict.deciding.gap} of 0.05, found by {worst.adversary}; on average gap" in message
    )
    assert ran.verdicts["test_refuted"].average == "refuted"
    assert "fell to the search" not in ran.reports["test_refuted"]
    shown = verdict.search.counterexample
    assert shown is not None
    assert len(shown.swaps) == 1
    for part in (
        shown.reference,
        shown.swaps[0].donor,
        shown.swaps[0].differs,
        f"gap {shown.gap:.6g}",
        "replay",
    ):
        assert part in message


def test_the_classes_of_the_two_refutations(suite: Suite) -> None:
    expected = "@pytest.mark.xfail(raises=RefutedByAdversary)"
    suite.write(
        "from pytest_scrub import RefutedByAdversary\n"
        + CLAIMS.replace("@claim", f"{expected}\n@claim")
    )
    suite.run(SEARCH).result.assert_outcomes(xfailed=1, failed=1)


@pytest.mark.parametrize(
    ("option", "outcome"),
    [
        ("", "failed"),
        ("adversary='report'", "passed"),
        ("adversaries=[]", "passed"),
        ("adversaries=[WhichNodes()]", "passed"),
        ("adversaries=[WhichDonors()]", "failed"),
        ("adversarial_tolerance=2.0", "passed"),
        ("budget=0", "passed"),
    ],
)
def test_what_a_claim_says_of_its_adversaries(suite: Suite, option: str, outcome: str) -> None:
    suite.write(
        "from pytest_scrub import WhichDonors, WhichNodes\n"
        + CLAIMS.replace("tolerance=0.05", f"tolerance=0.05, {option}")
    )
    ran = suite.run(SEARCH, "-k", "falls")
    ran.result.assert_outcomes(**{outcome: 1})
    search = ran.verdicts["test_falls"].search
    assert (search is None) == (option == "adversaries=[]")
    if "report" in option:
        assert search is not None
        assert search.refutes
        assert not search.gates


@pytest.mark.parametrize(
    ("option", "sentence"),
    [
        (
            "adversaries=[WhichDonors]",
            "adversaries= takes adversaries such as WhichDonors(), not <class",
        ),
        ("adversary='maybe'", "adversary= is 'gate' or 'report', not 'maybe'"),
        ("adversarial_tolerance=-1", "adversarial_tolerance= is a gap, zero or more, not -1"),
        ("budget=2.5", "budget= is a whole number of evaluations, not 2.5"),
        ("budget='many'", "budget= is a whole number of evaluations, not 'many'"),
    ],
)
def test_bad_options_are_one_sentence(suite: Suite, option: str, sentence: str) -> None:
    suite.write(
        "from pytest_scrub import WhichDonors\n"
        + CLAIMS.replace("tolerance=0.05", f"tolerance=0.05, {option}")
    )
    assert (
        suite.run(SEARCH, "-k", "falls").messages["test_falls"].startswith(f"Misstated: {sentence}")
    )


def test_no_search_where_none_is_asked(falling: Suite) -> None:
    ran = falling.run("--scrub-adversary=none")
    ran.result.assert_outcomes(passed=1, failed=1)
    assert ran.verdicts["test_falls"].search is None
    assert not (falling.pytester.path / ".scrub").exists()


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        (("--scrub-adversary=brutal",), "--scrub-adversary is one of none, quick, default, "
                                        "thorough, report, not 'brutal'"),
        (("--scrub-adversary=none", "--scrub-deadline=soon"), "--scrub-deadline takes a number of "
                                                              "seconds, not 'soon'"),
        (("--scrub-adversary=quick", "--scrub-deadline=0"), "--scrub-deadline takes a number of "
                                                            "seconds, not '0'"),
        (("--scrub-adversary=quick", "--scrub-replay=no.json"), "--scrub-replay: "),
    ],
)  # fmt: skip
def test_malformed_options(falling: Suite, args: tuple[str, ...], sentence: str) -> None:
    assert sentence in falling.run(*args).result.stderr.str()


def test_a_deadline_ends_the_search_early_and_says_so(falling: Suite) -> None:
    ran = falling.run(SEARCH, "--scrub-deadline=1e-9", "-k", "refuted")
    search = ran.verdicts["test_refuted"].search
    assert search is not None
    assert any(attempt.late for attempt in search.attempts)
    assert sum(attempt.evaluations for attempt in search.attempts) == 0
    assert "the deadline" in ran.reports["test_refuted"]


def test_a_counterexample_is_kept_and_noticed_when_it_is_mended_and_decides_nothing(
    falling: Suite,
) -> None:
    first = falling.run(SEARCH, "-k", "falls").verdicts["test_falls"].search
    [file] = saved(falling)
    again = falling.run(SEARCH, "-k", "falls").verdicts["test_falls"].search
    assert first is not None
    assert again is not None
    assert again.attempts == first.attempts
    assert again.counterexample == first.counterexample
    kept = f"the counterexample of an earlier run, {file.name},"
    assert again.notes[0].startswith(f"{kept} still has the gap {again.counterexample.gap:.4g};")
    text = falling.pytester.path / "test_claims.py"
    text.write_text(text.read_text().replace("tolerance=0.05", "tolerance=0.5"))
    mended = falling.run(SEARCH, "-k", "falls").verdicts["test_falls"]
    assert mended.outcome == "held"
    assert mended.search is not None
    assert mended.search.notes[0].startswith(f"{kept} now has the gap ")
    assert len(mended.search.attempts) > 1


@few_in_quick(1)
@pytest.mark.parametrize(
    ("damage", "note", "is_set_aside"),
    [
        (lambda text: text[: len(text) // 2], "set aside as", True),
        (lambda text: text.replace('"schema_version": 1', '"schema_version": 2'), "", False),
        (lambda text: text.replace('"digest": "', '"digest": "0'), "could not be tried: ", False),
        (lambda text: text.replace("output/A", "output/Z"), "could not be tried: ", False),
    ],
)
def test_a_file_that_cannot_be_used_stops_nothing(
    falling: Suite, damage: object, note: str, is_set_aside: bool
) -> None:
    falling.run(SEARCH, "-k", "falls")
    [file] = saved(falling)
    assert damage(file.read_text()) != file.read_text()  # type: ignore[operator]
    file.write_text(damage(file.read_text()))  # type: ignore[operator]
    ran = falling.run(SEARCH, "-k", "falls")
    search = ran.verdicts["test_falls"].search
    assert search is not None
    assert len(search.attempts) > 1
    assert note in search.notes[0]
    assert f"note: {search.notes[0]}" in ran.reports["test_falls"]
    assert is_set_aside == any(path.name.endswith(".damaged") for path in file.parent.iterdir())


def test_a_folder_that_cannot_be_written_is_noted(falling: Suite) -> None:
    (falling.pytester.path / ".scrub").write_text("a file, not a folder")
    search = falling.run(SEARCH, "-k", "falls").verdicts["test_falls"].search
    assert search is not None
    assert search.notes[-1].startswith("the counterexample could not be saved: ")
    assert search.counterexample is not None
    assert search.counterexample.file is None


REORDERED = """
    def rows_again(count=64):
        order = torch.randperm(count, generator=torch.Generator().manual_seed(3))
        data = rows(count)
        return Dataset(
            {name: tensor[order] for name, tensor in data.inputs.items()},
            labels=data.labels[order],
            features={name: data.feature(name)[order.numpy()] for name in data.feature_names},
        )

    @pytest.fixture(scope="session")
    def scrub_data():
        return rows_again()
"""


def test_a_counterexample_is_replayed_alone_in_another_process_on_reordered_rows(
    falling: Suite,
) -> None:
    search = falling.run(SEARCH).verdicts["test_falls"].search
    assert search is not None
    assert search.counterexample is not None
    file = next(file for file in saved(falling) if "falls" in file.name)
    falling.extend_conftest(REORDERED)
    ran = falling.run(f"--scrub-replay={file}", alone=True)
    ran.result.assert_outcomes(failed=1, deselected=1)
    assert (
        f"gap {search.counterexample.gap:.6g} (saved {search.counterexample.gap:.6g})"
        in ran.reports["test_falls"]
    )
    assert "test_falls" not in ran.verdicts
    falling.extend_conftest("""
        @pytest.fixture(scope="session")
        def scrub_model():
            return FunctionGraph(
                A=lambda a: 2 * a - 1, B=lambda b: 0 * b,
                output=lambda A, B: torch.stack([-(A + B), A + B], -1),
            )
    """)
    mended = falling.run(f"--scrub-replay={file}", "-rP", alone=True)
    mended.result.assert_outcomes(passed=1, deselected=1)
    mended.result.stdout.fnmatch_lines(
        ["*no longer breaks the claim*", "*the network's weights have changed*"]
    )


def test_a_replay_needs_its_claim(falling: Suite) -> None:
    falling.run(SEARCH, "-k", "falls")
    [file] = saved(falling)
    record = json.loads(file.read_text())
    file.write_text(json.dumps({**record, "claim": "elsewhere.py::test_falls"}))
    ran = falling.run(f"--scrub-replay={file}")
    assert (
        "the claim elsewhere.py::test_falls was not collected; name its file or folder"
        in ran.result.stderr.str()
    )


@only_in_full  # and of other claims test_adversaries
def test_workers_find_what_one_process_finds(falling: Suite) -> None:
    def figures(*args: str) -> dict[str, tuple[float, ...]]:
        for file in saved(falling):
            file.unlink()
        verdicts = falling.run(SEARCH, *args, alone=True).verdicts
        return {
            n: tuple(attempt.gap for attempt in v.search.attempts)
            for n, v in verdicts.items()
            if v.search
        }

    alone = figures()
    assert len(alone) == 2
    for name, gaps in figures("-n2").items():
        assert gaps == pytest.approx(alone[name], rel=1e-6)
