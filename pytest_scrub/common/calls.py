"""Calls of the public functions: an option that does not exist is refused with the nearest name,
and scalars of numpy and torch become Python's own."""

from __future__ import annotations

import functools
import inspect
import sys
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from pytest_scrub.errors import HypothesisError, did_you_mean

if TYPE_CHECKING:
    import numpy as np

NEAR = 0.5  # difflib's similarity; low, as there are few options to guess from
LARGEST = sys.float_info.max
LONGEST = 200  # bits of a whole number, and characters of anything else, that a message shows

Function = TypeVar("Function", bound=Callable[..., Any])


def with_plain_arguments(function: Function, options: Sequence[inspect.Parameter]) -> Function:
    """The function, called with plain values; a call that does not fit is a `HypothesisError`.

    `options`: what stands for its `**options`, as `inspect.signature` and `help` are to show them.
    """
    own = inspect.signature(function)
    parameters: list[inspect.Parameter] = []
    for one in own.parameters.values():
        parameters.extend(options if one.kind is one.VAR_KEYWORD else [one])
    signature = own.replace(parameters=parameters)

    @functools.wraps(function)
    def call(*given: Any, **named: Any) -> Any:
        __tracebackhide__ = True
        _require_fits(function.__name__, signature, given, named)
        return function(
            *map(as_plain, given), **{name: as_plain(value) for name, value in named.items()}
        )

    call.__signature__ = signature  # type: ignore[attr-defined]
    return call  # type: ignore[return-value]


def _require_fits(
    name: str, signature: inspect.Signature, given: tuple[Any, ...], named: Mapping[str, Any]
) -> None:
    """**Raises** `HypothesisError` where a function cannot be called like that."""
    __tracebackhide__ = True
    known = signature.parameters
    options = [
        option
        for option, one in known.items()
        if one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY)
    ]
    for option in named:
        if option not in known:
            near = did_you_mean(option, options, NEAR) or f"; its options are {', '.join(options)}"
            raise HypothesisError(f"{name} takes no {option}={near}")
        if option not in options:
            raise HypothesisError(f"{name} takes {option} by position; leave {option}= out")
    try:
        signature.bind(*given, **named)
    except TypeError as error:
        by_place = [
            one.name
            for one in known.values()
            if one.kind in (one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD)
        ]
        first = f"({', '.join(by_place)}) and then options" if by_place else "options"
        raise HypothesisError(f"{name} takes {first} by name: {error}") from None


def as_plain(value: Any) -> Any:
    """A scalar of numpy or torch as Python's own number, what can be read only once as a tuple, the
    rest as it is."""
    if isinstance(value, Iterator):
        return tuple(value)
    is_scalar = getattr(value, "ndim", None) == 0 and callable(getattr(value, "item", None))
    return value.item() if is_scalar else value


def as_doubles(value: Any) -> np.ndarray[Any, Any]:
    """A copy of a tensor's or an array's numbers, float64. **Raises** `TypeError` or `ValueError`
    where they are none."""
    import numpy as np

    detach = getattr(value, "detach", None)
    return np.array(value if detach is None else detach().cpu().double().numpy(), dtype=np.float64)


def short_repr(value: object) -> str:
    """A value as messages show it: in one line, and not all of what is long."""
    # Python refuses to write out the largest
    if isinstance(value, int) and value.bit_length() > LONGEST:
        return f"a number of {value.bit_length()} bits"
    return textwrap.shorten(repr(value), LONGEST, placeholder=" ...")


def is_number(value: object, least: float, most: float) -> bool:
    """Whether it is a float, or an int that a float can be, from `least` to `most`; no bool."""
    if isinstance(value, float):
        return least <= value <= most
    return is_whole(value, max(least, -LARGEST), min(most, LARGEST))


def is_whole(value: object, least: float, most: float) -> bool:
    """Whether it is an int, no bool, from `least` to `most`."""
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most
