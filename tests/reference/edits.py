"""Hypothesis strategies: a record in JSON, in which any value was exchanged for another."""

from __future__ import annotations

import json
import math
from typing import Any

from hypothesis import strategies as st

OTHERS = st.sampled_from(
    [
        None, True, -1, 0, 1, 2**80, 1.5, math.nan,
        "", "x", "inf", [], [0], [""], {}, {"": 0},
    ]
)  # fmt: skip


@st.composite
def edited(draw: st.DrawFn, text: str) -> str:
    record: Any = json.loads(text)
    at = record
    while True:
        key = draw(st.sampled_from(sorted(at) if isinstance(at, dict) else range(len(at))))
        if not isinstance(at[key], (dict, list)) or not at[key] or draw(st.booleans()):
            break
        at = at[key]
    at[key] = draw(OTHERS)
    return json.dumps(record)
