"""`--scrub-list`: what the claims are, while nothing is run."""

from __future__ import annotations

import pytest

from tests.pytest_edge.conftest import Suite
from tests.pytest_edge.test_cost import ONLY_OURS, report_loaded

CLAIMS = """
    from pytest_scrub.metrics import Metric

    def bad(output, batch):
        raise AssertionError

    @pytest.fixture(scope="session")
    def own_model():
        raise AssertionError("set up")

    @pytest.fixture
    def helper():
        raise AssertionError("set up")

    @claim(tolerance=0.5)
    def test_plain():
        raise AssertionError("run")

    @pytest.mark.xfail(raises=Refuted, strict=True, reason="not \\x1b[31m yet")
    @pytest.mark.parametrize("node", ["A", "B"])
    @claim(
        min_recovered=0.9, metric=zero_one_error(), by="b", adversaries=[WhichDonors()],
        on_untested="warn", model="own_model", data="nowhere",
    )
    def test_long(node, helper):
        raise AssertionError("run")

    class TestGroup:
        @pytest.fixture
        def scrub_data(self):
            raise AssertionError("set up")

        @claim(tolerance=1, metric=bad, adversary="report")
        def test_method(self):
            raise AssertionError("run")

    def test_ordinary():
        raise AssertionError("run")
"""


@pytest.fixture
def three(suite: Suite) -> Suite:
    suite.write(CLAIMS)
    suite.extend_conftest("""
        @pytest.fixture(autouse=True)
        def always():
            raise AssertionError("set up")
    """)
    return suite


def line_of(suite: Suite, text: str, file: str = "test_claims.py", nth: int = 0) -> int:
    lines = (suite.pytester.path / file).read_text().splitlines()
    return [i for i, line in enumerate(lines, 1) if line.strip() == text][nth]


def listed(text: str) -> list[str]:
    """The listing alone."""
    lines = text.splitlines()
    start = next(i for i, line in enumerate(lines) if "collected " in line) + 1
    end = next(i for i, line in enumerate(lines) if i > start and line.startswith(("=", "-")))
    return [line for line in lines[start:end] if line]


def expected(suite: Suite) -> list[str]:
    of_model = line_of(suite, "def scrub_model():", "conftest.py") - 1
    ours = f"model: scrub_model (conftest.py:{of_model})"
    data = f"conftest.py:{line_of(suite, 'def scrub_data():', 'conftest.py') - 1}"
    own = f"model: own_model (test_claims.py:{line_of(suite, 'def own_model():') - 1})"
    return [
        "test_claims.py",
        f"  {line_of(suite, 'def test_plain():') - 1:>4}  test_plain",
        "        tolerance=0.5",
        f"        {ours}",
        f"        data: scrub_data ({data})",
        *(
            line
            for node in "AB"
            for line in (
                f"  {line_of(suite, 'def test_long(node, helper):') - 6:>4}  test_long[{node}]",
                "        min_recovered=0.9, metric=0-1 error, by='b', on_untested='warn', "
                "adversaries=[which donors]",
                f"        {own}",
                "        data: nowhere (defined elsewhere)",
                "        fixtures: helper",
                f"        parameters: node='{node}'",
                "        marked: xfail(raises=Refuted, strict=True, reason='not \\x1b[31m yet')",
            )
        ),
        f"  {line_of(suite, 'def test_method(self):') - 1:>4}  TestGroup::test_method",
        "        tolerance=1, metric=bad, adversary='report'",
        f"        {ours}",
        f"        data: scrub_data (test_claims.py:{line_of(suite, 'def scrub_data(self):') - 1})",
    ]


@pytest.mark.parametrize(
    "args", [(), ("-n0",), ("-n2",), ("-n", "auto"), ("-d", "--tx=2*popen"), ("-v",)]
)
def test_claims_are_shown_and_not_run(three: Suite, args: tuple[str, ...]) -> None:
    ran = three.run("--scrub-list", *args)
    assert ran.result.ret == pytest.ExitCode.OK
    assert listed(ran.text) == expected(three)
    assert "collected 5 items / 1 deselected / 4 selected" in ran.text
    assert "AssertionError" not in ran.text
    assert "[gw0]" not in ran.text
    assert "created: 2/2 workers" not in ran.text


def test_any_order_of_the_run_is_listed_by_line(three: Suite) -> None:
    ran = three.run("--scrub-list", "-p", "randomly", "-p", "no:cacheprovider")
    assert listed(ran.text) == expected(three)


