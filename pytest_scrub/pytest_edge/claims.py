"""`@claim`: a function that returns a hypothesis becomes a test of it."""

from __future__ import annotations

import functools
import inspect
import os
import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from types import CodeType
from typing import TYPE_CHECKING, Any, NoReturn

import pytest

from pytest_scrub.common.visible import utf8_safe
from pytest_scrub.errors import HypothesisError, Place, ScrubError
from pytest_scrub.pytest_edge.items import id_of
from pytest_scrub.pytest_edge.options import VERDICT_PROPERTY
from pytest_scrub.pytest_edge.over import require_checkpoint
from pytest_scrub.pytest_edge.replay import replay
from pytest_scrub.settings import (
    FAIL,
    FIXTURES,
    SETTINGS,
    WARN,
    XFAIL,
    ClaimOptions,
    Settings,
    require_meaning,
    set_options,
    with_options_of,
)
from pytest_scrub.verdict import FELL, REFUTED, UNDECIDED, UNTESTED, WEAK, Verdict

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from pytest_scrub.adversaries.saved import Replay
    from pytest_scrub.pytest_edge.session import Session


class _Reported(pytest.fail.Exception):  # type: ignore[misc, name-defined]
    """A failure whose message is the whole report."""

    def __init_subclass__(cls) -> None:
        cls.__module__ = "builtins"  # as pytest's own: CI prints the class's name without its home

    def __init__(self, message: str) -> None:
        # pytest prints the message alone, without our frames
        super().__init__(utf8_safe(message), pytrace=False)


class ClaimFailed(_Reported):
    """A claim whose prediction did not hold.

    Use the subclasses with `xfail(raises=Refuted, strict=True)`, so that a claim that cannot be
    tested does not pass for a refuted one.
    """


class Refuted(ClaimFailed):
    """The gap lies beyond the tolerance."""


class RefutedByAdversary(Refuted):
    """The claim held on average, fell to the search: an adversary found allowed swaps beyond what
    it accepts."""


class Undecided(ClaimFailed):
    """The budget was spent and the interval straddles the tolerance, too few draws differ, or
    rounding could decide."""


class Untested(ClaimFailed):
    """The data hold too few swaps to say anything."""


class Weak(ClaimFailed):
    """The claim holds, and says too little: it would hold as well if its features knew nothing,
    false claims made from it hold too, or it holds where it should not."""


class ScrubWarning(UserWarning):
    """A claim that is undecided, untested or weak, where a setting lets it pass; or activations
    that could not be kept."""

    __module__ = "pytest_scrub"


class Misstated(_Reported):
    """The claim, its data or its model cannot be given a meaning: no verdict, so no `ClaimFailed`
    either.

    Raised in a claim wherever `check` raises a `ScrubError`, with the lines of the node and of the
    claim behind the sentence.
    """


NOT_CALLED = (
    "a claim is called by pytest, with its fixtures; it is no helper of other tests, and "
    "no method of unittest.TestCase"
)
FAILURES: dict[str, type[ClaimFailed]] = {
    REFUTED: Refuted,
    FELL: RefutedByAdversary,
    UNDECIDED: Undecided,
    UNTESTED: Untested,
    WEAK: Weak,
}


@with_options_of(ClaimOptions, of_run=True)
def claim(
    *bare: NoReturn,  # what `@claim` without parentheses passes
    **options: Unpack[ClaimOptions],
) -> Callable[[Callable[..., Any]], Callable[..., None]]:
    """Make a test of a function that takes fixtures and returns a hypothesis.

    Its options are [what a claim can be told](writing-claims.md#options), `tolerance=` or
    `min_explained=` among them; `help(claim)` lists them.

    **Raises** `HypothesisError` at collection for a tolerance that is missing or negative, for an
    unknown word or option, and for a function that pytest cannot call with fixtures; what else is
    wrong is `Misstated` when it is checked.
    """
    __tracebackhide__ = True
    if bare or callable(options.get("tolerance")):
        raise HypothesisError("write @claim(tolerance=...) with a tolerance, not a bare @claim")
    given = set_options(options)
    require_meaning(given, at_collection=True)
    return functools.partial(_as_test, options=given)


