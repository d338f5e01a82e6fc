"""The power of a claim: how many false claims made from it are refuted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from pytest_scrub.adversaries.in_turn import search_in_turn
from pytest_scrub.adversaries.worst import acceptance_of_found, deadline_from_now, null_of_found
from pytest_scrub.common.records import fields_of
from pytest_scrub.engine.evaluator import Evaluator
from pytest_scrub.errors import ScrubError
from pytest_scrub.power.mutants import Mutant, mutants
from pytest_scrub.statistics.average import Measured, measure
from pytest_scrub.statistics.sampling import BURN_IN
from pytest_scrub.verdict import REFUTED, UNTESTED, Control, MutantReport, Power, Search

MOST_MUTANTS = 50
SAMPLE_SHARE = 5  # a mutant gets this part of the claim's samples: what is clear needs no more
# and, where it holds on average, this part of the claim's search: wrong ones fall early
SEARCH_SHARE = 10


def power_of(average: Measured, searched: Search | None) -> Power:
    """Every mutant judged like the claim, on the first fifth of its references.

    Adversaries search the mutants that hold on average, with a tenth of the claim's budget, and all
    of them together until the claim's deadline is over once more; not where they refute the claim
    itself.
    """
    evaluator, settings = average.evaluator, average.settings
    found = mutants(
        evaluator.graph, evaluator.dataset, evaluator.hypothesis, evaluator.metric.pos,
        settings.stream("mutants"), MOST_MUTANTS,
    )  # fmt: skip
    gates = searched is not None and settings.would_gate and not searched.refutes
    evaluators = _evaluators(average, found.mutants)
    until = deadline_from_now(settings.deadline)
    reports, equivalent, left_out = [], found.equivalent, found.left_out
    for i, (mutant, its) in enumerate(zip(found.mutants, evaluators, strict=True)):
        try:
            report = _judged(average, mutant, its, searched if gates else None, until)
        except ScrubError:  # it has no meaning on some rows, which no static check could see
            left_out += 1
            continue
        if report.outcome == UNTESTED:
            equivalent += 1
        else:
            reports.append(report)
        if evaluator.progress is not None:
            refuted = sum(report.outcome == REFUTED for report in reports)
            evaluator.progress(
                "mutants", i + 1, len(found.mutants), f"{refuted} of {len(reports)} refuted"
            )
    return Power(tuple(reports), equivalent, left_out, settings.min_power)


def _evaluators(average: Measured, found: Sequence[Mutant]) -> list[Evaluator]:
    """Their evaluators, once what the first draws of all of them need has been captured
    together."""
    own, rows = average.evaluator, average.references.plan.rows[:BURN_IN]
    evaluators = [
        Evaluator(own.graph, mutant.dataset, mutant.hypothesis, own.metric, store=own.store)
        for mutant in found
    ]
    used = np.zeros(len(own.dataset), dtype=np.bool_)
    for evaluator in evaluators:
        drawn = evaluator.space.draw(len(rows), average.settings.stream("draw"), rows)
        used[evaluator.space.rows_of(drawn.donors)] = True
    sites = dict.fromkeys(site for evaluator in evaluators for site in evaluator.sites)
    own.store.ensure(tuple(sites), np.flatnonzero(used))
    return evaluators


def _judged(
    average: Measured,
    mutant: Mutant,
    evaluator: Evaluator,
    searched: Search | None,
    until: float | None,
) -> MutantReport:
    samples = max(2, average.settings.samples // SAMPLE_SHARE)
    settings = replace(average.settings, samples=samples, by=None, slice_tolerance=None)
    found = measure(evaluator, average.references, settings, average.under_null)
    outcome, gap = found.outcome, found.gap.mean
    if outcome not in (REFUTED, UNTESTED) and searched is not None:
        for one in search_in_turn(
            evaluator, settings.adversaries, searched.budget // SEARCH_SHARE,
            acceptance_of_found(average), null_of_found(average),
            seed=settings.seed, name=settings.name, until=until,
        ):  # fmt: skip
            if one.attempt.refutes:
                outcome, gap = REFUTED, one.attempt.found
                break
    return MutantReport(**fields_of(MutantReport, mutant), outcome=outcome, gap=gap)


def says_too_little(power: Power | None, controls: Sequence[Control]) -> bool:
    """Whether a claim that held has too little power, or holds where it should not."""
    weak = (
        power is not None and power.required is not None and (power.power or 0.0) < power.required
    )
    return weak or not all(control.passed for control in controls)
