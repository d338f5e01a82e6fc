"""A verdict of every shape that reports have to show, made by hand."""

from __future__ import annotations

import shlex
from dataclasses import replace
from typing import Any

import numpy as np

from pytest_scrub.data.pictures import opaque_where
from pytest_scrub.reports.run import Claimed, Run
from pytest_scrub.verdict import (
    Attempt,
    Attention,
    Circuit,
    CircuitNode,
    Control,
    Counterexample,
    Estimate,
    Look,
    Mend,
    MutantReport,
    NodeReport,
    Power,
    Search,
    Share,
    Slice,
    Slices,
    Swap,
    Verdict,
)


def node(path: str, level: int, **facts: Any) -> CircuitNode:
    """A node that is read by what stands before its last slash, and agrees on `a`."""
    parent, _, label = path.rpartition("/")
    facts = {
        "components": (label.split("[")[0],), "into": None, "agrees_on": "a", "rest": None,
        "positions": None,
        "subspace": None, "along_every_path": False, "is_computed": False, **facts,
    }  # fmt: skip
    return CircuitNode(path=path, parent=parent or None, level=level, **facts)


def slot(path: str, alone: float | None = 0.01, **facts: Any) -> NodeReport:
    """How a slot was tested; well, unless `facts` say otherwise."""
    facts = {
        "agrees_on": "a", "is_rest": path.endswith("/rest"), "donors": (3, 7.0, 9),
        "with_other": 1.0, "moved": 0.97,
        "must_be_tested": True, "is_tested": True, **facts,
    }  # fmt: skip
    return NodeReport(
        slot=path,
        alone=None if alone is None else Estimate(alone, alone - 0.1, alone + 0.1),
        **facts,
    )


TWO = Circuit(
    ("A", "output"), (node("output", 1, agrees_on=None, rest="ANYTHING"), node("output/A", 0))
)


def verdict(**facts: Any) -> Verdict:
    """One that held, with nothing beside the average, unless `facts` say otherwise."""
    plain = Verdict(
        claim="test_it.py::test_it", outcome="held", average="held",
        hypothesis="output\n└── A agrees on a",
        metric="cross-entropy", tolerance=0.5, direction="either", unscrubbed=0.125, scrubbed=0.135,
        gap=Estimate(0.01, -0.02, 0.04), absolute_change=0.03, share_worse=0.4,
        share=Share(0.95, 0.1234, 0.98, 400), baseline=1.125, recovered=0.99, recovered_reason=None,
        samples=400,
        budget=4000, generalize=False, seed=7, nodes=(slot("output/rest"), slot("output/A")),
        min_with_other=0.1,
        min_moved=0.02, model="a graph", model_digest="0123abcd",
        precision="float32 weights, on cpu", dataset="rows", dataset_digest="4567cdef",
        interval_kind="95 % asymptotic confidence sequence over swaps drawn from this dataset",
        circuit=TWO,
        changes=tuple(i / 1000 - 0.03 for i in range(101)),
        looks=(Look(400, Estimate(0.01, -0.02, 0.04)),),
    )  # fmt: skip
    return replace(plain, **facts)


def attempt(adversary: str = "which donors", gap: float = 0.9, **facts: Any) -> Attempt:
    """A search that refuted a claim that accepts 0.5."""
    facts = {
        "how": "coordinate ascent", "searched": True, "interval": None, "unscrubbed": 0.1,
        "scrubbed": gap + 0.1,
        "references": 64, "exhaustive": False, "evaluations": 900, "ranking": 12.0,
        "concentration": 0.4,
        "late": False, "refutes": abs(gap) > 0.5,
        "changes": tuple(gap + i / 500 for i in range(101)),
        "curve": ((64, gap / 2), (900, gap)), **facts,
    }  # fmt: skip
    return Attempt(adversary=adversary, gap=gap, **facts)


def search(**facts: Any) -> Search:
    """One attempt that refutes, one that was not made, and what became of the first."""
    words = (("the", "cat", "sat"), ("the", "dog", "sat"))
    swap = Swap(
        "output/A", "a", "the cat sat", "the dog sat", ("b",), "tokens at 1",
        own_output="1 (2.5)", donor_output="7 (3.5), 0 (1)",
        attention=(Attention("head2.1", opaque_where(np.eye(3)), opaque_where(np.tri(3)), *words),),
    )  # fmt: skip
    found = Counterexample(
        "which donors",
        "the cat sat",
        (swap,),
        0.1,
        1.1,
        1.0,
        "1 (2.5)",
        "0 (1.5)",
        ".scrub/one file.json",
    )
    attempts = (
        attempt(),
        attempt("which inputs", 0.0, searched=False, how="not searched", changes=(), curve=()),
    )
    mends = (Mend("output/A agrees also on b", 0.25, "on average"),)
    return replace(
        Search(0.5, True, 1000, attempts, found, mends, "either", ("a note beside it",)), **facts
    )


def refuted(**facts: Any) -> Verdict:
    """One that holds on average and falls to an adversary."""
    return verdict(**{"outcome": "refuted", "search": search(), **facts})


def whole(**facts: Any) -> Verdict:
    """One with every part that a verdict may have."""
    estimate = Estimate(0.3, 0.2, 0.4)
    return refuted(
        **{
            "looks": tuple(Look(100 * i, Estimate(0.01, -1 / i, 1 / i)) for i in range(1, 5)),
            "slices": Slices("last", 0.6,
            (Slice("x", 30, 200, estimate, "held"), Slice("y", 1, 0, None, "undecided"))),
            "power": Power(
                (
                    MutantReport("dropped", "output/A", "A may agree on anything", "refuted", 0.8,
                    "it would not"),
                    MutantReport("merged", "output/A", "a merged", "held", 0.01,
                    "the values of a do not matter"),
                ),
                1, 2, 0.8,
            ),
            "controls": (
                Control("weights shuffled", "refuted", 0.75, None, True),
                Control("features permuted among rows", None, None, "it has none", True),
            ),
            **facts,
        }
    )  # fmt: skip


def claimed(found: Verdict | None, test: str = "test_it.py::test_it", **facts: Any) -> Claimed:
    """A claim of a run, with pytest's result that goes with it."""
    result = "failed" if found is None or not found.held else "passed"
    facts = {
        "test": test, "file": test.partition("::")[0], "line": 3, "result": result, "seconds": 1.5,
        "message": None if found else "Misstated: there is no component 'C'",
        "rerun": shlex.join(["pytest", test, "--scrub-seed=7"]), **facts,
    }  # fmt: skip
    return Claimed(**{
        "outcome": facts["result"] if found is None else found.outcome, "verdict": found, **facts
    })  # fmt: skip


def run(*claims: Claimed, **facts: Any) -> Run:
    """A run of these claims."""
    return Run(**{
        "claims": claims, "options": ("--scrub-seed=7",),
        "versions": {"python": "3.12.0", "torch": "2.13.0"},
        "started": "2026-01-02T03:04:05+00:00", "seconds": 12.5, "interrupted": False, **facts,
    })  # fmt: skip
