"""Adversaries in a suite: what they are asked for with, which claims fall to them, and what a
failure then says."""

from __future__ import annotations

import dataclasses
import json
import re
from typing import Any

import pytest

from pytest_scrub.verdict import Search, Verdict
from tests.pytest_edge.conftest import TORCH_CLAIMS, Ran, Suite, assert_same_figures
from tests.sizes import few_in_quick, only_in_full

# Whatever stands in for z2, half of the answers are wrong, as they are without a swap; the worst is
# wrong each time.
XOR = """
    @pytest.fixture(scope="session")
    def xor():
        return FunctionGraph(output=lambda z1, z2: torch.stack([z1 == z2, z1 != z2], -1).float())

    @pytest.fixture(scope="session")
    def first():
        return FunctionGraph(output=lambda z1, z2: torch.stack([z2 + 1 - z1, z2 + z1], -1).float())

    def two_bits(labels):
        bits = {"z1": torch.tensor([0, 0, 1, 1]), "z2": torch.tensor([0, 1, 0, 1])}
        show = lambda row: f"{row['z1']} xor {row['z2']}"
        return Dataset(bits, labels=labels(**bits), features=bits, show=show)

    @pytest.fixture(scope="session")
    def bits():
        return two_bits(labels=lambda z1, z2: z1)

    @pytest.fixture(scope="session")
    def answered():
        return two_bits(labels=lambda z1, z2: z1 ^ z2)
"""
# None names a feature, so there is nothing that a null could be told from.
CLAIM = 'model="xor", data="bits", metric=zero_one_error()'
FALLS = f"""
@claim(tolerance=0.3, {CLAIM})
def test_falls():
    return output(module("z2", agrees_on=ANYTHING), rest=EXACT)
"""
AVERAGE = f"""
@claim(tolerance=0.3, {CLAIM.replace("bits", "answered")})
def test_average():
    return output(module("z2", agrees_on=ANYTHING), rest=EXACT)
"""
# with fewer samples than it has swaps, which would decide it
UNDECIDED = f"""
@claim(tolerance=0.02, samples=15, {CLAIM})
def test_undecided():
    return output(module("z2", agrees_on=ANYTHING), rest=EXACT)
"""
HOLDS = f"""
@claim(tolerance=0.3, {CLAIM.replace("xor", "first")})
def test_holds():
    return output(module("z2", agrees_on=ANYTHING), rest=EXACT)
"""


@pytest.fixture
def bits(suite: Suite) -> Suite:
    """A suite that has a network of two bits at hand."""
    suite.extend_conftest(XOR)
    return suite


def searched(ran: Ran, name: str = "test_falls") -> Search:
    search = ran.verdicts[name].search
    assert search is not None
    return search


# --- options --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ini", "argument", "budget"),
    [
        ("", None, 8000),
        ("scrub_adversary = quick", None, 8000),
        ("scrub_adversary = default", None, 8000),
        ("scrub_adversary = thorough", None, 40_000),
        ("scrub_adversary = none", None, None),
        ("scrub_adversary = none", "quick", 8000),
        ("scrub_adversary = thorough", "none", None),
        ("scrub_adversary = typo", "quick", 8000),
        ("scrub_adversary = report", "default", 8000),
    ],
)
def test_how_long_to_search(
    bits: Suite, ini: str, argument: str | None, budget: int | None
) -> None:
    bits.write(FALLS)
    bits.pytester.makeini(f"[pytest]\n{ini}")
    ran = bits.run(adversary=argument)
    assert ran.outcomes == ({"failed": 1} if budget else {"passed": 1})
    search = ran.verdicts["test_falls"].search
    assert (None if search is None else search.budget) == budget


def test_a_claims_own_budget_comes_before_the_options(bits: Suite) -> None:
    bits.write(FALLS.replace("0.3", "0.3, budget=300, adversaries=[WhichDonors()]"))
    assert searched(bits.run(adversary="thorough")).budget == 300
    assert bits.run(adversary="none").verdicts["test_falls"].search is None


