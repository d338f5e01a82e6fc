"""Clean activations that outlive a session: what is reused, what is not, and what becomes of the
files."""

from __future__ import annotations

import dataclasses
import pickle
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import nn

import pytest_scrub.extras.disk_cache.activations as activations
from pytest_scrub import ANYTHING, Dataset, FunctionGraph, Metric, ModuleGraph, head, module, output
from pytest_scrub.engine.evaluator import Evaluator
from pytest_scrub.engine.store import ActivationStore
from pytest_scrub.extras.disk_cache.folder import BoundedFolder
from pytest_scrub.network import as_graph
from pytest_scrub.network.graph import Site
from pytest_scrub.pytest_edge.session import STORES_KEPT, Session
from pytest_scrub.verdict import Verdict
from tests.reference.generate import Architecture, build

ROWS = 200
MEAN = Metric("mean", lambda output, batch: output.mean(1))
CLAIM = output(module("2", agrees_on="sign"))
HIDDEN = Site("value", ("2",))


class Block(nn.Module):
    """Of no installed package."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.scale = nn.Linear(4, 4), 1.0

    def forward(self, x):
        return torch.tanh(self.inner(x)) * self.scale


def network(kind: type[nn.Module] = nn.Tanh) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 4), kind(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 3))


def transformer(**choices) -> nn.Module:
    """Another object every time."""
    return build.__wrapped__(Architecture(**choices)).bridge


def rows(count: int = ROWS, seed: int = 1, **options) -> Dataset:
    x = torch.randn(count, 4, generator=torch.Generator().manual_seed(seed))
    return Dataset(x, features={"sign": (x[:, 0] > 0).numpy()}, **options)


@dataclasses.dataclass
class Ran:
    verdict: Verdict
    batches: list[int]  # rows of every forward pass for caching
    passes: list[int]  # rows of every forward pass of the network, those for caching among them
    notes: tuple[str, ...]

    @property
    def captured(self) -> int:
        return sum(self.batches)


class Runs:
    """Sessions one after another, as runs of pytest are, with a network and data of their own
    each."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
        self.folder, self.batches = folder, list[int]()
        capture = ActivationStore._capture

        def counted(store, sites, places):
            self.batches.append(len(places))
            return capture(store, sites, places)

        monkeypatch.setattr(ActivationStore, "_capture", counted)
        # by running a few rows again, which are not counted
        for proves in (ActivationStore, Evaluator):
            monkeypatch.setattr(proves, "_prove_alone", lambda *_: None)

    @property
    def captured(self) -> int:
        return sum(self.batches)

    def session(self, limit: int = 1 << 20) -> Session:
        return Session({"samples": 100, "effort": "none"}, cache=BoundedFolder(self.folder, limit))

    def run(
        self,
        model=None,
        data=None,
        claim=CLAIM,
        *,
        cached: bool = True,
        limit: int = 1 << 20,
        **options,
    ) -> Ran:
        session = self.session(limit) if cached else Session({"samples": 100, "effort": "none"})
        model = network() if model is None else model
        self.batches, passes = [], []
        # by what its first part calls of torch: a hook would be one more thing to compute with
        first = getattr(model, "module", getattr(model, "embed", model))
        weight = next(first.parameters(), None) if isinstance(first, nn.Module) else None

        def counted(function):
            def called(x, weights, *args, **kwargs):
                if weights is weight:
                    passes.append(len(x))
                return function(x, weights, *args, **kwargs)

            return called

        with pytest.MonkeyPatch.context() as patch:
            for name in ("linear", "embedding"):
                patch.setattr(nn.functional, name, counted(getattr(nn.functional, name)))
            verdict = session.check(
                claim, model=model, data=rows() if data is None else data, name="claim",
                **{"metric": MEAN, "tolerance": 1.0, **options},
            )  # fmt: skip
        return Ran(verdict, self.batches, passes, session.close())

    @property
    def files(self) -> list[Path]:
        return sorted(self.folder.glob("*"))


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Runs:
    return Runs(monkeypatch, tmp_path / "scrub")


# What is reused -----------------------------------------------------------------------------------


def test_a_second_run_captures_nothing_and_says_the_same(runs: Runs) -> None:
    first, second = runs.run(), runs.run()
    assert first.captured >= 100
    assert second.captured == 0
    assert second.verdict == first.verdict == runs.run(cached=False).verdict  # to the last bit
    assert second.notes == ()
    # What is left is proving, and evaluating what comes after a module; one pass compares a few
    # rows with each file.
    proving = Counter(first.passes) - Counter(first.batches)
    (compared,) = (Counter(second.passes) - proving).elements()
    assert compared <= activations.COMPARED
    assert not proving - Counter(second.passes)


