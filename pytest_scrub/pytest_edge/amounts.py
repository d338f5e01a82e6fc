"""Amounts of memory, as people write them."""

from __future__ import annotations

import re

UNITS = {
    "B": 1,
    "KiB": 2**10,
    "MiB": 2**20,
    "GiB": 2**30,
    "TiB": 2**40,
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
}


def amount(text: str, free: int) -> int:
    """Bytes of a text such as `4GiB`, `500MB`, or `25%` of what is free.

    **Raises** `ValueError` with what is wrong and what to write.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(%|[A-Za-z]+)\s*", text)
    if found is None or (found[2] != "%" and found[2] not in UNITS) or not float(found[1]) > 0:
        raise ValueError(f"takes an amount such as 4GiB, 500MB or 25%, not {text!r}")
    number, unit = float(found[1]), found[2]
    if unit != "%":
        return int(number * UNITS[unit])
    if number > 100:
        raise ValueError(f"takes at most 100%, not {text!r}")
    return int(number / 100 * free)
