"""Saved counterexamples: a swap set that broke a claim as a JSON file, to be read, reviewed and
replayed anywhere.

Rows are named by the digest of their content, never by number, so that a file outlives reordered
data.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from pytest_scrub.common.writing import write_whole
from pytest_scrub.data.dataset import Dataset
from pytest_scrub.errors import ScrubError
from pytest_scrub.statistics.intervals import Numbers
from pytest_scrub.swaps.swap_set import Rows, SwapSet

if TYPE_CHECKING:
    from torch import Tensor

SCHEMA_VERSION = 1
MOST_EXACT = 2**53  # an integer beyond it is no figure, and may not even fit a float
# characters of a row: the minimal swaps are read, the worst are many
SHOWN_OF_MINIMAL, SHOWN_OF_WORST = 2000, 60
# characters of a test id in a file name; file systems take 255 with what is added here
LONGEST_NAME = 120
POINTWISE = ("which donors", "which inputs")  # in files of versions that did not say it
_TEXTS = ("written_by", "claim", "metric", "model", "model_digest", "dataset_digest")
_NUMBERS = ("gap", "clean", "scrubbed")

_Kind = TypeVar("_Kind")


class DamagedFile(ScrubError):
    """A file that holds no saved counterexample, or only part of one."""


class NewerFile(DamagedFile):
    """A file that a newer version of this package wrote: nothing is wrong with it, so leave it
    where it is."""


class _Malformed(ValueError):
    """Why a file cannot be read."""


@dataclass(frozen=True)
class SavedRow:
    """One row of a dataset.

    - `digest`: of its content, see `Dataset.row_digest`.
    - `shown`: the row as a person reads it.
    - `inputs`: of a row that no dataset has, name to `{"dtype", "shape", "values"}`, to build it
      anew.
    """

    digest: str
    shown: str
    inputs: Mapping[str, Mapping[str, Any]] | None = None


@dataclass(frozen=True)
class SavedSwaps:
    """A swap set whose rows are digests.

    - `pointwise`: whether the swaps are the worst for their own references, so that their mean
      decides, rather than a draw from a distribution, whose interval does.
    - `gap`, `clean`, `scrubbed`: means over its references, in the metric's unit.
    - `references`: `[R]`.
    - `donors`: `[slots][R]`.
    """

    adversary: str
    gap: float
    clean: float
    scrubbed: float
    references: tuple[str, ...]
    donors: tuple[tuple[str, ...], ...]
    pointwise: bool

    @classmethod
    def of(
        cls,
        adversary: str,
        swap_set: SwapSet,
        dataset: Dataset,
        clean: Numbers,
        scrubbed: Numbers,
        pointwise: bool,
    ) -> SavedSwaps:
        """**Arguments**

        - `adversary`: which one found it; `pointwise`: whether it is worst for its own references.
        - `dataset`: the one, perhaps extended, whose rows the swap set means.
        - `clean`, `scrubbed`: float64 `[R]`, the metric of every reference.
        """
        here = dataset.to("cpu")  # one copy instead of one for every row
        digests = {row: here.row_digest(row) for row in np.unique(_columns(swap_set)).tolist()}
        references, *donors = (
            tuple(digests[row] for row in line)
            for line in (swap_set.references.tolist(), *swap_set.donors.tolist())
        )
        means = float((scrubbed - clean).mean()), float(clean.mean()), float(scrubbed.mean())
        return cls(adversary, *means, references, tuple(donors), pointwise)


@dataclass(frozen=True)
class Saved:
    """All that a file holds, in plain Python values.

    - `claim`, `hypothesis`: the test's id, and the tree as text.
    - `slots`: the paths that the donors are in order of.
    - `worst`, `minimal`: what decided the verdict, and what is left of it for a reader.
    - `rows`: every row that either of them names; see `rows_of`.
    """

    claim: str
    hypothesis: str
    slots: tuple[str, ...]
    metric: str
    tolerance: float
    worst: SavedSwaps
    minimal: SavedSwaps
    rows: tuple[SavedRow, ...]
    model: str
    model_digest: str
    dataset_digest: str
    written_by: str = field(default_factory=lambda: f"pytest-scrub {version('pytest-scrub')}")
    schema_version: int = SCHEMA_VERSION


def rows_of(
    dataset: Dataset, worst: SwapSet, minimal: SwapSet, known: int | None = None
) -> tuple[SavedRow, ...]:
    """Every row that two swap sets name, once: those of the minimal one first, a reference before
    its donors.

    **Arguments**

    - `dataset`: the one, perhaps extended, whose rows the swap sets mean.
    - `known`: how many of its rows the user's own dataset has; the inputs of later ones are saved
      with them.
    """
    here = dataset.to("cpu")
    found: dict[str, SavedRow] = {}
    for swap_set, longest in ((minimal, SHOWN_OF_MINIMAL), (worst, SHOWN_OF_WORST)):
        for row in dict.fromkeys(_columns(swap_set).tolist()):
            digest = here.row_digest(row)
            is_fresh = known is not None and row >= known
            if digest not in found or (found[digest].inputs and not is_fresh):
                shown = (
                    found[digest].shown
                    if digest in found
                    else _shortened(dataset.show(row), longest)
                )
                inputs = (
                    {name: _plain(tensor[row]) for name, tensor in here.inputs.items()}
                    if is_fresh
                    else None
                )
                found[digest] = SavedRow(digest, shown, inputs)
    return tuple(found.values())


def path_for(folder: Path, claim: str) -> Path:
    """A readable file name for a test id, safe on every file system and another one for every other
    id."""
    ascii_only = unicodedata.normalize("NFKD", claim).encode("ascii", "ignore").decode()
    name = re.sub(r"[^A-Za-z0-9_.]+", "-", ascii_only).strip("-.") or "claim"
    # Ids may differ in case only, or in what was taken out.
    unique = hashlib.blake2b(claim.encode("utf-8", "surrogatepass"), digest_size=6).hexdigest()
    return folder / f"{_shortened(name, LONGEST_NAME, '...')}-{unique}.json"


def save(path: Path, saved: Saved) -> None:
    """Write a file that a person can review; whoever reads meanwhile sees the old file or the new
    one.

    **Raises** `OSError` where it cannot be written, and `ValueError` for a number that is not
    finite; the old file stays as it was.
    """
    write_whole(path, _pretty(_record(saved)) + "\n")


def load(path: Path) -> Saved:
    """**Raises** `DamagedFile` for whatever `save` did not write, `NewerFile` for another
    version's, and `OSError`."""
    content = path.read_bytes()
    try:
        record = json.loads(content, object_pairs_hook=once)
        written = _get(record, "schema_version", int)
        if written <= SCHEMA_VERSION:
            return _parsed(record)
    except (ValueError, RecursionError) as error:
        why = error if isinstance(error, _Malformed) else f"it is no JSON: {error}"
        raise DamagedFile(
            f"the saved counterexample {path} is damaged ({why}); restore it or delete it"
        ) from error
    raise NewerFile(
        f"the saved counterexample {path} was written by a newer version "
        f"({record.get('written_by')}, schema {written} "
        f"where this one reads {SCHEMA_VERSION}); upgrade pytest-scrub, or delete the file"
    )


