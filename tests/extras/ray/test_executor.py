"""Claims on a Ray cluster: are figures those of this process, whatever dies, and is nothing copied
that need not be?"""

from __future__ import annotations

import importlib
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from pytest_scrub import (
    ANYTHING,
    Dataset,
    FunctionGraph,
    HypothesisError,
    Metric,
    check,
    module,
    output,
)
from pytest_scrub.engine.evaluator import SHARD, SHARD_OF_RERUNS, Evaluator
from pytest_scrub.engine.store import ActivationStore
from pytest_scrub.errors import DataError, ModelError, ScrubError
from pytest_scrub.metrics import Batch
from pytest_scrub.network import as_graph
from pytest_scrub.swaps.null import null_of
from tests.extras.ray.networks import (
    HEADS,
    MODULE,
    NUMBERS,
    ROWS,
    Perceptron,
    evaluator,
    figures,
    functions,
    gpt2,
    loss,
    native,
    numbers,
    tokens,
)
from tests.sizes import only_in_full

pytestmark = pytest.mark.xdist_group("ray")

DRIVER = os.getpid()


class Own(Exception):
    """An exception that only this file knows."""


NETWORKS: dict[str, tuple[Callable[[], Any], Callable[[], Dataset], Any]] = {
    "native": (native, tokens, HEADS),
    "gpt2": (gpt2, tokens, HEADS),
    "module": (Perceptron, numbers, MODULE),
    "functions": (functions, numbers, output(module("A", agrees_on="sign"))),
}


def on_workers(action: Callable[[], object]) -> Callable[[Tensor, Batch], Tensor]:
    """The loss, but on workers something happens before it is computed of a shard."""

    def metric(output: Tensor, batch: Batch) -> Tensor:
        # of one or two, it is to prove that each counts alone
        if os.getpid() != DRIVER and len(output) > 2:
            action()
        return loss(output, batch)

    return metric


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def pieces(count: int, size: int) -> int:
    return -(-count // size)


# The same figures ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        *(pytest.param(name, marks=only_in_full) for name in ("native", "gpt2", "module")),
        "functions",
    ],
)
def test_the_metric_of_every_reference(executor: Any, name: str) -> None:
    network, data, hypothesis = (make() if callable(make) else make for make in NETWORKS[name])
    here, there = (figures(evaluator(network, data, hypothesis, who)) for who in (None, executor))
    for mine, theirs in zip(here, there, strict=True):
        assert mine.std() > 0
        np.testing.assert_allclose(theirs, mine, rtol=1e-6)
    read = len(
        np.unique(
            evaluator(network, data, hypothesis)
            .space.draw(600, np.random.default_rng(0))
            .references
        )
    )
    assert executor.tasks["scrubbed"] == pieces(600, SHARD_OF_RERUNS if name == "module" else SHARD)
    assert executor.tasks["unscrubbed"] == pieces(read, SHARD)
    assert executor.tasks["captured"] > 1


def test_labels_that_are_predicted(executor: Any) -> None:
    """Those of the claim, of a rival, and of the null, whose swaps have a slot more."""
    root = output(
        module("A", name="a", agrees_on=ANYTHING),
        predicts=lambda reference, a: 1 * (reference["sign"] != a["sign"]),
        rivals={"the donor's": lambda a: a.labels},
    )
    found = []
    for who in (None, executor):
        own = evaluator(functions(), numbers(), root, who)
        null = null_of(own.space)
        assert null is not None
        each = own, own.against("the donor's"), own.allowing(null.known)
        found.append([one.evaluate(one.space.draw(600, np.random.default_rng(0))) for one in each])
    for mine, theirs in zip(*found, strict=True):
        np.testing.assert_allclose(theirs, mine, rtol=1e-6)
    assert not np.allclose(found[0][0], found[0][1])
    assert executor.tasks["scrubbed"] == 3 * pieces(600, SHARD)


@only_in_full
@pytest.mark.parametrize("name", ["native", "gpt2", "module"])
def test_whole_verdicts(executor: Any, name: str) -> None:
    network, data, hypothesis = (make() if callable(make) else make for make in NETWORKS[name])
    graph = as_graph(network)
    found = [
        check(
            hypothesis, graph, data, tolerance=0.02, samples=800, budget=3000,
            by=data.feature_names[0], controls=True,
            store=ActivationStore(graph, data, executor=who),
        ).to_json()
        for who in (None, executor)
    ]  # fmt: skip
    here, there = (re.split(r"(-?\d+\.\d+(?:e-?\d+)?)", text) for text in found)
    assert there[::2] == here[::2]  # all but the numbers that are no whole ones
    np.testing.assert_allclose(
        np.array(there[1::2], float), np.array(here[1::2], float), rtol=1e-5, atol=1e-7
    )
    assert all(executor.tasks.values())


