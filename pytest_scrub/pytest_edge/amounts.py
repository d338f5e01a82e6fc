"""Amounts of memory, as people write them."""

from __future__ import annotations

import re

UNITS = {"B": 1}
for _power, _prefix in enumerate("KMGT", 1):
    UNITS |= {f"{_prefix}iB": 1024**_power, f"{_prefix}B": 1000**_power}


def amount(text: str, free: int) -> int:
    """Bytes of a text such as `4GiB`, `500MB`, or `25%` of what is free.

    **Raises** `ValueError` with what is wrong and what to write.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(%|[A-Za-z]+)\s*", text)
    number, unit = (float(found[1]), found[2]) if found else (0.0, "")
    if number == 0 or unit not in {"%", *UNITS}:
        raise ValueError(f"takes an amount such as 4GiB, 500MB or 25%, not {text!r}")
    if unit != "%":
        return int(number * UNITS[unit])
    if number > 100:
        raise ValueError(f"takes at most 100%, not {text!r}")
    return int(number / 100 * free)
