"""The options of a claim: each once, with its type, its default, what it does, which values it
takes, its twin on the command line, and whether figures depend on it.

`Settings` is the table. The signatures of `@claim`, `check` and `scrub.check`, their `help`, the
command line, `--scrub-list` and the docs' tables are made from it. A type checker cannot read a
table, so which of them takes what stands below it.

Precedence: the claim, the command line, the ini file, the default.

PYTEST_DONT_REWRITE
"""

from __future__ import annotations

import inspect
import keyword
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypedDict, TypeVar

from pytest_scrub.common.calls import LARGEST, is_number, is_whole, short_repr, with_plain_arguments
from pytest_scrub.common.records import LARGEST_SEED
from pytest_scrub.errors import HypothesisError

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from pytest_scrub.data.dataset import Dataset
    from pytest_scrub.engine.store import ActivationStore, Progress
    from pytest_scrub.metrics import Batch, Metric

EITHER, WORSE = "either", "worse"
GATE, REPORT = "gate", "report"
FAIL, XFAIL, WARN = "fail", "xfail", "warn"
ACTIONS = (FAIL, XFAIL, WARN)  # what a claim does that says nothing either way
# Evaluations for each sample of a claim that has no budget.
EFFORT = {"none": 0, "quick": 2, "default": 20, "thorough": 200, REPORT: 20}
# Evaluations of any search that has no budget: fewer leave most claims undecided.
LEAST_SEARCH = 8_000
# Names that stand in reports beside those of adversaries.
SAVED, DRAWN_BY_CLAIM = "saved counterexample", "the claim's own draws"
CONFIDENCE = 0.95
LEAST_CONFIDENCE, MOST_CONFIDENCE = 0.5, 0.9999
LEAST_SHARE = 1e-6  # a share of nothing asks for nothing
DEFAULT_ADVERSARIES = 5
MOST_SAMPLES = 10**8  # their references are drawn at once, and take a gigabyte
MOST_EVALUATIONS = 10**12  # years of any machine

Check = Callable[[str, Any], None]
Function = TypeVar("Function", bound=Callable[..., Any])


class Option(NamedTuple):
    """One option of the command line: --scrub-`name`, and `scrub_name` in the ini file.

    - `read`: its value from a text that is not empty; raises `ValueError` with what is wrong.
      `bool` makes it a flag.
    - `default`: as text, empty for what is off and for a flag.
    - `bare`: its text where it is given without one.
    """

    name: str
    read: Callable[[str], Any]
    help: str
    default: str = ""
    bare: str | None = None

    @property
    def dest(self) -> str:
        """Its name in the ini file and in pytest's namespace of options."""
        return f"scrub_{self.name.replace('-', '_')}"


class Setting(NamedTuple):
    """One setting, apart from its name and its type.

    - `help`: what it does, a line of a table.
    - `checks`: each raises `HypothesisError` for a value that has no meaning. None is not checked
      where it is the default.
    - `read`: its value from a text, where an option of the command line says it for all claims;
      `bool` for a flag, whose default is False.
    - `option`: that option, where it is not of the same name.
    - `in_figures`: whether figures depend on it.
    - `at_collection`: whether a wrong one ends the collection, or fails its claim alone.
    - `none_is_unset`: whether a claim may give None for what the run says, or the default.
    - `harder`: of what a claim accepts, and of what it is searched and tested with: a larger number
      for a value that is harder to meet, NaN for one that has no order.
    """

    default: Any
    help: str
    checks: tuple[Check, ...] = ()
    read: Callable[[str], Any] | None = None
    option: str | None = None
    in_figures: bool = True
    at_collection: bool = False
    none_is_unset: bool = False
    harder: Callable[[Any], float] | None = None


# Texts of the command line ------------------------------------------------------------------------


