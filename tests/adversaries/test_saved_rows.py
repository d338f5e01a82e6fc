"""The same swaps found again on other data, and rows that no dataset has put back."""

from __future__ import annotations

import gc
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from pytest_scrub.adversaries import saved_rows
from pytest_scrub.adversaries.saved import (
    Saved,
    load,
    save,
)
from pytest_scrub.adversaries.saved_rows import ClaimChanged, RowsGone, resolve
from pytest_scrub.data.dataset import Dataset
from pytest_scrub.engine.evaluator import Evaluator
from pytest_scrub.errors import DataError, ScrubError
from pytest_scrub.metrics import Metric
from pytest_scrub.network import as_graph
from pytest_scrub.swaps.space import SwapSet, SwapSpace
from pytest_scrub.tree.nodes import ANYTHING, EXACT, head, module, output
from tests.adversaries.counterexamples import (
    SLOTS,
    TWO,
    contents,
    drawn,
    refuses,
    saved_of,
    seeded,
    tokens,
)
from tests.places import ROOT
from tests.sizes import only_in_full
from tests.swaps.test_space import datasets, hypotheses

# --- the same swaps on other data -----------------------------------------------------------------


def test_rows_are_found_in_another_order_and_among_others(tmp_path: Path) -> None:
    dataset = Dataset(tokens())
    swap_set = drawn(dataset)
    save(tmp_path / "x.json", saved_of(dataset, swap_set))
    saved = load(tmp_path / "x.json")
    shuffled = torch.cat([tokens(4) + 50, tokens().flip(0)])
    other = Dataset(shuffled, labels=torch.ones(10), features={"f": range(10)})
    same, found = resolve(saved, saved.worst, other, TWO)
    assert same is other
    assert found.slots == SLOTS
    assert (found.dataset, found.hypothesis) == (other.digest(), TWO)
    assert found.references.tolist() == (9 - swap_set.references).tolist()
    assert found.donors.tolist() == (9 - swap_set.donors).tolist()
    again = resolve(saved, saved.minimal, other, TWO)[1]
    assert again == found[:1]


def shuffled(dataset: Dataset, order: np.ndarray) -> Dataset:
    place = np.argsort(order)
    return Dataset(
        dataset.inputs["tokens"][torch.as_tensor(order)],
        features={name: dataset.feature(name)[order] for name in dataset.feature_names},
        references=place[dataset.reference_rows],
        donors=place[dataset.donor_rows],
    )


@given(dataset=datasets(), hypothesis=hypotheses(depth=2), data=st.data())
def test_an_allowed_swap_set_is_one_again(
    dataset: Dataset, hypothesis: Any, data: st.DataObject
) -> None:
    """Rows of equal content differ in their features, and some are no donors or no references."""
    space = SwapSpace(hypothesis, dataset)
    assume(space.paths)
    swap_set = space.draw(4, np.random.default_rng(data.draw(st.integers(0, 9))))
    saved = saved_of(dataset, swap_set)
    other = shuffled(dataset, np.array(data.draw(st.permutations(range(len(dataset))))))
    same, found = resolve(saved, saved.worst, other, hypothesis)
    again = SwapSpace(hypothesis, same)
    assert again.check(found) == []
    assert set(found.references) <= set(other.reference_rows)
    assert contents(other, found) == contents(dataset, swap_set)
    assert again.moved(found).tolist() == space.moved(swap_set).tolist()


def test_what_was_not_swapped_stays_where_it_is() -> None:
    """Of equal rows the donor is the reference itself, which may not be the first of them."""
    dataset = Dataset([[1], [1], [2], [2]], features={"f": [0, 0, 1, 1]}, references=[1, 3])
    tree = output(module("a", agrees_on="f"), module("b", agrees_on=EXACT))
    saved = saved_of(dataset, SwapSpace(tree, dataset).unswapped(dataset.reference_rows))
    found = resolve(saved, saved.worst, dataset, tree)[1]
    assert found.references.tolist() == [1, 3]
    assert found.donors.tolist() == [[1, 3]] * 3


def test_one_choice_rules_out_another() -> None:
    """Of the equal rows 0 and 1 only the second agrees with a row that may be a donor."""
    tree = output(module("a", agrees_on="f"), module("b", agrees_on="g"))
    contents, features = [[1], [1], [2], [2], [2]], {"f": [0, 1, 1, 1, 0], "g": [0] * 5}
    dataset = Dataset(contents, features=features, references=[0, 1], donors=[3])
    swap_set = SwapSet(
        [1], [[1], [3], [1]], ("output/rest", "output/a", "output/b"), dataset.digest()
    )
    assert SwapSpace(tree, dataset).check(swap_set) == []
    saved = saved_of(dataset, swap_set)
    assert resolve(saved, saved.worst, dataset, tree) == (dataset, swap_set)


