"""The pairs on small networks: that both compute the same, and what each costs."""

from __future__ import annotations

import importlib.util
import time
import warnings
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from benchmarks import peers_hooks, peers_others, peers_small, published_brackets
from benchmarks.peers_timing import Contender, fastest, race, sized, table
from pytest_scrub import Evaluator, load_model
from pytest_scrub.common.seeds import stream
from pytest_scrub.network.wrapping import bridge_of
from pytest_scrub.tree.nodes import Node

SAME = 1e-4  # how far losses of the same swaps may be apart, in float32
PROVED = 256  # swaps that both evaluate
DRAWN = 1024  # samples that each draws, whose means are compared
COLUMNS = {"4": 2048, "73": 256}  # samples of one call of the evaluator
FORWARD_SIZES = (8, 16, 32, 64, 128, 256)
# Samples of one call, and the batches these are evaluated in; the two claims want different ones.
THEIR_SIZES = {
    "4": ((32, None), (64, None), (512, 16), (512, 32), (512, 64)),
    "73": ((32, None), (64, None), (128, None), (256, 64)),
}
NO_RUST_CIRCUIT = (
    "rust_circuit 0.4.5 has no wheel for this Python (it needs CPython 3.11 on "
    "Linux), so it is left out."
)


class Small:
    """The small network, its data and its plain forward passes."""

    def __init__(self) -> None:
        self.bridge, self.data = peers_small.network(), peers_small.dataset()
        self.graph, self.tokens = load_model(self.bridge), self.data.inputs["tokens"]

    def forwards(self) -> list[Contender]:
        """The bridge's own module without the bridge, and a forward pass written by hand."""
        module, minimal = self.bridge.original_model, peers_small.minimal_forward(self.bridge)
        with torch.no_grad():
            require_same(
                "plain forward passes",
                minimal(self.tokens[:PROVED]),
                module(self.tokens[:PROVED])[:, -1],
            )
        return [
            sized(lambda n: module(self.tokens[:n]), FORWARD_SIZES).named("module"),
            sized(lambda n: minimal(self.tokens[:n]), FORWARD_SIZES).named("minimal"),
        ]

    def evaluator(self, claim: Node) -> tuple[Evaluator, float]:
        """With the clean activations of all rows, and the CPU-seconds that capturing them took."""
        evaluator = Evaluator(self.graph, self.data, claim)
        started = time.process_time()
        evaluator.ensure(evaluator.sites, np.arange(len(self.data)))
        return evaluator, time.process_time() - started


def require_same(
    what: str, mine: Tensor | np.ndarray, theirs: Tensor | np.ndarray, within: float = SAME
) -> None:
    """**Raises** `AssertionError` where two results differ; says by how much they do."""
    apart = float((torch.as_tensor(mine).double() - torch.as_tensor(theirs).double()).abs().max())
    assert apart < within, f"{what}: {apart:.1e} apart"
    print(f"the same: {what}, within {apart:.1e}", flush=True)


def ours(evaluator: Evaluator, columns: int) -> list[Contender]:
    """A sample as its user pays for it, drawn and evaluated; and evaluated only."""
    rng = stream(0, "timing")
    swap_set = evaluator.space.draw(columns, stream(0, "ready"))
    return [
        Contender("ours", columns, lambda: evaluator.evaluate(evaluator.space.draw(columns, rng))),
        Contender("ours_drawn", columns, lambda: evaluator.evaluate(swap_set)),
    ]


def small() -> tuple[list[str], dict[str, float]]:
    problem = Small()
    plain = problem.forwards()
    lines = [
        "### rust_circuit and the plain forward pass",
        "",
        "Two layers of attention without MLPs or layer norms (d_model 256, 8 heads of 32, 64 "
        f"tokens, vocabulary 1,000, causal, float32), {len(problem.data):,} rows of random tokens, "
        "cross-entropy at the last position.",
    ]
    figures = {}
    for size, claim in (
        ("4", peers_small.claim_of_4_nodes()),
        ("73", peers_small.claim_of_73_nodes()),
    ):
        shown, found = against_rust_circuit(problem, plain, size, claim)
        lines += ["", f"The claim of {size} nodes.", "", *shown]
        figures |= found
    return lines, figures