def test_nothing_is_kept_of_what_was_not_captured(runs: Runs) -> None:
    runs.run()
    session = runs.session()
    store = session.store(network(), rows())
    assert session.close() == ()
    assert store.bytes() == 0


def test_only_missing_rows_are_captured_and_then_kept(runs: Runs) -> None:
    graph, data = ModuleGraph(network()), rows()
    for wanted, expected in (([0, 5], 2), ([5, 7, 9], 2), ([0, 5, 7, 9], 0)):
        runs.batches, session = [], runs.session()
        session.store(graph, data).ensure([HIDDEN], np.array(wanted))
        session.close()
        assert runs.captured == expected


def test_captured_rows_never_change(runs: Runs) -> None:
    """A row that is captured again, in another batch, may differ in its last digits."""
    store = ActivationStore(ModuleGraph(network()), rows())
    store.ensure([HIDDEN], np.arange(10))
    store.site_cache(HIDDEN).values[:] = 7.0
    store.ensure([HIDDEN, Site("value", ("output",))], np.arange(20))
    assert (store.take(HIDDEN, torch.arange(10), None) == 7).all()
    assert not (store.take(HIDDEN, torch.arange(10, 20), None) == 7).any()


def test_other_labels_and_features_are_the_same_inputs(runs: Runs) -> None:
    runs.run()
    assert runs.run(data=rows(labels=torch.zeros(ROWS).long(), name="other")).captured == 0


def test_a_transformer(runs: Runs) -> None:
    tokens = torch.randint(0, 5, (100, 3), generator=torch.Generator().manual_seed(0))

    def run() -> Ran:
        bridge = transformer()
        data = Dataset(tokens, features={"first": tokens[:, 0]})
        claim = output(head(0, 0, agrees_on="first"), head(0, 1, agrees_on=ANYTHING))
        return runs.run(
            bridge, data, claim, metric=Metric("m", lambda out, batch: out.mean((1, 2)))
        )

    first, second = run(), run()
    assert first.captured > 0 == second.captured
    assert second.verdict == first.verdict
    # Two passes on a few tokens to see that parts sum, two to prove the graph, one of one row for
    # shapes, and one that compares a few rows with the files.
    assert second.passes == [2, 2, 16, 16, 1, 16]
    assert sum(first.passes) == sum(second.passes) - 16 + first.captured


@pytest.mark.parametrize(
    "dtype", [torch.float64, torch.float32, torch.bfloat16, torch.int32, torch.bool]
)
def test_values_are_kept_as_they_are(runs: Runs, dtype: torch.dtype) -> None:
    x = torch.randn(ROWS, 32, generator=torch.Generator().manual_seed(1)) * 3
    data = Dataset(x > 0 if dtype == torch.bool else x.to(dtype))
    graph = ModuleGraph(nn.Sequential(nn.Identity()))
    wanted, site = np.arange(0, ROWS, 3), Site("value", ("0",), (1, 3))
    found = []
    for _ in range(2):
        session = runs.session()
        store = session.store(graph, data)
        store.ensure([site], wanted)
        found.append(store.take(site, torch.from_numpy(wanted), None))
        session.close()
    assert found[1].dtype == dtype
    assert torch.equal(*found)
    assert runs.captured == len(wanted)


def test_what_memory_has_no_room_for_is_kept_as_well(runs: Runs) -> None:
    session, everything = runs.session(), np.arange(ROWS)
    session.memory = "1B"
    store = session.store(network(), rows())
    for site in (HIDDEN, Site("value", ("0",)), HIDDEN):
        store.ensure([site], everything)
        assert store.site_cache(site).in_file
    assert runs.captured == 2 * ROWS
    session.close()
    runs.session().store(network(), rows()).ensure([HIDDEN], everything)
    assert runs.captured == 2 * ROWS


def test_what_a_session_stops_sharing_is_looked_up_again(runs: Runs) -> None:
    session, model = runs.session(), network()
    data = [rows(seed=seed) for seed in range(STORES_KEPT + 1)]
    for one in (*data, data[0]):
        session.store(model, one).ensure([HIDDEN], np.arange(ROWS))
    assert runs.captured == len(data) * ROWS


