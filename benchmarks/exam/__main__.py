"""Claims whose truth is known, on networks whose circuit is known, each judged as it comes.

    python -m benchmarks.exam

prints what became of each, tables of them all, and one JSON object on the last line. What is true
is looked up first, from the network and the data, wherever all allowed swaps can be tried
(`--proofs only` does just that, `--proofs no` trusts what is written down). `--only` takes a part
of a claim's name, or a kind; `--quick` judges every fifth claim.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import time
from collections.abc import Iterator

import torch

from benchmarks.exam import (
    adding,
    bracketing,
    cancelling,
    causal,
    dyck,
    modular,
    programs,
    sorting,
    trained,
    units,
)
from benchmarks.exam.claims import Question
from benchmarks.exam.judging import answer, record_of
from benchmarks.exam.table import tables
from benchmarks.exam.truth import agrees

GROUNDS = (
    adding, bracketing, sorting, cancelling, causal, programs, units, modular, dyck, trained,
)  # fmt: skip
EVERY = 5  # of the claims, when it has to be quick


def questions(only: str = "", *, quick: bool = False) -> Iterator[Question]:
    """All claims, or those whose name or kind has `only` in it."""
    every = (question for ground in GROUNDS for question in ground.questions())
    for number, question in enumerate(every):
        if re.search(only, f"{question.id} {question.kind}") and not (quick and number % EVERY):
            yield question


def prove(question: Question) -> bool:
    """Whether the truth is what is written down."""
    if isinstance(question.proof, str):
        print(f"{question.id}: {question.truth}, {question.proof}", flush=True)
        return True
    started = time.process_time()
    known = question.proof(question)
    seconds = time.process_time() - started
    is_so = agrees(question, known)
    says = question.truth if is_so else f"NOT {question.truth}"
    print(f"{question.id}: {says}, {known.how} ({seconds:.1f} s)", flush=True)
    return is_so


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="a part of a claim's name, or a kind")
    parser.add_argument("--quick", action="store_true", help="every fifth claim")
    parser.add_argument("--proofs", choices=("no", "yes", "only"), default="yes")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    torch.set_num_threads(1)
    asked = list(questions(given.only, quick=given.quick))
    if modular.folder() is None:
        print("SCRUB_NETWORKS is not set: modular addition and dyck are left out", file=sys.stderr)
    wrong = [] if given.proofs == "no" else [one.id for one in asked if not prove(one)]
    if wrong:
        sys.exit(f"what is written down is not so: {'; '.join(wrong)}")
    if given.proofs == "only":
        return
    answers = []
    for question in asked:
        answers.append(answer(question, seed=given.seed))
        one = answers[-1]
        mark = " " if one.is_right else "!"
        print(
            f"{mark} {question.truth:5} {one.stage:16} {one.seconds:6.1f} s  {question.id} "
            f"({question.kind}; {one.figures})",
            flush=True,
        )
    print(tables(answers))
    print(json.dumps(record_of(answers)))


if __name__ == "__main__":
    main()
