"""Datasets: model inputs, labels, features, which rows may be references or donors, and how to show
a row.

A dataset knows nothing of a model or of a claim. Two rows *agree* on a feature when its values are
equal.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import copy
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pytest_scrub.common.calls import short_repr
from pytest_scrub.common.user_code import call_user_function
from pytest_scrub.common.visible import visible
from pytest_scrub.data import files
from pytest_scrub.data.bins import Binned, Bins
from pytest_scrub.data.columns import (
    Ints,
    Places,
    checked_column,
    first_of_codes,
    first_unlike,
    row_codes,
    value_codes,
    values_at,
)
from pytest_scrub.data.names import LABELS, MASK, TOKEN_NAMES, Field, Names
from pytest_scrub.data.pictures import Picture, picture_of
from pytest_scrub.data.positions import Positions, positions_by_row, same_positions
from pytest_scrub.data.tensors import (
    feature_text,
    hash_of,
    input_tensors,
    input_text,
    joined,
    label_tensor,
    named_inputs,
    require_names,
)
from pytest_scrub.data.unchanged import bytes_of, mark_of, still_is
from pytest_scrub.errors import DataError, HypothesisError, did_you_mean, hides_scrub_errors
from pytest_scrub.tree.nodes import Agreement, Span, position

if TYPE_CHECKING:
    from hypothesis.strategies import SearchStrategy
    from torch import Tensor
    from typing_extensions import Self

    from pytest_scrub.data.strategies import StrategySource

__all__ = ["Dataset", "Positions"]
__tracebackhide__ = hides_scrub_errors

# How many rows a feature's function is called for once more: a coin would fall the same way once in
# 2^64.
ROWS_AGAIN = 64
# Of how many values of a feature its function is called for one row alone: what is compared with a
# mean over the rows shows.
VALUES_AGAIN = 4


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
      them; `[rows, positions]` is for `pos=EACH`, `[rows, 1, positions]` is one value for a row),
      or to a function of all rows' inputs (`dict[str, Tensor]`) that returns one; called
      when first needed, and once more for a few rows: what a row's value is must not depend on
      chance or on the other rows. Either may stand in `binned` or `near`.
    - `show`: a tokenizer (anything with `decode`), or a function of one row's `dict[str, Tensor]`
      to a str or an image: of Pillow, or numbers `[height, width]` or `[height, width, 3]`.
    - `name`: how reports call the dataset.
    - `digest`: identifies inputs and labels, where hashing all of them would take too long.
    - `references`, `donors`: a bool mask or row numbers; all rows by default. With `donors` alone,
      the other rows are the references.
    - `fitted_on`: likewise the rows on which an alignment that is claimed was found. They are
      neither references nor donors; the control that fits it anew does so on them.
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
        fitted_on: Any = None,
        source: StrategySource | None = None,
    ) -> None:
        named = named_inputs(inputs)
        self.inputs = input_tensors(named)
        self.labels = None if labels is None else label_tensor(labels, len(self), self.device)
        self.labelled = len(self)  # its first rows, whose labels are known
        self.label_pos = _label_pos(label_pos)
        self.name = name
        self.source = source
        if show is not None and not callable(show) and not hasattr(show, "decode"):
            raise DataError(
                f"show= takes a tokenizer or a function of a row, not a {type(show).__name__}"
            )
        self.fitted_rows: Ints | None = None
        everything = np.arange(len(self))
        of_donors, of_references = "donors=", "references="
        if fitted_on is not None:
            self.fitted_rows = _row_numbers(fitted_on, len(self), "fitted_on=")
            everything = np.setdiff1d(everything, self.fitted_rows)
            of_donors = "donors=" if donors is not None else "what fitted_on= leaves"
        self.donor_rows = _row_numbers(
            everything if donors is None else donors, len(self), of_donors
        )
        if references is None and donors is not None:
            references, of_references = (
                np.setdiff1d(everything, self.donor_rows),
                "what donors= leaves for references=",
            )
        self.reference_rows = _row_numbers(
            everything if references is None else references, len(self), of_references
        )
        self._require_unseen()
        if digest is not None and not (isinstance(digest, str) and digest):
            raise DataError(f"digest= is text that identifies inputs and labels, not {digest!r}")
        self._show, self._digest = show, digest
        self._values: dict[str, NDArray[Any]] = {}
        self._codes: dict[tuple[Agreement, Places | None], Ints] = {}
        self._marks = {what: mark_of(kept) for what, kept in self._held().items()}
        given = {**{input_text(name): value for name, value in named.items()}, LABELS: labels}
        self._given = _copied(given, self._held())
        self._changed: str | None = None
        self._features: dict[str, Any] = {}
        self._binned: dict[str, Binned] = {}
        self._bins: dict[str, Bins] = {}
        self._take_features({} if features is None else features)

    def __len__(self) -> int:
        return len(next(iter(self.inputs.values())))

    def _require_unseen(self) -> None:
        """**Raises** `DataError` where a claim would be judged on an input that its alignment was
        found on."""
        if self.fitted_rows is None:
            return
        fitted = self.content[self.fitted_rows]
        for what, rows in (("references=", self.reference_rows), ("donors=", self.donor_rows)):
            both = np.isin(self.content[rows], fitted)
            if both.any():
                row = rows[both][0]
                same = self.fitted_rows[fitted == self.content[row]][0]
                like = "" if same == row else f", the same input as row {row},"
                raise DataError(
                    f"fitted_on= holds row {same}{like} which {what} holds too, and an alignment "
                    "is judged on inputs that it was not found on; leave them out of one of the two"
                )

    @property
    def of_fit(self) -> Dataset:
        """The same with the rows of `fitted_on` as references and donors; itself without any."""
        if self.fitted_rows is None:
            return self
        other = copy(self)
        other.reference_rows = other.donor_rows = self.fitted_rows
        return other

    def __getstate__(self) -> dict[str, Any]:
        """What the user holds cannot be changed from where a copy is sent to."""
        return {**self.__dict__, "_given": {}}

    def _held(self) -> dict[str, Any]:
        """What claims read, by how errors call it."""
        inputs = {input_text(name): tensor for name, tensor in self.inputs.items()}
        values = {feature_text(name): values for name, values in self._values.items()}
        return {**inputs, **self._label_table(), **values}

    def _label_table(self) -> dict[str, Tensor]:
        return {} if self.labels is None else {LABELS: self.labels}

    def require_unchanged(self) -> None:
        """**Raises** `DataError` where inputs, labels or a feature are not what they were when they
        were handed over; once they were, for good, as what was computed meanwhile may be of either.
        Costs one read of all of them."""
        if self._changed is None:
            kept = {what: (value, self._marks.get(what)) for what, value in self._held().items()}
            known = [*kept.items(), *self._given.items()]
            changed = [what for what, (value, mark) in known if not still_is(value, mark)]
            self._changed = next(iter([*changed, *(self._marks.keys() - kept.keys())]), None)
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
                names = ", ".join(self._features)
                has = f"it has {names}" if names else "give it in features="
                raise DataError(
                    f"the dataset has no feature {name!r}{did_you_mean(name, self._features)}; "
                    f"{has}"
                )
            self._set_values(name, self._first_values(name))
        return self._values[name]

    def _set_values(self, name: str, values: NDArray[Any]) -> None:
        self._values[name] = values
        self._marks[feature_text(name)] = mark_of(values)

    def _take_features(self, features: Mapping[str, Any]) -> None:
        """Functions as they are; of columns what they say now, or what is wrong with them, which is
        told when they are used."""
        if not isinstance(features, Mapping):
            raise DataError(
                f"features= maps names to columns or functions, it is no {type(features).__name__}"
            )
        require_names("features= has", features)
        for name, given in features.items():
            source = given
            if isinstance(given, Binned):
                self._binned[name], source = given, given.source
            if callable(source):
                self._features[name] = source
                continue
            try:
                self._features[name] = _frozen(checked_column(name, source, len(self)))
            except DataError as error:
                self._features[name] = error
            else:
                # nobody can read an iterator again
                if not isinstance(source, Iterator):
                    self._given[feature_text(name)] = source, mark_of(source)

    def _first_values(self, name: str) -> NDArray[Any]:
        source: Any = self._features[name]
        if isinstance(source, DataError):
            raise DataError(str(source)) from source
        values: NDArray[Any] = self._computed(name, self.inputs) if callable(source) else source
        if callable(source):
            self._require_same_alone(name, values)
        if name in self._binned and name not in self._bins:
            self._bins[name] = self._binned[name].cut(name, values)
        return self._in_bins(name, values)

    def _in_bins(self, name: str, values: NDArray[Any]) -> NDArray[Any]:
        """What stands for the bins that a feature's numbers lie in, where it has bins."""
        return _frozen(self._bins[name](name, values)) if name in self._bins else values

    def _computed(self, name: str, inputs: Mapping[str, Tensor]) -> NDArray[Any]:
        """What a feature's function gives for inputs, of which it gets a copy."""
        copies = {key: tensor.clone() for key, tensor in inputs.items()}
        column = call_user_function(
            f"the function of {feature_text(name)}", self._features[name], copies
        )
        return _frozen(checked_column(name, column, len(next(iter(inputs.values())))))

    def _require_same_alone(self, name: str, values: NDArray[Any]) -> None:
        """**Raises** `DataError` where a few rows, the last ones first, or one row, have other
        values than among all."""
        remedy = "compute it once and give it as a column"
        few = np.unique(np.linspace(0, len(self) - 1, ROWS_AGAIN).astype(np.int64))[::-1]
        unlike = np.unique(value_codes(values), return_index=True)[1][:VALUES_AGAIN]
        for some in (few, *unlike[:, None]):
            try:
                again = self._computed(name, self.batch(some))
            except DataError as error:
                raise DataError(
                    f"for {len(some)} of {len(self)} rows alone, {error}; or {remedy}"
                ) from error
            first = first_unlike(again, values[some])
            if first is not None:
                raise DataError(
                    f"feature {name!r} has another value at row {some[first]} when its function is "
                    "called again for a few "
                    f"rows alone, so it depends on chance or on the other rows; {remedy}"
                )

    def covers(self, name: str) -> bool:
        """Whether a feature is a function, which covers all rows or is in error, or a column that
        has usable values."""
        return not isinstance(self._features[name], DataError)

    def codes(self, agreement: Agreement, places: Places | None = None) -> Ints:
        """`[rows]`: equal exactly where the rows agree; `EXACT` is the row itself, whatever its
        content. `places`: at these positions, `[positions * rows]`, see `values_at`."""
        key = agreement, places
        if key not in self._codes:
            values = map(self.feature, agreement.features)
            columns = [value_codes(values_at(each, places)) for each in values]
            count = len(self) * (1 if places is None else len(places.at))
            codes = np.arange(count) if agreement.exact else row_codes(count, columns)
            self._codes[key] = _frozen(codes)
        return self._codes[key]

    @cached_property
    def content(self) -> Ints:
        """`[rows]`: equal exactly where all inputs are equal, byte for byte; labels do not
        count."""
        return _frozen(row_codes(len(self), [bytes_of(tensor) for tensor in self.inputs.values()]))

    @cached_property
    def first_of_content(self) -> Ints:
        """`[contents]`: the first row of each content."""
        return _frozen(first_of_codes(self.content))

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
            return Positions(_frozen(positions_by_row(self.feature(spec), length, where)))
        return Positions(_frozen(same_positions(spec, length, where)))

    def digest(self) -> str:
        """Hex: the given `digest=`, or a hash of inputs and labels with their names, types and
        shapes."""
        if self._digest is None:
            self._digest = hash_of(self.inputs, self._label_table())
        return self._digest

    def row_digest(self, row: int) -> str:
        """Hex: a hash of one row's inputs, the same wherever the row is and whatever surrounds
        it."""
        return hash_of({name: tensor[row] for name, tensor in self.inputs.items()})

    def show(self, row: int) -> str:
        """One line for a person; control characters are escaped, and images told of."""
        shown = self._shown(row)
        return shown.text if isinstance(shown, Picture) else visible(shown)

    def picture(self, row: int) -> str | None:
        """The image that `show=` returns for a row, as the data URI of a PNG; None where it returns
        text."""
        shown = self._shown(row)
        return shown.uri if isinstance(shown, Picture) else None

    def words(self, row: int) -> tuple[str, ...]:
        """What stands at every position of a row that is not padded, as `show=` writes it; empty
        where it does not say that of each."""
        ids = self._ids({name: tensor[row] for name, tensor in self.inputs.items()})
        if ids.ndim != 1 or ids.is_floating_point():
            return ()
        mask = self.inputs.get(MASK)
        seen = (ids if mask is None else ids[mask[row].bool()]).tolist()
        if hasattr(self._show, "decode"):
            return tuple(self.word(token) or "" for token in seen)
        text = self.show(row)
        for words in (text.split(), [*text]):
            # one for each, and the same for the same
            pairs = set(zip(seen, words, strict=False))
            if len(words) == len(seen) and len(pairs) == len({*seen}) == len({*words}):
                return tuple(words)
        return ()

    def word(self, token: int) -> str | None:
        """One token as the tokenizer of `show=` writes it; None where there is none."""
        if not hasattr(self._show, "decode"):
            return None
        return visible(str(call_user_function("decode() of show=", self._show.decode, [token])))

    @property
    def vocabulary(self) -> int | None:
        """How many tokens the tokenizer of `show=` says that it knows, if any."""
        size = getattr(self._show, "vocab_size", None)
        return size if hasattr(self._show, "decode") and isinstance(size, int) else None

    def _shown(self, row: int) -> str | Picture:
        shown = self._text({name: tensor[row].clone() for name, tensor in self.inputs.items()})
        if isinstance(shown, str):
            return shown
        if (picture := picture_of(shown, row)) is None:
            raise DataError(
                f"show= returned {shown!r} for row {row}; return a str, or an image: of Pillow, or "
                "numbers [height, width] or [height, width, 3]"
            )
        return picture

    @staticmethod
    def _ids(row: dict[str, Tensor]) -> Tensor:
        return next((row[name] for name in TOKEN_NAMES if name in row), next(iter(row.values())))

    def _text(self, row: dict[str, Tensor]) -> Any:
        ids = self._ids(row)
        # before calling it: Hugging Face's tokenizers are callable too
        if hasattr(self._show, "decode"):
            return call_user_function("decode() of show=", self._show.decode, ids.tolist())
        if self._show is not None:
            return call_user_function("the function show=", self._show, row)
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
        placed = copy(self)
        placed.inputs = {name: tensor.to(device) for name, tensor in self.inputs.items()}
        placed.labels = None if self.labels is None else self.labels.to(device)
        placed._given = {**_copied(self._held(), placed._held()), **self._given}
        return placed

    def with_features(self, features: Mapping[str, Any]) -> Dataset:
        """The same rows with more features, columns or functions; all else is shared.

        **Raises** `DataError` for a name that the dataset has already.
        """
        for name in features:
            if name in self._features:
                raise DataError(
                    f"the dataset has a feature {name!r} already; give the new one another name"
                )
        self.digest(), self.content  # computed once, for both
        more = copy(self)
        for name in ("_features", "_binned", "_bins", "_given", "_marks", "_values", "_codes"):
            setattr(more, name, vars(self)[name].copy())
        more._take_features(features)
        return more

    def extend(self, inputs: Any, labels: Any = None) -> Dataset:
        """A dataset with fresh rows at its end, which are donors and never references.

        **Arguments**

        - `inputs`: as for `Dataset`, with the names, types and row shapes of this one's.
        - `labels`: of the fresh rows; zeros by default, as only the label of a reference is read
          by metrics. What predicts labels may read them only where they are given.

        **Raises** `DataError` where they do not fit; later, where a feature that is a column is
        used.
        """
        fresh = Dataset(inputs, labels=labels).to(self.device)
        if labels is None and self.labels is not None:
            fresh.labels = self.labels.new_zeros(len(fresh), *self.labels.shape[1:])
        known, more = ({} if d.labels is None else {"labels": d.labels} for d in (self, fresh))
        extended = Dataset(
            joined(self.inputs, fresh.inputs),
            labels=joined(known, more).get("labels"),
            label_pos=self.label_pos,
            show=self._show,
            name=self.name,
            source=self.source,
            references=self.reference_rows,
            donors=[*self.donor_rows, *range(len(self), len(self) + len(fresh))],
            fitted_on=self.fitted_rows,
        )
        is_known = labels is not None and self.labelled == len(self)
        extended.labelled = len(extended) if is_known else self.labelled
        for name, source in self._features.items():
            extended._features[name] = (
                source
                if callable(source)
                else DataError(
                    f"feature {name!r} is a column and has no values for rows that extend() added; "
                    "give it as a function of the inputs, for only functions work on fresh inputs"
                )
            )
        for name in filter(extended.covers, self._binned):
            # bins are those of the rows before; what is wrong with them is wrong with all
            try:
                self.feature(name)
            except DataError as error:
                extended._features[name] = error
        extended._binned, extended._bins = self._binned, self._bins
        # only the fresh rows are computed anew
        for name in filter(extended.covers, self._values):
            old = self._values[name]
            new = self._in_bins(name, self._computed(name, fresh.inputs))
            same = (old.dtype, old.shape[1:]) == (new.dtype, new.shape[1:])
            column = np.concatenate([old, new]) if same else [*old, *new]
            extended._set_values(name, _frozen(checked_column(name, column, len(extended))))
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
    def from_prompts(
        cls, template: str | Sequence[str], slots: Mapping[str, Sequence[str]], **fields: Any
    ) -> Self:
        """A dataset of different prompts that are made of templates, with the words in their slots.

        **Arguments**

        - `template`: a text with slots in braces, or a list of such.
        - `slots`: name to the words that it may hold, as they stand in the text.
        - `tokenizer`: anything with `encode`, or a function from a text to its token ids. Rows are
          filled up on the right with `pad=` (its pad or end token by default) behind an
          `attention_mask`.
        - `label`: the text that follows, `" {receiver}"`, or a function of a prompt's words to it;
          its one token is the label, at the prompt's last token.
        - `against`: another such text; its token is the feature `against`, for `logit_difference`.
        - `rows`: how many prompts to draw, with `seed`; by default all there are, in order.
        - `where`: a function of a prompt's words, whether to have it.
        - `features`: name to function of a prompt's words. All else as for `Dataset`.

        Features that it gives: the word in each slot, by the slot's name; the number of the
        `template`, where there are several; and positions, for `pos=`: `receiver_start` and
        `receiver_end`, the first and the last token of the word, `receiver_2_start`, ... where it
        comes again, and the prompt's `end`.

        **Raises** `DataError` where a token reaches across the edge of a word, and where a label is
        several tokens.
        """
        from pytest_scrub.data.prompts import from_prompts

        return cls._of(from_prompts(template, slots, **fields))

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


def _copied(given: Mapping[str, Any], kept: Mapping[str, Any]) -> dict[str, tuple[Any, int]]:
    """What was given and lies elsewhere in memory than what the dataset holds, and its mark."""
    return {
        what: (value, mark_of(value))
        for what, value in given.items()
        if what in kept
        and not (hasattr(value, "data_ptr") and value.data_ptr() == kept[what].data_ptr())
    }


def _label_pos(spec: Any) -> int | slice | Span | str | None:
    """As the `pos=` of a node takes it; whether there is such a position, or such a feature, is
    seen with a network."""
    if isinstance(spec, Span):
        return spec
    try:
        return position(spec, "the labels")
    except HypothesisError:
        raise DataError(
            "label_pos= takes an int, a slice or the name of a feature, not "
            f"{short_repr(spec)}; for several give a feature with a mask"
        ) from None


def _row_numbers(spec: Any, rows: int, what: str) -> Ints:
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