def _as_test(function: Callable[..., Any], *, options: Mapping[str, Any]) -> Callable[..., None]:
    """A test that takes the fixtures of `function` and those that checking its hypothesis needs.

    Its marker keeps the options of `@claim`, for `-m` and `--scrub-list`.
    """
    __tracebackhide__ = True
    if isinstance(function, (staticmethod, classmethod)):
        return type(function)(_as_test(function.__func__, options=options))
    _require_claimable(function)
    own = inspect.signature(function)
    model, data = (options.get(role, SETTINGS[role].default) for role in FIXTURES)
    needed = dict.fromkeys(("request", "scrub_session", model, data))

    @functools.wraps(function)
    def test(*args: Any, **fixtures: Any) -> None:
        __tracebackhide__ = True
        if "scrub_session" not in fixtures:
            raise_at(function, Misstated(f"{NOT_CALLED} ({_place(function)})"))
        own_fixtures = {name: value for name, value in fixtures.items() if name in own.parameters}
        session: Session = fixtures["scrub_session"]
        item = fixtures["request"].node
        on = {"model": fixtures[model], "data": fixtures[data]}
        try:
            require_checkpoint(item)
            hypothesis = function(*args, **own_fixtures)
            settings = session.settings(options, name=id_of(item), folder=session.folder)
            if session.replay is not None:
                evaluator = session.evaluator(hypothesis, settings.metric, **on)
                return _raise_if_broken(function, replay(session.replay, evaluator, settings))
            verdict = session.judged(hypothesis, settings, **on)
        except ScrubError as error:
            where = [*map(str, error.places), str(_place(function))]
            if error.places:
                where[-1] = f"in the claim at {where[-1]}"
            raise_at(function, Misstated(f"{error} ({', '.join(where)})"), *error.places[:1])
        verdict = _named_from(item.config, verdict)
        _add_properties(item, verdict)
        return _raise_unless_held(function, verdict, settings)

    added = [name for name in needed if name not in own.parameters]
    parameters = [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY) for name in added]
    test.__signature__ = own.replace(  # type: ignore[attr-defined]
        parameters=[*own.parameters.values(), *parameters]
    )
    if test.__name__ == "<lambda>":
        # pytest takes one for the argument of a marker, and there would be no test
        test.__name__ = "a_lambda"
    marked: Callable[..., None] = pytest.mark.claim(**options)(test)
    return marked


def _require_claimable(function: Any) -> None:
    """**Raises** `HypothesisError` for what pytest cannot call with fixtures, or what cannot return
    a hypothesis."""
    __tracebackhide__ = True
    kind = type(function).__name__
    name = getattr(function, "__name__", kind)
    plain = "and a claim is a plain function that returns a hypothesis"
    for is_so, why in (
        (
            inspect.isclass(function),
            f"@claim stands on a function, not on a class; put it on every test of {name}",
        ),
        (
            type(function).__module__.startswith("_pytest."),
            f"@claim stands on a test, and {name} is a fixture; let a test take it as an argument",
        ),
        (
            _code(function) is None,
            f"@claim stands on a function that returns a hypothesis, not on {kind}",
        ),
        (
            any(mark.name == "claim" for mark in getattr(function, "pytestmark", ())),
            f"{name} has @claim twice, and one of them would be ignored; leave one",
        ),
        (inspect.iscoroutinefunction(function), f"{name} is async, {plain}"),
        (inspect.isgeneratorfunction(function), f"{name} is a generator, {plain}"),
        (inspect.isasyncgenfunction(function), f"{name} is an async generator, {plain}"),
    ):
        if is_so:
            raise HypothesisError(why)
    for one in inspect.signature(function).parameters.values():
        if one.kind not in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY):
            raise HypothesisError(
                f"a claim takes fixtures by their names, and pytest gives none to {one} of {name}; "
                "name each of them (a decorator below @claim keeps names with functools.wraps)"
            )