def test_a_budget_is_counted_by_the_samples_of_the_claim(bits: Suite) -> None:
    bits.write(FALLS.replace("0.3", "0.3, samples=5000"))
    assert searched(bits.run(adversary="quick")).budget == 10_000


def test_a_deadline_in_the_ini_file_ends_the_search_and_a_verdict_is_given_all_the_same(
    bits: Suite,
) -> None:
    bits.write(FALLS + AVERAGE)
    bits.pytester.makeini("[pytest]\nscrub_deadline = 1e-9")
    ran = bits.run(adversary="default")
    assert {name: verdict.outcome for name, verdict in ran.verdicts.items()} == {
        "test_falls": "held", "test_average": "refuted",
    }  # fmt: skip
    # a single node leaves nothing to choose among nodes
    assert [attempt.late for attempt in searched(ran).attempts][:4] == [True, False, True, True]
    assert "the deadline" in ran.reports["test_average"]
    bits.forget()
    assert (
        bits.run("--scrub-deadline=100", adversary="default").verdicts["test_falls"].outcome
        == "refuted"
    )


# --- which claims fall, and how that is said ------------------------------------------------------


def test_these_very_words(bits: Suite) -> None:
    bits.write(FALLS + UNDECIDED)
    ran = bits.run(adversary="default")
    for name, average in (
        ("test_falls", "held on average"),
        ("test_undecided", "undecided on average"),
    ):
        verdict = ran.verdicts[name]
        words = (
            f"claim {average}, fell to the search: {verdict.deciding.gap} of "
            f"{verdict.tolerance:g}, found by which donors; on average gap {verdict.gap} in 0-1 "
            f"error, tolerance {verdict.tolerance:g}"
        )
        assert ran.reports[name].splitlines()[0] == words
        assert ran.messages[name].splitlines()[0] == f"RefutedByAdversary: {words}"
        assert verdict.outcome == "refuted"
    assert (ran.verdicts["test_falls"].average, ran.verdicts["test_undecided"].average) == (
        "held",
        "undecided",
    )


@few_in_quick(4)
@pytest.mark.parametrize(
    ("expected", "text", "outcome"),
    [
        ("RefutedByAdversary", FALLS, "xfailed"),
        ("Refuted", FALLS, "xfailed"),  # of which the other is a subclass
        ("RefutedByAdversary", UNDECIDED, "xfailed"),
        ("Undecided", UNDECIDED, "failed"),
        ("Refuted", AVERAGE, "xfailed"),
        ("RefutedByAdversary", AVERAGE, "failed"),
        ("RefutedByAdversary", HOLDS, "failed"),
    ],
)
def test_expected_refutations(bits: Suite, expected: str, text: str, outcome: str) -> None:
    bits.write(
        text.replace("@claim", f"@pytest.mark.xfail(raises={expected}, strict=True)\n@claim")
    )
    ran = bits.run(adversary="default")
    assert ran.outcomes == {outcome: 1}
    assert ("XPASS(strict)" in ran.text) == (text == HOLDS)
    if text != UNDECIDED:
        assert "undecided" not in {verdict.average for verdict in ran.verdicts.values()}


def test_what_is_found_can_be_shown_without_failing(bits: Suite) -> None:
    reporting = "tolerance=0.3, adversary='report'"
    bits.write(
        FALLS.replace("tolerance=0.3", reporting) + AVERAGE.replace("tolerance=0.3", reporting)
    )
    ran = bits.run(adversary="default")
    assert ran.outcomes == {"passed": 1, "failed": 1}
    verdict = ran.verdicts["test_falls"]
    assert (verdict.outcome, verdict.average, verdict.held) == ("held", "held", True)
    assert (searched(ran).refutes, searched(ran).gates) == (True, False)
    assert [line.split()[-3:-1] for line in ran.summary if "test_falls" in line] == [
        ["0.5,", "shown"]
    ]
    assert "\nsearches did not gate 2 of 2 claims: 1 would have fallen to the search\n" in ran.text
    assert (
        "adversaries (tolerance 0.3, shown only; 400 evaluations at most):"
        in ran.reports["test_average"]
    )


