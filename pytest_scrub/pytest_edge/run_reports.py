"""What becomes of a run's verdicts: gathered from the test reports, also those of workers, then
shown and written.

PYTEST_DONT_REWRITE
"""

from __future__ import annotations

import os
import platform
import shlex
import sys
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import datetime, timezone
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_scrub.common.visible import natural
from pytest_scrub.common.whole_files import require_writable, write_file
from pytest_scrub.pytest_edge.options import (
    CLAIM_PROPERTY,
    DESELECTED,
    FOLDER,
    VERDICT_PROPERTY,
    as_usage_error,
    named,
    option,
    text_of,
)
from pytest_scrub.pytest_edge.over import TAKE_IT, checkpoints, measured
from pytest_scrub.pytest_edge.replay import replayed
from pytest_scrub.pytest_edge.suite_error import EACH, NAME, SuiteError, asked, of_report
from pytest_scrub.settings import COMMAND_LINE_OPTIONS, REPORT, SETTINGS

if TYPE_CHECKING:
    from pytest_scrub.extras.baselines.comparison import Comparison
    from pytest_scrub.extras.baselines.files import Baseline
    from pytest_scrub.reports.run import Claimed, Result, Run
    from pytest_scrub.verdict import Verdict

BASELINES = "baselines"  # under the plugin's folder
# the message of a claim that has none of its own
NOT_RUN = {
    "interrupted": "the run ended before it had a verdict",
    "skipped": "only its fixtures were set up",
}
MISSTATED = "Misstated: "  # how pytest shows the one failure that is raised on the line of a node
FILES = ("html", "json")  # options that each name a file to write
PACKAGES = (
    "pytest-scrub",
    "pytest",
    "torch",
    "transformer-lens",
    "transformers",
    "numpy",
    "scipy",
    "hypothesis",
)
PROGRESS = len(" [100%]") + 2  # characters that pytest keeps free at the end of a line

TestStatus = tuple[str, str, str | tuple[str, Mapping[str, bool]]]


