"""Datasets: model inputs, labels, features, which rows may be references or donors, and how to show
a row.

A dataset knows nothing of a model or of a claim. Two rows *agree* on a feature when its values are
equal.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from copy import copy
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pytest_scrub.common.calls import shown
from pytest_scrub.common.user_code import called
from pytest_scrub.common.visible import visible
from pytest_scrub.data import files
from pytest_scrub.data.columns import Ints, checked_column, first_unlike, row_codes, value_codes
from pytest_scrub.data.names import LABELS, TOKEN_NAMES, TOKENS, Field, Names
from pytest_scrub.data.unchanged import bytes_of, mark_of, still_is
from pytest_scrub.errors import DataError, HypothesisError, did_you_mean
from pytest_scrub.tree.nodes import Agreement, Span, position

if TYPE_CHECKING:
    from hypothesis.strategies import SearchStrategy
    from torch import Tensor
    from typing_extensions import Self

    from pytest_scrub.data.strategies import StrategySource

DIGEST_BYTES = 16  # 128 bits: no two rows of any real dataset collide
# that a feature's function is called for once more: a coin would fall the same way once in 2^64
ROWS_AGAIN = 64
# of a feature, for one row of each its function is called once more: what is compared with a
# mean shows
VALUES_AGAIN = 4


@dataclass(frozen=True, eq=False)
class Positions:
    """`index`: int64 [K] positions, the same for every row, or [rows, K], filled up with -1 on the
    right."""

    index: Ints

    @property
    def static(self) -> bool:
        """Whether every row has the same positions."""
        return self.index.ndim == 1


class Dataset:
    """The rows that a claim is tested on; never changed in place, neither by us nor by its owner.

    Functions of the user's get copies. What was handed over and is changed later is refused by the
    next claim.

    **Arguments**

    - `inputs`: `[rows, ...]` tokens (kept under the name `"tokens"`), or a mapping from the names
      of the model's inputs to tensors or arrays. Tensors stay on their device and are not copied.
    - `labels`: `[rows, ...]` class indices, tokens or floats; bools and integers are kept as int64.
    - `label_pos`: the output positions that the labels speak of, as for `positions`; `None` is all
      of them.
    - `features`: name to column (`[rows]` or `[rows, k]` bools, ints, floats, strings, tuples of
      them), or to a function of all rows' inputs (`dict[str, Tensor]`) that returns one; called
      when first needed, and once more for a few rows: what a row's value is must not depend on
      chance or on the other rows.
    - `show`: a tokenizer (anything with `decode`), or a function of one row's `dict[str, Tensor]`
      to a str.
    - `name`: how reports call the dataset.
    - `digest`: identifies inputs and labels, where hashing all of them would take too long.
    - `references`, `donors`: a bool mask or row numbers; all rows by default. With `donors` alone,
      the other rows are the references.
    - `source`: what makes more rows like these; `from_strategy` gives it, and `to` and `extend`
      keep it.

    **Raises** `DataError`; for a bad feature when it is first used.
    """

    def __init__(
        self,
        inputs: Any,
        *,
        labels: Any = None,
        label_pos: int | slice | Span | str | None = None,
        features: Mapping[str, Any] | None = None,
        show: Any = None,
        name: str | None = None,
        digest: str | None = None,
        references: Any = None,
        donors: Any = None,
        source: StrategySource | None = None,
    ) -> None:
        named = _named(inputs)
        self.inputs = _inputs(named)
        self.labels = None if labels is None else _labels(labels, len(self), self.device)
        self.label_pos = _label_pos(label_pos)
        self.name = name
        self.source = source
        if show is not None and not callable(show) and not hasattr(show, "decode"):
            raise DataError(
                f"show= takes a tokenizer or a function of a row, not a {type(show).__name__}"
            )
        everything = np.arange(len(self))
        self.donor_rows = _chosen(everything if donors is None else donors, len(self), "donors=")
        if references is None:
            references = everything if donors is None else np.setdiff1d(everything, self.donor_rows)
        self.reference_rows = _chosen(references, len(self), "references=")
        if digest is not None and not (isinstance(digest, str) and digest):
            raise DataError(f"digest= is text that identifies inputs and labels, not {digest!r}")
        self._show, self._digest = show, digest
        # columns, which do not cover the rows of `extend`
        self._stale: frozenset[str] = frozenset()
        self._values: dict[str, NDArray[Any]] = {}
        self._codes: dict[Agreement, Ints] = {}
        self._marks = {what: mark_of(kept) for what, kept in self._kept.items()}
        self._given = _apart(
            {**{_input(name): given for name, given in named.items()}, LABELS: labels}, self._kept
        )
        self._changed: str | None = None
        self._features: dict[str, Any] = {}
        self._take_features({} if features is None else features)

    def __len__(self) -> int:
        return len(next(iter(self.inputs.values())))

    def __getstate__(self) -> dict[str, Any]:
        """What the user holds cannot be changed from where a copy is sent to."""
        return {**self.__dict__, "_given": {}}

    @property
    def _kept(self) -> dict[str, Any]:
        """What claims read, by how errors call it."""
        labels = {} if self.labels is None else {LABELS: self.labels}
        values = {f"feature {name!r}": values for name, values in self._values.items()}
        return {
            **{_input(name): tensor for name, tensor in self.inputs.items()},
            **labels,
            **values,
        }

    def require_unchanged(self) -> None:
        """**Raises** `DataError` where inputs, labels or a feature are not what they were when they
        were handed over; once they were, for good, as what was computed meanwhile may be of either.
        Costs one read of all of them."""
        if self._changed is None:
            now = {
                what: self._marks.get(what) if getattr(kept, "is_meta", False) else mark_of(kept)
                # what lost its numbers, with .to("meta"), cannot be run on either
                for what, kept in self._kept.items()
            }
            changed = [
                what for what in {**self._marks, **now} if self._marks.get(what) != now.get(what)
            ]
            changed += [
                what for what, (given, mark) in self._given.items() if not still_is(given, mark)
            ]
            self._changed = next(iter(changed), None)
        if self._changed is not None:
            raise DataError(
                f"{self._changed} was changed after the Dataset was made, so no claim can say "
                "which data it is about; make a new Dataset of the changed data, or give it a "
                "copy of what is meant to change"
            )

    @property
    def is_changed(self) -> bool:
        """Whether `require_unchanged` found that."""
        return self._changed is not None

    @property
    def device(self) -> Any:
        """The `torch.device` that all inputs are on."""
        return next(iter(self.inputs.values())).device

    @property
    def feature_names(self) -> tuple[str, ...]:
        return tuple(self._features)

    def feature(self, name: str) -> NDArray[Any]:
        """`[rows]` or `[rows, ...]` values, read-only; text, mixed and ragged values are an object
        array."""
        if name not in self._values:
            if name not in self._features:
                has = (
                    f"it has {', '.join(self._features)}"
                    if self._features
                    else "give it in features="
                )
                raise DataError(
                    f"the dataset has no feature {name!r}{did_you_mean(name, self._features)}; "
                    f"{has}"
                )
            if name in self._stale:
                raise DataError(
                    f"feature {name!r} is a column and has no values for rows that extend() added; "
                    "give it as a function of the inputs, for only functions work on fresh inputs"
                )
            self._values[name] = values = self._first_values(name)
            self._marks[f"feature {name!r}"] = mark_of(values)
        return self._values[name]

    def _take_features(self, features: Mapping[str, Any]) -> None:
        """Functions as they are; of columns what they say now, or what is wrong with them, which is
        told when they are used."""
        if not isinstance(features, Mapping):
            raise DataError(
                f"features= maps names to columns or functions, it is no {type(features).__name__}"
            )
        for name, source in features.items():
            if not isinstance(name, str):
                raise DataError(
                    f"features= has the name {name!r}, of type {type(name).__name__}; names are "
                    "strings"
                )
            try:
                column = (
                    source if callable(source) else _frozen(checked_column(name, source, len(self)))
                )
                self._features[name] = column
            except DataError as error:
                self._features[name] = error
            else:
                # nobody can read an iterator again
                if not callable(source) and not isinstance(source, Iterator):
                    self._given[f"feature {name!r}"] = source, mark_of(source)

    def _first_values(self, name: str) -> NDArray[Any]:
        source = self._features[name]
        if isinstance(source, DataError):
            raise DataError(str(source)) from source
        if not callable(source):
            values: NDArray[Any] = source
            return values
        values = self._computed(name, self.inputs)
        self._require_same_alone(name, values)
        return values

    def _computed(self, name: str, inputs: Mapping[str, Tensor]) -> NDArray[Any]:
        """What a feature's function gives for inputs, of which it gets a copy."""
        copies = {key: tensor.clone() for key, tensor in inputs.items()}
        column = called(f"the function of feature {name!r}", self._features[name], copies)
        return _frozen(checked_column(name, column, len(next(iter(inputs.values())))))

    def _require_same_alone(self, name: str, values: NDArray[Any]) -> None:
        """**Raises** `DataError` where a few rows, the last ones first, have other values than
        among all, or one."""
        few = np.unique(np.linspace(0, len(self) - 1, ROWS_AGAIN).astype(np.int64))[::-1]
        unlike = np.unique(value_codes(values), return_index=True)[1][:VALUES_AGAIN]
        for some in (few, *unlike[:, None]):
            self._require_same_on(some, name, values)

    def _require_same_on(self, some: Ints, name: str, values: NDArray[Any]) -> None:
        remedy = "compute it once and give it as a column"
        try:
            again = self._computed(name, self.batch(some))
        except DataError as error:
            raise DataError(
                f"for {len(some)} of {len(self)} rows alone, {error}; or {remedy}"
            ) from error
        unlike = first_unlike(again, values[some])
        if unlike is not None:
            raise DataError(
                f"feature {name!r} has another value at row {some[unlike]} when its function is "
                "called again for a few "
                f"rows alone, so it depends on chance or on the other rows; {remedy}"
            )

    def covers(self, name: str) -> bool:
        """Whether a feature is a function, which covers all rows or is in error, or a column that
        has usable values."""
        return callable(self._features[name]) or not (
            name in self._stale or isinstance(self._features[name], DataError)
        )

    def codes(self, agreement: Agreement) -> Ints:
        """`[rows]`: equal exactly where the rows agree; `EXACT` is the row itself, whatever its
        content."""
        if agreement not in self._codes:
            columns = [value_codes(self.feature(name)) for name in agreement.features]
            codes = np.arange(len(self)) if agreement.exact else row_codes(len(self), columns)
            self._codes[agreement] = _frozen(codes)
        return self._codes[agreement]

    @cached_property
    def content(self) -> Ints:
        """`[rows]`: equal exactly where all inputs are equal, byte for byte; labels do not
        count."""
        return _frozen(row_codes(len(self), [bytes_of(tensor) for tensor in self.inputs.values()]))

    def batch(self, rows: Any) -> dict[str, Tensor]:
        """The model inputs at `rows` (row numbers or a bool mask), on the dataset's device."""
        import torch

        index = torch.as_tensor(
            rows if isinstance(rows, torch.Tensor) else np.array(rows), device=self.device
        )
        return {name: tensor[index] for name, tensor in self.inputs.items()}

    def positions(self, spec: int | slice | Span | str, length: int, *, where: str) -> Positions:
        """The positions that `spec` names in a tensor with `length` of them.

        **Arguments**

        - `spec`: an int (negative counts from the end), a slice, or the name of a feature with an
          int or a bool mask `[rows, length]` per row.
        - `where`: how errors call it, such as `"pos= of head1.0"`.

        **Raises** `DataError` for a position out of range, no position at all, or an unfit feature.
        """
        if isinstance(spec, str):
            where = f"{where}, the feature {spec!r},"
            return Positions(_frozen(_column_positions(self.feature(spec), length, where)))
        return Positions(_frozen(_static_positions(spec, length, where)))

    def digest(self) -> str:
        """Hex: the given `digest=`, or a hash of inputs and labels with their names, types and
        shapes."""
        if self._digest is None:
            self._digest = _hash(self.inputs, {} if self.labels is None else {LABELS: self.labels})
        return self._digest

    def row_digest(self, row: int) -> str:
        """Hex: a hash of one row's inputs, the same wherever the row is and whatever surrounds
        it."""
        return _hash({name: tensor[row] for name, tensor in self.inputs.items()})

    def show(self, row: int) -> str:
        """One line for a person; control characters are escaped."""
        text = self._text({name: tensor[row].clone() for name, tensor in self.inputs.items()})
        if not isinstance(text, str):
            raise DataError(f"show= returned {text!r} for row {row}; return a str")
        return visible(text)

    def _text(self, row: dict[str, Tensor]) -> Any:
        ids = next((row[name] for name in TOKEN_NAMES if name in row), next(iter(row.values())))
        # before calling it: Hugging Face's tokenizers are callable too
        if hasattr(self._show, "decode"):
            return called("decode() of show=", self._show.decode, ids.tolist())
        if self._show is not None:
            return called("the function show=", self._show, row)
        if ids.ndim == 1 and not ids.is_floating_point():
            return " ".join(str(token) for token in ids.tolist())
        shown = {
            name: np.array2string(np.array(tensor.tolist()), threshold=50)
            for name, tensor in row.items()
        }
        return " ".join(f"{name}={' '.join(text.split())}" for name, text in shown.items())

    def to(self, device: Any) -> Dataset:
        """The same dataset with inputs and labels on `device`; what is known of its rows is
        shared."""
        moved = copy(self)
        moved.inputs = {name: tensor.to(device) for name, tensor in self.inputs.items()}
        moved.labels = None if self.labels is None else self.labels.to(device)
        moved._given = {**_apart(self._kept, moved._kept), **self._given}
        return moved

    def with_features(self, features: Mapping[str, Any]) -> Dataset:
        """The same rows with more features, columns or functions; all else is shared.

        **Raises** `DataError` for a name that the dataset has already.
        """
        known = [name for name in features if name in self._features]
        if known:
            raise DataError(
                f"the dataset has a feature {known[0]!r} already; give the new one another name"
            )
        self.digest(), self.content  # computed once, for both
        more = copy(self)
        more._features, more._given, more._marks = (
            dict(self._features),
            dict(self._given),
            dict(self._marks),
        )
        more._values, more._codes = dict(self._values), dict(self._codes)
        more._take_features(features)
        return more

    def extend(self, inputs: Any, labels: Any = None) -> Dataset:
        """A dataset with fresh rows at its end, which are donors and never references.

        **Arguments**

        - `inputs`: as for `Dataset`, with the names, types and row shapes of this one's.
        - `labels`: of the fresh rows; zeros by default, as only the label of a reference is ever
          read.

        **Raises** `DataError` where they do not fit; later, where a feature that is a column is
        used.
        """
        fresh = {name: tensor.to(self.device) for name, tensor in _inputs(_named(inputs)).items()}
        count = len(next(iter(fresh.values())))
        known = {} if self.labels is None else {"labels": self.labels}
        extra = {name: tensor.new_zeros(count, *tensor.shape[1:]) for name, tensor in known.items()}
        if labels is not None:
            extra = {"labels": _labels(labels, count, self.device)}
        extended = Dataset(
            _joined(self.inputs, fresh),
            labels=_joined(known, extra).get("labels"),
            label_pos=self.label_pos,
            show=self._show,
            name=self.name,
            source=self.source,
            references=self.reference_rows,
            donors=np.concatenate([self.donor_rows, np.arange(len(self), len(self) + count)]),
        )
        extended._features = self._features
        extended._stale = frozenset(
            name for name, source in self._features.items() if not callable(source)
        )
        for name in self._values.keys() - extended._stale:  # only the fresh rows are computed anew
            old, new = self._values[name], self._computed(name, fresh)
            same = (old.dtype, old.shape[1:]) == (new.dtype, new.shape[1:])
            column = np.concatenate([old, new]) if same else [*old, *new]
            extended._values[name] = values = _frozen(checked_column(name, column, len(extended)))
            extended._marks[f"feature {name!r}"] = mark_of(values)
        return extended

    @classmethod
    def _of(cls, fields: dict[str, Any]) -> Self:
        """A dataset of what was read or drawn for it, so that nobody else can change it."""
        made = cls(**fields)
        made._given = {}
        return made

    @classmethod
    def from_npz(cls, path: str | Path, *, inputs: Names, **fields: Any) -> Self:
        """A dataset from the arrays of an `.npz` file; nothing is ever unpickled.

        **Arguments**

        - `inputs`: the field that holds the tokens, a list of fields, or a mapping from inputs to
          fields.
        - `labels`: a field.
        - `features`: a list of fields, or a mapping from features to fields or functions of all
          rows' inputs.
        - `name`: by default the file's. All else as for `Dataset`.
        """
        return cls._of(files.from_npz(path, inputs=inputs, **fields))

    @classmethod
    def from_safetensors(cls, path: str | Path, *, inputs: Names, **fields: Any) -> Self:
        """A dataset from the tensors of a `.safetensors` file; arguments as for `from_npz`."""
        return cls._of(files.from_safetensors(path, inputs=inputs, **fields))

    @classmethod
    def from_jsonl(
        cls, path: str | Path, *, tokenize: Field, pad: int | None = None, **fields: Any
    ) -> Self:
        """A dataset from a file with one JSON object per line; blank lines are skipped.

        **Arguments**

        - `tokenize`: a function of a record to its token ids, or to a mapping from inputs to ids;
          or the field that holds the ids.
        - `pad`: the id that rows are filled up with on the right; an `attention_mask` marks what
          was there.
        - `labels`: a field, or a function of a record.
        - `features`: a list of fields, or a mapping from features to fields or functions of a
          record.
        - `name`: by default the file's. All else as for `Dataset`.
        """
        return cls._of(files.from_jsonl(path, tokenize=tokenize, pad=pad, **fields))

    @classmethod
    def from_hf(cls, dataset: Any, *, inputs: Names, pad: int | None = None, **fields: Any) -> Self:
        """A dataset from one split of a `datasets.Dataset`; as `from_npz`, with `pad` as in
        `from_jsonl`."""
        return cls._of(files.from_hf(dataset, inputs=inputs, pad=pad, **fields))

    @classmethod
    def from_strategy(
        cls,
        strategy: SearchStrategy[Any],
        tokenize: Callable[[Any], Any],
        *,
        rows: int = 1000,
        seed: int = 0,
        **fields: Any,
    ) -> Self:
        """A dataset of examples that a Hypothesis strategy gives, independently drawn; those of
        equal content once.

        **Arguments**

        - `strategy`: a Hypothesis strategy for examples, and `tokenize` a function of one, as for
          `from_jsonl`.
        - `rows`: how many to draw. Where the strategy has fewer, the name says so, as `len` and
          `source.asked` do.
        - `seed`: the only source of randomness; another version of Hypothesis may draw others.
        - `pad`: as for `from_jsonl`.
        - `labels`: a function of an example.
        - `features`: functions of all rows' inputs, as only functions work on fresh inputs.
        - `name`: by default the strategy as Hypothesis shows it. All else as for `Dataset`.

        What a claim is averaged over is what the strategy draws, each row once.
        """
        from pytest_scrub.data.strategies import from_strategy

        return cls._of(from_strategy(Dataset, strategy, tokenize, rows=rows, seed=seed, **fields))