GATING = FALLS.replace("0.3", "0.3, adversary='gate'").replace("test_falls", "test_gates")
UNGATED = "searches did not gate 4 of 4 claims: 3 would have fallen to the search"


@few_in_quick(1)
@pytest.mark.parametrize("ini", [False, True])
@pytest.mark.parametrize("quiet", ["-q", "-v"])
def test_a_run_can_show_what_is_found_for_every_claim(bits: Suite, ini: bool, quiet: str) -> None:
    bits.write(FALLS + GATING + UNDECIDED + HOLDS)
    if ini:
        bits.pytester.makeini("[pytest]\nscrub_adversary = report")
    gated = bits.run(adversary="default")
    assert gated.outcomes == {"failed": 3, "passed": 1}
    bits.forget()
    ran = bits.run(quiet, "--scrub-json=claims.json", adversary=None if ini else "report")
    assert ran.outcomes == {"failed": 1, "passed": 3}
    assert {name: verdict.outcome for name, verdict in ran.verdicts.items()} == {
        "test_falls": "held", "test_gates": "held", "test_undecided": "undecided",
        "test_holds": "held",
    }  # fmt: skip
    assert f"\n{UNGATED}\n" in ran.text
    for name, verdict in ran.verdicts.items():
        gates = gated.verdicts[name].search
        assert gates is not None
        assert verdict.search is not None
        assert verdict.search.gates is False
        # as sure of what is found as if it decided
        assert verdict.search.attempts == gates.attempts
        assert verdict.gap == gated.verdicts[name].gap
    document = json.loads((bits.pytester.path / "claims.json").read_text())
    assert "--scrub-adversary=report" in document["run"]["options"]
    assert [one["verdict"]["search"]["gates"] for one in document["claims"]] == [False] * 4


def test_a_run_that_only_shows_what_is_found_says_so_without_a_claim(suite: Suite) -> None:
    suite.write("""
        def test_ordinary(scrub):
            assert scrub.check(output(module("A", agrees_on="a")), tolerance=0.05).held
    """)
    assert suite.run(adversary="default").outcomes == {"failed": 1}
    ran = suite.run(adversary="report")
    assert ran.outcomes == {"passed": 1}
    assert "\nsearches do not gate in this run\n" in ran.text


def test_pages_say_that_searches_did_not_gate(bits: Suite, monkeypatch: pytest.MonkeyPatch) -> None:
    bits.write(FALLS + GATING + UNDECIDED + HOLDS)
    summary, page = (bits.pytester.path / name for name in ("summary.md", "report.html"))
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    bits.run(f"--scrub-html={page}", adversary="report")
    assert f"**{UNGATED}**" in summary.read_text()
    assert f"<b>{UNGATED}</b>" in page.read_text()
    assert (
        "found by which donors is shown and does not gate, and would refute it" in page.read_text()
    )


def test_a_null_that_only_a_search_tells_is_told_where_it_only_shows(suite: Suite) -> None:
    """A claim that withstands the search holds whether it gates or not."""
    suite.write("""
        @claim(tolerance=2, adversarial_tolerance=2)
        def test_it():
            return output(module("A", agrees_on="a"))
    """)
    gated, shown = (suite.run(adversary=word).verdicts["test_it"] for word in ("default", "report"))
    assert gated.null is not None
    assert gated.null.worst is not None
    assert gated.outcome == shown.outcome
    assert shown.null == gated.null


def test_a_claim_that_would_fall_is_weak_where_only_its_search_tells_the_null(suite: Suite) -> None:
    """What a search finds for the null is no evidence for a claim that did not withstand it."""
    suite.write("""
        @claim(tolerance=2, adversarial_tolerance=0.05)
        def test_would_fall_is_weak():
            return output(module("A", agrees_on="a"))
    """)
    gated, shown = (
        suite.run(adversary=word).verdicts["test_would_fall_is_weak"]
        for word in ("default", "report")
    )
    assert gated.result == "held on average, fell to the search"
    assert (shown.average, shown.outcome) == ("held", "weak")


