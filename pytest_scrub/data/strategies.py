"""Datasets from Hypothesis strategies: drawing examples, and what a dataset keeps so that more can
be drawn.

Every example is made by itself, from random bytes. What Hypothesis generates when it looks for a
failing test also depends on the constants in those of the user's modules that happen to be
imported.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import torch
from hypothesis import Verbosity, given, settings
from hypothesis.errors import InvalidArgument, Unsatisfiable
from hypothesis.strategies import SearchStrategy
from torch import Tensor

from pytest_scrub.common.seeds import stream
from pytest_scrub.common.visible import shortened
from pytest_scrub.data.bins import Binned
from pytest_scrub.data.files import by_input, padded
from pytest_scrub.data.names import LABELS
from pytest_scrub.errors import DataError, hides_scrub_errors

__tracebackhide__ = hides_scrub_errors

BYTES = 1 << 16  # for one example; one that needs more is left out
TRIES, FEWEST_TRIES = 20, 1000  # for each row that is asked for, and at least
# in a row, for each row found, and at least: hardly any others are left then
REPEATS, FEWEST_REPEATS = 5, 100
SHOWN = 60  # characters


@dataclass(frozen=True, eq=False)
class Draw:
    """An example that a strategy gave, and the row of the dataset that it would be.

    - `example`: what `tokenize=` and `labels=` were called with.
    - `choices`: the bytes it is made of; `fuzz_one_input` of any test with `@given(strategy)` makes
      it of them again.
    - `inputs`, `labels`: as `StrategySource.encode` returns them.
    """

    example: Any
    choices: bytes
    inputs: dict[str, Tensor]
    labels: Tensor | None


@dataclass(frozen=True, eq=False)
class StrategySource:
    """Makes more rows that fit a dataset, out of what its own were made of.

    - `strategy`, `seed`, `pad`, `labels`: as `Dataset.from_strategy` got them.
    - `asked`: how many rows were asked for; the dataset has fewer where the strategy has no more.
    - `longest`: what `tokenize=` gave for the dataset's longest row.
    - `like`: the rows that were drawn, as a dataset; `make`: its class.
    """

    strategy: SearchStrategy[Any]
    seed: int
    asked: int
    pad: int | None
    labels: Callable[[Any], Any] | None
    drawer: _Drawer
    longest: Any
    like: Any
    make: Callable[..., Any]

    def encode(self, example: Any) -> tuple[dict[str, Tensor], Tensor | None]:
        """One example as a row of the dataset, which `Dataset.extend` takes.

        **Returns** inputs `[1, ...]`, filled up to the length of the dataset's rows, and labels
        `[1, ...]`, or None where the dataset has none.

        **Raises** `DataError` where the example does not fit, such as one that is longer than all
        of the dataset.
        """
        return self._encoded(example, self.drawer.row(example))

    def _encoded(self, example: Any, row: Any) -> tuple[dict[str, Tensor], Tensor | None]:
        does_not_fit = f"{_shown(example)} does not fit the dataset"
        try:
            both = by_input([self.longest, row], ("the dataset's longest row", _shown(example)))
            table = padded(both, self.pad, "this and the longest row")
        except DataError as error:
            raise DataError(f"{does_not_fit}: {error}") from error
        labels = None if self.labels is None else [_plain(self.labels(example))]
        one = self.make({name: rows[1:] for name, rows in table.items()}, labels=labels)
        made, like = _tensors(one), _tensors(self.like)
        unfit = [name for name in made if not _fits(made[name], like[name])]
        if unfit:
            has, needs = (
                ", ".join(_kind(name, tensors[name]) for name in unfit) for tensors in (made, like)
            )
            raise DataError(f"{does_not_fit}: it is {has}, but rows are {needs}")
        fitted = {name: tensor.to(like[name].dtype) for name, tensor in made.items()}
        return {name: fitted[name] for name in one.inputs}, fitted.get(LABELS)

    def draws(self, count: int, seed: int, until: float | None = None) -> list[Draw]:
        """Up to `count` fresh examples of different content, independently drawn.

        Examples that do not fit the dataset are left out, and the strategy may have no more, so
        there can be fewer than `count`, or none. Some may be in the dataset already.

        **Arguments**

        - `seed`: with the dataset's own the only source of randomness; none repeats what the
          dataset was made of.
        - `until`: `time.monotonic()` after which no other example is drawn, or None.
        """
        rng = stream(self.seed, "strategy", "fresh", str(seed))
        return list(islice(self._fitting(_distinct(self.drawer, count, rng, until)), count))

    def _fitting(self, drawn: Iterator[_Drawn]) -> Iterator[Draw]:
        for each in drawn:
            with suppress(DataError):
                inputs, labels = self._encoded(each.example, each.row)
                yield Draw(each.example, each.choices, inputs, labels)

    def batch(self, draws: Sequence[Draw]) -> tuple[dict[str, Tensor], Tensor | None]:
        """Draws as one batch, inputs and labels or None, which `Dataset.extend` takes."""
        inputs = {
            name: torch.cat([rows[:0], *(draw.inputs[name] for draw in draws)])
            for name, rows in self.like.inputs.items()
        }
        known = self.like.labels
        labels = [draw.labels for draw in draws if draw.labels is not None]
        return inputs, None if known is None else torch.cat([known[:0], *labels])


def from_strategy(
    make: Callable[..., Any],
    strategy: SearchStrategy[Any],
    tokenize: Callable[[Any], Any],
    *,
    rows: int,
    seed: int,
    pad: int | None = None,
    labels: Callable[[Any], Any] | None = None,
    **fields: Any,
) -> dict[str, Any]:
    """See `Dataset.from_strategy`; `make` is `Dataset`."""
    if not isinstance(rows, int) or rows < 1:
        raise DataError(f"rows= is how many examples to draw; give at least 1, not {rows!r}")
    _require_functions(tokenize, labels, fields.get("features"))
    drawer = _Drawer(strategy, tokenize)
    drawn = _distinct(drawer, rows, stream(seed, "strategy", "rows"))
    found = [_with_tokens(each) for each in islice(drawn, rows)]
    if not found:
        raise DataError(
            f"{_shown(strategy)} gave no example in {_tries(rows)} tries; let it filter out less"
        )
    places = (f"example {i}" for i in range(len(found)))
    table = padded(by_input([each.row for each in found], places), pad, _shown(strategy))
    data = make(
        table, labels=None if labels is None else [_plain(labels(each.example)) for each in found]
    )
    longest = max(found, key=lambda each: sum(each.sizes)).row
    return {
        "name": _shown(strategy) + ("" if len(found) == rows else f": {len(found)} of {rows} rows"),
        **fields,
        "inputs": data.inputs,
        "labels": data.labels,
        "source": StrategySource(strategy, seed, rows, pad, labels, drawer, longest, data, make),
    }


def _require_functions(tokenize: Any, labels: Any, features: Any) -> None:
    """Columns say nothing of fresh inputs, which the source of the dataset makes."""
    for name, of in (("tokenize", tokenize), ("labels", labels)):
        if of is not None and not callable(of):
            raise DataError(
                f"{name}= of from_strategy() takes a function of an example, not a "
                f"{type(of).__name__}"
            )
    if features is not None and not isinstance(features, Mapping):
        kind = type(features).__name__
        raise DataError(
            f"features= of from_strategy() maps names to functions of the inputs, it is no {kind}"
        )
    for name, of in (features or {}).items():
        if not callable(of.source if isinstance(of, Binned) else of):
            raise DataError(
                f"feature {name!r} is a column; give it as a function of the inputs, for only "
                "functions work on fresh inputs, which from_strategy() is for"
            )


@dataclass(frozen=True, eq=False)
class _Drawn:
    example: Any
    choices: bytes
    row: Any

    @property
    def key(self) -> object:
        return tuple(self.row.items()) if isinstance(self.row, dict) else self.row

    @property
    def sizes(self) -> list[int]:
        parts = self.row.values() if isinstance(self.row, dict) else [self.row]
        return [len(part) for part in parts if isinstance(part, tuple)]


def _with_tokens(drawn: _Drawn) -> _Drawn:
    if 0 in drawn.sizes:
        raise DataError(
            f"tokenize= gives no tokens for {_shown(drawn.example)}; filter out such examples"
        )
    return drawn


class _Drawer:
    """Makes examples of bytes, and rows of examples."""

    def __init__(self, strategy: Any, tokenize: Callable[[Any], Any]) -> None:
        if not isinstance(strategy, SearchStrategy):
            kind = type(strategy).__name__
            raise DataError(
                "from_strategy() takes a Hypothesis strategy, such as "
                f"hypothesis.strategies.text(), no {kind}"
            )
        self._strategy, self._tokenize = strategy, tokenize
        self._taken: list[Any] = []

        # Made once: where a user's property draws fresh examples, Hypothesis refuses a @given
        # within its own.
        @settings(database=None, verbosity=Verbosity.quiet)
        @given(strategy)
        def take(example: Any) -> None:
            self._taken.append(example)

        with _draw_errors(strategy):
            self._make = take.hypothesis.fuzz_one_input  # type: ignore[attr-defined]

    def draw(self, source: bytes) -> _Drawn | None:
        """None where the strategy filters out what these bytes make."""
        with _draw_errors(self._strategy):
            choices = self._make(source)
        if choices is None:
            return None
        example = self._taken.pop()
        return _Drawn(example, choices, self.row(example))

    def row(self, example: Any) -> Any:
        """What `tokenize=` gives, in plain values that can be compared."""
        made = self._tokenize(example)
        return (
            {name: _plain(ids) for name, ids in made.items()}
            if isinstance(made, Mapping)
            else _plain(made)
        )


@contextmanager
def _draw_errors(strategy: Any) -> Iterator[None]:
    try:
        yield
    except (InvalidArgument, Unsatisfiable) as error:
        raise DataError(f"nothing can be drawn from {_shown(strategy)}: {error}") from error


def _tensors(rows: Any) -> dict[str, Tensor]:
    return rows.inputs if rows.labels is None else {**rows.inputs, LABELS: rows.labels}


def _kind(name: str, rows: Tensor) -> str:
    return f"{name} {rows.dtype} {list(rows.shape[1:])}"


def _fits(rows: Tensor, like: Tensor) -> bool:
    # Floats that are all whole look like ints, which floats can hold; the other way round nothing
    # fits.
    return rows.shape[1:] == like.shape[1:] and torch.can_cast(rows.dtype, like.dtype)


def _distinct(
    drawer: _Drawer, count: int, rng: np.random.Generator, until: float | None = None
) -> Iterator[_Drawn]:
    """Draws of different rows, for as long as `count` of them are to be hoped for."""
    seen: set[object] = set()
    repeats = 0
    for _ in range(_tries(count)):
        if repeats > max(FEWEST_REPEATS, REPEATS * len(seen)):
            return
        if until is not None and time.monotonic() > until:
            return
        drawn = drawer.draw(rng.bytes(BYTES))
        if drawn is not None:
            repeats = repeats + 1 if drawn.key in seen else 0
            if not repeats:
                seen.add(drawn.key)
                yield drawn


def _tries(count: int) -> int:
    return max(FEWEST_TRIES, TRIES * count)


def _plain(values: Any) -> Any:
    """Numbers, and tuples of them, out of lists, arrays and tensors."""
    values = values.tolist() if hasattr(values, "tolist") else values
    return tuple(map(_plain, values)) if isinstance(values, (list, tuple)) else values


def _shown(value: Any) -> str:
    """A short text that is the same in every run."""
    return shortened(re.sub(r" at 0x[0-9a-fA-F]+", "", repr(value)), SHOWN)
