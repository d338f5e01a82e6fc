"""Saved counterexamples: a swap set that broke a claim as a JSON file, to be read, reviewed and
replayed anywhere.

Rows are known by the digest of their content, never by their number in the data, so that a file
outlives reordered data.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np

from pytest_scrub.common.records import Malformed, as_plain_dict, parse_json, read_record
from pytest_scrub.common.whole_files import write_file
from pytest_scrub.data.dataset import Dataset
from pytest_scrub.errors import ScrubError
from pytest_scrub.statistics.intervals import Numbers
from pytest_scrub.swaps.swap_set import SwapSet
from pytest_scrub.verdict import Counterexample

if TYPE_CHECKING:
    from torch import Tensor

SCHEMA_VERSION: Final = 1
# characters of a row: the minimal swaps are read, the worst are many
SHOWN_OF_MINIMAL, SHOWN_OF_WORST = 2000, 60
# characters of a test id in a file name; file systems take 255 with what is added here
LONGEST_NAME = 120


class DamagedFile(ScrubError):
    """A file that holds no saved counterexample, or only part of one."""


class NewerFile(DamagedFile):
    """A file that a newer version of this package wrote: nothing is wrong with it, so leave it
    where it is."""


@dataclass(frozen=True)
class SavedInput:
    """One input of a row, to build it anew. JSON has no infinities, so these are words."""

    dtype: str
    shape: tuple[int, ...]
    values: tuple[bool | int | float | str, ...]

    @classmethod
    def of(cls, tensor: Tensor) -> SavedInput:
        """That of one row."""
        values = [
            str(v) if isinstance(v, float) and not math.isfinite(v) else v
            for v in tensor.flatten().tolist()
        ]
        dtype = str(tensor.dtype).removeprefix("torch.")
        return cls(dtype, tuple(tensor.shape), tuple(values))

    def rebuilt(self) -> Tensor:
        """**Raises** `ValueError` where it is none."""
        import torch

        dtype = getattr(torch, self.dtype, None)
        if not isinstance(dtype, torch.dtype):
            raise Malformed(f"{self.dtype!r} is no dtype")
        try:
            values = [float(v) if isinstance(v, str) else v for v in self.values]
            return torch.tensor(values, dtype=dtype).reshape(self.shape)
        except (TypeError, ValueError, RuntimeError, OverflowError) as error:
            raise Malformed(f"an input of {self.dtype} is no tensor") from error


@dataclass(frozen=True)
class SavedRow:
    """One row of a dataset.

    - `row`: its place among the rows of the file.
    - `digest`: of its content, see `Dataset.row_digest`.
    - `shown`: the row as a person reads it.
    - `inputs`: by name, of a row that no dataset has.
    """

    row: int
    digest: str
    shown: str
    inputs: Mapping[str, SavedInput] | None = None

    def rebuilt(self) -> dict[str, Tensor]:
        """The inputs that it was saved with. **Raises** `ValueError` where they are not its own."""
        found = {name: one.rebuilt() for name, one in (self.inputs or {}).items()}
        rows = {name: tensor[None] for name, tensor in found.items()}
        try:
            is_its_own = bool(rows) and Dataset(rows).row_digest(0) == self.digest
        except ScrubError as error:
            raise Malformed(str(error)) from None
        if not is_its_own:
            raise Malformed(f"the inputs of {self.shown!r} do not have its digest")
        return found


@dataclass(frozen=True, kw_only=True)
class SavedSwaps:
    """A swap set, in places among the rows of the file.

    - `pointwise`: whether the swaps are the worst for their own references, so that their mean
      decides, rather than a draw from a distribution, whose interval does; early files do not say
      it, and their mean decides.
    - `gap`, `clean`, `scrubbed`: means over its references, in the metric's unit.
    - `donors`: by slot, one for every reference.
    - `further`: of the slots whose donors come from other positions (`with_shift=True`), how many
      positions further on each is read.
    """

    adversary: str
    pointwise: bool | None = None
    gap: float
    clean: float
    scrubbed: float
    references: tuple[int, ...]
    donors: Mapping[str, tuple[int, ...]]
    further: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        adversary: str,
        swap_set: SwapSet,
        places: Mapping[int, int],
        *,
        clean: Numbers,
        scrubbed: Numbers,
        pointwise: bool,
    ) -> SavedSwaps:
        """**Arguments**

        - `adversary`: which one found it; `pointwise`: whether it is worst for its own references.
        - `places`: of rows of the dataset among those of the file; see `rows_of`.
        - `clean`, `scrubbed`: float64 `[R]`, the metric of every reference.
        """
        rows = swap_set.rows or 1 + max(places)  # donors are read where they are
        references, *donors = (
            tuple(places[row] for row in (line % rows).tolist())
            for line in (swap_set.references, *swap_set.donors)
        )
        further = zip(swap_set.slots, swap_set.donors // rows, strict=True)
        return cls(
            adversary=adversary,
            pointwise=pointwise,
            gap=float((scrubbed - clean).mean()),
            clean=float(clean.mean()),
            scrubbed=float(scrubbed.mean()),
            references=references,
            donors=dict(zip(swap_set.slots, donors, strict=True)),
            further={slot: tuple(line.tolist()) for slot, line in further if line.any()},
        )


@dataclass(frozen=True, kw_only=True)
class Saved:
    """All that a file holds, in the order in which a person wants it.

    - `claim`, `hypothesis`: the test's id, and the lines of the tree.
    - `slots`: the paths that have donors.
    - `minimal`, `worst`: what is left for a reader of what decided the verdict, and that itself.
    - `rows`: every row that either of them names; see `rows_of`.
    """

    schema_version: Literal[1] = SCHEMA_VERSION
    written_by: str
    claim: str
    metric: str
    model: str
    model_digest: str
    dataset_digest: str
    tolerance: float
    hypothesis: tuple[str, ...]
    slots: tuple[str, ...]
    minimal: SavedSwaps
    worst: SavedSwaps
    rows: tuple[SavedRow, ...]

    def digests(self, places: Sequence[int]) -> list[str]:
        """Of the rows in these places."""
        return [self.rows[place].digest for place in places]


@dataclass(frozen=True)
class Replay:
    """A saved counterexample as it is on this network and data.

    - `counterexample`: its minimal swap set, measured now; `saved`: as it was saved.
    - `tolerance`: the least that the claim accepts, as it is now; the saved one is only shown.
    - `breaks`: whether the gap lies beyond the tolerance, the way that counts.
    - `same_model`: whether the weights are those it was saved with.
    """

    counterexample: Counterexample
    saved: Saved
    tolerance: float
    breaks: bool
    same_model: bool


def written_by() -> str:
    """This version."""
    return f"pytest-scrub {version('pytest-scrub')}"


def rows_of(
    dataset: Dataset, worst: SwapSet, minimal: SwapSet, known: int | None = None
) -> tuple[tuple[SavedRow, ...], dict[int, int]]:
    """Every row that two swap sets name, once: those of the minimal one first, a reference before
    its donors. And the place of each row of the dataset among them.

    **Arguments**

    - `dataset`: the one, perhaps extended, whose rows the swap sets mean.
    - `known`: how many of its rows the user's own dataset has; the inputs of later ones are saved
      with them.
    """
    here = dataset.to("cpu")  # one copy instead of one for every row
    found: dict[str, SavedRow] = {}
    places: dict[int, int] = {}
    for swap_set, longest in ((minimal, SHOWN_OF_MINIMAL), (worst, SHOWN_OF_WORST)):
        columns = np.vstack([swap_set.references, swap_set.donors % len(dataset)]).T
        for row in dict.fromkeys(columns.ravel().tolist()):
            digest = here.row_digest(row)
            own = found.get(digest)
            is_fresh = known is not None and row >= known
            if own is None:
                shown, inputs = _shortened(dataset.show(row), longest), None
                if is_fresh:
                    inputs = {name: SavedInput.of(one[row]) for name, one in here.inputs.items()}
                own = SavedRow(len(found), digest, shown, inputs)
            # a row that the dataset has under another number needs none
            found[digest] = own if is_fresh else replace(own, inputs=None)
            places[row] = own.row
    return tuple(found.values()), places


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
    record = as_plain_dict(saved)
    for swaps in (record["minimal"], record["worst"]):
        if not swaps["further"]:
            del swaps["further"]
    for row in record["rows"]:
        inputs = row.pop("inputs")
        if inputs is not None:
            row["inputs"] = dict(sorted(inputs.items()))
    write_file(path, _pretty(record) + "\n")


def load(path: Path) -> Saved:
    """**Raises** `DamagedFile` for whatever `save` did not write, `NewerFile` for another
    version's, and `OSError`."""
    content = path.read_bytes()
    try:
        record = parse_json(content)
        _require_known(path, record)
        saved = read_record(Saved, record)
        for why in _contradictions(saved):
            raise Malformed(why)
    except Malformed as error:
        raise DamagedFile(
            f"the saved counterexample {path} is damaged ({error}); restore it or delete it"
        ) from error
    return saved


