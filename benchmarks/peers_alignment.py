"""One alignment of example_circuits/carrying, beside pyvene: the same pairs, the same columns.

    python -m benchmarks.peers_alignment

runs in the environment of the other peers (`benchmarks/peers_environment.py`), shows that both give
the same logits for the same interchange interventions, and prints what each says of the alignment
and what that takes, as the table of docs/from-a-causal-model.md.
"""

from __future__ import annotations

import subprocess
import time
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.peers_environment import PYTHON, inside, install
from example_circuits.carrying import align, models
from example_circuits.carrying.conftest import asked
from example_circuits.carrying.data import LAST_DIGIT, TENS
from pytest_scrub import Evaluator, Verdict, aligned, check, load_model, stream, zero_one_error
from pytest_scrub.common.seeds import stream as random_stream

DRAWN = 4000
SAME = 1e-4  # logits, in float32


def columns() -> Tensor:
    from safetensors.torch import load_file

    return load_file(align.HERE / "aligned.safetensors")["carry"]


def intervenable(network: Any, basis: Tensor) -> Any:
    """pyvene's model in which our columns of the stream before layer 1 are interchanged."""
    import pyvene

    held = pyvene.LowRankRotatedSpaceIntervention(
        embed_dim=basis.shape[0], low_rank_dimension=basis.shape[1]
    )
    held.rotate_layer.weight = basis.clone()  # the setter of the parametrization
    said = {"component": "layers[0].output", "unit": "pos", "intervention": held}
    network.config, network.device = network.cfg, torch.device("cpu")  # pyvene asks for both
    return pyvene.IntervenableModel(pyvene.IntervenableConfig([said]), network)


@torch.no_grad()
def theirs(model: Any, tokens: Tensor, rows: Tensor, donors: Tensor) -> Tensor:
    base, sources = {"input_ids": tokens[rows]}, [{"input_ids": tokens[donors]}]
    made = model(base, sources, {"sources->base": LAST_DIGIT})[1]
    logits: Tensor = made[:, TENS]
    return logits


def main() -> None:
    if not inside():
        install()
        subprocess.run([PYTHON, "-m", "benchmarks.peers_alignment"], check=True)
        return
    torch.set_num_threads(1)
    basis, dataset = columns(), asked(TENS)
    claim = aligned(
        models.WRITTEN[TENS], carry=stream(1, pos=LAST_DIGIT, subspace=basis), rivals=models.RIVALS
    )
    network = load_model(align.HERE / "carrying.safetensors")
    evaluator = Evaluator(network, dataset, claim, zero_one_error())
    drawn = evaluator.space.draw(DRAWN, random_stream(0, "the same pairs"))
    of_carry = drawn.donors[evaluator.space.paths.index(f"output/carry@{LAST_DIGIT}")]
    rows, donors = (torch.from_numpy(one.copy()) for one in (drawn.references, of_carry))
    tokens = dataset.inputs["tokens"]

    model = intervenable(align.network(), basis)
    predicted = evaluated(models.WRITTEN[TENS], dataset, rows, donors)
    started = time.process_time()
    logits = theirs(model, tokens, rows, donors)
    their_seconds = time.process_time() - started
    evaluator.evaluate(drawn)  # captures once what it reads
    started = time.process_time()
    wrong = evaluator.evaluate(drawn)
    our_seconds = time.process_time() - started
    ours, labels = evaluator.outputs(drawn), evaluator.labels(drawn)
    assert labels is not None
    assert torch.equal(labels, predicted)
    apart = float((ours - logits).abs().max())
    assert apart < SAME, f"logits are {apart:.1e} apart"
    right = (logits.argmax(-1) == predicted).double().mean().item()
    assert right == 1 - wrong.mean()
    verdict = check(
        claim, network, dataset, metric=zero_one_error(), tolerance=0.1, name="the carry"
    )
    print(f"logits of {len(rows):,} exchanges: {apart:.1e} apart at most")
    print(table(right, their_seconds, our_seconds, verdict))


def table(right: float, theirs: float, ours: float, verdict: Verdict) -> str:
    """What each of the two says of the alignment."""
    told, search, null = verdict.predicted, verdict.search, verdict.null
    assert told is not None
    assert search is not None
    assert search.worst is not None
    assert null is not None
    rows = [
        ("interchange accuracy on the same pairs", f"{right:.2%}", f"{right:.2%}"),
        ("CPU-seconds for them, rows captured before", f"{theirs:.2f}", f"{ours:.2f}"),
        ("verdict at one wrong answer in ten", "", verdict.outcome),
        ("wrong on average, with its interval", "", f"{verdict.gap}"),
        ("wrong for the worst donors that are found", "", f"{search.worst.interval}"),
        ("pairs of which another answer is predicted", "", f"{told.changed.mean:.0%}"),
        ("wrong if the program gets another exchange (null)", "", f"{null.gap}"),
    ]
    for rival in told.rivals:
        rows.append((f"rival: {rival.name}, wrong more often by", "", f"{rival.gap}"))
    for control in verdict.controls:
        rows.append((f"control: {control.name}, right of", "", f"{control.accuracy:.0%}"))
    head = "| | pyvene | pytest-scrub |\n| --- | ---: | ---: |"
    return "\n".join([head, *(f"| {' | '.join(row)} |" for row in rows)])


def evaluated(model: Any, dataset: Any, rows: Tensor, donors: Tensor) -> Tensor:
    """What the causal model answers for each of the pairs."""

    def row(of: Tensor) -> dict[str, Any]:
        return {name: dataset.feature(name)[of.numpy()] for name in ("ones", "tens")}

    carry = model.values(row(donors), {})["carry"]
    return torch.from_numpy(np.asarray(model.values(row(rows), {"carry": carry})["answer"]))


if __name__ == "__main__":
    main()
