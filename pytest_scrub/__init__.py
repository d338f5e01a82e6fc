"""pytest-scrub: interpretability hypotheses as tests.

Importing the package imports neither torch nor transformer_lens: each public name is loaded when first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pytest_scrub.adversaries import WhichDonors as WhichDonors
    from pytest_scrub.adversaries import WhichInputs as WhichInputs
    from pytest_scrub.adversaries import WhichNodes as WhichNodes
    from pytest_scrub.adversaries import WhichRefinement as WhichRefinement
    from pytest_scrub.checking import check as check
    from pytest_scrub.claims import ClaimFailed as ClaimFailed
    from pytest_scrub.claims import Misstated as Misstated
    from pytest_scrub.claims import Refuted as Refuted
    from pytest_scrub.claims import RefutedByAdversary as RefutedByAdversary
    from pytest_scrub.claims import ScrubWarning as ScrubWarning
    from pytest_scrub.claims import Undecided as Undecided
    from pytest_scrub.claims import Untested as Untested
    from pytest_scrub.claims import Weak as Weak
    from pytest_scrub.claims import claim as claim
    from pytest_scrub.data import Dataset as Dataset
    from pytest_scrub.engine.evaluator import Evaluator as Evaluator
    from pytest_scrub.errors import DataError as DataError
    from pytest_scrub.errors import HypothesisError as HypothesisError
    from pytest_scrub.errors import ModelError as ModelError
    from pytest_scrub.errors import ScrubError as ScrubError
    from pytest_scrub.hypothesis_tree import ANYTHING as ANYTHING
    from pytest_scrub.hypothesis_tree import EXACT as EXACT
    from pytest_scrub.hypothesis_tree import embed as embed
    from pytest_scrub.hypothesis_tree import group as group
    from pytest_scrub.hypothesis_tree import head as head
    from pytest_scrub.hypothesis_tree import mask as mask
    from pytest_scrub.hypothesis_tree import mlp as mlp
    from pytest_scrub.hypothesis_tree import module as module
    from pytest_scrub.hypothesis_tree import output as output
    from pytest_scrub.hypothesis_tree import pos_embed as pos_embed
    from pytest_scrub.joining import join as join
    from pytest_scrub.metrics import Metric as Metric
    from pytest_scrub.metrics import cross_entropy as cross_entropy
    from pytest_scrub.metrics import kl_to_clean as kl_to_clean
    from pytest_scrub.metrics import logit_difference as logit_difference
    from pytest_scrub.metrics import next_token_loss as next_token_loss
    from pytest_scrub.metrics import squared_error as squared_error
    from pytest_scrub.metrics import zero_one_error as zero_one_error
    from pytest_scrub.models import FunctionGraph as FunctionGraph
    from pytest_scrub.models import ModuleGraph as ModuleGraph
    from pytest_scrub.models import load_model as load_model
    from pytest_scrub.strategies import swap_sets as swap_sets
    from pytest_scrub.swap_set import SwapSet as SwapSet
    from pytest_scrub.swaps import SwapSpace as SwapSpace
    from pytest_scrub.verdict import Verdict as Verdict

_HOMES = {
    "adversaries": ("WhichDonors", "WhichInputs", "WhichNodes", "WhichRefinement"),
    "checking": ("check",),
    "claims": (
        "ClaimFailed", "Misstated", "Refuted", "RefutedByAdversary", "ScrubWarning", "Undecided", "Untested", "Weak",
        "claim",
    ),
    "data": ("Dataset",),
    "engine.evaluator": ("Evaluator",),
    "errors": ("DataError", "HypothesisError", "ModelError", "ScrubError"),
    "hypothesis_tree": (
        "ANYTHING", "EXACT", "embed", "group", "head", "mask", "mlp", "module", "output", "pos_embed",
    ),
    "joining": ("join",),
    "metrics": (
        "Metric", "cross_entropy", "kl_to_clean", "logit_difference", "next_token_loss", "squared_error",
        "zero_one_error",
    ),
    "models": ("FunctionGraph", "ModuleGraph", "load_model"),
    "strategies": ("swap_sets",),
    "swap_set": ("SwapSet",),
    "swaps": ("SwapSpace",),
    "verdict": ("Verdict",),
}  # fmt: skip
_HOME = {name: home for home, names in _HOMES.items() for name in names}
__all__ = sorted(_HOME)  # noqa: PLE0605  # the table above is the list


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return [*globals(), *_HOME]