def test_who_shares_a_donor_chooses_with_its_owner() -> None:
    """The owner alone could take either of the equal rows 1 and 2; what the sharer reads agrees
    with the second."""
    sharer = module("b", agrees_on="f", shares="owner", reads=[module("c", agrees_on="g")])
    for reads in (
        [module("a", agrees_on="f", name="owner"), sharer],
        [sharer, module("a", agrees_on="f", name="owner")],
    ):
        tree = output(*reads)
        dataset = Dataset([[9], [1], [1], [2]], features={"f": [0] * 4, "g": [0, 0, 1, 1]})
        rows = {"output/owner": 2, "output/b": 2, "output/b/c": 3}
        paths = SwapSpace(tree, dataset).paths
        swap_set = SwapSet([0], [[rows.get(path, 0)] for path in paths], paths, dataset.digest())
        assert SwapSpace(tree, dataset).check(swap_set) == []
        saved = saved_of(dataset, swap_set)
        assert resolve(saved, saved.worst, dataset, tree) == (dataset, swap_set)


def test_equal_rows_that_no_choice_makes_allowed_are_left_to_the_check() -> None:
    tree = output(module("a", agrees_on="f"))
    before = Dataset([[1], [2], [2]], features={"f": [0, 0, 0]})
    saved = saved_of(before, SwapSet([0], [[0], [1]], ("output/rest", "output/a"), before.digest()))
    after = Dataset([[1], [2], [2]], features={"f": [0, 1, 1]})
    found = resolve(saved, saved.worst, after, tree)[1]
    assert found.donors.tolist() == [[0], [1]]
    assert [str(violation) for violation in SwapSpace(tree, after).check(found)] == [
        "output/a: row 1 may not stand in for row 0: they do not agree on f"
    ]


def test_rows_that_are_gone_are_counted_and_shown() -> None:
    before = Dataset(tokens(4))
    saved = saved_of(before, SwapSet([0, 1], [[0, 1], [2, 3], [3, 0]], SLOTS, before.digest()))
    after = Dataset(tokens(4)[:2])
    with refuses(
        RowsGone,
        "2 of the 4 rows of the saved swaps are gone from the dataset, the first is "
        f"{before.show(2)!r}; put them back, or delete the saved counterexample",
    ):
        resolve(saved, saved.worst, after, TWO)
    with pytest.raises(RowsGone, match=r"^2 of the 3 rows"):
        resolve(saved, saved.minimal, after, TWO)
    # the same numbers in another type are other rows
    with pytest.raises(RowsGone, match=r"^4 of the 4 rows"):
        resolve(saved, saved.worst, Dataset(tokens(4).int()), TWO)
    assert issubclass(RowsGone, ScrubError)


def test_only_the_swaps_asked_for_have_to_be_there() -> None:
    before = Dataset(tokens(4))
    saved = saved_of(before, SwapSet([0, 1], [[0, 1], [0, 3], [0, 0]], SLOTS, before.digest()))
    found = resolve(saved, saved.minimal, Dataset(tokens(4)[:1]), TWO)[1]
    assert (found.references.tolist(), found.donors.tolist()) == ([0], [[0], [0], [0]])


def test_a_claim_with_other_slots_is_named() -> None:
    dataset = Dataset(tokens())
    saved = saved_of(dataset, drawn(dataset))
    with refuses(
        ClaimChanged,
        "the claim has changed since: it has no slot 'output/head1.0', which the saved swaps fill",
    ):
        resolve(saved, saved.worst, dataset, output(head(0, 0, agrees_on=ANYTHING)))
    more = output(*TWO.reads, head(2, 0, agrees_on=ANYTHING))
    with refuses(
        ClaimChanged,
        "the claim has changed since: its slot 'output/head2.0' has no donors in the saved swaps",
    ):
        resolve(saved, saved.worst, dataset, more)


def test_siblings_may_change_places() -> None:
    dataset = Dataset(tokens())
    swap_set = drawn(dataset)
    saved = saved_of(dataset, swap_set)
    turned = output(*reversed(TWO.reads))
    found = resolve(saved, saved.worst, dataset, turned)[1]
    assert found.slots == (SLOTS[0], SLOTS[2], SLOTS[1])
    assert found.donors.tolist() == swap_set.donors[[0, 2, 1]].tolist()