def _frozen(array: NDArray[Any]) -> NDArray[Any]:
    array.setflags(write=False)
    return array


def _input(name: str) -> str:
    return f"input {name!r}"


def _apart(given: Mapping[str, Any], kept: Mapping[str, Any]) -> dict[str, tuple[Any, int]]:
    """Of what was given, and the mark of each, that whose memory is not the very one that is
    kept."""

    def is_same(what: str) -> bool:
        return given[what] is None or (
            hasattr(given[what], "data_ptr") and given[what].data_ptr() == kept[what].data_ptr()
        )

    return {
        what: (given[what], mark_of(given[what]))
        for what in given
        if what in kept and not is_same(what)
    }


def _tensor(what: str, value: Any) -> Tensor:
    import torch

    if np.ma.is_masked(value):
        raise DataError(
            f"{what} has masked values, of which there is nothing to read; fill them or leave the "
            "rows out"
        )
    try:  # arrays are copied: they may be read-only, which torch does not know
        is_array = hasattr(value, "__array__") and not isinstance(value, torch.Tensor)
        tensor = torch.as_tensor(np.array(value) if is_array else value).detach()
    except (TypeError, ValueError, RuntimeError, RecursionError) as error:
        raise DataError(
            f"{what} is no tensor ({error}); give numbers, in rows of one length"
        ) from error
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_nested:
        kind = f"{tensor.dtype} {tensor.layout}".replace("torch.", "")
        raise DataError(
            f"{what} is a tensor whose numbers cannot be read row by row ({kind}); give a dense one"
        )
    if tensor.ndim == 0:
        raise DataError(f"{what} is a single number; its first dimension has to be the rows")
    return tensor.resolve_conj().resolve_neg()