class Reporting:
    """Gathers the claims of a run where all reports arrive: not in the workers of pytest-xdist."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self.started = time.time()
        self.interrupted = self._began = self._finished = False
        self._runs = not (config.option.collectonly or option(config, "list"))
        # a line of its own for a claim, after which whatever comes next begins another
        self._is_below_a_claim = False
        self._baseline: dict[str, Baseline] = {}
        self._comparison: Comparison | None = None
        self._problems: list[str] = []
        self._written: list[str] = []
        self._reports: dict[str, dict[str, pytest.TestReport]] = {}
        self._is_narrowed = False  # some of what was collected is left out
        self._collected: Sequence[str] = ()  # the ids of tests, in the order in which they run

    def pytest_configure(self) -> None:
        """**Raises** `pytest.UsageError`, before anything is run, for what cannot be read or
        written, and for a gate that would stay open."""
        files = {name: self._file(name) for name in FILES if option(self.config, name)}
        if self._is_asked("save"):
            files["save"] = self._folder("save") / "claim.json"
        for name, path in files.items():
            try:
                require_writable(path)
            except OSError as error:
                raise pytest.UsageError(
                    f"{named(self.config, name)}: {path} cannot be written "
                    f"({error.strerror or error}); name another one, or make room for it"
                ) from None
        if len(files) > len({path.resolve() for path in files.values()}):
            names = " and ".join(named(self.config, name) for name in FILES)
            raise pytest.UsageError(
                f"{names} name the same file {files['json']}; give each its own"
            )
        replayed(self.config)
        for name in ("compare-fail", "compare-allow"):
            if self.config.getoption(f"scrub_{name.replace('-', '_')}") and not option(
                self.config, "compare"
            ):
                raise pytest.UsageError(
                    f"--scrub-{name} says what may change since a baseline; name the baseline with "
                    "--scrub-compare"
                )
        if self._is_asked("compare"):
            from pytest_scrub.extras.baselines.files import load

            with as_usage_error():
                self._baseline = load(self._folder("compare"))

    def _is_asked(self, name: str) -> bool:
        """Whether figures of this run are to be saved or compared; a counterexample alone has
        none."""
        return bool(option(self.config, name)) and self._runs and not option(self.config, "replay")

    def _file(self, name: str) -> Path:
        """The file that an option names; a test may be somewhere else by the time it is written."""
        return Path(self.config.invocation_params.dir, option(self.config, name))

    def _folder(self, name: str) -> Path:
        return Path(self.config.rootpath, FOLDER, BASELINES, option(self.config, name))

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Keeps the order of tests, which that of their reports is not where workers run them."""
        self._collected = [item.nodeid for item in session.items]

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_node_collection_finished(self, ids: Sequence[str]) -> None:
        """The same, from a worker."""
        self._collected = ids

    def pytest_deselected(self, items: Sequence[pytest.Item]) -> None:
        """That not all claims of the suite are run."""
        self._is_narrowed |= bool(items)

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        """The same, from a worker; one that died said nothing."""
        self._is_narrowed |= DESELECTED in getattr(node, "workeroutput", {})

    def _is_asked_for(self, test: str) -> bool:
        """Whether this run would have run a claim, were it still there: nothing is left out, and
        its file is among what was to be run."""
        left_out = ("lf", "ignore", "ignore_glob", "deselect")
        if (
            self.interrupted
            or self._is_narrowed
            or option(self.config, "over")  # whose checkpoints are others
            or any(self.config.getoption(name, None) for name in left_out)
        ):
            return False
        file = Path(self.config.rootpath, test.partition("::")[0]).resolve()
        here = self.config.invocation_params.dir
        return any(file.is_relative_to(Path(here, one).resolve()) for one in self.config.args)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self) -> None:
        """From here on claims are run. What only shows something, such as fixtures, has nothing to
        report, and a report of an earlier run stays as it is."""
        self._began = True

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Keeps the reports of claims; of one that is run again, the last."""
        if CLAIM_PROPERTY in dict(report.user_properties):
            phases = self._reports.setdefault(report.nodeid, {})
            if report.when == "setup":
                phases.clear()
            phases[report.when] = report
        # from pytest-xdist, of a worker that died; it says nothing of the phase
        elif report.nodeid in self._reports:
            self._reports[report.nodeid].setdefault("call", report)

    def pytest_keyboard_interrupt(self) -> None:
        """What was decided until then is reported all the same."""
        self.interrupted = True

    @cached_property
    def run(self) -> Run:
        """The claims, once all of them are done: every report is made of the same."""
        from pytest_scrub.reports.run import Run

        claims = map(self._claimed, self._reports.values())
        started = datetime.fromtimestamp(self.started, timezone.utc)
        return Run(
            claims=tuple(sorted(claims, key=lambda claimed: natural(claimed.test))),
            options=(*_options_of_figures(self.config), *_options_of_the_run(self.config)),
            versions=_versions(),
            started=started.isoformat(timespec="seconds"),
            seconds=time.time() - self.started,
            interrupted=self.interrupted,
        )

    def _claimed(self, phases: dict[str, pytest.TestReport]) -> Claimed:
        from pytest_scrub.reports.run import Claimed

        first = _first(phases)
        last = phases.get("call") or first
        shown = next((report for report in phases.values() if report.failed), last)
        result, verdict = _result(phases), _verdict(last)
        test = _test_of(phases)
        shared = of_report(self.config, first)
        return Claimed(
            test=test,
            file=first.location[0],
            line=_line(first),
            result=result,
            outcome=result if verdict is None else verdict.outcome,
            seconds=sum(report.duration for report in phases.values()),
            message=_message(shown) or NOT_RUN.get(result),
            rerun=shlex.join(["pytest", test, *_options_of_figures(self.config, shared)]),
            verdict=verdict,
            is_marked=_is_marked(shown),
            is_expected=verdict is not None
            and result == "xfailed"
            and not _is_let_pass(last, verdict),
            at=self._node_line(shown),
            over=measured(self.config, first, test),
        )

    def _node_line(self, report: pytest.TestReport) -> tuple[str, int] | None:
        """The line that a misstated claim was raised on: that of a node, where there is one."""
        crash = getattr(report.longrepr, "reprcrash", None)
        if crash is None or not str(crash.message).startswith(MISSTATED):
            return None
        return os.path.relpath(crash.path, self.config.rootpath), int(crash.lineno)

    # around the terminal's own, which prints what is found here
    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_sessionfinish(
        self, session: pytest.Session, exitstatus: int
    ) -> Generator[None, object, object]:
        """Writes what was asked for; what could not be written, and a figure that moved, fail the
        run.

        That stands below pytest's own last line, which counts tests and may say that all of them
        passed.
        """
        self._finished = True
        was_ended = exitstatus in (pytest.ExitCode.INTERRUPTED, pytest.ExitCode.INTERNAL_ERROR)
        self.interrupted |= bool(was_ended or session.shouldfail or session.shouldstop)
        if self._runs and self._began:
            self._write_files()
        if any(self._reasons_to_fail()) and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
        result = yield
        self._write_reasons()
        return result

    def _write_files(self) -> None:
        if option(self.config, "json"):
            from pytest_scrub.reports.json_file import to_json

            self._write_page("json", to_json(self.run))
        if option(self.config, "html"):
            from pytest_scrub.extras.html.page import page

            self._write_page("html", page(self.run))
        if self._is_asked("compare"):
            from pytest_scrub.extras.baselines.comparison import compare

            names = ("compare", "compare-fail", "compare-allow")
            name, limits, allowed = (option(self.config, one) for one in names)
            self._comparison = compare(
                self.run, name, self._baseline, limits, allowed or (), self._is_asked_for
            )
        if "GITHUB_STEP_SUMMARY" in os.environ and self._reports:
            self._write_step_summary(Path(os.environ["GITHUB_STEP_SUMMARY"]))
        if self._is_asked("save"):
            self._save()

    def _write_step_summary(self, path: Path) -> None:
        """What moved comes first: it is what a reviewer asks for."""
        from pytest_scrub.extras.github.summary import ROOM, step_summary

        room = ROOM - (path.stat().st_size if path.is_file() else 0)
        moved = ""
        if self._comparison is not None:
            from pytest_scrub.extras.baselines.summary import comparison_summary

            moved = comparison_summary(self._comparison, room // 2)
        room -= len(moved.encode("utf-8", "backslashreplace"))
        self._write(path, moved + step_summary(self.run, room), _append)

    def _save(self) -> None:
        """Writes a file for every claim that was judged; those of others stay as they are."""
        from pytest_scrub.extras.baselines.files import texts

        folder, found = self._folder("save"), texts(self.run)
        # where one could not be written, nor could any other
        if not all(self._write(folder / name, text) for name, text in found.items()):
            return
        shown = folder.relative_to(self.config.rootpath)
        text = f"wrote the figures of {len(found)} claim{'s' * (len(found) != 1)} to {shown}"
        if left := len({path.name for path in folder.glob("*.json")} - found.keys()):
            text += f"; {left} more of its files, of claims that were not judged, stay as they are"
        self._written.append(text)

    def _write(
        self, path: Path, text: str, write: Callable[[Path, str], None] = write_file
    ) -> bool:
        try:
            write(path, text)
        except OSError as error:
            self._problems.append(f"{path} could not be written: {error.strerror or error}")
            return False
        return True

    def _write_page(self, name: str, text: str) -> None:
        if self._write(self._file(name), text):
            self._written.append(f"wrote {option(self.config, name)}")

    @pytest.hookimpl(wrapper=True)
    def pytest_report_teststatus(
        self, report: pytest.TestReport | pytest.CollectReport
    ) -> Generator[None, TestStatus, TestStatus]:
        """A claim that was judged gets a line of its own instead of a dot, and its gap beside its
        result with -v."""
        category, letter, word = yield
        verbosity = self.config.get_verbosity(pytest.Config.VERBOSITY_TEST_CASES)
        # the short summary asks for words, too, once all is done
        if self._finished or verbosity < 0 or not letter:
            return category, letter, word
        verdict = _verdict(report) if report.when == "call" else None
        if verdict is None:
            start = "\n  " if self._is_below_a_claim else ""
            self._is_below_a_claim = False
            return category, f"{start}{letter}", word
        from pytest_scrub.reports.terminal import COLOURS, progress_line, verbose_suffix

        said = f"{word if isinstance(word, str) else word[0]} {verbose_suffix(verdict)}"
        room = self.config.get_terminal_writer().fullwidth - PROGRESS
        self._is_below_a_claim = True
        line = f"\n{progress_line(verdict, report.duration, room)}"
        return category, line, (said, {COLOURS[verdict.word]: True})

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        """The figures of every claim in the order in which they ran, what moved, and what was
        written or could not be."""
        if self._reports and self.run.judged:
            self._write_claims(terminalreporter)
        if self._runs and self._began and (said := self.run.ungated or _ungated(self.config)):
            terminalreporter.write_line(said, yellow=True, bold=True)
        if checkpoints(self.config) and any(one.over for one in self.run.claims):
            self._write_over(terminalreporter)
        quiet = self.config.get_verbosity() < 0
        if self._comparison is not None:
            from pytest_scrub.extras.baselines.text import comparison_lines

            terminalreporter.write_sep("=", f"compared with the baseline {self._comparison.name}")
            for fails, line in comparison_lines(self._comparison, only_failing=quiet):
                terminalreporter.write_line(line, red=fails, bold=fails)
        for name in FILES if self.config.option.collectonly else ():
            if path := option(self.config, name):
                self._written.append(f"no claim was run, so {path} is not written")
        for text in () if quiet else self._written:
            terminalreporter.write_line(text)

    @pytest.hookimpl(specname="pytest_terminal_summary", trylast=True)
    def pytest_terminal_annotations(self, terminalreporter: Any) -> None:
        """On GitHub Actions, annotations below everything else, with files as they lie in its
        checkout; its runner reads them from the output."""
        if not self._reports or os.environ.get("GITHUB_ACTIONS") != "true":
            return
        from pytest_scrub.extras.github.summary import workflow_commands

        root = self.config.rootpath.resolve()
        checkout = Path(os.environ.get("GITHUB_WORKSPACE", "")).resolve()
        folder = root.relative_to(checkout).as_posix() if root.is_relative_to(checkout) else ""
        terminalreporter.ensure_newline()
        for line in workflow_commands(self.run, folder):
            terminalreporter.write_line(line)

    def _write_claims(self, terminalreporter: Any) -> None:
        from pytest_scrub.reports.strength import strength_lines
        from pytest_scrub.reports.terminal import COLOURS, indirect_lines, summary_lines

        by_test = {one.test: one for one in self.run.claims}
        width = self.config.get_terminal_writer().fullwidth
        place = {test: place for place, test in enumerate(self._collected)}
        ran = sorted(self._reports, key=lambda test: place.get(test, len(place)))
        claims = [by_test[_test_of(self._reports[test])] for test in ran]
        terminalreporter.write_sep("=", "claims")
        for word, line in summary_lines(claims, width):
            terminalreporter.write_line(line, **{COLOURS.get(word, "bold"): True})
        shared = (of_report(self.config, _first(phases)) for phases in self._reports.values())
        for said in dict.fromkeys(filter(None, shared)):
            terminalreporter.write_line(str(said))
        untold = [one.verdict for one in claims if one.verdict and one.result != "failed"]
        for line in (*strength_lines(untold), *indirect_lines(self.run.judged)):
            terminalreporter.write_line(line)
        terminalreporter.write_line("")
        terminalreporter.write_line(self.run.told)

    def _write_over(self, terminalreporter: Any) -> None:
        from pytest_scrub.reports.over import over_lines, same_networks
        from pytest_scrub.reports.terminal import COLOURS

        terminalreporter.write_sep("=", f"over {option(self.config, 'over')}")
        for word, line in over_lines(self.run):
            terminalreporter.write_line(line, **{COLOURS.get(word, "bold"): True})
        for line in same_networks(self.run):
            terminalreporter.write_line(line, yellow=True, bold=True)

    def _write_reasons(self) -> None:
        """Why the run fails though its tests may have passed; nothing pytest says comes after
        it."""
        terminal = self.config.pluginmanager.get_plugin("terminalreporter")
        for reason in self._reasons_to_fail():
            if terminal is None:
                sys.stderr.write(f"ERROR: {reason}\n")
            else:
                terminal.ensure_newline()
                terminal.write_line(f"ERROR: {reason}", red=True, bold=True)

    def _reasons_to_fail(self) -> Iterator[str]:
        """Why the run fails whatever its tests did; pytest.exit() may ask for another exit code
        within a claim."""
        results = list(map(_result, self._reports.values()))
        if unfinished := results.count("interrupted"):
            yield f"{_claims(unfinished)} interrupted, so not every claim has a verdict"
        if (compared := self._comparison) is not None:
            if compared.is_empty:
                yield (
                    f"no claim of the baseline {compared.name!r} was compared, so this run fails; "
                    "run one that it has, or save the figures of claims with other names with "
                    f"--scrub-save={compared.name}"
                )
            elif missing := len(compared.missing):
                yield (
                    f"{_claims(missing)} in the baseline {compared.name!r} and not in this run, so "
                    "it fails"
                )
            if moved := sum(claim.fails for claim in compared.claims):
                yield (
                    f"{_claims(moved)} not as in the baseline {compared.name!r}, so this run fails"
                )
        from pytest_scrub.reports.over import never_changed

        if checkpoints(self.config) and (unmoved := never_changed(self.run)):
            yield (
                f"{_claims(unmoved)} measured on one network whatever the checkpoint, so this run "
                f"fails; {TAKE_IT}"
            )
        yield from self._problems


def _append(path: Path, text: str) -> None:
    with path.open("a", encoding="utf-8", errors="backslashreplace") as file:
        file.write(text)


def _claims(count: int) -> str:
    return f"{count} claim{'s were' if count != 1 else ' was'}"


def _ungated(config: pytest.Config) -> str:
    """Of a run whose searches do not gate, though no claim was searched: a test may have one judged
    by itself."""
    return "searches do not gate in this run" if option(config, "adversary") == REPORT else ""


def _result(phases: dict[str, pytest.TestReport]) -> Result:
    """What pytest made of a claim, from its phases.

    One whose fixtures were set up, and of which nothing came after that, was being checked when the
    run was ended.
    """
    if any(report.failed for when, report in phases.items() if when != "call"):
        return "error"
    last = phases.get("call") or phases["setup"]
    if "call" not in phases and last.passed:
        # --setup-only takes the fixtures down again
        return "skipped" if "teardown" in phases else "interrupted"
    if hasattr(last, "wasxfail"):
        return "xfailed" if last.skipped else "xpassed"
    return last.outcome


def _first(phases: dict[str, pytest.TestReport]) -> pytest.TestReport:
    """Of its setup, or of what a worker said of it as it died."""
    return next(iter(phases.values()))


def _test_of(phases: dict[str, pytest.TestReport]) -> str:
    """The id that reports call a claim by."""
    return str(dict(_first(phases).user_properties)[CLAIM_PROPERTY])


def _verdict(report: Any) -> Verdict | None:
    from pytest_scrub.verdict import Verdict

    text = dict(report.user_properties).get(VERDICT_PROPERTY)
    return None if text is None else Verdict.from_json(str(text))


def _line(report: pytest.TestReport) -> int:
    """Of the test, from 1."""
    return (report.location[1] or 0) + 1


def _is_let_pass(report: pytest.TestReport, verdict: Verdict) -> bool:
    """Whether it is a setting, and no mark, that makes an xfail of a claim that says nothing: then
    the reason is the verdict's."""
    from pytest_scrub.common.visible import utf8_safe
    from pytest_scrub.reports.terminal import headline

    return str(getattr(report, "wasxfail", "")).endswith(utf8_safe(headline(verdict)))