def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON. **Raises** `ValueError` where it says something twice, as JSON would take
    the last."""
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"{name!r} stands there twice")
        found[name] = value
    return found


def set_aside(path: Path) -> Path:
    """Rename a damaged file to one that ends in `.damaged`, where nothing looks for it; the new
    path."""
    for nth in itertools.count(1):
        aside = path.with_name(f"{path.name}.damaged{'' if nth == 1 else nth}")
        try:
            aside.touch(exist_ok=False)  # from here on the name is ours
        except FileExistsError:
            continue
        try:
            return path.replace(aside)
        except OSError:
            aside.unlink()
            raise
    raise AssertionError("unreachable")


def rebuilt(row: SavedRow) -> dict[str, Tensor]:
    """The inputs of a row that was saved with them. **Raises** `ValueError` where they are not that
    row's."""
    import torch

    tensors = {}
    for name, plain in (row.inputs or {}).items():
        dtype = getattr(torch, _get(plain, "dtype", str), None)
        if not isinstance(dtype, torch.dtype):
            raise _Malformed(f"{plain['dtype']!r} is no dtype")
        try:
            values = [float(v) if isinstance(v, str) else v for v in _get(plain, "values", list)]
            tensors[name] = torch.tensor(values, dtype=dtype).reshape(_get(plain, "shape", list))
        except (TypeError, ValueError, RuntimeError, OverflowError) as error:
            raise _Malformed(f"the input {name!r} of {row.shown!r} is no tensor") from error
    if (
        not tensors
        or Dataset({name: tensor[None] for name, tensor in tensors.items()}).row_digest(0)
        != row.digest
    ):
        raise _Malformed(f"the inputs of {row.shown!r} do not have its digest")
    return tensors


def _columns(swap_set: SwapSet) -> Rows:
    """int64 `[R * (1 + slots)]`: each reference with its donors."""
    rows: Rows = np.vstack([swap_set.references, swap_set.donors]).T.reshape(-1)
    return rows


def _shortened(text: str, longest: int, gap: str = " ... ") -> str:
    kept = (longest - len(gap)) // 2
    return text if len(text) <= longest else text[:kept] + gap + text[-kept:]


def _plain(tensor: Tensor) -> dict[str, Any]:
    values = tensor.flatten().tolist()
    # JSON has no infinity
    spelled = [str(v) if isinstance(v, float) and not math.isfinite(v) else v for v in values]
    return {
        "dtype": str(tensor.dtype).removeprefix("torch."),
        "shape": list(tensor.shape),
        "values": spelled,
    }


