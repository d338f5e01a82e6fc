"""Whether swaps changed what is read, and not only which row it is taken from."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch

from pytest_scrub.data.dataset import Positions
from pytest_scrub.engine.evaluator import Evaluator
from pytest_scrub.engine.plan import Step
from pytest_scrub.network.graph import Site, at_rows, change_of, projected_onto, read_from
from pytest_scrub.network.precision import PROOF_TOLERANCE, coarsest, largest_of
from pytest_scrub.swaps.swap_set import Mask, Rows, SwapSet
from pytest_scrub.tree.units import split

FEW = 8  # outputs at a time: of all positions and words they are large
SAME = 1e-5  # of the root mean square of an activation: a smaller change is none


class MovedLeaves(NamedTuple):
    """What swaps change of leaves that take an activation, by slot.

    - `moved`: bool `[R]`, whether it is another one on the donor than on the parent's own input, as
      the parent reads it: at the positions of its own row, projected where the node has a subspace.
      What others at the same place make up for has not moved.
    - `made_up`: of terms of one place, such as units of a dictionary and its error, that change
      while their sum never does: the slots of the others, which make up for what is swapped.
    """

    moved: dict[int, Mask]
    made_up: dict[int, tuple[int, ...]]


def moved_leaves(evaluator: Evaluator, swap_set: SwapSet) -> MovedLeaves:
    """Of all leaves that take one."""
    found, made_up = _moved_alone(evaluator, swap_set), dict[int, tuple[int, ...]]()
    for slots, moved in _together(evaluator, swap_set):
        changing = [slot for slot in slots if found[slot].any()]
        if len(changing) > 1 and not moved.any():
            made_up |= {slot: tuple(one for one in changing if one != slot) for slot in changing}
        found |= {slot: found[slot] & moved for slot in slots}
    return MovedLeaves(found, made_up)


def _together(evaluator: Evaluator, swap_set: SwapSet) -> Iterator[tuple[tuple[int, ...], Mask]]:
    """The slots of leaves that are terms of one place, which their parent reads at the same
    positions, and bool `[R]`: whether their sum is another one."""
    parts = evaluator.graph.parts
    places: dict[Hashable, list[tuple[Step, Positions | None]]] = {}
    for step, parent, at in _leaves(evaluator.plan, evaluator.checked.output):
        terms = [parts[name] for part in step.parts for name in part]
        written = {part.writers for part in terms}
        is_one = len(written) == 1 and all(part.basis for part in terms)
        if step.reader is None and step.sites and is_one and not any(p.crosses for p in terms):
            where = None if at is None else (at.static, at.index.tobytes())
            via = step.node.via, step.node.into, len(step.each)
            places.setdefault((parent.path, *written, where, via), []).append((step, at))
    parents = evaluator.space.parents(swap_set)
    for several in places.values():
        if sum(len(step.parts) for step, _ in several) < 2:
            continue
        for slots in zip(*(step.each or (step.donor,) for step, _ in several), strict=True):
            here = [evaluator.space.slots[slot].at for slot in slots]
            changes = [
                change
                for (step, at), slot, place in zip(several, slots, here, strict=True)
                for change in _changes(
                    evaluator, step, at if place is None else Positions(np.array([place])),
                    swap_set.donors[slot], parents[slot],
                    [Site("value", part) for part in step.parts],
                )
            ]  # fmt: skip
            total = sum(change for change, _ in changes)
            assert isinstance(total, torch.Tensor)
            yield slots, _is_large(total, max(usual for _, usual in changes))


def _moved_alone(evaluator: Evaluator, swap_set: SwapSet) -> dict[int, Mask]:
    """For the slot of every leaf whether its own value is another one, bool `[R]`."""
    parents, read = evaluator.space.parents(swap_set), read_at(evaluator, swap_set)
    found = {}
    for step, parent, at in _leaves(evaluator.plan, evaluator.checked.output):
        if step.node.edited is not None:
            carriers = np.vstack([swap_set.donors, swap_set.references])[parent.carrier]
            found[step.donor] = _is_changed(evaluator, step, at, carriers)
            continue
        for slot in step.each or (step.donor,):
            rows = swap_set.donors[slot], parents[slot]
            here = Positions(np.array([evaluator.space.slots[slot].at])) if step.each else at
            found[slot] = _differ(evaluator, step, here, *rows, read[slot])
    return found


def all_moved(evaluator: Evaluator, swap_set: SwapSet) -> Mask:
    """bool `[R]`: whether every node that names what it agrees on, and is not EXACT, moved: of a
    leaf what is read, at any of its positions, of others the content of their input."""
    space, leaves = evaluator.space, moved_leaves(evaluator, swap_set).moved
    contents, found = space.moved(swap_set), np.ones(len(swap_set), dtype=np.bool_)
    for slots in space.wholes.values():
        slot = space.slots[slots[0]]
        if not slot.is_rest and (not slot.agrees_on.exact or slot.node.edited is not None):
            found &= np.any([leaves.get(i, contents[i]) for i in slots], axis=0)
    return found


def reaches_output(evaluator: Evaluator, swap_set: SwapSet) -> bool:
    """Whether any of these swaps changes the output at all, by more than the sums of the same parts
    in another order may."""
    for start in range(0, len(swap_set), FEW):
        few = swap_set[start : start + FEW]
        own, now = evaluator.clean_outputs(few.references), evaluator.outputs(few)
        change = torch.where(now == own, 0.0, now.double() - own.double())  # of inf too
        least = 0.0  # of what is said
        if own.is_floating_point():
            off = PROOF_TOLERANCE.get(coarsest(evaluator.graph, own), SAME)
            least = off * largest_of(own)
        if (change.abs() > least).any():
            return True
    return False


def silent_units(evaluator: Evaluator, swap_set: SwapSet) -> dict[int, tuple[int, ...]]:
    """For the slot of every leaf of units, those that hold zero on every row that it is taken from,
    and on every row that it is taken in place of; of units whose sum is kept all or none."""
    parents, parts = evaluator.space.parents(swap_set), evaluator.graph.parts
    found: dict[int, tuple[int, ...]] = {}
    for step, _, at in _leaves(evaluator.plan, evaluator.checked.output):
        if step.reader is not None or step.node.edited is not None:
            continue
        for site, (name, *others) in zip(step.sites, step.parts, strict=True):
            units = parts[name].units
            if units is None or others or not split(name):  # an error has no unit
                continue
            slots = [*(step.each or (step.donor,))]
            rows = np.union1d(swap_set.donors[slots], parents[slots])
            own = np.unique(evaluator.space.rows_of(rows))
            evaluator.ensure(step.sites, own)
            index = torch.as_tensor(own, device=evaluator.dataset.device)
            # donors from other positions may be read at any
            where = None if step.node.is_shifted else at_rows(at, index)
            codes = evaluator.store.take(site, index, where)
            active = (codes != 0).flatten(0, -2).any(0)
            is_silent = ~(active if site.kind == "z" else active.any().expand(len(units)))
            silent = tuple(units[is_silent.cpu().numpy()].tolist())
            found[step.donor] = (*found.get(step.donor, ()), *silent)
    return found


def read_at(evaluator: Evaluator, swap_set: SwapSet) -> Mask:
    """bool `[slots, R]`: whether anything reads what a slot's donor gives: of a node with a donor
    for each position, its parent need not look at all of them."""
    read = np.ones((len(swap_set.slots), len(swap_set)), dtype=np.bool_)
    for step, parent, at in _leaves(evaluator.plan, evaluator.checked.output):
        if step.each and at is not None:
            carrier = np.vstack([swap_set.donors, swap_set.references])[parent.carrier]
            index = (
                np.broadcast_to(at.index, (len(swap_set), at.index.shape[-1]))
                if at.static
                else at.index[carrier]
            )
            for slot in step.each:
                read[slot] = (index == evaluator.space.slots[slot].at).any(axis=1)
    return read


def _leaves(step: Step, at: Positions | None) -> Iterator[tuple[Step, Step, Positions | None]]:
    """Every leaf below a step, what reads it, and the positions at which it is read."""
    for child in step.children:
        inherited = at if child.same else None
        own = inherited if child.positions is None else child.positions
        if child.sites or child.node.edited is not None:
            yield child, step, own
        yield from _leaves(child, own)


def _is_changed(evaluator: Evaluator, step: Step, at: Positions | None, carriers: Rows) -> Mask:
    """bool `[R]`: whether an edit changes the value on each of these rows."""
    assert step.node.edited is not None
    (part,) = step.parts
    site = Site("value", part)
    evaluator.ensure([site], carriers)
    rows = torch.as_tensor(carriers, device=evaluator.dataset.device)
    value = evaluator.store.take(site, rows, at_rows(at, rows)).double()
    return _is_large(change_of(value, step.node.edited), value.square().mean().sqrt())


def _differ(
    evaluator: Evaluator,
    step: Step,
    at: Positions | None,
    donors: Rows,
    own: Rows,
    read: Mask,
) -> Mask:
    differ = np.zeros(len(donors), dtype=np.bool_)
    swapped = np.flatnonzero((donors != own) & read)
    if not len(swapped):
        return differ
    for change, usual in _changes(evaluator, step, at, donors[swapped], own[swapped], step.sites):
        differ[swapped] |= _is_large(change, usual)
    return differ


def _changes(
    evaluator: Evaluator, step: Step, at: Positions | None, donors: Rows, own: Rows,
    sites: Sequence[Site],
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:  # fmt: skip
    """What each of a leaf's sites keeps more of the donors than of the parents' own inputs, `[R,
    ...]`, and how large it usually is."""
    evaluator.ensure(sites, np.concatenate([donors, own]))
    there, here = (torch.tensor(rows, device=evaluator.dataset.device) for rows in (donors, own))
    places = [(rows, at_rows(at, rows)) for rows in (there, here)]
    if step.each:  # one position of what may be kept at several
        count, length = len(evaluator.dataset), len(step.each)
        places = [
            read_from(rows[:, None], where, count, length)
            for rows, where in places
            if where is not None
        ]
    for site in sites:
        value, before = (
            projected_onto(evaluator.store.take(site, *place).double(), step.node.subspace)
            for place in places
        )
        yield value - before, before.square().mean().sqrt()


def _is_large(change: torch.Tensor, usual: torch.Tensor) -> Mask:
    """bool `[R]`: whether the root mean square of each row is more than rounding is, of activations
    with such a one."""
    size = change.reshape(len(change), -1).square().mean(1).sqrt()
    found: Mask = (size > SAME * usual).cpu().numpy()
    return found