def test_quietly_there_is_a_line_for_each(three: Suite) -> None:
    lines = three.run("--scrub-list", "-q").result.stdout.lines
    assert lines[0] == "test_claims.py::test_plain  tolerance=0.5"
    assert [line.split()[0] for line in lines[:4]] == [
        "test_claims.py::test_plain", "test_claims.py::test_long[A]",
        "test_claims.py::test_long[B]",
        "test_claims.py::TestGroup::test_method",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("args", "names"),
    [
        (("-k", "plain"), ["test_plain"]),
        (("test_claims.py::TestGroup",), ["TestGroup::test_method"]),
        (("-m", "claim and not xfail"), ["test_plain", "TestGroup::test_method"]),
        (("-m", "claim(tolerance=1)"), ["TestGroup::test_method"]),
        (("--collect-only", "-k", "plain"), ["test_plain"]),
    ],
)
def test_what_is_selected_is_listed(three: Suite, args: tuple[str, ...], names: list[str]) -> None:
    ran = three.run("--scrub-list", *args)
    assert ran.result.ret == pytest.ExitCode.OK
    shown = [line.split()[1] for line in listed(ran.text) if line[:6].strip().isdigit()]
    assert shown == names


@pytest.mark.parametrize(
    "args", [("-k", "ordinary"), ("-k", "nothing"), ("-q", "-k", "ordinary"), ("-n2", "-k", "no")]
)
def test_where_there_is_no_claim_it_says_so(three: Suite, args: tuple[str, ...]) -> None:
    ran = three.run("--scrub-list", *args)
    assert "no claims were collected" in ran.text
    assert ran.result.ret == pytest.ExitCode.NO_TESTS_COLLECTED


@pytest.mark.parametrize("workers", ["-n0", "-n2"])
def test_errors_of_the_collection_show(three: Suite, workers: str) -> None:
    three.write("import no_such_module", "test_broken")
    three.write("@claim()\ndef test_it(): ...", "test_misstated")
    ran = three.run("--scrub-list", workers)
    assert ran.result.ret == pytest.ExitCode.INTERRUPTED
    assert "No module named 'no_such_module'" in ran.text
    assert "a claim needs tolerance=" in ran.text
    assert listed(ran.text) == expected(three)
    assert (
        three.run("--scrub-list", workers, "--continue-on-collection-errors").outcomes["errors"]
        == 2
    )


def test_fixtures_that_are_not_defined(suite: Suite) -> None:
    (suite.pytester.path / "conftest.py").write_text("network = rows = None\n")
    suite.write("@claim(tolerance=1)\ndef test_it(): ...\n")
    text = suite.run("--scrub-list").text
    assert "model: scrub_model (not defined)" in text
    assert "data: scrub_data (not defined)" in text


def test_the_nearest_fixture_is_named(suite: Suite) -> None:
    folder = suite.pytester.path / "deep" / "down"
    folder.mkdir(parents=True)
    fixture = "import pytest\n\n@pytest.fixture\ndef scrub_data(): ...\n"
    (folder.parent / "conftest.py").write_text(fixture)
    written = suite.write("""
        @claim(tolerance=1)
        def test_it(): ...

        @pytest.mark.parametrize("scrub_model", [1, 2])
        @claim(tolerance=1)
        def test_given(scrub_model): ...
    """)
    # not of the nearest conftest.py
    text = written.read_text().replace("from conftest import network, rows\n", "")
    written.rename(folder / "test_deep.py").write_text(text)
    text = suite.run("--scrub-list").text
    assert "data: scrub_data (deep/conftest.py:3)" in text
    assert "model: scrub_model (conftest.py:" in text
    assert text.count("model: scrub_model (parametrized)") == 2


def test_nothing_is_written(three: Suite) -> None:
    three.run(
        "--scrub-list", "--scrub-json=a.json", "--scrub-html=a.html", "--scrub-save", "-k", "plain"
    )
    assert not list(three.pytester.path.glob("a.*"))
    assert three.saved == []


def test_the_ini_file_can_ask_for_it(three: Suite) -> None:
    three.pytester.makeini("[pytest]\nscrub_list = true")
    assert listed(three.run().text) == expected(three)


def test_names_do_nothing_to_the_terminal(suite: Suite) -> None:
    suite.write("""
        def strange(output, batch): ...
        strange.__name__ = "\\x1b[31m\\u202e\\nred"

        @pytest.mark.parametrize("x", ["a" * 500 + "\\x1b", "\\ud800"], ids=["one", "\\u202etwo"])
        @claim(tolerance=1, metric=strange)
        def test_it(x): ...
    """)
    lines = listed(suite.run("--scrub-list").text)
    assert all(line.isprintable() for line in lines)
    assert "        tolerance=1, metric=\\x1b[31m\\u202e\\nred" in lines
    assert max(map(len, lines)) < 200


def test_torch_is_not_imported(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    pytester.makeconftest(
        report_loaded(("torch", "transformer_lens", "scipy", "rich", "hypothesis"))
    )
    pytester.makepyfile("""
        from pytest_scrub import claim

        @claim(tolerance=0.1)
        def test_it():
            raise AssertionError
    """)
    result = pytester.runpytest_subprocess(*ONLY_OURS, "--scrub-list")
    assert result.ret == pytest.ExitCode.OK
    result.stdout.fnmatch_lines(["        tolerance=0.1", "loaded: end"])