def _record(saved: Saved) -> dict[str, Any]:
    """What is written, in the order in which a person wants it."""
    place = {row.digest: i for i, row in enumerate(saved.rows)}

    def swaps(of: SavedSwaps) -> dict[str, Any]:
        donors = zip(saved.slots, of.donors, strict=True)
        return {
            "adversary": of.adversary,
            "pointwise": of.pointwise,
            **{name: getattr(of, name) for name in _NUMBERS},
            "references": [place[digest] for digest in of.references],
            "donors": {slot: [place[digest] for digest in digests] for slot, digests in donors},
        }

    def row(nth: int, of: SavedRow) -> dict[str, Any]:
        inputs = (
            {}
            if of.inputs is None
            else {"inputs": {name: of.inputs[name] for name in sorted(of.inputs)}}
        )
        return {"row": nth, "digest": of.digest, "shown": of.shown, **inputs}

    return {
        "schema_version": saved.schema_version,
        **{name: getattr(saved, name) for name in _TEXTS},
        "tolerance": saved.tolerance,
        "hypothesis": saved.hypothesis.split("\n"),
        "slots": list(saved.slots),
        "minimal": swaps(saved.minimal),
        "worst": swaps(saved.worst),
        "rows": [row(nth, of) for nth, of in enumerate(saved.rows)],
    }


def _pretty(value: Any, indent: str = "") -> str:
    """JSON with one field, one text and one row a line; a list of numbers is one line too."""
    inner = indent + "  "

    def dumps(part: Any) -> str:
        return json.dumps(part, ensure_ascii=False, allow_nan=False)

    if isinstance(value, dict) and value:
        lines = [f"{inner}{dumps(name)}: {_pretty(part, inner)}" for name, part in value.items()]
        return "{\n" + ",\n".join(lines) + f"\n{indent}}}"
    if isinstance(value, list) and value and not isinstance(value[0], int):
        return "[\n" + ",\n".join(inner + dumps(part) for part in value) + f"\n{indent}]"
    return dumps(value)


def _get(record: Any, name: str, kind: type[_Kind]) -> _Kind:
    value = record.get(name) if isinstance(record, dict) else None
    if type(value) is not kind:  # a bool is no int
        raise _Malformed(f"{name!r} is missing, or no {kind.__name__}")
    return value


def _number(record: dict[str, Any], name: str) -> float:
    value: Any = record.get(name)
    if not (type(value) is int and abs(value) <= MOST_EXACT) and not (
        type(value) is float and math.isfinite(value)
    ):
        raise _Malformed(f"{name!r} is missing, or no finite number")
    return float(value)


def _texts(record: dict[str, Any], name: str) -> tuple[str, ...]:
    values = _get(record, name, list)
    if not all(isinstance(value, str) for value in values):
        raise _Malformed(f"{name!r} holds something else than text")
    return tuple(values)


def _parsed(record: dict[str, Any]) -> Saved:
    if record["schema_version"] != SCHEMA_VERSION:
        raise _Malformed(f"its schema is {record['schema_version']}, not {SCHEMA_VERSION}")
    rows = tuple(_parsed_row(nth, row) for nth, row in enumerate(_get(record, "rows", list)))
    if len({row.digest for row in rows}) < len(rows):
        raise _Malformed("two of its rows have one digest")
    slots, tolerance = _texts(record, "slots"), _number(record, "tolerance")
    if tolerance < 0:
        raise _Malformed(f"its tolerance is {tolerance:g}, less than none")
    texts: dict[str, Any] = {name: _get(record, name, str) for name in _TEXTS}
    return Saved(
        **texts,
        tolerance=tolerance,
        hypothesis="\n".join(_texts(record, "hypothesis")),
        slots=slots,
        minimal=_parsed_swaps(_get(record, "minimal", dict), slots, rows),
        worst=_parsed_swaps(_get(record, "worst", dict), slots, rows),
        rows=rows,
    )


def _parsed_row(nth: int, record: Any) -> SavedRow:
    if _get(record, "row", int) != nth:
        raise _Malformed(f"its rows are not numbered in order from {nth}")
    inputs = _get(record, "inputs", dict) if "inputs" in record else None
    row = SavedRow(_get(record, "digest", str), _get(record, "shown", str), inputs)
    if inputs is not None:
        rebuilt(row)
    return row


def _parsed_swaps(
    record: dict[str, Any], slots: tuple[str, ...], rows: tuple[SavedRow, ...]
) -> SavedSwaps:
    def digests(of: dict[str, Any], name: str) -> tuple[str, ...]:
        places = _get(of, name, list)
        if not all(type(place) is int and 0 <= place < len(rows) for place in places):
            raise _Malformed(f"{name!r} names a row that it does not have")
        return tuple(rows[place].digest for place in places)

    references, donors = digests(record, "references"), _get(record, "donors", dict)
    if not references or tuple(donors) != slots:
        raise _Malformed("its swaps have no reference, or donors of other slots than its own")
    columns = tuple(digests(donors, slot) for slot in slots)
    if any(len(column) != len(references) for column in columns):
        raise _Malformed("its swaps have not one donor for every reference")
    numbers = {name: _number(record, name) for name in _NUMBERS}
    adversary = _get(record, "adversary", str)
    pointwise = _get(record, "pointwise", bool) if "pointwise" in record else adversary in POINTWISE
    return SavedSwaps(
        adversary, **numbers, references=references, donors=columns, pointwise=pointwise
    )
