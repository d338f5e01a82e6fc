"""Errors that a user can mend: one sentence each, with the thing that is wrong and the remedy."""

from __future__ import annotations

import difflib
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any, NamedTuple, Protocol

PACKAGE = __name__.partition(".")[0]


def _is_ours(frame: FrameType) -> bool:
    return str(frame.f_globals.get("__name__")).partition(".")[0] == PACKAGE


def _without_ours(traceback: TracebackType | None) -> TracebackType | None:
    """A traceback's frames but those of this package."""
    if traceback is None:
        return None
    below, frame = _without_ours(traceback.tb_next), traceback.tb_frame
    if _is_ours(frame):
        return below
    return TracebackType(below, frame, traceback.tb_lasti, traceback.tb_lineno)


class Place(NamedTuple):
    """A line of the user's own code."""

    file: str
    line: int

    @classmethod
    def of_call(cls) -> Place | None:
        """The line that called the function that asks; None where this package itself did."""
        caller = sys._getframe(2)
        if _is_ours(caller):
            return None
        return cls(caller.f_code.co_filename, caller.f_lineno)

    def __str__(self) -> str:
        """As terminals make a link of it, from the current folder where it lies below; a cell of a
        notebook, whose file nobody knows, as IPython calls it."""
        shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
        called = getattr(getattr(shell, "compile", None), "format_code_name", lambda _: None)
        if (cell := called(self.file)) is not None:
            return f"{' '.join(cell)}, line {self.line}"
        below = os.path.join(os.getcwd(), "")
        return f"{self.file.removeprefix(below)}:{self.line}"


class ScrubError(ValueError):
    """Base of every error that the user can mend; never a verdict about the claim.

    `places`: where the nodes of the hypothesis that it is about are written.
    """

    places: tuple[Place, ...] = ()

    def _render_traceback_(self) -> list[str]:
        """What IPython, which asks for it by this name, shows: the user's own lines. `%debug` still
        goes through all of them."""
        show = sys.modules["IPython"].get_ipython().InteractiveTB.structured_traceback
        with _users_lines_alone(self):
            return list(show(type(self), self, self.__traceback__))


@contextmanager
def _users_lines_alone(error: BaseException) -> Iterator[None]:
    """The error, and what it came from, without frames of this package, and without errors that it
    alone raised and repeats."""
    whole: list[tuple[BaseException, dict[str, Any]]] = []
    parts = ("__traceback__", "__cause__", "__context__", "__suppress_context__")
    one: BaseException | None = error
    while one is not None and all(one is not seen for seen, _ in whole):
        whole.append((one, {part: getattr(one, part) for part in parts}))
        one = one.__cause__ or one.__context__
    try:
        for one, was in whole:
            one.__traceback__ = _without_ours(was["__traceback__"])
        for one, _ in whole:
            while (cause := one.__cause__) is not None and cause.__traceback__ is None:
                one.__cause__ = cause.__cause__
        yield
    finally:
        for one, was in whole:
            for part, value in was.items():
                setattr(one, part, value)


class HypothesisError(ScrubError):
    """The claim itself cannot be given a meaning."""


class DataError(ScrubError):
    """The dataset, its labels or its features do not fit."""


class ModelError(ScrubError):
    """The network cannot be loaded, trusted, or taken apart the way a claim needs."""


class UnknownFamilyError(ModelError):
    """TransformerLens does not know the network, and has not touched it."""


class NotASumError(ModelError):
    """The network is not known to be a sum of parts, so its parts are not read directly."""

    @property
    def reason(self) -> str:
        """Why, without a remedy."""
        return str(self).partition(";")[0]


class _Written(Protocol):
    @property
    def place(self) -> Place | None: ...


class located_at:
    """An error that is raised in it is about these nodes, unless it knows others already: it gets
    their lines, which a traceback shows below the sentence."""

    # no generator, as every evaluation enters it for every node
    def __init__(self, *nodes: _Written) -> None:
        self.nodes = nodes

    def __enter__(self) -> None: ...

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if not isinstance(error, ScrubError):
            return
        known = tuple(dict.fromkeys(node.place for node in self.nodes if node.place is not None))
        if known and not error.places:
            error.places = known
            if sys.version_info >= (3, 11):
                error.add_note(f"said at {' and '.join(map(str, known))}")


def hides_scrub_errors(failure: Any) -> bool:
    """For `__tracebackhide__` of modules that users call in fixtures: a `ScrubError` is shown on
    the user's own line, anything else with its whole traceback."""
    return bool(failure.errisinstance(ScrubError))


def first_line(error: BaseException) -> str:
    """What another's error says, as a part of a sentence; its kind where it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")


def did_you_mean(name: str, valid: Iterable[str], cutoff: float = 0.6) -> str:
    """`"; did you mean 'x'?"` for the nearest valid name, `""` where none is near."""
    near = difflib.get_close_matches(name, list(valid), n=1, cutoff=cutoff)
    return f"; did you mean {near[0]!r}?" if near else ""