def _with_numbers(what: str, tensor: Tensor) -> Tensor:
    if tensor.is_meta:
        raise DataError(f"{what} is on the device meta, which keeps no numbers; load it on another")
    return tensor


def _named(inputs: Any) -> dict[str, Any]:
    named = dict(inputs) if isinstance(inputs, Mapping) else {TOKENS: inputs}
    for name in named:
        if not isinstance(name, str):
            raise DataError(
                f"the inputs have the name {name!r}, of type {type(name).__name__}; names are "
                "strings"
            )
    return named


def _inputs(named: Mapping[str, Any]) -> dict[str, Tensor]:
    tensors = {name: _tensor(_input(name), value) for name, value in named.items()}
    sizes = ", ".join(f"{name} {len(tensor)}" for name, tensor in tensors.items())
    if len({len(tensor) for tensor in tensors.values()}) > 1:
        raise DataError(
            f"the inputs differ in their number of rows ({sizes}); give as many of each"
        )
    if not any(map(len, tensors.values())):
        raise DataError("the dataset has no rows; give at least one")
    devices = sorted({str(tensor.device) for tensor in tensors.values()})
    if len(devices) > 1:
        raise DataError(
            f"the inputs are on several devices ({', '.join(devices)}); move them to one"
        )
    return {name: _with_numbers(_input(name), tensor) for name, tensor in tensors.items()}


