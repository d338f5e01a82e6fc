"""What one run of pytest found out about claims, in plain values: what files and pages are made
of."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple

from pytest_scrub.verdict import HELD, OUTCOMES, REFUTED, Outcome, Verdict, Word

PASSED: Final = "passed"
FAILED: Final = "failed"
ERROR: Final = "error"
SKIPPED: Final = "skipped"
XFAILED: Final = "xfailed"
XPASSED: Final = "xpassed"
INTERRUPTED: Final = "interrupted"
Result = Literal["passed", "failed", "error", "skipped", "xfailed", "xpassed", "interrupted"]
# what asks for a look first; other results come last
WORDS: tuple[Word | Result, ...] = (ERROR, FAILED, *OUTCOMES)


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One claim.

    - `test`: its id; `file`: relative to pytest's root, where it is stated; `line`: the line there,
      from 1.
    - `result`: what pytest made of it; `"interrupted"`, where the run ended while it was checked.
    - `outcome`: the verdict's, or what pytest made of a claim without one.
    - `seconds`: with its fixtures.
    - `message`: the first line of its failure, or why it was skipped; None where it passed.
    - `rerun`: the command that runs it again, with the same figures.
    - `verdict`: None for a claim that has none: misstated, skipped, interrupted, or broken before
      it was checked.
    """

    test: str
    file: str
    line: int
    result: Result
    outcome: Literal[Outcome, Result]
    seconds: float
    message: str | None
    rerun: str
    verdict: Verdict | None


class Measured(NamedTuple):
    """A claim at one checkpoint of a training.

    - `claim`: its test without the checkpoint.
    - `place`: of the checkpoint in the training, from 1; `checkpoint`: its name.
    """

    claim: str
    place: int
    checkpoint: str


@dataclass(frozen=True, kw_only=True)
class Claimed(Entry):
    """A claim with what only some reports ask for.

    - `is_marked`: whether a mark skipped it, as whoever wrote it wants, and not what happened when
      it was run.
    - `is_expected`: whether it has a verdict, which a mark says that it fails with.
    - `at`: file and line that its failure is about, where that is not the claim's own line but that
      of a node.
    - `over`: the checkpoint that it was run for, or None.
    """

    is_marked: bool = False
    is_expected: bool = False
    at: tuple[str, int] | None = None
    over: Measured | None = None

    @property
    def word(self) -> Word | Result:
        """What became of it, which its sign and its colour stand for."""
        if self.verdict is None:
            return self.result
        return FAILED if self.verdict.held and self._test_failed else self.verdict.word

    @property
    def told(self) -> str:
        """The same in words."""
        if self.verdict is None:
            return self.result
        how = {ERROR: ", but its test has an error", FAILED: ", but its test failed"}
        return self.verdict.result + (how.get(self.result, "") if self.verdict.held else "")

    @property
    def counted(self) -> str:
        """What it counts as."""
        return "xfailed as expected" if self.is_expected else self.told

    @property
    def beside(self) -> str:
        """What a mark or a setting makes of it, in brackets; empty where it is what it is."""
        if self.is_expected:
            return f" ({self.counted})"
        is_excused = self.verdict is not None and self.result in (XFAILED, XPASSED)
        return f" ({self.result})" if is_excused else ""

    @property
    def _test_failed(self) -> bool:
        return self.result in (ERROR, FAILED)


class Count(NamedTuple):
    """How many claims count as the same."""

    number: int
    told: str
    word: str


@dataclass(frozen=True, kw_only=True)
class RunFacts:
    """The run of pytest that the claims were checked in.

    - `started`: ISO 8601, UTC; `seconds`: the whole run.
    - `options`: what makes the figures what they are, as on a command line.
    - `versions`: of Python, the platform and the packages that figures depend on.
    - `interrupted`: whether it ended early, so that claims may be missing.
    """

    started: str
    seconds: float
    options: tuple[str, ...]
    versions: dict[str, str]
    interrupted: bool


@dataclass(frozen=True, kw_only=True)
class Run(RunFacts):
    """All claims of a run, in the order of their ids."""

    claims: tuple[Claimed, ...]

    @property
    def counts(self) -> tuple[Count, ...]:
        """How many there are of every result, what asks for a look first."""
        found = Counter(
            (one.counted, XFAILED if one.is_expected else one.word) for one in self.claims
        )
        order: dict[str, int] = {word: place for place, word in enumerate(WORDS)}
        counts = [Count(number, told, word) for (told, word), number in found.items()]
        return tuple(sorted(counts, key=lambda one: (order.get(one.word, len(order)), one.told)))

    @property
    def told(self) -> str:
        """The counts in one line."""
        return "; ".join(f"{one.number} {one.told}" for one in self.counts) or "none"

    @property
    def ungated(self) -> str:
        """What searches found that only showed it, in one line; empty where all gate."""
        shown = [(one, one.search) for one in self.judged if one.search and not one.search.gates]
        if not shown:
            return ""
        fell = sum(search.refutes and one.average != REFUTED for one, search in shown)
        undecided = sum(
            search.undecided is not None and one.average == HELD and not search.refutes
            for one, search in shown
        )
        also = f", and {undecided} would be undecided" * bool(undecided)
        return (
            f"searches did not gate {len(shown)} of {len(self.claims)} claims: {fell} would have "
            f"fallen to the search{also}"
        )

    @property
    def judged(self) -> tuple[Verdict, ...]:
        """The verdicts there are."""
        return tuple(claimed.verdict for claimed in self.claims if claimed.verdict is not None)
