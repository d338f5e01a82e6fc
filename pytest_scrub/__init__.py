"""pytest-scrub: interpretability hypotheses as tests.

Importing the package imports neither torch nor transformer_lens: each public name is loaded when
first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pytest_scrub.adversaries.which_donors import WhichDonors as WhichDonors
    from pytest_scrub.adversaries.which_inputs import WhichInputs as WhichInputs
    from pytest_scrub.adversaries.which_nodes import WhichNodes as WhichNodes
    from pytest_scrub.adversaries.which_refinement import WhichRefinement as WhichRefinement
    from pytest_scrub.adversaries.which_swaps import WhichSwaps as WhichSwaps
    from pytest_scrub.data.bins import binned as binned
    from pytest_scrub.data.bins import near as near
    from pytest_scrub.data.dataset import Dataset as Dataset
    from pytest_scrub.data.feature_values import FeatureValues as FeatureValues
    from pytest_scrub.engine.evaluator import Evaluator as Evaluator
    from pytest_scrub.errors import DataError as DataError
    from pytest_scrub.errors import HypothesisError as HypothesisError
    from pytest_scrub.errors import ModelError as ModelError
    from pytest_scrub.errors import ScrubError as ScrubError
    from pytest_scrub.extras.dictionaries import load_dictionary as load_dictionary
    from pytest_scrub.judge import check as check
    from pytest_scrub.metrics import Metric as Metric
    from pytest_scrub.metrics import continuation as continuation
    from pytest_scrub.metrics import cross_entropy as cross_entropy
    from pytest_scrub.metrics import kl_to_clean as kl_to_clean
    from pytest_scrub.metrics import logit_difference as logit_difference
    from pytest_scrub.metrics import next_token_loss as next_token_loss
    from pytest_scrub.metrics import squared_error as squared_error
    from pytest_scrub.metrics import zero_one_error as zero_one_error
    from pytest_scrub.network import FunctionGraph as FunctionGraph
    from pytest_scrub.network import ModuleGraph as ModuleGraph
    from pytest_scrub.network import load_model as load_model
    from pytest_scrub.network import with_dictionaries as with_dictionaries
    from pytest_scrub.network.dictionaries import Dictionary as Dictionary
    from pytest_scrub.pytest_edge.claims import ClaimFailed as ClaimFailed
    from pytest_scrub.pytest_edge.claims import Misstated as Misstated
    from pytest_scrub.pytest_edge.claims import Refuted as Refuted
    from pytest_scrub.pytest_edge.claims import RefutedByAdversary as RefutedByAdversary
    from pytest_scrub.pytest_edge.claims import ScrubWarning as ScrubWarning
    from pytest_scrub.pytest_edge.claims import Undecided as Undecided
    from pytest_scrub.pytest_edge.claims import Untested as Untested
    from pytest_scrub.pytest_edge.claims import Weak as Weak
    from pytest_scrub.pytest_edge.claims import claim as claim
    from pytest_scrub.swaps.space import SwapSpace as SwapSpace
    from pytest_scrub.swaps.strategies import swap_sets as swap_sets
    from pytest_scrub.swaps.swap_set import SwapSet as SwapSet
    from pytest_scrub.tree.causal import CausalModel as CausalModel
    from pytest_scrub.tree.causal import aligned as aligned
    from pytest_scrub.tree.join import join as join
    from pytest_scrub.tree.nodes import ANYTHING as ANYTHING
    from pytest_scrub.tree.nodes import EACH as EACH
    from pytest_scrub.tree.nodes import EXACT as EXACT
    from pytest_scrub.tree.nodes import attn as attn
    from pytest_scrub.tree.nodes import edit as edit
    from pytest_scrub.tree.nodes import embed as embed
    from pytest_scrub.tree.nodes import error as error
    from pytest_scrub.tree.nodes import group as group
    from pytest_scrub.tree.nodes import head as head
    from pytest_scrub.tree.nodes import latents as latents
    from pytest_scrub.tree.nodes import mask as mask
    from pytest_scrub.tree.nodes import mlp as mlp
    from pytest_scrub.tree.nodes import module as module
    from pytest_scrub.tree.nodes import neurons as neurons
    from pytest_scrub.tree.nodes import output as output
    from pytest_scrub.tree.nodes import pattern as pattern
    from pytest_scrub.tree.nodes import pos_embed as pos_embed
    from pytest_scrub.tree.nodes import stream as stream
    from pytest_scrub.verdict import Verdict as Verdict

_HOMES = {
    "adversaries.which_nodes": ("WhichNodes",),
    "adversaries.which_refinement": ("WhichRefinement",),
    "adversaries.which_donors": ("WhichDonors",),
    "adversaries.which_inputs": ("WhichInputs",),
    "adversaries.which_swaps": ("WhichSwaps",),
    "data.bins": ("binned", "near"),
    "data.dataset": ("Dataset",),
    "data.feature_values": ("FeatureValues",),
    "engine.evaluator": ("Evaluator",),
    "errors": ("DataError", "HypothesisError", "ModelError", "ScrubError"),
    "judge": ("check",),
    "metrics": (
        "Metric", "continuation", "cross_entropy", "kl_to_clean", "logit_difference",
        "next_token_loss", "squared_error", "zero_one_error",
    ),
    "network": ("FunctionGraph", "ModuleGraph", "load_model", "with_dictionaries"),
    "network.dictionaries": ("Dictionary",),
    "extras.dictionaries": ("load_dictionary",),
    "pytest_edge.claims": (
        "ClaimFailed", "Misstated", "Refuted", "RefutedByAdversary", "ScrubWarning", "Undecided",
        "Untested", "Weak",
        "claim",
    ),
    "swaps.space": ("SwapSpace",),
    "swaps.strategies": ("swap_sets",),
    "swaps.swap_set": ("SwapSet",),
    "tree.causal": ("CausalModel", "aligned"),
    "tree.join": ("join",),
    "tree.nodes": (
        "ANYTHING", "EACH", "EXACT", "attn", "edit", "embed", "error", "group", "head", "latents",
        "mask", "mlp", "module", "neurons", "output", "pattern", "pos_embed", "stream",
    ),
    "verdict": ("Verdict",),
}  # fmt: skip
_HOME = {name: home for home, names in _HOMES.items() for name in names}
__all__ = sorted(_HOME)  # noqa: PLE0605  # the table above is the list
# how verdicts and hypotheses show themselves, which know nothing of those that show them
_HOME |= {
    "story": "reports.terminal", "framed": "reports.terminal", "headline": "reports.terminal",
    "frame": "reports.frame", "fragment": "extras.html.page", "drawn": "extras.html.page",
    "sketch": "tree.sketch", "shown_in_notebook": "pytest_edge.progress",
}  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