@pytest.mark.parametrize(
    ("options", "outcome"),
    [
        ("tolerance=0.3, adversarial_tolerance=0.6", "held"),
        ("tolerance=0.3, adversarial_tolerance=0.5", "held"),  # the bound itself is accepted
        ("tolerance=0.6, adversarial_tolerance=0.4", "refuted"),
        ("tolerance=0.6, adversarial_tolerance=0", "refuted"),
        ("tolerance=0.6", "held"),
    ],
)
def test_the_worst_may_have_a_tolerance_of_its_own(bits: Suite, options: str, outcome: str) -> None:
    bits.write(FALLS.replace("tolerance=0.3", options))
    ran = bits.run(adversary="default")
    verdict = ran.verdicts["test_falls"]
    assert (verdict.average, verdict.outcome) == ("held", outcome)
    assert verdict.tolerance == float(re.findall(r"[\d.]+", options)[0])
    assert searched(ran).tolerance == float(re.findall(r"[\d.]+", options)[-1])


def test_only_what_is_asked_for_is_searched(bits: Suite) -> None:
    bits.write(FALLS.replace("0.3", "0.3, adversaries=[WhichDonors()]"))
    ran = bits.run(adversary="default")
    assert [attempt.adversary for attempt in searched(ran).attempts] == ["which donors"]
    assert ran.verdicts["test_falls"].outcome == "refuted"


@pytest.mark.parametrize(
    ("option", "says"),
    [
        (
            "adversaries=['quick']",
            "adversaries= takes adversaries such as WhichDonors(), not 'quick'",
        ),
        (
            "adversarial_tolerance=float('nan')",
            "adversarial_tolerance= is a gap, zero or more, not nan",
        ),
        ("budget=-1", "budget= is a whole number of evaluations, not -1"),
        ("budget=True", "budget= is a whole number of evaluations, not True"),
        ("budget=float('inf')", "budget= is a whole number of evaluations, not inf"),
        ("adversary=None", "adversary= is 'gate' or 'report', not None"),
        (
            "adversaries=WhichDonors()",
            "adversaries= takes a list such as [WhichDonors()], not WhichDonors(",
        ),
        ("adversaries=3", "adversaries= takes a list such as [WhichDonors()], not 3"),
        (
            "adversaries={WhichDonors()}",
            "adversaries= takes a list such as [WhichDonors()], not {WhichDonors(",
        ),
        ("adversarial_tolerance='10%'", "adversarial_tolerance= is a gap, zero or more, not '10%'"),
        ("adversarial_tolerance=True", "adversarial_tolerance= is a gap, zero or more, not True"),
    ],
)
def test_a_wrong_option_is_one_sentence(bits: Suite, option: str, says: str) -> None:
    path = bits.write(FALLS.replace("0.3", f"0.3, {option}"))
    ran = bits.run(adversary="default")
    assert ran.messages["test_falls"].startswith(f"Misstated: {says}")
    crash = ran.crash("test_falls")
    assert crash.path == str(path)
    assert "@claim" in path.read_text().splitlines()[crash.lineno - 1]


def test_what_is_untested_is_not_searched(four: Suite) -> None:
    ran = four.run("test_claims.py::test_untested", adversary="thorough")
    assert ran.verdicts["test_untested"].search is None
    assert "adversaries (" not in ran.reports["test_untested"]
    assert not four.saved


# --- what a failure says --------------------------------------------------------------------------


def test_a_replay_is_named_from_where_pytest_was_started(
    bits: Suite, monkeypatch: pytest.MonkeyPatch
) -> None:
    bits.write(FALLS)
    monkeypatch.chdir(bits.pytester.mkdir("notes"))
    ran = bits.run("..", adversary="default")
    [file] = bits.saved
    command = f"  replay     pytest --scrub-replay ../.scrub/{file.name}"
    assert command in ran.reports["test_falls"].splitlines()
    ran = bits.run("..", f"--scrub-replay=../.scrub/{file.name}")
    assert "the saved counterexample still breaks the claim" in ran.text