def against_rust_circuit(
    problem: Small, plain: Sequence[Contender], size: str, claim: Node
) -> tuple[list[str], dict[str, float]]:
    print(f"the claim of {size} nodes", flush=True)
    evaluator, captured = problem.evaluator(claim)
    theirs, said = rust_circuit(problem, evaluator, size)
    result = race([*ours(evaluator, COLUMNS[size]), *theirs, *plain])
    titles = {
        "ours": "pytest-scrub, drawn and evaluated",
        "ours_drawn": "pytest-scrub, evaluated only",
        "rust_circuit": f"rust_circuit, drawn and evaluated ({theirs[0].samples} at once)"
        if theirs
        else "",
        "rust_forward": "rust_circuit's plain forward pass",
        "minimal": "plain forward pass, written by hand",
        "module": "plain forward pass, the module that TransformerLens wraps",
    }
    titles = {name: title for name, title in titles.items() if name in result.rates[1]}
    against = "rust_circuit" if theirs else "minimal"
    fastest_plain = max(("minimal", "module"), key=result.median)
    figures = {f"forward_{size}_node": result.ratio("ours", fastest_plain)}
    if theirs:
        figures[f"rust_circuit_{size}_node"] = result.ratio("ours", "rust_circuit")
        figures[f"rust_circuit_{size}_node_ready"] = result.ratio("ours_drawn", "rust_circuit")
    even = captured * result.median("rust_circuit") if theirs else 0.0
    mebibytes = evaluator.store.bytes() / 2**20
    first = (
        f"Once, pytest-scrub captures {mebibytes:,.0f} MiB of clean activations in "
        f"{captured:.1f} CPU-seconds"
    )
    first += f", in which rust_circuit evaluates {even:,.0f} samples." if theirs else "."
    return [*table(result, titles, against), "", f"{said} {first}"], figures


