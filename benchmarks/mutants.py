"""What judging a claim's mutants costs, in runs of the claim.

Claims of the example circuits, each from cold caches: CPU seconds of one check, and of what mutants
add to it, scaled to fifty of them. With the adversaries at their default, and without any. The last
line is one JSON object.
"""

from __future__ import annotations

import inspect
import json
import time
from typing import Any

import torch

from example_circuits.brackets import conftest as brackets
from example_circuits.brackets import test_brackets
from example_circuits.induction import conftest as induction
from example_circuits.induction import test_induction
from pytest_scrub import check

FIFTY, REPEATS = 50, 3
CLAIMS = {
    "refined": (
        induction,
        test_induction.test_refined,
        {"min_explained": test_induction.EXPLAINED},
    ),
    "spelled out": (
        induction,
        test_induction.test_previous_token_head_moves_the_embedding,
        {"min_explained": test_induction.EXPLAINED},
    ),
    "split": (
        brackets,
        test_brackets.test_one_part_counts_and_three_look_at_the_horizon,
        {"min_recovered": 0.9, "samples": test_brackets.SAMPLES},
    ),
}


def seconds(hypothesis: Any, model: Any, data: Any, **options: Any) -> tuple[float, int]:
    """CPU seconds of one check with caches of its own, the best of a few, and how many mutants were
    judged."""
    times, judged = [], 0
    for _ in range(REPEATS if options.get("adversaries") == () else 1):
        started = time.process_time()
        verdict = check(hypothesis, model, data, **options)
        times.append(time.process_time() - started)
        judged = 0 if verdict.power is None else len(verdict.power.mutants)
    return min(times), judged


def main() -> None:
    torch.set_num_threads(1)
    record: dict[str, float] = {}
    for name, (circuit, test, criteria) in CLAIMS.items():
        model, data = (
            inspect.unwrap(fixture)() for fixture in (circuit.scrub_model, circuit.scrub_data)
        )
        hypothesis = inspect.unwrap(test)()
        check(hypothesis, model, data, adversaries=(), **criteria)  # imports and features
        for kind, adversaries in (("without adversaries", ()), ("by default", None)):
            alone, _ = seconds(hypothesis, model, data, adversaries=adversaries, **criteria)
            mutated, judged = seconds(
                hypothesis, model, data, adversaries=adversaries, mutate=True, **criteria
            )
            runs = (mutated - alone) * FIFTY / judged / alone
            print(
                f"{name}, {kind}: one run {alone:.2f} s, {judged} mutants {mutated - alone:.2f} s; "
                f"fifty cost as much as {runs:.1f} runs"
            )
            record[f"{name}, {kind}"] = round(runs, 2)
    print(json.dumps(record))


if __name__ == "__main__":
    main()