def test_the_counterexample_is_shown(bits: Suite) -> None:
    bits.write(FALLS)
    ran = bits.run(adversary="default")
    [file] = bits.saved
    lines = ran.reports["test_falls"].splitlines()
    start = lines.index("counterexample (pruned from which donors):")
    shown = [line.strip() for line in lines[start + 1 : start + 9]]
    reference = shown[0].removeprefix("reference  ")
    z1, z2 = reference.split(" xor ")
    other = str(1 - int(z2))
    wrong, right = sorted("01", key=lambda answer: answer == z1)
    assert z1 == str(int(z1) ^ int(z2))  # the reference is one that the network gets right
    assert shown == [
        f"reference  {reference}",
        "output/z2",
        f"own input  {reference}",
        f"donor      {z1} xor {other}",
        f"agree on ANYTHING (and on z1); differ in z2 {z2} against {other}",
        "metric     0 unscrubbed, 1 scrubbed: gap 1",
        f"output     {right} (1), {wrong} (0) unscrubbed; {wrong} (1), {right} (0) scrubbed",
        f"replay     pytest --scrub-replay {file.relative_to(bits.pytester.path)}",
    ]
    assert lines[start + 9] == ""
    assert (
        lines[start + 10]
        == "what would mend it, smallest first (a hint: state it as a claim of its own):"
    )
    assert lines[start + 11] == "  output/z2 agrees also on z2: gap 0 for this very swap set"


def test_every_adversary_says_what_it_did_and_what_it_cost(bits: Suite) -> None:
    bits.write(FALLS)
    ran = bits.run(adversary="default")
    lines = ran.reports["test_falls"].splitlines()
    start = lines.index("adversaries (tolerance 0.3; 8000 evaluations at most):")
    of = dict(line.strip().split(": ", 1) for line in lines[start + 1 : start + 6])
    assert list(of) == [
        "which swaps", "which nodes", "which refinement", "which donors", "which inputs",
    ]  # fmt: skip
    assert of["which donors"] == (
        "true worst gap 0.5 (exact), which refutes; every combination of allowed donors; "
        "4 references, 75% of which took one of the same ten rows as donor; "
        f"{searched(ran).attempts[3].evaluations} evaluations"
    )
    assert (
        of["which inputs"]
        == "not searched: the data come from no strategy (see Dataset.from_strategy)"
    )


def test_one_reference_and_one_node_are_left_of_what_refutes_on_average(suite: Suite) -> None:
    suite.write(
        '@claim(tolerance=0.5)\ndef test_it():\n    return output(module("B", agrees_on="b"))\n'
    )
    ran = suite.run(adversary="quick")
    shown = searched(ran, "test_it").counterexample
    assert shown is not None
    # which moves the label's own evidence
    assert [swap.slot for swap in shown.swaps] == ["output/rest"]
    assert "a" not in shown.swaps[0].also
    assert abs(shown.gap) > 0.5
    assert shown.gap == pytest.approx(shown.scrubbed - shown.unscrubbed)
    first = next(mend for mend in searched(ran, "test_it").mends)
    assert first.what == "output/rest agrees also on a"
    assert first.where == "on average"


@only_in_full
def test_the_summary_has_the_worst_under_workers_too(bits: Suite) -> None:
    bits.write(FALLS + HOLDS)
    one = bits.run(adversary="default")
    assert [line.split()[0] for line in one.summary] == ["fell", "held"]
    assert [line.split()[-2] for line in one.summary] == ["0.5", "0"]
    [header] = [line for line in one.text.splitlines() if line.endswith("  claim")]
    assert header.split()[-2:] == ["worst", "claim"]
    bits.forget()
    two = bits.run("-n", "2", adversary="default", alone=True)
    assert two.summary == one.summary
    assert {name: verdict.search for name, verdict in two.verdicts.items()} == {
        name: verdict.search for name, verdict in one.verdicts.items()
    }