def _labels(labels: Any, rows: int, device: Any) -> Tensor:
    tensor = _with_numbers(LABELS, _tensor(LABELS, labels)).to(device)
    if len(tensor) != rows:
        raise DataError(f"there are {len(tensor)} labels for {rows} rows; give one per row")
    if tensor.is_complex():
        raise DataError(
            "labels= are complex numbers, which no metric compares; give integers or floats"
        )
    return tensor if tensor.is_floating_point() else tensor.long()


def _joined(old: dict[str, Tensor], fresh: dict[str, Tensor]) -> dict[str, Tensor]:
    import torch

    def kind(tensors: dict[str, Tensor]) -> dict[str, str]:
        return {
            name: f"{name} {t.dtype} {['rows', *t.shape[1:]]}"
            for name, t in sorted(tensors.items())
        }

    if kind(old) != kind(fresh):
        has, needs = ", ".join(kind(fresh).values()), ", ".join(kind(old).values()) or "none"
        raise DataError(
            f"extend() got {has}, but the dataset has {needs}; make names, types and shapes fit"
        )
    return {name: torch.cat([tensor, fresh[name]]) for name, tensor in old.items()}


def _label_pos(spec: Any) -> int | slice | Span | str | None:
    """As the `pos=` of a node takes it; whether there is such a position, or such a feature, is
    seen with a network."""
    if isinstance(spec, Span):
        return spec
    try:
        return position(spec, "the labels")
    except HypothesisError:
        raise DataError(
            f"label_pos= takes an int, a slice or the name of a feature, not {shown(spec)}; for "
            "several give a feature with a mask"
        ) from None


