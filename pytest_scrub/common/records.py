"""Records, which are dataclasses of plain values, as JSON."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

UNKNOWN_ENDS = {"low": -math.inf, "high": math.inf}  # of an interval; null in JSON
LARGEST_SEED = 2**128  # there are as many random streams; no count comes near it

_Kind = TypeVar("_Kind")
_ABSENT = object()


class Malformed(ValueError):
    """Why a text is no such record."""


class NoNumber:
    """What NaN, infinities and integers beyond any seed are read as: no field of a record takes
    it."""


def fields_of(kind: type, *sources: object) -> dict[str, Any]:
    """Values for the fields of a dataclass, each from the first of these objects that has it."""
    found: dict[str, Any] = {}
    for field in dataclasses.fields(kind):
        values = (getattr(source, field.name, _ABSENT) for source in sources)
        found[field.name] = next((value for value in values if value is not _ABSENT), _ABSENT)
    return {name: value for name, value in found.items() if value is not _ABSENT}


def as_plain_dict(record: Any) -> dict[str, Any]:
    """A record as JSON may keep it: null for an end of an interval that is not known."""
    fields: dict[str, Any] = dataclasses.asdict(record, dict_factory=_finite)
    return fields


def _finite(fields: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    return {
        name: None if name in UNKNOWN_ENDS and math.isinf(value) else value
        for name, value in fields
    }


def parse_json(text: str | bytes) -> Any:
    """What a text of JSON holds. **Raises** `Malformed` where it is none."""
    try:
        return json.loads(
            text, object_pairs_hook=_once, parse_float=_float, parse_int=_int,
            parse_constant=lambda _: NoNumber(),
        )  # fmt: skip
    except (ValueError, RecursionError) as error:
        raise Malformed(f"it is no JSON: {error}") from None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:  # JSON would take the last
            raise ValueError(f"{name!r} stands there twice")
        found[name] = value
    return found


def _float(text: str) -> object:
    number = float(text)
    return number if math.isfinite(number) else NoNumber()


def _int(text: str) -> object:
    number = int(text)
    return number if abs(number) <= LARGEST_SEED else NoNumber()


def read_record(kind: type[_Kind], record: Any) -> _Kind:
    """What was parsed, as a record.

    **Raises** `Malformed` for another schema version, a field that is missing or that none knows,
    or a value that is not of its type.
    """
    import msgspec

    version = record.get("schema_version") if isinstance(record, dict) else None
    ours: int = kind.schema_version  # type: ignore[attr-defined]
    if version != ours:
        raise Malformed(f"its schema is {version}, not {ours}")
    try:
        found = msgspec.convert(record, kind)
    except msgspec.ValidationError as error:
        raise Malformed(str(error)) from None
    for unknown in _unknown(record, as_plain_dict(found)):
        raise Malformed(unknown)
    return found


def _unknown(record: Any, known: Any, name: str = "the file") -> Iterator[str]:
    """Fields that no record has; msgspec passes over them, and a misspelt one is its default."""
    if isinstance(record, dict):
        for part, value in record.items():
            if part in known:
                yield from _unknown(value, known[part], part)
            else:
                yield f"{name!r} has a {part!r} too many"
    elif isinstance(record, list):
        for value, known_value in zip(record, known, strict=True):
            yield from _unknown(value, known_value, name)
