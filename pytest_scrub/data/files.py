"""Reading datasets from files and from Hugging Face: each function returns the arguments of
`Dataset`.

The classmethods of `Dataset` with the same names say what may be given.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from pytest_scrub.common.user_code import call_user_function
from pytest_scrub.data.bins import Binned
from pytest_scrub.data.names import MASK, TOKEN_NAMES, TOKENS, Field, Names
from pytest_scrub.errors import DataError, did_you_mean, hides_scrub_errors

__tracebackhide__ = hides_scrub_errors


def from_npz(path: str | Path, *, inputs: Names, **fields: Any) -> dict[str, Any]:
    """See `Dataset.from_npz`."""
    file = _file(path)
    try:
        archive = np.load(file, allow_pickle=False)
        names = archive.files
    except (ValueError, EOFError, BadZipFile, AttributeError) as error:  # a bare array has no files
        raise DataError(
            f"{path} is not an .npz file ({error}); write it with numpy.savez"
        ) from error
    with archive:
        return _load(_table(names, archive, path), inputs, **{"name": Path(path).name, **fields})


def from_safetensors(path: str | Path, *, inputs: Names, **fields: Any) -> dict[str, Any]:
    """See `Dataset.from_safetensors`."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors = load_file(_file(path))
    except SafetensorError as error:
        raise DataError(f"{path} is not a .safetensors file ({error})") from error
    return _load(_table(tensors, tensors, path), inputs, **{"name": Path(path).name, **fields})


def from_jsonl(
    path: str | Path, *, tokenize: Field, pad: int | None = None, **fields: Any
) -> dict[str, Any]:
    """See `Dataset.from_jsonl`."""
    records = list(_records(_file(path)))

    def field(of: Field) -> list[Any]:
        # Copies: what a function changes in a record would be changed for all that read it after
        # it.
        return [
            call_user_function(f"a function of records, on {where},", of, deepcopy(record))
            if callable(of)
            else _field_of(record, of, where)
            for where, record in records
        ]

    rows = field(tokenize)
    inputs = by_input(rows, (where for where, _ in records))
    return _load(field, padded(inputs, pad, path), **{"name": Path(path).name, **fields})


def from_hf(
    dataset: Any, *, inputs: Names, pad: int | None = None, **fields: Any
) -> dict[str, Any]:
    """See `Dataset.from_hf`."""
    names, kind = getattr(dataset, "column_names", None), type(dataset).__name__
    if not isinstance(names, list):
        raise DataError(f"from_hf() takes one split of a datasets.Dataset, not a {kind}")
    field = _table(names, dataset.with_format(None), "the Hugging Face dataset")
    columns = {name: list(field(of)) for name, of in _named(inputs, TOKENS).items()}
    return _load(field, padded(columns, pad, "the Hugging Face dataset"), **fields)


def _load(field: Callable[[Any], Any], inputs: Any, **fields: Any) -> dict[str, Any]:
    labels, features = fields.pop("labels", None), _named(fields.pop("features", None) or ())
    return {
        "inputs": {
            name: field(of) if isinstance(of, str) else of
            for name, of in _named(inputs, TOKENS).items()
        },
        "labels": None if labels is None else field(labels),
        "features": {
            name: replace(of, source=field(of.source)) if isinstance(of, Binned) else field(of)
            for name, of in features.items()
        },
        **fields,
    }


def _file(path: str | Path) -> str:
    if not Path(path).is_file():
        raise DataError(f"there is no file {path}; relative paths start at {Path.cwd()}")
    return str(path)


def _records(path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """`("line 3 of x.jsonl", record)` for every line that is not blank."""
    for number, line in enumerate(Path(path).read_bytes().split(b"\n"), start=1):
        if line.strip():
            where = f"line {number} of {path}"
            try:
                record = json.loads(line)
            except ValueError as error:  # also what is not UTF-8
                raise DataError(
                    f"{where} is not JSON ({error}); mend the line or take it out"
                ) from error
            if not isinstance(record, dict):
                raise DataError(
                    f"{where} holds a {type(record).__name__}; write one JSON object per line"
                )
            yield where, record


def _field_of(record: Mapping[str, Any], name: str, where: object) -> Any:
    if name not in record:
        has = ", ".join(record) or "none"
        raise DataError(
            f"{where} has no field {name!r}{did_you_mean(name, record)}; its fields are {has}"
        )
    return record[name]


def _table(names: Iterable[str], table: Any, source: object) -> Callable[[Any], Any]:
    """What a loader's user may name: a field of `table`, or a function, which stays as it is."""
    known = dict.fromkeys(names)

    def field(of: Any) -> Any:
        if callable(of):
            return of
        _field_of(known, of, source)
        try:
            return table[of]
        except ValueError as error:  # numpy's, for an array that would have to be unpickled
            raise DataError(
                f"{of!r} of {source} cannot be read ({error}); store numbers or text"
            ) from error

    return field


def _named(fields: Any, lone: str | None = None) -> dict[str, Any]:
    """`inputs=` or `features=` of a loader as a mapping from our name to the field."""
    if isinstance(fields, str):
        return {lone or fields: fields}
    return dict(fields) if isinstance(fields, Mapping) else {name: name for name in fields}


def by_input(rows: list[Any], places: Iterable[object]) -> dict[str, list[Any]]:
    """What `tokenize=` returned for the examples at `places`, as a mapping from the model's inputs
    to rows."""
    kinds = {isinstance(row, Mapping) for row in rows}
    if len(kinds) > 1:
        raise DataError(
            "tokenize= returns a mapping for some examples only; let it return one for all of them"
        )
    if True not in kinds:
        return {TOKENS: rows}
    where = [f"what tokenize= returns for {place}" for place in places]
    return {
        name: [_field_of(row, name, at) for row, at in zip(rows, where, strict=True)]
        for name in rows[0]
    }


def padded(inputs: dict[str, list[Any]], pad: int | None, source: object) -> dict[str, list[Any]]:
    """`inputs` with rows of one length: filled up on the right with `pad`, and a mask of what was
    there."""
    sizes = {
        name: [len(row) if hasattr(row, "__len__") else 0 for row in inputs[name]]
        for name in inputs
    }
    ragged = {name: counts for name, counts in sizes.items() if len(set(counts)) > 1}
    counts = next(iter((ragged or sizes).values()))
    for name, others in ragged.items():
        if pad is None:
            spread = f"{min(others)} to {max(others)} tokens"
            raise DataError(
                f"{name!r} of {source} has rows of {spread}; give pad= the id of the pad token"
            )
        if 0 in others:
            raise DataError(
                f"{name!r} of {source} has no tokens at row {others.index(0)}; take the row out"
            )
        if others != counts:
            raise DataError(
                f"{name!r} of {source} has rows of other lengths than {next(iter(ragged))!r}"
            )
    if pad is None or not any(counts):
        return inputs
    filled = {MASK: [[1] * count + [0] * (max(counts) - count) for count in counts], **inputs}
    for name in ragged:
        fill = [pad if name in TOKEN_NAMES else 0] * max(counts)
        filled[name] = [[*row, *fill[len(row) :]] for row in filled[name]]
    return filled
