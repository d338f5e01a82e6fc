"""Whether swaps changed what is read, and not only which row it is taken from."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import torch

from pytest_scrub.data.dataset import Positions
from pytest_scrub.engine.evaluator import Evaluator
from pytest_scrub.engine.plan import Step
from pytest_scrub.network.graph import at_rows, projected_onto
from pytest_scrub.swaps.swap_set import Rows, SwapSet

SAME = 1e-5  # of the root mean square of an activation: a smaller change is none


def moved_leaves(evaluator: Evaluator, swap_set: SwapSet) -> dict[int, npt.NDArray[np.bool_]]:
    """For the slot of every leaf that takes an activation, bool `[R]`: whether it is another one on
    the donor than on the parent's own input, as the parent reads it.

    Each is taken at the positions of its own row, and projected where the node has a subspace.
    """
    parents = evaluator.space.parents(swap_set)
    found = {}
    for step, at in _leaves(evaluator.plan, evaluator.checked.output):
        if step.donor is not None:
            rows = swap_set.donors[step.donor], parents[step.donor]
            found[step.donor] = _differ(evaluator, step, at, *rows)
    return found


def silent_units(evaluator: Evaluator, swap_set: SwapSet) -> dict[int, tuple[int, ...]]:
    """For the slot of every leaf whose codes are kept, the units that hold zero on every row that
    it is taken from, and on every row that it is taken in place of."""
    parents, parts = evaluator.space.parents(swap_set), evaluator.graph.parts
    found: dict[int, tuple[int, ...]] = {}
    for step, at in _leaves(evaluator.plan, evaluator.checked.output):
        if step.reader is not None or step.donor is None:
            continue
        for site, (name, *others) in zip(step.sites, step.parts, strict=True):
            units = parts[name].units
            if units is None or others or site.kind != "z":
                continue
            rows = np.union1d(swap_set.donors[step.donor], parents[step.donor])
            evaluator.ensure(step.sites, rows)
            index = torch.as_tensor(rows, device=evaluator.dataset.device)
            codes = evaluator.store.take(site, index, at_rows(at, index))
            is_silent = ~(codes != 0).flatten(0, -2).any(0).cpu().numpy()
            silent = tuple(units[is_silent].tolist())
            found[step.donor] = (*found.get(step.donor, ()), *silent)
    return found


def _leaves(step: Step, at: Positions | None) -> Iterator[tuple[Step, Positions | None]]:
    """Every leaf below a step, and the positions at which it is read."""
    for child in step.children:
        inherited = at if child.same else None
        own = inherited if child.positions is None else child.positions
        if child.sites:
            yield child, own
        yield from _leaves(child, own)


def _differ(
    evaluator: Evaluator, step: Step, at: Positions | None, donors: Rows, own: Rows
) -> npt.NDArray[np.bool_]:
    differ = np.zeros(len(donors), dtype=np.bool_)
    swapped = np.flatnonzero(donors != own)
    if not len(swapped):
        return differ
    evaluator.ensure(step.sites, np.concatenate([donors[swapped], own[swapped]]))
    there, here = (
        torch.as_tensor(rows[swapped], device=evaluator.dataset.device) for rows in (donors, own)
    )
    for site in step.sites:
        value, before = (
            projected_onto(
                evaluator.store.take(site, rows, at_rows(at, rows)).double(), step.node.subspace
            )
            for rows in (there, here)
        )
        usual = before.square().mean().sqrt()
        change = (value - before).reshape(len(value), -1).square().mean(1).sqrt()
        differ[swapped] |= (change > SAME * usual).cpu().numpy()
    return differ