def test_a_lone_piece_is_done_here(executor: Any) -> None:
    own = evaluator(Perceptron(), numbers(), MODULE, executor)
    few = own.space.draw(SHARD_OF_RERUNS, np.random.default_rng(0))
    own.evaluate(few)
    own.unscrubbed(few.references)
    assert not any(executor.tasks.values())


def test_code_that_no_worker_can_import(
    executor: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "only_mine.py").write_text(
        "FACTOR = 3\n\ndef metric(output, batch):\n    return output[:, 0] * FACTOR\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    only_mine = importlib.import_module("only_mine")
    here, there = (
        evaluator(Perceptron(), numbers(), MODULE, who, metric=only_mine.metric)
        for who in (None, executor)
    )
    np.testing.assert_allclose(figures(there), figures(here), rtol=1e-6)


@only_in_full
def test_the_default_type_of_torch_goes_along(executor: Any) -> None:
    graph = FunctionGraph(
        A=lambda tokens: tokens, output=lambda A: A[:, :3] * torch.full((3,), 0.1)
    )
    data = Dataset(
        NUMBERS.double(), labels=(NUMBERS[:, 0] > 0).long(), features={"sign": NUMBERS[:, 0] > 0}
    )
    hypothesis = output(module("A", agrees_on="sign"))
    for dtype in (torch.float64, torch.float32):
        torch.set_default_dtype(dtype)
        try:
            here, there = (
                figures(evaluator(graph, data, hypothesis, who, metric=loss))
                for who in (None, executor)
            )
        finally:
            torch.set_default_dtype(torch.float32)
        np.testing.assert_allclose(there, here, rtol=1e-12)  # 0.1 is another number as a float32


def test_features_that_only_a_mutant_has(executor: Any) -> None:
    """A claim is sent with its own features, and without the inputs that are there already."""
    import ray

    wide = NUMBERS.repeat(1, 20)
    data = Dataset(wide, labels=(NUMBERS[:, 0] > 0).long())
    more = data.with_features({"other": (NUMBERS[:, 1] > 0).numpy()})
    hypothesis = output(module("A", agrees_on="other"))
    graph = FunctionGraph(A=lambda tokens: tokens, output=lambda A: A[:, :3])
    here, there = (
        Evaluator(graph, more, hypothesis, store=ActivationStore(graph, data, executor=who))
        for who in (None, executor)
    )
    np.testing.assert_allclose(figures(there), figures(here), rtol=1e-6)
    claim = executor._claim(there, there.sites)
    sent, known = (
        len(packed.payload) + sum(array.nbytes for array in packed.arrays)
        for packed in ray.get([claim.claim, claim.source.data])
    )
    assert sent < wide.nbytes / 2 < wide.nbytes < known


@only_in_full
def test_progress_is_told_as_results_arrive(executor: Any) -> None:
    told: list[tuple[str, int, int]] = []
    own = evaluator(
        Perceptron(),
        numbers(),
        MODULE,
        executor,
        progress=lambda what, n, of, _: told.append((what, n, of)),
    )
    own.evaluate(own.space.draw(100, np.random.default_rng(0)))
    assert [step for step in told if step[0] == "scrubbed evaluations"] == [
        ("scrubbed evaluations", done, 100) for done in (32, 64, 96, 100)
    ]


@only_in_full
def test_changed_weights_are_another_network(executor: Any) -> None:
    graph = as_graph(Perceptron())
    before = figures(
        Evaluator(
            graph, numbers(), MODULE, store=ActivationStore(graph, numbers(), executor=executor)
        )
    )
    with torch.no_grad():
        graph.module[2].weight.mul_(2)
    changed = [
        figures(Evaluator(graph, data, MODULE, store=ActivationStore(graph, data, executor=who)))
        for who, data in ((None, numbers()), (executor, numbers()))
    ]
    assert abs(changed[0][0] - before[0]).max() > 0.1
    np.testing.assert_allclose(changed[1], changed[0], rtol=1e-6)


# Workers that die ---------------------------------------------------------------------------------


def test_a_worker_that_dies_of_a_task_loses_nothing(executor: Any, tmp_path: Path) -> None:
    flag = tmp_path / "died"

    def die_once() -> None:
        if not flag.exists():
            flag.touch()
            die()

    here = figures(evaluator(Perceptron(), numbers(), MODULE, metric=loss), 100)
    there = figures(
        evaluator(Perceptron(), numbers(), MODULE, executor, metric=on_workers(die_once)), 100
    )
    assert flag.exists()
    np.testing.assert_allclose(there, here, rtol=1e-6)


@only_in_full
def test_a_worker_that_is_killed_from_outside_loses_nothing(executor: Any, tmp_path: Path) -> None:
    def busy() -> None:
        (tmp_path / f"{os.getpid()}-{time.monotonic_ns()}").touch()
        time.sleep(0.3)

    def kill_one() -> None:
        while not (started := list(tmp_path.iterdir())):
            time.sleep(0.01)
        os.kill(int(started[0].name.partition("-")[0]), signal.SIGKILL)

    killer = threading.Thread(target=kill_one)
    killer.start()
    own = evaluator(Perceptron(), numbers(), MODULE, executor, metric=on_workers(busy))
    drawn = own.space.draw(100, np.random.default_rng(0))
    there = own.evaluate(drawn)
    killer.join()
    # what it had begun was done once more
    assert len(list(tmp_path.iterdir())) == pieces(100, SHARD_OF_RERUNS) + 1
    here = evaluator(Perceptron(), numbers(), MODULE, metric=loss).evaluate(drawn)
    np.testing.assert_allclose(there, here, rtol=1e-6)


@only_in_full
@pytest.mark.usefixtures("cluster")
def test_a_task_that_kills_every_worker_is_one_error(monkeypatch: pytest.MonkeyPatch) -> None:
    from pytest_scrub.extras.ray import executor as module_

    monkeypatch.setattr(module_, "RETRIES", 1)  # workers take a second or two to start
    executor = module_.RayExecutor()
    own = evaluator(Perceptron(), numbers(), MODULE, executor, metric=on_workers(die))
    drawn = own.space.draw(SHARD_OF_RERUNS + 1, np.random.default_rng(0))
    started = time.monotonic()
    with pytest.raises(
        ScrubError,
        match=r"^Ray gave up a task that was tried 2 times \(The worker died .*\); leave",
    ):
        own.evaluate(drawn)
    assert time.monotonic() - started < 120
    # and whoever comes next has workers again
    own = evaluator(Perceptron(), numbers(), MODULE, executor, metric=loss)
    assert own.evaluate(drawn).shape == (len(drawn),)


def test_a_cluster_that_loses_all_its_processors_is_one_error(
    executor: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray

    from pytest_scrub.extras.ray import executor as module_

    own = evaluator(
        Perceptron(), numbers(), MODULE, executor, metric=on_workers(lambda: time.sleep(3))
    )
    monkeypatch.setattr(module_, "PATIENCE", 0.1)
    monkeypatch.setattr(ray, "cluster_resources", dict)
    with pytest.raises(ScrubError, match="no processor left"):
        own.evaluate(own.space.draw(100, np.random.default_rng(0)))


@pytest.fixture
def interrupts() -> Iterator[None]:
    """A process in the background may have been told to ignore them."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@only_in_full
@pytest.mark.usefixtures("interrupts")
def test_an_interrupt_ends_waiting(executor: Any, tmp_path: Path) -> None:
    def wait() -> None:
        (tmp_path / "begun").touch()
        time.sleep(4)

    def interrupt() -> None:
        while not (tmp_path / "begun").exists():
            time.sleep(0.01)
        os.kill(DRIVER, signal.SIGINT)

    own = evaluator(Perceptron(), numbers(), MODULE, executor, metric=on_workers(wait))
    drawn = own.space.draw(100, np.random.default_rng(0))
    threading.Thread(target=interrupt).start()
    with pytest.raises(KeyboardInterrupt):
        own.evaluate(drawn)
    assert (tmp_path / "begun").stat().st_mtime > time.time() - 3


# Errors -------------------------------------------------------------------------------------------


def raise_key_error() -> None:
    raise KeyError("mine")


def raise_own() -> None:
    raise Own("mine", 3)


def raise_hypothesis_error() -> None:
    raise HypothesisError("a sentence")


@pytest.mark.parametrize(
    ("action", "error", "text"),
    [
        pytest.param(raise_key_error, DataError, "raised KeyError: 'mine'", marks=only_in_full),
        (raise_own, DataError, "raised Own: ('mine', 3)"),
        (raise_hypothesis_error, HypothesisError, "a sentence"),
    ],
)
def test_what_a_task_raises_is_raised_here(
    executor: Any, action: Callable[[], None], error: type[Exception], text: str
) -> None:
    own = evaluator(Perceptron(), numbers(), MODULE, executor, metric=on_workers(action))
    with pytest.raises(error) as raised:
        own.evaluate(own.space.draw(100, np.random.default_rng(0)))
    assert type(raised.value) is error
    assert text in str(raised.value)


def test_what_is_wrong_is_said_in_the_same_words(executor: Any) -> None:
    """A metric of the wrong shape, and activations that are not finite."""
    said = []
    for who in (None, executor):
        own = evaluator(
            Perceptron(), numbers(), MODULE, who, metric=Metric("bad", lambda output, _: output[:5])
        )
        with pytest.raises(DataError) as raised:
            own.evaluate(own.space.draw(SHARD_OF_RERUNS + 5, np.random.default_rng(0)))
        said.append(re.sub(r"\[\d+\]", "[n]", str(raised.value)))
        broken = NUMBERS.clone()
        broken[700, 3] = torch.inf
        graph = FunctionGraph(A=lambda tokens: tokens * 0, output=lambda A: A)
        data = Dataset(broken, labels=torch.zeros(ROWS, dtype=torch.long))
        with pytest.raises(ModelError, match="NaN or infinite on row 700") as raised:
            ActivationStore(graph, data, executor=who).ensure(
                [graph.value_site(("A",), None)], np.arange(ROWS)
            )
        said.append(str(raised.value))
    assert said[:2] == said[2:]


def locked(function: Callable[..., Any]) -> Callable[..., Any]:
    lock = threading.Lock()

    def wrapped(*arguments: Any) -> Any:
        with lock:
            return function(*arguments)

    return wrapped


class Locked(Perceptron):
    def __init__(self) -> None:
        super().__init__()
        self.lock = threading.Lock()


@pytest.mark.parametrize(
    ("network", "features", "metric", "what"),
    [
        (Locked, {}, loss, r"the network \(torch module Locked\)"),
        (
            Perceptron,
            {"odd": locked(lambda inputs: inputs["tokens"][:, 1] > 0)},
            loss,
            "the feature 'odd' of the dataset",
        ),
        (Perceptron, {}, Metric("mine", locked(loss)), "the metric mine"),
    ],
)
def test_what_cannot_be_sent_is_named(
    executor: Any, network: Any, features: Any, metric: Any, what: str
) -> None:
    own = evaluator(network(), numbers(**features), MODULE, executor, metric=metric)
    with pytest.raises(
        ScrubError,
        match=rf"^{what} cannot be sent to Ray's workers \(TypeError: .*\); let it hold no",
    ):
        own.evaluate(own.space.draw(100, np.random.default_rng(0)))


def test_other_versions_on_a_worker(executor: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from pytest_scrub.extras.ray import worker

    there = tuple({**dict(worker.VERSIONS), "torch": "1.0"}.items())
    monkeypatch.setattr(worker, "Source", partial(worker.Source, versions=there))
    own = evaluator(Perceptron(), numbers(), MODULE, executor)
    with pytest.raises(
        ModelError,
        match=r"a Ray worker has torch \S+, this process 1\.0; install the same everywhere",
    ):
        own.evaluate(own.space.draw(100, np.random.default_rng(0)))


def test_a_package_that_workers_lack(executor: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    def f(*_: Any) -> None:
        """Of a module that is installed here alone."""

    lacking = type(sys)("only_here")
    f.__module__, f.__qualname__, lacking.f = lacking.__name__, "f", f  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "only_here", lacking)
    own = evaluator(
        Perceptron(), numbers(), MODULE, executor, metric=Metric("mine", loss, stand_in=f)
    )  # type: ignore[arg-type]
    drawn = own.space.draw(100, np.random.default_rng(0))
    with pytest.raises(
        ModelError,
        match=r"cannot import .* \(No module named 'only_here'\); install the same packages",
    ):
        own.evaluate(drawn)
    executor._remote = dict.fromkeys(executor._remote, ray.remote(f))
    with pytest.raises(
        ScrubError, match="Ray's workers cannot import pytest_scrub; install it on every machine"
    ):
        evaluator(Perceptron(), numbers(), MODULE, executor).evaluate(drawn)