def _chosen(spec: Any, rows: int, what: str) -> Ints:
    """Ascending row numbers from a bool mask or from row numbers, each once, or it is drawn more
    often."""
    try:
        index = np.array(spec.tolist() if hasattr(spec, "tolist") else spec)
    except (TypeError, ValueError, RuntimeError) as error:
        raise DataError(f"{what} takes row numbers, or a mask of {rows} bools ({error})") from error
    if index.dtype == bool and index.shape == (rows,):
        index = np.flatnonzero(index)
    if index.ndim != 1 or (index.size and index.dtype.kind not in "iu"):
        has = f"not {index.dtype} of shape {list(index.shape)}"
        raise DataError(f"{what} takes row numbers, or a mask of {rows} bools, {has}")
    if not index.size:
        raise DataError(f"{what} holds no row; references and donors need at least one each")
    if index.min() < 0 or index.max() >= rows:
        wrong = index[(index < 0) | (index >= rows)][0]
        raise DataError(f"{what} holds row {wrong}, but rows go from 0 to {rows - 1}")
    index, counts = np.unique(index, return_counts=True)
    if counts.max() > 1:
        raise DataError(
            f"{what} holds row {index[counts.argmax()]} several times; name each row once"
        )
    return _frozen(index.astype(np.int64))