def rust_circuit(problem: Small, evaluator: Evaluator, size: str) -> tuple[list[Contender], str]:
    """Their fastest way to evaluate the claim and their plain forward pass, and what was shown
    first."""
    if importlib.util.find_spec("rust_circuit") is None:
        return [], NO_RUST_CIRCUIT
    from benchmarks import peers_rust

    w = peers_small.weights(problem.bridge)
    claim = {"4": peers_rust.claim_of_4_nodes, "73": peers_rust.claim_of_73_nodes}[size]
    circuits = {"heads one by one": peers_rust.circuit(w, peers_rust.ALL_APART, late=size == "73")}
    if size == "4":
        circuits["other heads together"] = peers_rust.circuit(w, [(0, 3), (1, 0)], late=False)
    scrubbers = {
        how: peers_rust.Scrubber(circuit, claim(), problem.tokens, problem.data.labels)
        for how, circuit in circuits.items()
    }
    swap_set = evaluator.space.draw(PROVED, stream(0, "proof"))
    mine = evaluator.evaluate(swap_set)
    candidates = []
    for how, scrubber in scrubbers.items():
        require_same(
            f"losses of {PROVED} swaps by rust_circuit, {how}",
            mine,
            scrubber.exactly(swap_set, 32, check=True),
        )
        candidates += [
            Contender(f"{how}, {n} in {batch}", n, lambda s=scrubber, n=n, b=batch: s.draw(n, b))
            for n, batch in THEIR_SIZES[size]
        ]
        candidates.append(
            Contender(
                f"{how}, 64, optimized", 64, lambda s=scrubber: s.draw(64, None, optimize=True)
            )
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that a class has more references than rows
        best = fastest(candidates)
        numbered = peers_rust.Scrubber(
            circuits["heads one by one"],
            claim(),
            problem.tokens,
            problem.data.labels,
            numbered=True,
        )
        said = drawn(evaluator, numbered)
    warnings.filterwarnings("ignore", message="not enough unique dataset samples")
    together = peers_rust.circuit(w, [], late=False)
    with torch.no_grad():
        require_same(
            "rust_circuit's plain forward pass",
            peers_rust.forward(together, problem.tokens[:64], None),
            problem.bridge.original_model(problem.tokens[:64])[:, -1],
        )
    forward = fastest(
        [
            Contender(
                f"{n} in {b}",
                n,
                lambda n=n, b=b: peers_rust.forward(together, problem.tokens[:n], b),
            )
            for n, b in ((16, None), (32, None), (64, None), (512, 16), (512, 32))
        ]
    )
    said = (
        f"The same {PROVED} explicit swaps have the same losses in both (within {SAME:g}), and "
        f"{said}"
    )
    return [best.named("rust_circuit"), forward.named("rust_forward")], said


def drawn(evaluator: Evaluator, scrubber) -> str:
    """What they draw is allowed here and has the same losses, and what is drawn here has the same
    mean.

    **Raises** `AssertionError` where it is not so, for the means beyond four standard errors.
    """
    parts = [scrubber.drawn(PROVED, evaluator.space) for _ in range(DRAWN // PROVED)]
    theirs = np.concatenate([losses.numpy() for _, losses in parts])
    assert all(evaluator.space.allows(swap_set).all() for swap_set, _ in parts), (
        "they draw what is not allowed here"
    )
    again = np.concatenate([evaluator.evaluate(swap_set) for swap_set, _ in parts])
    require_same(
        f"losses of the {DRAWN:,} samples that rust_circuit drew, all of them allowed",
        again,
        theirs,
    )
    mine = evaluator.evaluate(evaluator.space.draw(DRAWN, stream(0, "means")))
    error = float(np.hypot(mine.std(ddof=1), theirs.std(ddof=1)) / np.sqrt(DRAWN))
    assert abs(mine.mean() - theirs.mean()) < 4 * error, (
        f"means {mine.mean():.4f} and {theirs.mean():.4f}"
    )
    return (
        f"so have {DRAWN:,} samples that rust_circuit drew, all of which are allowed here. Their "
        f"mean is {theirs.mean():.4f}, that of as many drawn here {mine.mean():.4f} (standard "
        f"error of the difference {error:.4f})."
    )


def hooks() -> tuple[list[str], dict[str, float]]:
    print("hooks of TransformerLens", flush=True)
    problem = Small()
    evaluator, _ = problem.evaluator(peers_small.claim_of_4_nodes())
    swap_set = evaluator.space.draw(PROVED, stream(0, "proof"))

    def run(n: int) -> np.ndarray:
        return peers_hooks.losses(
            problem.bridge, problem.data, evaluator.space.draw(n, rng), n
        ).numpy()

    rng = stream(0, "hooks")
    require_same(
        f"losses of {PROVED} swaps by hooks", evaluator.evaluate(swap_set),
        peers_hooks.losses(problem.bridge, problem.data, swap_set, 64),
    )  # fmt: skip
    theirs = sized(run, (16, 32, 64, 128))
    result = race([*ours(evaluator, COLUMNS["4"])[:1], theirs.named("hooks")])
    titles = {"ours": "pytest-scrub", "hooks": "a run for every node, with patching hooks"}
    return [
        "### Hooks of TransformerLens",
        "",
        "The claim of 4 nodes as it is evaluated by hand: `run_with_cache` and `run_with_hooks` on "
        "the same network, "
        f"one run for each node. The same {PROVED} swaps have the same losses.",
        "",
        *table(result, titles, "hooks"),
    ], {"hooks_4_node": result.ratio("ours", "hooks")}


def others() -> tuple[list[str], dict[str, float]]:
    """pyvene and faithfulness."""
    print("pyvene and faithfulness", flush=True)
    o = peers_others
    data, bridge = o.dataset(), bridge_of(o.module())
    _, evaluators = o.ours(bridge, data)
    # A network of its own with the same weights: a bridge around a module that pyvene has hooked
    # loses its own hooks.
    exchange, faithful = o.pyvene(o.module()), o.faithfulness(bridge)
    swap_set = o.swaps(evaluators["any"], PROVED)
    given = o.pairs(data, swap_set)
    with torch.no_grad():
        require_same(
            f"{PROVED} pairs by pyvene", evaluators["any"].evaluate(swap_set), exchange(*given)
        )
        few = [
            faithful(c[None], d[None], label)
            for c, d, label in zip(*(part[:8] for part in given), strict=True)
        ]
    require_same(
        "8 pairs by faithfulness", evaluators["direct"].evaluate(swap_set)[:8], np.array(few)
    )
    for evaluator in evaluators.values():
        evaluator.ensure(evaluator.sites, np.arange(len(data)))
    contenders = [
        ours(evaluators["any"], 512)[1].named("any"),
        sized(lambda n: exchange(*(part[:n] for part in given)), (16, 64, 256)).named("pyvene"),
        ours(evaluators["direct"], COLUMNS["4"])[1].named("direct"),
        Contender("faithfulness", 1, lambda: faithful(given[0][:1], given[1][:1], given[2][0])),
    ]
    result = race(contenders)
    lines = [
        "### pyvene and TransformerLens' faithfulness",
        "",
        f"What both can say: {len(o.CHOSEN)} heads of the last layer are those of a clean input, "
        f"everything else that of a corrupt one, and the metric is a logit. A GPT-2 of {o.LAYERS} "
        f"layers, {o.HEADS} heads, d_model {o.D_MODEL} and {o.SEQ} tokens. pyvene exchanges the "
        "heads, which acts along every path (`via=\"any\"`); faithfulness keeps the edges from "
        "those heads to the logits, one pair at a time, and also reports each class of edges, "
        "which is counted. The same pairs have the same logits.",
        "",
        *table(result, {"any": "pytest-scrub, along every path", "pyvene": "pyvene"}, "pyvene"),
        "",
        *table(result, {"direct": "pytest-scrub, directly", "faithfulness": "faithfulness"},
        "faithfulness"),
    ]  # fmt: skip
    return lines, {
        "pyvene": result.ratio("any", "pyvene"),
        "faithfulness": result.ratio("direct", "faithfulness"),
    }


def brackets() -> tuple[list[str], dict[str, float]]:
    """Claim 1b about the published bracket network; nothing where nobody said where that lies."""
    title = "### The published bracket network"
    at = published_brackets.folder()
    if at is None:
        return [title, "", f"Not measured: {published_brackets.FOLDER} names no folder."], {}
    print("brackets", flush=True)
    bridge, data = published_brackets.network(at), published_brackets.dataset(at)
    evaluator = Evaluator(load_model(bridge), data, published_brackets.claim_1b())
    evaluator.ensure(evaluator.sites, np.arange(len(data)))
    tokens, mask = (data.inputs[name] for name in ("tokens", "attention_mask"))
    forward = sized(
        lambda n: bridge.original_model(tokens[:n], attention_mask=mask[:n]), FORWARD_SIZES
    )
    result = race([*ours(evaluator, 20_000), forward.named("forward")])
    titles = {
        "ours": "claim 1b, drawn and evaluated",
        "ours_drawn": "claim 1b, evaluated only",
        "forward": f"clean forward pass, {forward.name}",
    }
    said = (
        f"Claim 1b (three leaves) on its first {len(data):,} strings of up to "
        f"{published_brackets.LENGTH} tokens."
    )
    figures = {
        "brackets_1b": result.ratio("ours", "forward"),
        "brackets_1b_ready": result.ratio("ours_drawn", "forward"),
    }
    return [title, "", said, "", *table(result, titles, "forward")], figures
