"""What evaluating a hypothesis would take, without evaluating it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pytest_scrub.engine.evaluator import Evaluator
from pytest_scrub.engine.fitting import BATCH, to_fit
from pytest_scrub.engine.memory import in_units
from pytest_scrub.engine.store import bytes_of_a_row
from pytest_scrub.network.shuffled import FEWEST, MOST, why_not_shuffled


@dataclass(frozen=True)
class ExplainedSlot:
    """One slot: its path, on what donors agree, and how many a reference has (least, median,
    most)."""

    slot: str
    agrees_on: str
    donors: tuple[int, float, int]
    with_other: float


@dataclass(frozen=True)
class Explanation:
    """A plan in words and numbers; `str()` is for people.

    - `cached`: clean activations that are kept, one forward pass of the network for all of them.
    - `cached_bytes`: their size on all rows of different content; `fits`: whether there is room for
      them, and `room`: where.
    - `rows`: of different content, each of which is run clean at most once.
    - `recomputed`: what every evaluation computes anew; leaves cost a gather.
    - `reruns`: how many times every evaluation reruns layers of the network.
    - `tokens`: how many are said after a prompt, and `passes`: of the network for those of a swap.
    - `batch`: how many references are evaluated at once; `batch_bytes`: about what that takes.
    - `indirect`: why nothing is read directly, where that is for the network's own reasons.
    - `fitted`: how many swaps, with their gradients, the control takes at most that fits the
      alignment of a claim that predicts labels; 0 where there is none.
    - `shuffled`: how often at most controls of such a claim shuffle the weights and put them back,
      with clean passes of what is drawn there; 0 where they do not.
    """

    hypothesis: str
    slots: tuple[ExplainedSlot, ...]
    cached: tuple[str, ...]
    cached_bytes: int
    fits: bool
    room: str
    rows: int
    recomputed: tuple[str, ...]
    reruns: int
    batch: int
    batch_bytes: int
    indirect: str | None = None
    tokens: int = 0
    passes: int = 0
    fitted: int = 0
    shuffled: int = 0

    def __str__(self) -> str:
        lines = [
            self.hypothesis,
            "",
            "slots (allowed donors: least, median, most; references with another donor):",
        ]
        for slot in self.slots:
            least, median, most = slot.donors
            lines.append(
                f"  {slot.slot}: {slot.agrees_on}: {least}, {median:g}, {most}; "
                f"{slot.with_other:.0%}"
            )
        lines.append(
            f"cached for {self.rows} rows of different content, {self.cached_bytes / 2**20:.1f} "
            "MiB at most:"
        )
        lines += [f"  {site}" for site in self.cached] or ["  nothing"]
        lines.append(f"  {self.room}")
        lines.append(f"clean passes: {self.rows} rows at most, each once")
        lines.append("recomputed for every swap:")
        lines += [f"  {part}" for part in self.recomputed] or ["  nothing"]
        lines.append(
            f"evaluated at once: {self.batch} swaps, about {in_units(self.batch_bytes)}"
            + (f", with {self.reruns} reruns of layers for each" if self.reruns else "")
        )
        if self.tokens:
            lines.append(
                f"said after each prompt: {self.tokens} tokens, {self.passes} passes of the "
                f"network for each swap and {self.tokens} for each reference"
            )
        if self.shuffled:
            lines.append(
                f"controls, unless controls=False, shuffle the weights and run the network clean "
                f"there up to {self.shuffled} times, as a rule {FEWEST}"
            )
        if self.fitted:
            lines.append(
                f"one of them fits the alignment anew, to shuffled weights and to the network's "
                f"own: up to {self.fitted:,} swaps with their gradients"
            )
        if self.indirect is not None:
            lines.append(f"everything is read along every path, since {self.indirect}")
        return "\n".join(lines)


def explain(evaluator: Evaluator) -> Explanation:
    """Slots, donors and cost of an evaluator's hypothesis. The network sees one row, to learn the
    sizes, and a few where modules may recode what passes; nothing is kept of them."""
    store, space = evaluator.store, evaluator.space
    one = store.run(evaluator.sites, np.array([0]))
    gathered = sum(map(bytes_of_a_row, one.values()))
    rows = len(np.unique(evaluator.dataset.content))
    readers = [step.reader for step in evaluator.plan.walk() if step.reader is not None]
    slots = []
    supports = space.support()
    for whole, its in space.wholes.items():
        agrees_on = str(space.slots[its[0]].agrees_on)
        counts = np.stack([supports[i].donors for i in its])
        least, median, most = np.quantile(counts, (0, 0.5, 1)).tolist()
        donors = int(least), median, int(most)
        with_other = float(np.mean([supports[i].share for i in its]))
        slots.append(ExplainedSlot(whole, agrees_on, donors, with_other))
    fits, room = store.memory.where(rows * gathered, evaluator.dataset.device)
    batch, batch_bytes = evaluator.batch_of(
        evaluator.held(lambda sites: sum(bytes_of_a_row(one[site]) for site in sites))
    )
    has_controls = evaluator.hypothesis.predicts is not None and not why_not_shuffled(
        evaluator.graph
    )
    steps = to_fit(evaluator, np.random.default_rng(0))[1] if has_controls else 0
    return Explanation(
        hypothesis=str(evaluator.hypothesis),
        slots=tuple(slots),
        cached=tuple(map(str, evaluator.sites)),
        cached_bytes=rows * gathered,
        fits=fits,
        room=room,
        rows=rows,
        recomputed=tuple(part for reader in readers for part in reader.recomputes),
        reruns=sum(reader.reruns for reader in readers),
        batch=batch,
        batch_bytes=batch_bytes,
        indirect=evaluator.graph.indirect,
        tokens=evaluator.metric.tokens,
        passes=evaluator.passes,
        fitted=(FEWEST + 1) * steps * BATCH,
        shuffled=(MOST + FEWEST * bool(steps)) * has_controls,
    )