def _require_known(path: Path, record: Any) -> None:
    wrote = record.get("schema_version") if isinstance(record, dict) else None
    if isinstance(wrote, int) and wrote > SCHEMA_VERSION:
        raise NewerFile(
            f"the saved counterexample {path} was written by a newer version "
            f"({record.get('written_by')}, schema {wrote} "
            f"where this one reads {SCHEMA_VERSION}); upgrade pytest-scrub, or delete the file"
        )


def _contradictions(saved: Saved) -> Iterator[str]:
    """What no run has written."""
    if [row.row for row in saved.rows] != list(range(len(saved.rows))):
        yield "its rows are not numbered in order from 0"
    if len({row.digest for row in saved.rows}) < len(saved.rows):
        yield "two of its rows have one digest"
    if saved.tolerance < 0:
        yield f"its tolerance is {saved.tolerance:g}, less than none"
    for swaps in (saved.minimal, saved.worst):
        if not swaps.references or tuple(swaps.donors) != saved.slots:
            yield "its swaps have no reference, or donors of other slots than its own"
        for slot, shifts in swaps.further.items():
            if slot not in swaps.donors or len(shifts) != len(swaps.references) or min(shifts) < 0:
                yield "the positions of its donors are not one for every donor of a slot"
        for name, places in (("references", swaps.references), *swaps.donors.items()):
            if not all(0 <= place < len(saved.rows) for place in places):
                yield f"{name!r} names a row that it does not have"
            if len(places) != len(swaps.references):
                yield "its swaps have not one donor for every reference"
    for row in saved.rows:
        if row.inputs is not None:
            row.rebuilt()


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


def _shortened(text: str, longest: int, gap: str = " ... ") -> str:
    kept = (longest - len(gap)) // 2
    return text if len(text) <= longest else text[:kept] + gap + text[-kept:]


def _pretty(value: Any, indent: str = "") -> str:
    """JSON with one field, one text and one row a line; a list of numbers is one line too."""
    inner = indent + "  "

    def dumps(part: Any) -> str:
        return json.dumps(part, ensure_ascii=False, allow_nan=False)

    if isinstance(value, dict) and value:
        lines = [f"{inner}{dumps(name)}: {_pretty(part, inner)}" for name, part in value.items()]
        return "{\n" + ",\n".join(lines) + f"\n{indent}}}"
    if isinstance(value, (list, tuple)) and value and not isinstance(value[0], int):
        return "[\n" + ",\n".join(inner + dumps(part) for part in value) + f"\n{indent}]"
    return dumps(value)
