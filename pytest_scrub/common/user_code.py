"""Functions that users write: what goes wrong in one is told with its name and line."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

from pytest_scrub.errors import DataError, Place, ScrubError


def require_arguments(
    what: str,
    function: Callable[..., Any],
    arguments: Sequence[str],
    kind: type[ScrubError] = DataError,
) -> None:
    """**Raises** `kind` where the function cannot be called with as many arguments."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # some that are written in C do not say what they take
        return
    try:
        signature.bind(*arguments)
    except TypeError:
        listed = ", ".join(arguments)
        raise kind(
            f"{what} is called with ({listed}), but takes {signature}; give it as many arguments"
        ) from None


def call_user_function(
    what: str,
    function: Callable[..., Any],
    *arguments: Any,
    kind: type[ScrubError] = DataError,
    hint: str = "",
) -> Any:
    """What a user's function returns for these arguments.

    **Raises** `kind`, from the function's own exception and with the line where that was raised; a
    `ScrubError` stays as it is. `hint`: what it was given, where that is often taken for something
    else.
    """
    try:
        return function(*arguments)
    except ScrubError:
        raise
    # whatever the user's code raises, with its name, its text and its place
    except Exception as error:
        text = " ".join(str(error).split())
        raised = type(error).__name__ + (f": {text}" if text else "")
        raise kind(f"{what} raised {raised}{_place(error)}; mend the function{hint}") from error


def _place(error: Exception) -> str:
    """`" (conftest.py:12)"`: where the called function stood; nothing for one that could not be
    called at all."""
    below = error.__traceback__ and error.__traceback__.tb_next
    return f" ({Place(below.tb_frame.f_code.co_filename, below.tb_lineno)})" if below else ""