# --- rows that no dataset has ---------------------------------------------------------------------


def test_fresh_rows_are_put_back(tmp_path: Path, example: Saved) -> None:
    save(tmp_path / "x.json", example)
    saved = load(tmp_path / "x.json")
    dataset = Dataset(tokens().flip(0), features={"first": lambda batch: batch["tokens"][:, 0]})
    extended, found = resolve(saved, saved.worst, dataset, TWO)
    assert (len(dataset), len(extended)) == (6, 8)
    assert found.dataset == extended.digest()
    assert contents(extended, found) == [
        saved.digests(line) for line in (saved.worst.references, *saved.worst.donors.values())
    ]
    assert SwapSpace(TWO, extended).check(found) == []
    assert extended.feature("first").tolist()[6:] == [
        row[0] for row in extended.inputs["tokens"].tolist()[6:]
    ]


def test_fresh_rows_that_the_dataset_has_by_now_are_its_own(example: Saved) -> None:
    dataset = Dataset(torch.cat([tokens(2, seed=1) + 100, tokens()]))
    same, found = resolve(example, example.worst, dataset, TWO)
    assert same is dataset
    assert {0, 1} <= set(found.donors.ravel().tolist())


def test_a_row_that_is_the_datasets_own_too_carries_no_inputs() -> None:
    extended = Dataset(tokens(3)).extend(tokens(3)[1:])
    for references, donors in ([[1], [[3]] * 3], [[0], [[3], [1], [4]]]):
        saved = saved_of(extended, SwapSet(references, donors, SLOTS, extended.digest()), known=3)
        carried = [row.digest for row in saved.rows if row.inputs is not None]
        assert carried == ([extended.row_digest(4)] if 4 in np.ravel(donors) else [])


def test_fresh_rows_that_do_not_fit_are_gone_too(example: Saved) -> None:
    worst = example.worst
    wanted = len({place for line in (worst.references, *worst.donors.values()) for place in line})
    unfit = [
        tokens()[:, 1:],
        tokens().int(),
        {"ids": tokens()},
        {"tokens": tokens(), "mask": torch.ones(6, 4)},
    ]
    for inputs in unfit:
        with pytest.raises(RowsGone, match=rf"^{wanted} of the {wanted} rows"):
            resolve(example, example.worst, Dataset(inputs), TWO)


def test_a_feature_that_became_a_column_says_so() -> None:
    tree = output(module("a", agrees_on="f"))
    slots = ("output/rest", "output/a")
    extended = Dataset([[1], [1]], features={"f": lambda batch: batch["tokens"][:, 0]}).extend(
        [[2]]
    )
    saved = saved_of(extended, SwapSet([0], [[2], [0]], slots, extended.digest()), known=2)
    with pytest.raises(
        DataError, match="feature 'f' is a column and has no values for rows that extend"
    ):
        resolve(saved, saved.worst, Dataset([[1], [1]], features={"f": [1, 1]}), tree)


DTYPES = [
    "bool", "uint8", "int8", "int16", "int32", "int64", "uint16", "uint32", "uint64", "float16",
    "bfloat16", "float32",
    "float64", "float8_e4m3fn", "float8_e5m2",
]  # fmt: skip


@pytest.mark.parametrize("name", DTYPES)
@pytest.mark.parametrize("shape", [(), (5,), (2, 3), (0, 3)])
def test_every_type_of_input_is_built_anew(
    tmp_path: Path, name: str, shape: tuple[int, ...]
) -> None:
    dtype = getattr(torch, name)
    size = (4, *shape)
    if dtype == torch.bool:
        values = torch.rand(size, generator=seeded(0)) > 0.5
    elif dtype.is_floating_point:
        values = torch.randn(size, generator=seeded(0), dtype=torch.float64).to(dtype)
        if values.numel() and torch.finfo(dtype).bits > 8:
            values.view(4, -1)[2, 0], values.view(4, -1)[3, 0] = -torch.inf, -0.0
    else:
        info = torch.iinfo(dtype)
        low, high = max(info.min, -(2**62)), min(info.max, 2**62)
        values = torch.randint(low, high, size, generator=seeded(0)).to(dtype)
    ids = torch.arange(4)
    dataset = Dataset({"ids": ids[:2], "x": values[:2]})
    extended = dataset.extend({"ids": ids[2:], "x": values[2:]})
    saved = saved_of(extended, SwapSet([0, 1], [[2, 3]] * 3, SLOTS, extended.digest()), known=2)
    save(tmp_path / "x.json", saved)
    loaded = load(tmp_path / "x.json")
    again, found = resolve(loaded, loaded.worst, Dataset({"x": values[:2], "ids": ids[:2]}), TWO)
    assert found.donors.tolist() == [[2, 3]] * 3
    assert again.inputs["x"].dtype == dtype
    assert again.digest() == extended.digest()