def _is_marked(report: pytest.TestReport) -> bool:
    """Whether a mark skipped it: pytest says so on the test's own line, and of any other skip where
    that was asked."""
    skipped = report.longrepr
    return isinstance(skipped, tuple) and skipped[1] == _line(report)


def _message(report: pytest.TestReport) -> str | None:
    if isinstance(report.longrepr, tuple):  # skipped: file, line, reason
        return str(report.longrepr[2])
    crash = getattr(report.longrepr, "reprcrash", None)
    text = str(report.longrepr or "") if crash is None else str(crash.message)
    lines = text.strip().splitlines()
    # of a fixture that is not there, pytest says first who asks for it
    errors = (line[1:].strip() for line in lines if line.startswith("E  "))
    return next(iter(lines if crash else (*errors, *lines)), None)


def _options_of_the_run(config: pytest.Config) -> list[str]:
    """What figures depend on that is shared among all claims of the run."""
    error = asked(config)
    return [] if error is None else [f"--scrub-{NAME}={error}"]


def _options_of_figures(config: pytest.Config, shared: SuiteError | None = None) -> list[str]:
    """The options that figures of one claim depend on, as far as they are not what they are anyway;
    alone, it has the confidence that it had among others."""
    found = []
    for name, one in COMMAND_LINE_OPTIONS.items():
        text = text_of(config, one)
        if name == EACH and shared is not None:
            text = str(shared.confidence)
        if SETTINGS[name].in_figures and (name == "seed" or text != one.default):
            found.append(f"--scrub-{one.name}{'' if one.read is bool else f'={text}'}")
    if pattern := option(config, "over"):
        found.append(f"--scrub-over={pattern}")
    return found


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version(), "platform": platform.platform()}
    for name in PACKAGES:
        with suppress(PackageNotFoundError):  # an optional one
            found[name] = version(name)
    return found