def whole(least: float = -math.inf) -> Callable[[str], int]:
    """Reads a whole number that is at least so large."""

    def read(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            raise ValueError(f"takes a whole number, not {text!r}") from None
        if number < least:
            raise ValueError(f"is at least {least}, not {number}")
        return number

    return read


def _word(words: Collection[str]) -> Callable[[str], str]:
    def read(text: str) -> str:
        if text not in words:
            raise ValueError(f"is one of {', '.join(words)}, not {text!r}")
        return text

    return read


def _confidence(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"takes a share such as 0.95, not {text!r}") from None


def error_of_a_run(text: str) -> float:
    """Reads a probability that a run of at least one claim can have."""
    most = 1 - LEAST_CONFIDENCE
    with suppress(ValueError):
        if 0 < (error := float(text)) <= most:
            return error
    raise ValueError(f"takes a probability above 0 and at most {most}, such as 0.05, not {text!r}")


def _seconds(text: str) -> float:
    with suppress(ValueError):
        if (seconds := float(text)) > 0:
            return seconds
    raise ValueError(f"takes a number of seconds, not {text!r}")


# What a value may be ------------------------------------------------------------------------------


def _is(what: str, fits: Callable[[Any], bool]) -> Check:
    def check(name: str, value: object) -> None:
        __tracebackhide__ = True  # at collection the error stands on the line of the decorator
        if not fits(value):
            raise HypothesisError(f"{name}= is {what}, not {short_repr(value)}")

    return check


def _from(what: str, least: float, most: float = LARGEST) -> Check:
    return _is(what, lambda value: is_number(value, least, most))


def _whole_from(what: str, least: float, most: float = math.inf) -> Check:
    return _is(what, lambda value: is_whole(value, least, most))


def _names_a_fixture(name: str, value: object) -> None:
    __tracebackhide__ = True
    takes = f"{name}= of @claim takes the name of a fixture"
    if not isinstance(value, str):
        raise HypothesisError(f"{takes}, not {type(value).__name__}")
    if not value.isidentifier() or keyword.iskeyword(value):
        raise HypothesisError(f"{takes}, which {value!r} cannot be")


def _are_adversaries(name: str, value: object) -> None:
    if not isinstance(value, (list, tuple)):
        raise HypothesisError(
            f"{name}= takes a list such as [WhichDonors()], not {short_repr(value)}"
        )
    for adversary in value:
        _is_adversary(name, adversary)
    names = [adversary.name for adversary in value]
    for one in names:
        if names.count(one) > 1:
            raise HypothesisError(
                f"two adversaries are called {one!r}; give each a name= of its own"
            )


def _is_adversary(option: str, adversary: object) -> None:
    if not callable(getattr(adversary, "search", None)) or isinstance(adversary, type):
        raise HypothesisError(
            f"{option}= takes adversaries such as WhichDonors(), not {short_repr(adversary)}"
        )
    name, effort = getattr(adversary, "name", None), getattr(adversary, "effort", 1)
    if not isinstance(name, str) or not name or name in (SAVED, DRAWN_BY_CLAIM):
        raise HypothesisError(
            f"the adversary {adversary!r} needs a name= of its own for reports, not {name!r}"
        )
    if not is_whole(effort, 1, math.inf):
        raise HypothesisError(
            f"effort= of the adversary {name!r} says how many times the budget of another it "
            f"gets, a whole number of at least 1, not {effort!r}"
        )


_GAP = _from("a gap, zero or more", 0)
_SHARE = _from("a share from 0 to 1", 0, 1)
_GAP_IN_UNITS = _from("a gap in the metric's unit, zero or more", 0)
_SOME_SHARE = _from("a share above 0 and at most 1, such as 0.9", LEAST_SHARE, 1)
_SWITCH = _is("True or False", lambda value: isinstance(value, bool))
_ACTION = _is(f"one of {', '.join(ACTIONS)}", lambda value: value in ACTIONS)


def _in_order(*values: object) -> Callable[[Any], float]:
    """The later, the harder to meet."""
    return lambda value: values.index(value) if value in values else math.nan


def _less(value: Any) -> float:
    return -value if isinstance(value, (int, float)) else math.nan


def _more(value: Any) -> float:
    return value if isinstance(value, (int, float)) else math.nan


def _one_of(*words: str) -> Check:
    return _is(" or ".join(map(repr, words)), lambda value: value in words)


# The table ----------------------------------------------------------------------------------------


def _setting(default: Any, help: str, *checks: Check, **known: Any) -> Any:
    return field(default=default, metadata={"setting": Setting(default, help, checks, **known)})


class AnyAdversary(Protocol):
    """An `Adversary`, which this module cannot import."""

    @property
    def name(self) -> str:
        """How reports call it."""
        ...

    def search(self, space: Any, spending: Any, rng: Any, /) -> Any:
        """The worst that it finds."""
        ...


@dataclass(frozen=True, kw_only=True)
class Settings:
    """All options of one claim. **Raises** `HypothesisError` for a value that has no meaning."""

    seed: int = _setting(
        0, "every claim's random streams are derived from it and from the claim's name",
        _whole_from("a whole number", -LARGEST_SEED, LARGEST_SEED), read=whole(),
    )  # fmt: skip
    tolerance: float | None = _setting(
        None, "the largest mean gap that the claim accepts, in the metric's unit",
        _GAP_IN_UNITS, at_collection=True, harder=_less,
    )  # fmt: skip
    min_recovered: float | None = _setting(
        None, "the least share recovered, instead of `tolerance=`; with both, the stricter counts, "
        "and the baseline's sampling error is part of the decision",
        _from("a share of at most 1, such as 0.9", -LARGEST, 1), at_collection=True,
        harder=_more,
    )  # fmt: skip
    min_explained: float | None = _setting(
        None, "the least share of what the claim would cost if its features knew nothing, instead "
        "of `tolerance=`; with several, the strictest counts",
        _SOME_SHARE, at_collection=True, harder=_more,
    )  # fmt: skip
    min_gap: float | None = _setting(
        None, "the claim is that swaps hurt: the least mean gap, in the metric's worse direction, "
        "of swaps in which every node moves; instead of `tolerance=`",
        _GAP_IN_UNITS, at_collection=True, harder=_more,
    )  # fmt: skip
    direction: str = _setting(
        EITHER, "`worse` where a metric that gets better is no objection",
        _one_of(EITHER, WORSE), at_collection=True,
        harder=_in_order(WORSE, EITHER),
    )  # fmt: skip
    metric: Metric | Callable[[Tensor, Batch], Tensor] | None = _setting(
        None, "a `Metric`, or a function of (output, batch); cross-entropy by default"
    )
    samples: int = _setting(
        4000,  # a standard error of 1.6 % of the per-reference standard deviation
        "the most references drawn, each with one swap of every node; fewer where that decides it",
        _whole_from("a whole number of at least 2", 2),
        _whole_from(f"at most {MOST_SAMPLES:,}", 2, MOST_SAMPLES), read=whole(2),
        none_is_unset=True,
    )  # fmt: skip
    confidence: float = _setting(
        CONFIDENCE, "how sure a verdict is: at most 1 less this are wrongly refuted, or wrongly "
        "held; shared among all that can refute the claim",
        _from(
            f"a share from {LEAST_CONFIDENCE} to {MOST_CONFIDENCE}, such as 0.95",
            LEAST_CONFIDENCE, MOST_CONFIDENCE,
        ), read=_confidence,
        none_is_unset=True,
        # of a run's error each claim has its share, which is more where fewer are run
        harder=lambda value: min(value, CONFIDENCE),
    )  # fmt: skip
    min_within: float | None = _setting(
        None, "the least share of single swaps that change the metric by no more than "
        "`tolerance=`",
        _from("a share above 0 and below 1, such as 0.95", LEAST_SHARE, 1 - LEAST_SHARE),
        at_collection=True,
        harder=_more,
    )  # fmt: skip
    generalize: bool = _setting(
        False, "the interval speaks of the distribution that the rows were drawn from: each "
        "reference of other content counts once, and donors stay those of the dataset", _SWITCH,
        harder=_in_order(False, True),
    )  # fmt: skip
    by: str | None = _setting(
        None, "a feature by whose values the gap is shown",
        _is("the name of a feature of the dataset", lambda value: isinstance(value, str)),
        harder=_in_order(),
    )  # fmt: skip
    slice_tolerance: float | None = _setting(
        None,
        "the largest gap that each value of `by=` may have",
        _GAP,
        harder=_less,
    )
    on_undecided: str = _setting(
        FAIL, "what a claim does where nothing is decided: fail, xfail or warn", _ACTION,
        read=_word(ACTIONS), in_figures=False, at_collection=True, none_is_unset=True,
    )  # fmt: skip
    on_untested: str = _setting(
        FAIL, "what a claim does where too little can be swapped: fail, xfail or warn", _ACTION,
        read=_word(ACTIONS), in_figures=False, at_collection=True, none_is_unset=True,
    )  # fmt: skip
    on_weak: str = _setting(
        FAIL, "what a claim does that held and says too little: fail, xfail or warn", _ACTION,
        read=_word(ACTIONS), in_figures=False, at_collection=True, none_is_unset=True,
    )  # fmt: skip
    min_with_other: float = _setting(
        0.10, "a node is untested where a smaller share of the references has another donor for it",
        _SHARE, none_is_unset=True,
        harder=_more,
    )  # fmt: skip
    min_moved: float = _setting(
        0.02, "or where a smaller share of its drawn donors differs from what they stand in for",
        _SHARE, none_is_unset=True,
        harder=_more,
    )  # fmt: skip
    adversaries: Sequence[AnyAdversary] | None = _setting(
        None, "what searches for the allowed swaps that make the claim look worst, such as "
        "`[WhichDonors()]`; all by default, none where empty", _are_adversaries,
        harder=_in_order(),
    )  # fmt: skip
    adversarial_tolerance: float | None = _setting(
        None, "the largest mean gap of a swap set that is found; the claim's own tolerance by "
        "default, and `math.inf` only shows what is found",
        _from("a gap, zero or more", 0, math.inf),
        harder=_less,
    )  # fmt: skip
    min_explained_at_worst: float | None = _setting(
        None, "the least share explained of what the search finds for a claim whose features know "
        "nothing; that of `min_explained=` by default",
        _SOME_SHARE, at_collection=True, harder=_more,
    )  # fmt: skip
    min_gap_at_worst: float | None = _setting(
        None, "the least mean gap of the mildest swaps that are found for a claim with `min_gap=`; "
        "they are only shown by default",
        _GAP_IN_UNITS, at_collection=True, harder=_more,
    )  # fmt: skip
    adversary: str = _setting(
        GATE,
        "`report` shows what is found without refuting",
        _one_of(GATE, REPORT),
        harder=_in_order(REPORT, GATE),
    )
    budget: int | None = _setting(
        None, "evaluations for all adversaries together; by default 20 for each sample, or as "
        "many as `--scrub-adversary` says, and 8,000 at least",
        _whole_from("a whole number of evaluations", 0),
        _whole_from(f"at most {MOST_EVALUATIONS:,} evaluations", 0, MOST_EVALUATIONS),
        harder=_more,
    )  # fmt: skip
    effort: str = _setting(
        "default", "how long adversaries search: none, quick (2 evaluations for each sample), "
        "default (20) or thorough (200); report searches as default does, and what is found "
        "refutes no claim, whatever it says itself", read=_word(EFFORT), option="adversary",
    )  # fmt: skip
    deadline: float | None = _setting(
        None, "seconds after which the search of one claim ends early, and says so",
        _from("a number of seconds", 0, math.inf), read=_seconds,
    )  # fmt: skip
    mutate: bool = _setting(
        False, "judge false claims made from one that holds, and report how many are refuted",
        _SWITCH, read=bool,
    )  # fmt: skip
    min_power: float | None = _setting(
        None, "the least share of the false claims made from this one that has to be refuted",
        _from("a share from 0 to 1, such as 0.8", 0, 1),
        harder=_more,
    )  # fmt: skip
    controls: bool | None = _setting(
        None, "a claim has to fail where it should not hold: on shuffled weights, on permuted "
        "features, in a random subspace, with other units; by default of claims that predict a "
        "change", _SWITCH, read=bool, none_is_unset=True,
        harder=_in_order(False, None, True),
    )  # fmt: skip
    model: str = _setting(
        "scrub_model", "the name of the fixture that gives the network", _names_a_fixture,
        in_figures=False, at_collection=True,
    )  # fmt: skip
    data: str = _setting(
        "scrub_data", "the name of the fixture that gives the `Dataset`", _names_a_fixture,
        in_figures=False, at_collection=True,
    )  # fmt: skip
    name: str = _setting(
        "claim", "what reports call the claim",
        _is("a text", lambda value: isinstance(value, str)),
    )  # fmt: skip
    folder: Path | None = _setting(
        None, "where a counterexample is saved; a note says what became of the one that lies there",
        _is("a pathlib.Path", lambda value: isinstance(value, Path)),
    )  # fmt: skip
    anew: bool = _setting(
        False, "take no notice of a saved counterexample, which decides nothing anyway", _SWITCH,
    )  # fmt: skip
    store: ActivationStore | Callable[[Any, Dataset], ActivationStore] | None = _setting(
        None, "clean activations shared with other claims about the same network and data, or what "
        "gives them for both", in_figures=False,
    )  # fmt: skip
    progress: Progress | None = _setting(
        None, "called with (what, done, total, how it stands)",
        _is("a function of (what, done, total, how it stands)", callable), in_figures=False,
    )  # fmt: skip

    def __post_init__(self) -> None:
        require_meaning(vars(self))
        if self.min_within is not None and self.tolerance is None:
            raise HypothesisError(
                "min_within= needs tolerance=, the change within which single swaps are to stay"
            )
        if self.min_gap is None and self.min_gap_at_worst is not None:
            raise HypothesisError(
                "min_gap_at_worst= needs min_gap=, the gap by which swaps hurt on average"
            )
        for name in NOT_OF_A_MIN_GAP if self.min_gap is not None else ():
            if getattr(self, name) != SETTINGS[name].default:
                raise HypothesisError(
                    f"min_gap= claims that swaps hurt, so {name}= has no meaning beside it; leave "
                    "one of them out"
                )
        if self.slice_tolerance is not None and self.by is None:
            raise HypothesisError(
                "slice_tolerance= needs by=, the feature whose values are the slices"
            )

    def stream(self, purpose: str) -> np.random.Generator:
        """The random stream of one purpose."""
        from pytest_scrub.common.seeds import stream

        return stream(self.seed, self.name, purpose)

    @property
    def searches(self) -> bool:
        """Whether adversaries are asked."""
        return bool(EFFORT[self.effort]) and (self.adversaries is None or bool(self.adversaries))

    @property
    def evaluations(self) -> int:
        """The budget of all adversaries together."""
        if self.budget is not None:
            return self.budget
        return max(EFFORT[self.effort] * self.samples, LEAST_SEARCH) if self.searches else 0

    @property
    def gates(self) -> bool:
        """Whether what is found may refute the claim."""
        return self.would_gate and self.effort != REPORT

    @property
    def would_gate(self) -> bool:
        """The same, whatever the run says: where that only shows what is found, the average and the
        search are as sure as where searches gate, and so their figures are the same."""
        is_open = self.min_gap is not None and self.min_gap_at_worst is None
        return self.adversary == GATE and self.adversarial_tolerance != math.inf and not is_open

    @property
    def bounds(self) -> dict[str, float | str | bool | None]:
        """What decides whether the claim holds, as it is where nothing else is said: of slices and
        searches only where they gate."""
        found = {name: getattr(self, name) for name, one in SETTINGS.items() if one.harder}
        names = ["all"] if self.adversaries is None else [one.name for one in self.adversaries]
        found["adversaries"] = ", ".join(sorted(names))
        if self.slice_tolerance is None:
            found["by"] = None
        if not (self.gates and self.searches):
            search = ("adversaries", "budget", *_AT_WORST)
            return found | dict.fromkeys(search) | {"adversary": REPORT}
        found["budget"] = self.evaluations
        if self.adversarial_tolerance is None and self.min_explained_at_worst is None:
            is_derived = self.min_recovered is not None
            found["adversarial_tolerance"] = "that of the average" if is_derived else self.tolerance
            found["min_explained_at_worst"] = self.min_explained
        return found

    @property
    def routes(self) -> int:
        """How many ways there are to refute the claim, slices aside: its average, single swaps, and
        each adversary that gates."""
        adversaries = DEFAULT_ADVERSARIES if self.adversaries is None else len(self.adversaries)
        adversaries = 1 if self.min_gap is not None else adversaries
        searched = adversaries if self.would_gate and self.searches else 0
        return 1 + (self.min_within is not None) + searched

    @property
    def tolerance_of_search(self) -> float | None:
        """What swap sets that are found may reach; None for the claim's own tolerance, also where
        infinity says that they only are shown."""
        return None if self.adversarial_tolerance == math.inf else self.adversarial_tolerance


# What is accepted of swaps that are found.
_AT_WORST = ("adversarial_tolerance", "min_explained_at_worst", "min_gap_at_worst")
# What speaks of a gap that is to be small, or of how the largest is found.
NOT_OF_A_MIN_GAP = (
    "tolerance", "min_explained", "min_recovered", "min_within", "slice_tolerance", "direction",
    "generalize", "adversaries", "adversarial_tolerance", "min_explained_at_worst", "mutate",
    "min_power",
)  # fmt: skip
SETTINGS: Mapping[str, Setting] = {one.name: one.metadata["setting"] for one in fields(Settings)}
FIXTURES = [name for name, one in SETTINGS.items() if one.checks == (_names_a_fixture,)]
# The option of the command line that says a setting for all claims.
COMMAND_LINE_OPTIONS: Mapping[str, Option] = {
    name: Option(
        one.option or name.replace("_", "-"),
        one.read,
        one.help,
        "" if one.default is None or one.read is bool else str(one.default),
    )
    for name, one in SETTINGS.items()
    if one.read
}


def require_meaning(given: Mapping[str, Any], *, at_collection: bool = False) -> None:
    """**Raises** `HypothesisError` for a value that has no meaning, and for a claim that does not
    say how large a gap it accepts.

    `at_collection`: whether to look only at settings of which that is known at collection.
    """
    __tracebackhide__ = True
    accepts = ("tolerance", "min_explained", "min_recovered", "min_gap")
    if all(given.get(name) is None for name in accepts):
        raise HypothesisError(
            "a claim needs tolerance= (the largest gap, in the metric's unit), min_explained= or "
            "min_recovered=, or min_gap= where it says that swaps hurt"
        )
    for name, value in given.items():
        setting = SETTINGS[name]
        if at_collection and not setting.at_collection:
            continue
        if value is not None or setting.default is not None:
            for check in setting.checks:
                check(name, value)


def set_options(given: Mapping[str, Any]) -> dict[str, Any]:
    """Those options of a claim that are not what they are anyway, in the order of the table.

    What the run may say is one of them even where it is the default: the claim comes first.
    """
    known = {name: setting for name, setting in SETTINGS.items() if name in given}
    return {
        name: given[name]
        for name, setting in known.items()
        if not (setting.none_is_unset and given[name] is None)
        and (setting.read or given[name] is not setting.default)
    }


# Who takes what -----------------------------------------------------------------------------------


class Options(TypedDict, total=False):
    """What all of them take."""

    tolerance: float | None
    min_recovered: float | None
    min_explained: float | None
    min_gap: float | None
    direction: str
    metric: Metric | Callable[[Tensor, Batch], Tensor] | None
    samples: int | None
    confidence: float | None
    min_within: float | None
    generalize: bool
    by: str | None
    slice_tolerance: float | None
    min_with_other: float | None
    min_moved: float | None
    adversaries: Sequence[AnyAdversary] | None
    adversarial_tolerance: float | None
    min_explained_at_worst: float | None
    min_gap_at_worst: float | None
    adversary: str
    budget: int | None
    min_power: float | None
    controls: bool | None


class ClaimOptions(Options, total=False):
    """What `@claim` takes."""

    on_undecided: str | None
    on_untested: str | None
    on_weak: str | None
    model: str
    data: str


class ScrubOptions(Options, total=False):
    """What `scrub.check` takes."""

    mutate: bool
    folder: Path | None
    anew: bool


class CheckOptions(ScrubOptions, total=False):
    """What `check` takes."""

    seed: int
    deadline: float | None
    name: str
    store: ActivationStore | Callable[[Any, Dataset], ActivationStore] | None
    progress: Progress | None


def with_options_of(options: type, *, of_run: bool) -> Callable[[Function], Function]:
    """Shows the options of a function as `inspect.signature` and `help` are to show them.

    **Arguments**

    - `options`: those of its `**options`.
    - `of_run`: whether the run says what the call does not.
    """
    known = [one for one in fields(Settings) if one.name in options.__annotations__]
    parameters = []
    for one in known:
        or_none = of_run and SETTINGS[one.name].none_is_unset
        parameters.append(
            inspect.Parameter(
                one.name,
                inspect.Parameter.KEYWORD_ONLY,
                default=None if or_none else one.default,
                annotation=f"{one.type} | None" if or_none else one.type,
            )
        )

    def with_options(function: Function) -> Function:
        listed = "\n".join(f"- `{one.name}`: {SETTINGS[one.name].help}." for one in known)
        function.__doc__ = f"{inspect.getdoc(function)}\n\n**Options**\n\n{listed}"
        return with_plain_arguments(function, parameters)

    return with_options