def _hash(*named: Mapping[str, Tensor]) -> str:
    digest = blake2b(digest_size=DIGEST_BYTES)
    for name, tensor in (item for tensors in named for item in sorted(tensors.items())):
        digest.update(repr((name, str(tensor.dtype), tuple(tensor.shape))).encode())
        digest.update(bytes_of(tensor).data)
    return digest.hexdigest()


def _static_positions(spec: int | slice | Span, length: int, where: str) -> Ints:
    if isinstance(spec, int) and not isinstance(spec, bool):
        if not -length <= spec < length:
            raise DataError(f"{where} is {spec}, but positions go from {-length} to {length - 1}")
        return np.array([spec % length])
    span = spec.slice if isinstance(spec, Span) else spec
    if not isinstance(span, slice):
        raise DataError(f"{where} takes an int, a slice or the name of a feature, not {spec!r}")
    index = np.arange(length)[span]
    if not index.size:
        raise DataError(f"{where} is {spec}, which holds none of the {length} positions; widen it")
    return index


def _column_positions(values: NDArray[Any], length: int, where: str) -> Ints:
    """`[rows, K]` from one int per row, or from a bool mask `[rows, length]`."""
    if values.dtype.kind in "iu" and values.ndim == 1:
        outside = (values < -length) | (values >= length)
        if outside.any():
            row = outside.argmax()
            where = f"{where} is {values[row]} at row {row}"
            raise DataError(f"{where}, but positions go from {-length} to {length - 1}")
        return np.asarray(values.astype(np.int64) % length)[:, None]
    if values.dtype != bool or values.ndim != 2:
        has = f"{values.dtype} {list(values.shape)}"
        raise DataError(
            f"{where} holds {has}; give one int per row, or a bool mask [rows, positions]"
        )
    if values.shape[1] != length:
        raise DataError(f"{where} is a mask of {values.shape[1]} positions, but there are {length}")
    counts = values.sum(axis=1)
    if not counts.all():
        raise DataError(
            f"{where} marks no position at row {counts.argmin()}; mark at least one in every row"
        )
    first = np.argsort(~values, axis=1, kind="stable")[:, : counts.max()]
    return np.where(np.arange(counts.max()) < counts[:, None], first, -1)
