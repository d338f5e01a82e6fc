"""Where a network recodes what passes and gives it back: an alignment that is not linear, and its
way back, put between two modules of a network.

What passes before a value passes once more after it, and follows it: where the value is exchanged,
what comes back is another.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from pytest_scrub.network.places import items_of

# Numbers of a tensor that are compared: few enough for any network to be looked at as a whole.
MOST_NUMBERS = 4096
# How far off what comes back may be, in standard deviations: more than rounding in float32 makes of
# a map and its inverse, less than a layer does that changes little.
NEAR = 1e-3
# How far off on average, where what comes back is the other rows' as well: what a way back that was
# learnt is, and less than even layers of a network that was hardly trained add to what they norm.
LOOSELY = 0.03


class Passing(NamedTuple):
    """A tensor that a module is called with, or returns, the latter where `is_out`; some of its
    numbers, or None of what is no floating point."""

    path: str
    is_out: bool
    shape: tuple[int, ...] = ()
    numbers: Tensor | None = None


def passing(modules: Mapping[str, nn.Module], run: Callable[[], Any]) -> list[Passing]:
    """What passes in a run of a network with these modules, in order."""
    found = list[Passing]()

    def note(path: str, is_out: bool, given: Any) -> None:
        tensors = [item for item in items_of(given).values() if isinstance(item, Tensor)]
        lone = tensors[0] if tensors and tensors[0].is_floating_point() else None
        if lone is None or not lone.numel():
            found.append(Passing(path, is_out))
            return
        found.append(Passing(path, is_out, tuple(lone.shape), _some(lone.detach().flatten())))

    with ExitStack() as hooks:
        for path, module in modules.items():
            before = module.register_forward_pre_hook(
                lambda _, given, named, path=path: note(path, False, given or named),
                with_kwargs=True,
            )
            after = module.register_forward_hook(
                lambda _, given, out, path=path: note(path, True, out)
            )
            hooks.callback(before.remove)
            hooks.callback(after.remove)
        run()
    return found


def _some(flat: Tensor) -> Tensor:
    """All numbers, or many, of tensors of one size the same: any, as every n-th may all be of one
    column, which says nothing of the others."""
    if len(flat) > MOST_NUMBERS:
        drawn = torch.randint(
            len(flat), (MOST_NUMBERS,), generator=torch.Generator().manual_seed(0)
        )
        flat = flat[drawn.to(flat.device)]
    return flat.double().cpu()


def recoded_around(
    path: str,
    is_out: bool,
    call: int,
    clean: Sequence[Passing],
    other: Sequence[Passing],
    of_others: Sequence[Passing],
) -> list[str]:
    """The modules between what passes before a value and the same after it.

    **Arguments**

    - `path`, `is_out`, `call`: the module that returns the value, or is called with it, and at
      which of its calls.
    - `clean`, `other`: what passes, and what does where other rows have the value's place.
    - `of_others`: what passes of these other rows themselves.
    """
    calls = [i for i, one in enumerate(clean) if one.path == path and one.is_out == is_out]
    if call >= len(calls):
        return []
    at = calls[call]
    # the same calls in all, as other values may have a network call others, or none
    nth = _nth(clean)
    others, theirs = (dict(zip(_nth(one), one, strict=True)) for one in (other, of_others))
    after = [
        j for j in range(at + 1, len(clean))
        if clean[j].numbers is not None
        and not (nth[j] in others and _near(clean[j], others[nth[j]]))
    ]  # fmt: skip

    def comes_back(i: int, j: int) -> bool:
        # an inexact way back is told by whose it is: what only adds to a stream brings no other
        return _near(clean[i], clean[j]) or (
            i in codes
            and nth[j] in others
            and _off(clean[i], clean[j]) < LOOSELY
            and _off(theirs[nth[i]], others[nth[j]]) < LOOSELY
        )

    before = [i for i in range(at) if not _near(clean[i], clean[at])]  # the value itself is no code
    codes = {i for i in before if nth[i] in theirs and _off(clean[i], clean[at]) > LOOSELY}
    pairs = [(i, j) for i in before for j in after if comes_back(i, j)]
    if not pairs:
        return []
    start, end = pairs[0]  # what passes first, and where it comes back
    while end + 1 < len(clean) and _near(clean[end], clean[end + 1]):
        end += 1
    found, begun = list[str](), list[tuple[str, int]]()
    for i, one in enumerate(clean[: end + 1]):
        if not one.is_out:
            begun.append((one.path, i))
        elif begun.pop()[1] >= start:
            found.append(one.path)
    return found


def _nth(found: Sequence[Passing]) -> list[tuple[str, bool, int]]:
    """What is passed, and for which time."""
    counts = Counter[tuple[str, bool]]()
    names = list[tuple[str, bool, int]]()
    for one in found:
        names.append((one.path, one.is_out, counts[one.path, one.is_out]))
        counts[one.path, one.is_out] += 1
    return names


def _near(some: Passing, others: Passing) -> bool:
    if some.numbers is None or others.numbers is None or some.shape != others.shape:
        return False
    spread = float(some.numbers.std()) if some.numbers.numel() > 1 else 0.0
    return spread > 0 and torch.allclose(some.numbers, others.numbers, rtol=0, atol=NEAR * spread)


def _off(some: Passing, others: Passing) -> float:
    """How far apart they are on average, in standard deviations of the first; infinite where they
    cannot be compared."""
    if some.numbers is None or others.numbers is None or some.shape != others.shape:
        return math.inf
    spread = float(some.numbers.std()) if some.numbers.numel() > 1 else 0.0
    off = float((some.numbers - others.numbers).square().mean().sqrt())
    return off / spread if spread > 0 else math.inf