def _code(function: Any) -> CodeType | None:
    """The code that stands in a file; None for a function of an extension, and for what is none."""
    function = inspect.unwrap(function)
    if isinstance(function, functools.partial):
        return _code(function.func)
    called = function if hasattr(function, "__code__") else getattr(function, "__call__", None)  # noqa: B004
    return getattr(called, "__code__", None)


def _place(function: Callable[..., Any]) -> Place:
    """The first line of a claim."""
    code = _code(function)
    assert code is not None  # as _require_claimable makes sure
    return Place(code.co_filename, code.co_firstlineno)


def _named_from(config: pytest.Config, verdict: Verdict) -> Verdict:
    """With the file of its counterexample as it is called from where pytest was started: what a
    report says is to be copied into the command line, and to be the same on every machine."""
    shown = None if verdict.search is None else verdict.search.counterexample
    if verdict.search is None or shown is None or shown.file is None:
        return verdict
    start = config.invocation_params.dir
    if not (start.is_relative_to(config.rootpath) or config.rootpath.is_relative_to(start)):
        return verdict
    shown = replace(shown, file=os.path.relpath(shown.file, start))
    return replace(verdict, search=replace(verdict.search, counterexample=shown))


def _add_properties(item: pytest.Item, verdict: Verdict) -> None:
    """What reports are made of, also on the controller of pytest-xdist, and what JUnit files have
    of it."""
    from pytest_scrub.reports.figures import figures

    item.user_properties.append((VERDICT_PROPERTY, verdict.to_json()))
    item.user_properties += [(f"scrub_{name}", value) for name, value in figures(verdict).items()]


def _raise_if_broken(function: Callable[..., Any], replayed: Replay) -> None:
    """A counterexample that still breaks its claim fails it; of one that does not, a warning tells
    that nothing else was checked."""
    __tracebackhide__ = True
    from pytest_scrub.reports.counterexample import replay_text

    if replayed.breaks:
        raise_at(function, Refuted(replay_text(replayed)))
    warnings.warn_explicit(ScrubWarning(utf8_safe(replay_text(replayed))), None, *_place(function))


def _raise_unless_held(function: Callable[..., Any], verdict: Verdict, settings: Settings) -> None:
    """A claim that did not hold fails, unless it says nothing either way and a setting says that
    this is no failure."""
    __tracebackhide__ = True
    if verdict.held:
        return
    from pytest_scrub.reports.terminal import headline

    action = getattr(settings, f"on_{verdict.outcome}", FAIL)
    said = utf8_safe(headline(verdict))
    if action == WARN:
        warnings.warn_explicit(ScrubWarning(said), None, *_place(function))
        return
    if action == XFAIL:
        pytest.xfail(said)
    # with --runxfail pytest goes on here
    raise_at(function, failure(verdict))


def failure(verdict: Verdict) -> ClaimFailed:
    """What a claim that did not hold raises; its message is the report."""
    from pytest_scrub.reports.terminal import story

    return FAILURES[verdict.word](story(verdict))


def raise_at(
    function: Callable[..., Any], error: BaseException, place: Place | None = None
) -> NoReturn:
    """Raise `error` on the first line of `function`, or at a place that is more to the point.

    The claim's own frame is gone by then, and editors and CI show a failure on the line of the last
    visible frame, so a frame is made that stands there.
    """
    __tracebackhide__ = True
    file, number = place or _place(function)
    # Line numbers count from the start of the compiled text.
    line = compile("\n" * (number - 1) + "raise error from None", file, "exec")
    exec(line, {"error": error})
    raise AssertionError("unreachable")