def test_several_inputs_of_several_types(tmp_path: Path) -> None:
    inputs = {
        "input_ids": torch.randint(0, 50_000, (4, 7), generator=seeded(0)),
        "attention_mask": torch.rand(4, 7, generator=seeded(1)) > 0.3,
        "vision": torch.randn(4, 2, 3, generator=seeded(2)).bfloat16(),
        "bias": torch.randn(4, generator=seeded(3)),
    }
    dataset = Dataset({name: tensor[:2] for name, tensor in inputs.items()})
    extended = dataset.extend({name: tensor[2:] for name, tensor in inputs.items()})
    saved = saved_of(extended, SwapSet([0], [[1], [2], [3]], SLOTS, extended.digest()), known=2)
    save(tmp_path / "x.json", saved)
    loaded = load(tmp_path / "x.json")
    turned = replace(
        saved,
        rows=tuple(
            replace(row, inputs=row.inputs and dict(reversed(row.inputs.items())))
            for row in saved.rows
        ),
    )
    save(tmp_path / "y.json", turned)
    assert (tmp_path / "y.json").read_bytes() == (tmp_path / "x.json").read_bytes()
    again, found = resolve(loaded, loaded.worst, dataset, TWO)
    assert all(torch.equal(again.inputs[name], tensor) for name, tensor in inputs.items())
    assert found.donors.tolist() == [[1], [2], [3]]


# --- replay ---------------------------------------------------------------------------------------


REPLAY = """
import sys
from pathlib import Path
from tests.adversaries.test_saved_rows import gap_of, replay_data, REPLAYED
from pytest_scrub.adversaries.saved import load
from pytest_scrub.adversaries.saved_rows import resolve
saved = load(Path(sys.argv[1]))
print(repr(gap_of(*resolve(saved, saved.worst, replay_data(flip=True), REPLAYED))))
"""
REPLAYED = output(module("0", agrees_on="positive"))


def replay_data(flip: bool = False) -> Dataset:
    inputs = torch.randn(30, 3, generator=seeded(1))
    return Dataset(
        inputs.flip(0) if flip else inputs,
        features={"positive": lambda batch: batch["tokens"][:, 0] > 0},
    )


def gap_of(dataset: Dataset, swap_set: SwapSet) -> float:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2))
    evaluator = Evaluator(
        as_graph(network), dataset, REPLAYED, Metric("mean", lambda output, batch: output.mean(1))
    )
    return float((evaluator.evaluate(swap_set) - evaluator.unscrubbed(swap_set.references)).mean())


@only_in_full  # in a suite test_worst_swaps replays in another process
def test_another_process_measures_the_same_gap(tmp_path: Path) -> None:
    dataset = replay_data()
    extended = dataset.extend(torch.randn(5, 3, generator=seeded(2)))
    swap_set = drawn(extended, 40, REPLAYED)
    save(tmp_path / "x.json", saved_of(extended, swap_set, known=len(dataset)))
    replayed = subprocess.run(
        [sys.executable, "-c", REPLAY, str(tmp_path / "x.json")],
        capture_output=True, text=True, check=True, cwd=ROOT,
    )  # fmt: skip
    assert abs(gap_of(extended, swap_set)) > 1e-3
    assert float(replayed.stdout) == pytest.approx(gap_of(extended, swap_set), rel=1e-6)


def test_rows_are_hashed_once_and_forgotten_with_their_dataset(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls = []
    hashed = Dataset.row_digest
    monkeypatch.setattr(
        Dataset, "row_digest", lambda self, row: calls.append(row) or hashed(self, row)
    )
    dataset = Dataset(tokens())
    saved = saved_of(dataset, drawn(dataset))
    calls.clear()
    with pytest.raises(ClaimChanged):
        resolve(saved, saved.worst, dataset, output(head(0, 0, agrees_on=ANYTHING)))
    assert calls == []
    resolve(saved, saved.worst, dataset, TWO)
    resolve(saved, saved.minimal, dataset, TWO)
    assert calls == list(range(6))
    assert dataset in saved_rows._FOUND
    before = len(saved_rows._FOUND)
    del dataset
    gc.collect()
    assert len(saved_rows._FOUND) < before