def test_without_a_search_the_summary_has_no_worst(bits: Suite) -> None:
    bits.write(FALLS)
    ran = bits.run()
    assert "worst" not in ran.text.partition(" claims ")[2]
    assert ran.summary[0].split()[-1] == "test_claims.py::test_falls"
    assert "worst" in bits.run(adversary="quick").text.partition(" claims ")[2]


# --- one seed, one search -------------------------------------------------------------------------


def figures(verdicts: dict[str, Verdict]) -> dict[str, Any]:
    """All that was found, in six digits, but not which of two equal swap sets shows it."""
    found = {}
    for name, verdict in verdicts.items():
        search = verdict.search
        assert search is not None
        attempts = [dataclasses.asdict(attempt) for attempt in search.attempts]
        for attempt in attempts:
            # what is cached already, because another claim needed it, costs nothing
            del attempt["ranking"]
        found[name] = {
            "attempts": attempts,
            "mends": [mend.what for mend in search.mends],
            "outcome": verdict.outcome,
        }
    return found


@pytest.fixture
def torch_claims(suite: Suite) -> Suite:
    suite.write(TORCH_CLAIMS)
    return suite


@only_in_full  # test_determinism says it of averages, and of searches under workers
def test_neither_order_nor_selection_nor_workers_change_what_is_found(torch_claims: Suite) -> None:
    def found(*args: str, **options: Any) -> dict[str, Any]:
        torch_claims.forget()
        return figures(torch_claims.run(*args, adversary="quick", **options).verdicts)

    plain = found()
    assert list(plain) == ["test_a", "test_b", "test_c", "test_d"]
    assert any(attempt["refutes"] for attempt in plain["test_d"]["attempts"])
    assert_same_figures(plain, found())
    shuffled = found("-p", "randomly", "--randomly-seed=3")
    assert list(shuffled) != list(plain)
    assert_same_figures(plain, dict(sorted(shuffled.items())))
    assert_same_figures({"test_b": plain["test_b"]}, found("-k", "test_b"))
    assert_same_figures(plain, dict(sorted(found("-n", "2", alone=True).items())))


def test_another_seed_searches_otherwise(torch_claims: Suite) -> None:
    def references(seed: int) -> list[float]:
        torch_claims.forget()
        ran = torch_claims.run(f"--scrub-seed={seed}", "-k", "test_d", adversary="quick")
        return [attempt.gap for attempt in searched(ran, "test_d").attempts if attempt.searched]

    assert references(0) != references(1)


# --- what is written ------------------------------------------------------------------------------


def test_nothing_is_written_where_nothing_is_refuted(bits: Suite) -> None:
    bits.write(HOLDS + "\ndef test_ordinary(tmp_path):\n    assert tmp_path.exists()\n")
    assert bits.run(adversary="default").outcomes == {"passed": 2}
    bits.write("def test_ordinary():\n    pass\n", name="test_claims")
    assert bits.run(adversary="default").outcomes == {"passed": 1}
    assert not (bits.pytester.path / ".scrub").exists()


def test_one_file_for_each_claim_in_the_root_of_the_run(
    bits: Suite, monkeypatch: pytest.MonkeyPatch
) -> None:
    bits.write(FALLS + AVERAGE)
    bits.pytester.makeini("[pytest]\n")
    folder = bits.pytester.mkdir("elsewhere")
    monkeypatch.chdir(folder)
    ran = bits.run("..", "--rootdir", str(bits.pytester.path), adversary="default")
    assert {file.name.rpartition("-")[0] for file in bits.saved} == {
        "test_claims.py-test_falls", "test_claims.py-test_average",
    }  # fmt: skip
    assert not list(folder.iterdir())
    for name in ("test_falls", "test_average"):
        shown = searched(ran, name).counterexample
        assert shown is not None
        record = json.loads(next(file for file in bits.saved if name in file.name).read_text())
        assert record["claim"] == f"test_claims.py::{name}"
        assert record["minimal"]["gap"] == shown.gap
        assert record["rows"][0]["shown"] == shown.reference
        assert (record["worst"]["adversary"], record["minimal"]["adversary"]) == (
            shown.found_by,
            shown.found_by,
        )


