"""Timing on a shared machine: contenders take turns, and medians of rounds count."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch

ROUNDS = 5
TURN = 0.3  # CPU-seconds one contender runs before the next one's turn, at least
TRIAL = 0.3  # the same while the fastest setting is looked for
THREADS = len(os.sched_getaffinity(0))
HEADER = [
    "| | 1 thread: per CPU-second | per second | all threads: per CPU-second | per second | times "
    "|",
    "| --- | ---: | ---: | ---: | ---: | ---: |",
]


@dataclass(frozen=True)
class Contender:
    """Something that is timed: `run` does `samples` of what is counted."""

    name: str
    samples: int
    run: Callable[[], object]

    def turn(self, at_least: float) -> tuple[float, float]:
        """Samples per CPU-second and per second."""
        started = time.process_time(), time.perf_counter()
        done = 0
        while not done or time.process_time() - started[0] < at_least:
            self.run()
            done += self.samples
        return done / (time.process_time() - started[0]), done / (time.perf_counter() - started[1])

    def named(self, name: str) -> Contender:
        """The same under another name."""
        return replace(self, name=name)


@dataclass
class Rates:
    """Samples per CPU-second and per second, round by round."""

    cpu: list[float] = field(default_factory=list)
    wall: list[float] = field(default_factory=list)


@dataclass
class Race:
    """Contenders that took turns, by number of threads and name."""

    rates: dict[int, dict[str, Rates]] = field(default_factory=dict)

    def median(self, name: str, threads: int = 1, clock: str = "cpu") -> float:
        return statistics.median(getattr(self.rates[threads][name], clock))

    def ratio(self, name: str, other: str) -> float:
        """How many times as fast as the other by CPU time of one thread: the median over rounds of
        both in the same."""
        mine, theirs = (self.rates[1][which].cpu for which in (name, other))
        return statistics.median(a / b for a, b in zip(mine, theirs, strict=True))


def race(
    contenders: Sequence[Contender], rounds: int = ROUNDS, threads: Sequence[int] = (1, THREADS)
) -> Race:
    """Let contenders take turns, on one thread and on all."""
    result = Race()
    with torch.no_grad():
        for count in sorted(set(threads)):
            torch.set_num_threads(count)
            rates = result.rates[count] = {one.name: Rates() for one in contenders}
            for one in contenders:
                one.turn(0.0)  # warms up
            for _ in range(rounds):
                for one in contenders:
                    cpu, wall = one.turn(TURN)
                    rates[one.name].cpu.append(cpu)
                    rates[one.name].wall.append(wall)
    torch.set_num_threads(1)
    return result


def fastest(candidates: Sequence[Contender]) -> Contender:
    """The one with most samples per CPU-second, by the better of two short trials each."""
    torch.set_num_threads(1)
    with torch.no_grad():
        tried = {one.name: max(one.turn(TRIAL)[0] for _ in range(2)) for one in candidates}
    print(
        "  tried: " + ", ".join(f"{name} {rate:,.0f}" for name, rate in tried.items()), flush=True
    )
    return max(candidates, key=lambda one: tried[one.name])


def sized(run: Callable[[int], object], sizes: Sequence[int]) -> Contender:
    """The fastest of some batch sizes."""
    return fastest([Contender(f"batches of {n}", n, lambda n=n: run(n)) for n in sizes])


def table(result: Race, titles: Mapping[str, str], against: str) -> list[str]:
    """Markdown: the rates of each, and how many times as fast as `against` it is by CPU time of one
    thread."""
    every = max(result.rates)
    lines = list(HEADER)
    for name, title in titles.items():
        rates = [
            result.median(name, count, clock) for count in (1, every) for clock in ("cpu", "wall")
        ]
        cells = [title, *map(figure, rates), figure(result.ratio(name, against))]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def figure(rate: float) -> str:
    """Three digits."""
    return f"{rate:,.0f}" if rate >= 100 else f"{rate:.3g}"
