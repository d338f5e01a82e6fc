"""What a user can get wrong: one clear sentence each, naming the thing and the remedy."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class ScrubError(ValueError):
    """Base of every error that the user can mend; never a verdict about the claim."""


class HypothesisError(ScrubError):
    """The claim itself cannot be given a meaning."""


class DataError(ScrubError):
    """The dataset, its labels or its features do not fit."""


class ModelError(ScrubError):
    """The network cannot be loaded, trusted, or taken apart the way a claim needs."""


def did_you_mean(name: str, valid: Iterable[str]) -> str:
    """`"; did you mean 'x'?"` for the nearest valid name, `""` where none is near."""
    near = difflib.get_close_matches(name, list(valid), n=1)
    return f"; did you mean {near[0]!r}?" if near else ""