# What is not reused -------------------------------------------------------------------------------


def scaled(model: nn.Sequential) -> nn.Sequential:
    with torch.no_grad():
        model[4].bias[0] += 1e-3
    return model


def hooked(model: nn.Sequential) -> nn.Sequential:
    model[1].register_forward_hook(lambda module, inputs, out: out * 2)
    return model


def replaced(model: nn.Sequential) -> nn.Sequential:
    model[1].forward = torch.sin
    return model


@pytest.mark.parametrize(
    ("model", "data"),
    [
        (lambda: scaled(network()), rows),
        (network, lambda: rows(seed=2)),
        (lambda: network(nn.Sigmoid), rows),
        (lambda: hooked(network()), rows),
        (lambda: replaced(network()), rows),
        (lambda: ModuleGraph(network(), output=lambda out: -out), rows),
        (lambda: ModuleGraph(network(), output=lambda out: out[:, :2]), rows),
    ],
    ids=["weights", "data", "activation", "hook", "forward", "output", "another output"],
)
def test_another_network_or_other_data(runs: Runs, model, data) -> None:
    first = runs.run()
    changed, anew = runs.run(model(), data()), runs.run(model(), data(), cached=False)
    assert changed.captured == anew.captured > 0
    assert changed.verdict == anew.verdict != first.verdict
    assert changed.notes == ()


def test_a_given_digest_is_not_believed(runs: Runs) -> None:
    runs.run(data=rows(digest="mine"))
    assert runs.run(data=rows(seed=2, digest="mine")).captured > 0