def test_the_fixture_scrub_searches_and_saves_nothing(bits: Suite) -> None:
    bits.write("""
        def test_own(scrub_session, xor, bits):
            claimed = output(module("z1", agrees_on="z1"), module("z2", agrees_on=ANYTHING))
            verdict = scrub_session.check(
                claimed, model=xor, data=bits, name="own", metric=zero_one_error(), tolerance=0.3
            )
            assert (verdict.average, verdict.outcome) == ("held", "refuted")
            assert verdict.search.budget == 8000
    """)
    assert bits.run(adversary="default").outcomes == {"passed": 1}
    assert not bits.saved


# --- an adversary of one's own --------------------------------------------------------------------

OWN = '''
"""Adversaries that the package knows nothing of."""

import numpy as np
from pytest_scrub.adversaries.search import Found, NotSearched


class WorstDraws:
    name = "worst of some draws"
    effort = 3

    def search(self, space, spending, rng):
        if not spending.left:
            raise spending.exhausted()
        drawn = space.draw(spending.left, rng)
        changes = spending.changes(drawn)
        worst = np.argsort(-changes)[:200]
        return Found("200 draws", drawn[worst], changes[worst])


class AllDraws:
    name = "all draws"
    pointwise = False

    def search(self, space, spending, rng):
        drawn = space.draw(spending.left, rng)
        return Found("only draws", drawn, spending.changes(drawn))


class GivesUp:
    name = "nothing"

    def search(self, space, spending, rng):
        raise NotSearched("not searched: it is Sunday")
'''


@pytest.mark.parametrize("adversary", ["report", "gate"])
def test_an_adversary_of_ones_own_is_searched_shown_and_gates(bits: Suite, adversary: str) -> None:
    bits.pytester.makepyfile(own_adversaries=OWN)
    bits.pytester.syspathinsert()
    own = f"adversary={adversary!r}, adversaries=[AllDraws(), WorstDraws(), GivesUp()]"
    bits.write(
        "from own_adversaries import AllDraws, GivesUp, WorstDraws\n"
        + FALLS.replace("0.3", f"0.3, {own}")
    )
    ran = bits.run("-rA", adversary="default")
    draws, worst, nothing = searched(ran).attempts
    assert ran.outcomes == ({"failed": 1} if adversary == "gate" else {"passed": 1})
    assert (worst.gap, worst.refutes, worst.references) == (1.0, True, 200)
    assert worst.interval is not None
    assert worst.interval.low > 0.3
    assert (draws.evaluations, worst.evaluations, nothing.evaluations) == (1600, 4800, 0)
    assert draws.interval is not None
    assert draws.interval.low < 0 < draws.interval.high
    assert (draws.refutes, nothing.refutes) == (False, False)
    if adversary == "gate":
        assert ran.verdicts["test_falls"].outcome == "refuted"
        assert ", found by worst of some draws;" in ran.messages["test_falls"].splitlines()[0]
        lines = ran.reports["test_falls"].splitlines()
        start = lines.index("adversaries (tolerance 0.3; 8000 evaluations at most):")
        assert lines[start + 1].startswith("  all draws: worst gap ")
        assert lines[start + 2].startswith(
            f"  worst of some draws: worst gap {worst.interval}, which refutes; 200 draws; "
            "200 references, "
        )
        assert lines[start + 3] == "  nothing: not searched: it is Sunday"
        assert "counterexample (pruned from worst of some draws):" in lines
        again = searched(bits.run("-rA", adversary="default"))
        assert again.attempts == searched(ran).attempts  # what was saved decides nothing
        assert "the counterexample of an earlier run" in again.notes[0]
