"""Adversaries: each searches the swap sets that a claim allows for the one that makes it look worst."""

from pytest_scrub.adversaries.distributions import WhichNodes, WhichRefinement
from pytest_scrub.adversaries.ladder import LADDER
from pytest_scrub.adversaries.search import Adversary, Arm, Found, Spending
from pytest_scrub.adversaries.which_donors import WhichDonors
from pytest_scrub.adversaries.which_inputs import WhichInputs

__all__ = [
    "LADDER", "Adversary", "Arm", "Found", "Spending", "WhichDonors", "WhichInputs", "WhichNodes", "WhichRefinement",
]  # fmt: skip