@pytest.mark.parametrize("package", ["pytest_scrub", "torch"])
def test_another_version(runs: Runs, monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    runs.run()
    real = activations.version
    monkeypatch.setattr(
        activations, "version", lambda name: "0.0" if name == package else real(name)
    )
    assert runs.run().captured > 0


@pytest.mark.parametrize("setting", ["format", "dtype", "matmul"])
def test_another_setting(runs: Runs, monkeypatch: pytest.MonkeyPatch, setting: str) -> None:
    data, model = rows(), network()
    runs.run(model, data)
    if setting == "format":
        monkeypatch.setattr(activations, "FORMAT", 0)
    elif setting == "dtype":
        monkeypatch.setattr(torch, "get_default_dtype", lambda: torch.float64)
    else:
        monkeypatch.setattr(torch, "get_float32_matmul_precision", lambda: "medium")
    assert runs.run(model, data).captured > 0


def an_own_method_of_an_installed_class(monkeypatch: pytest.MonkeyPatch) -> nn.Module:
    monkeypatch.setattr(nn.Tanh, "forward", lambda self, x: torch.tanh(x))
    return network()


def held_by_an_attribute() -> nn.Sequential:
    model = network()
    model[1].helper = network
    return model


class OwnDict(dict):
    def __getitem__(self, name):
        return 1.0


class OwnTensor(torch.Tensor):
    """Whose class has a say in whatever is computed of it."""


def of_an_own_type(model: nn.Sequential) -> nn.Sequential:
    model[0].weight = nn.Parameter(model[0].weight.detach().as_subclass(OwnTensor))
    assert type(model[0].weight) is OwnTensor
    return model


def with_an_own_mapping(model: nn.Sequential) -> nn.Sequential:
    model[1].table = OwnDict(a=1.0)
    return model


def of_a_method(model: nn.Sequential) -> nn.Sequential:
    model[1].forward = Block().forward
    return model


OWN = {
    "class": lambda _: nn.Sequential(nn.Linear(4, 4), Block(), nn.Linear(4, 4)),
    "hook": lambda _: hooked(network()),
    "output": lambda _: ModuleGraph(network(), output=lambda out: -out),
    "method": lambda _: of_a_method(network()),
    "attribute": lambda _: held_by_an_attribute(),
    "mapping": lambda _: with_an_own_mapping(network()),
    "kind of tensor": lambda _: of_an_own_type(network()),
    "method of torch's": an_own_method_of_an_installed_class,
    "generated": lambda _: torch.fx.symbolic_trace(network()),
    "functions": lambda _: FunctionGraph(A=lambda tokens: 2 * tokens, output=lambda A: A),
}


@pytest.mark.parametrize("made", OWN.values(), ids=OWN)
def test_what_is_computed_by_code_of_no_installed_package_is_captured_anew(
    runs: Runs, monkeypatch: pytest.MonkeyPatch, made: Callable[[pytest.MonkeyPatch], Any]
) -> None:
    claim = output(module("A", agrees_on="sign")) if made is OWN["functions"] else CLAIM
    model = made(monkeypatch)
    first, second = (runs.run(model, claim=claim) for _ in range(2))
    assert second.captured == first.captured > 0
    assert second.verdict == first.verdict
    assert (runs.files, second.notes) == ([], ())


def test_what_cannot_be_seen_is_caught_by_running_a_few_rows(
    runs: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    tanh = torch.tanh

    def run(late: float, **options) -> Ran:
        # what installed code calls is known by its version alone
        monkeypatch.setattr(torch, "tanh", lambda x: tanh(x) + late)
        return runs.run(**options)

    first = run(0.0)
    assert run(0.0).captured == 0
    changed, anew = run(0.01), run(0.01, cached=False)
    assert changed.captured == first.captured
    assert changed.verdict == anew.verdict != first.verdict
    assert len(changed.notes) == 1
    assert "not used" in changed.notes[0]
    assert "captured anew" in changed.notes[0]
    again = run(0.01)  # the files were exchanged
    assert (again.captured, again.notes, again.verdict) == (0, (), anew.verdict)


def test_another_configuration_of_the_same_weights(runs: Runs) -> None:
    one, other = transformer(act="gelu", attn_only=False), transformer(act="relu", attn_only=False)
    assert as_graph(one).digest() == as_graph(other).digest()
    data = Dataset(torch.zeros(3, 3, dtype=torch.long))
    again = transformer(act="gelu", attn_only=False)
    assert activations.key_parts(as_graph(one), data) == activations.key_parts(
        as_graph(again), data
    )
    assert activations.key_parts(as_graph(one), data) != activations.key_parts(
        as_graph(other), data
    )


# Weights that are changed while claims run --------------------------------------------------------


def changed_by_hand(model: nn.Sequential) -> None:
    with torch.no_grad():
        model[0].weight.add_(1.0)


def changed_behind_torchs_back(model: nn.Sequential) -> None:
    model[0].weight.data += 1.0


@pytest.mark.parametrize("change", [changed_by_hand, changed_behind_torchs_back])
def test_nothing_is_written_under_the_digest_of_weights_that_are_no_more(
    runs: Runs, change
) -> None:
    session, model = runs.session(), network()
    store = session.store(model, rows())
    store.ensure([HIDDEN], np.arange(5))
    change(model)
    store.ensure([HIDDEN], np.arange(50))
    session.close()
    assert runs.files == []


def test_nothing_is_written_of_weights_that_were_others_for_a_while(runs: Runs) -> None:
    session, model = runs.session(), network()
    store = session.store(model, rows())
    own = model[0].weight.detach().clone()
    changed_by_hand(model)
    store.ensure([HIDDEN], np.arange(50))
    with torch.no_grad():
        model[0].weight.copy_(own)
    session.close()
    assert runs.files == []


def test_nothing_is_written_of_modules_whose_attributes_were_changed(runs: Runs) -> None:
    session, model = runs.session(), network()
    session.store(model, rows()).ensure([HIDDEN], np.arange(5))
    model[1].scale = 3
    session.close()
    assert runs.files == []


def test_a_store_of_changed_weights_is_another_entry(runs: Runs) -> None:
    model, data, session = network(), rows(), runs.session()
    before = session.store(model, data)
    before.ensure([HIDDEN], np.arange(ROWS))
    session.close()
    with torch.no_grad():
        model[0].weight.add_(1.0)
    after = session.store(model, data)
    assert after is not before
    after.ensure([HIDDEN], np.arange(ROWS))
    session.close()
    assert len(runs.files) == 2
    assert not torch.equal(before._kept[HIDDEN].values, after._kept[HIDDEN].values)


def test_controls_shuffle_weights_and_leave_no_trace(runs: Runs) -> None:
    plain = runs.run(cached=False)
    first = runs.run(controls=True)
    assert first.verdict.controls
    kept = [path.name for path in runs.files]
    second = runs.run(controls=True)
    assert second.verdict == first.verdict
    assert (
        dataclasses.replace(second.verdict, controls=(), bounds=plain.verdict.bounds)
        == plain.verdict
    )
    assert [path.name for path in runs.files] == kept


# The files ----------------------------------------------------------------------------------------


def damaged_values(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-5] ^= 255
    path.write_bytes(data)


def rewritten(
    change: Callable[[torch.Tensor, torch.Tensor], None], **said: str
) -> Callable[[Path], None]:
    """A file with other values or places in it, or that says something else of itself."""

    def damage(path: Path) -> None:
        tensors = load_file(path)
        change(tensors["values"], tensors["places"])
        with safe_open(path, "pt") as file:
            metadata = {**file.metadata(), **said}
        save_file(tensors, path, metadata)

    return damage


def exchanged(values: torch.Tensor, places: torch.Tensor) -> None:
    """The second row with the third: neither is among those that the network is run on to
    compare."""
    assert len(values) > activations.MOST_COMPARED * 4
    values[[1, 2]] = values[[2, 1]]


def moved(values: torch.Tensor, places: torch.Tensor) -> None:
    """The second row is said to be of the place after it, where nothing is."""
    free = (places.diff() > 1).nonzero()[:, 0].tolist()
    compared = activations._spread(len(places), activations.MOST_COMPARED)
    places[next(i for i in free if i not in compared)] += 1


DAMAGES = {
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-7]),
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text("not a safetensors file"),
    "values": damaged_values,
    "exchanged rows": rewritten(exchanged),
    "zeroed rows": rewritten(lambda values, places: values[1:3].zero_()),
    "moved row": rewritten(moved),
    "another network's": rewritten(lambda values, places: None, parts="{}"),
    "longer": lambda path: path.write_bytes(path.read_bytes() + bytes(64)),
    "pickle": lambda path: path.write_bytes(pickle.dumps(Refuses())),
    "foreign": lambda path: save_file({"values": torch.zeros(3)}, path),
    "other rows": lambda path: save_file(
        {"values": torch.zeros(3), "places": torch.arange(3)}, path, {"site": "[]"}
    ),
    "folder": lambda path: (path.unlink(), path.mkdir()),
}


class Refuses:
    def __reduce__(self):
        return (pytest.fail, ("unpickled",))


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_captured_anew(runs: Runs, damage: str) -> None:
    first = runs.run()
    for path in runs.files:
        DAMAGES[damage](path)
    second = runs.run()
    assert second.captured == first.captured
    assert second.verdict == first.verdict
    if damage != "folder":
        assert second.notes == ()
        assert runs.run().captured == 0


def test_a_file_that_changes_between_two_looks_is_not_believed(
    runs: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was compared with the network is not what is read later."""
    first, compare = runs.run(), activations.ActivationFiles._compare

    def then_damaged(disk_cache, files, fresh):
        compare(disk_cache, files, fresh)
        for file in files:
            rewritten(exchanged)(file.path)

    monkeypatch.setattr(activations.ActivationFiles, "_compare", then_damaged)
    second = runs.run()
    assert second.captured == first.captured
    assert second.verdict == first.verdict


@pytest.mark.parametrize("nth", [0, 1, 2])
def test_a_file_that_another_worker_deletes_while_it_is_opened_is_captured_anew(
    runs: Runs, monkeypatch: pytest.MonkeyPatch, nth: int
) -> None:
    """When it is described, compared or read: torch opens it once more, and finds nothing."""
    first, opened = runs.run(), 0
    kept, from_file = runs.files, torch.UntypedStorage.from_file

    def deleted_before(path, **options):
        nonlocal opened
        if Path(path) == kept[0]:
            if opened == nth:
                Path(path).unlink()
            opened += 1
        return from_file(path, **options)

    monkeypatch.setattr(torch.UntypedStorage, "from_file", deleted_before)
    second = runs.run()
    assert opened == nth + 1
    assert not kept[0].exists()
    assert 0 < second.captured < first.captured  # the rows of that site alone
    assert (second.verdict, second.notes) == (first.verdict, ())


def test_files_of_other_sites_are_not_mixed_up(runs: Runs) -> None:
    first = runs.run()
    one, other = runs.files[:2]
    one_bytes = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(one_bytes)
    second = runs.run()
    assert second.captured == first.captured
    assert second.verdict == first.verdict


@pytest.mark.parametrize(
    "error", [SafetensorError("I/O error: no space left on device"), OSError(28, "no space left")]
)
def test_a_full_disk_is_said_once_and_the_old_file_stays(
    runs: Runs, monkeypatch, error: Exception
) -> None:
    session, graph, data = runs.session(), ModuleGraph(network()), rows()
    session.store(graph, data).ensure([HIDDEN, Site("value", ("0",))], np.arange(5))
    session.close()
    before = {path: path.read_bytes() for path in runs.files}
    session = runs.session()
    session.store(graph, data).ensure([HIDDEN, Site("value", ("0",))], np.arange(50))

    tried = []

    def half(tensors, path, metadata):
        Path(path).write_bytes(b"half")
        tried.append(path)
        raise error

    monkeypatch.setattr(activations, "save_file", half)
    (note,) = session.close()
    assert str(runs.folder) in note
    assert "--scrub-cache=0" in note
    assert len(tried) == 1
    assert {path: path.read_bytes() for path in runs.files} == before


def test_an_interrupt_while_writing_leaves_the_old_file(
    runs: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    session, graph, data = runs.session(), ModuleGraph(network()), rows()
    session.store(graph, data).ensure([HIDDEN], np.arange(5))
    session.close()
    before = {path: path.read_bytes() for path in runs.files}
    session = runs.session()
    session.store(graph, data).ensure([HIDDEN], np.arange(50))

    def interrupted(tensors, path, metadata):
        Path(path).write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(activations, "save_file", interrupted)
    with pytest.raises(KeyboardInterrupt):
        session.close()
    assert {path: path.read_bytes() for path in runs.files} == before


def test_the_folder_stays_under_its_bound(runs: Runs) -> None:
    limit = 3 * 4096 + 3 * ROWS * 4 * 4
    for seed in range(4):
        runs.run(data=rows(seed=seed), limit=limit)
        assert 0 < sum(path.stat().st_size for path in runs.files) <= limit
    # the last is there, the first is not
    assert runs.run(data=rows(seed=3), limit=limit).captured == 0
    assert runs.run(data=rows(seed=0), limit=limit).captured > 0
    big = runs.run(data=rows(seed=9), limit=4000)
    assert big.notes == ()


def test_a_deleted_folder_is_made_again(runs: Runs) -> None:
    session = runs.session()
    session.store(network(), rows()).ensure([HIDDEN], np.arange(5))
    assert not runs.folder.exists()
    assert session.close() == ()
    assert len(runs.files) == 1


def test_two_runs_at_once_keep_the_rows_of_both(runs: Runs) -> None:
    graph, data = ModuleGraph(network()), rows()
    sessions = [runs.session(), runs.session()]
    for session, wanted in zip(sessions, (np.arange(30), np.arange(20, 60)), strict=True):
        session.store(graph, data).ensure([HIDDEN], wanted)
    for session in sessions:
        session.close()
    runs.batches = []
    runs.session().store(graph, data).ensure([HIDDEN], np.arange(60))
    assert runs.captured == 0


def test_rows_of_a_run_that_computed_something_else_are_not_believed(runs: Runs) -> None:
    graph, data = ModuleGraph(network()), rows()
    sessions = [runs.session(), runs.session()]
    for session, wanted in zip(sessions, (np.arange(30), np.arange(20, 60)), strict=True):
        store = session.store(graph, data)
        store.ensure([HIDDEN], wanted)
    store.site_cache(HIDDEN).values += 1
    sessions[1].close()
    sessions[0].close()
    runs.batches = []
    session = runs.session()
    store = session.store(graph, data)
    store.ensure([HIDDEN], np.arange(60))
    assert runs.captured == 60
    assert "not used" in session.close()[0]
    np.testing.assert_allclose(
        store.take(HIDDEN, torch.arange(60), None), fresh(graph, data, 60), atol=1e-6
    )


def test_what_another_run_keeps_meanwhile_is_compared_too(runs: Runs) -> None:
    graph, data = ModuleGraph(network()), rows()
    session = runs.session()
    store = session.store(graph, data)
    store.ensure([HIDDEN], np.arange(30))
    session.close()
    other = runs.session()
    wrong = other.store(graph, data)
    wrong.ensure([HIDDEN], np.arange(40))
    wrong._kept[HIDDEN].values += 1
    other.close()
    store.ensure([HIDDEN], np.arange(40))
    np.testing.assert_allclose(
        store.take(HIDDEN, torch.arange(40), None), fresh(graph, data, 40), atol=1e-6
    )
    assert "not used" in session.close()[0]


def fresh(graph: ModuleGraph, data: Dataset, count: int) -> torch.Tensor:
    return graph.capture([HIDDEN], data.batch(np.arange(count)))[HIDDEN]
