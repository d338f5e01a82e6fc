"""What functions of the user's get, what they give, and data that are changed after they were
handed over."""

from __future__ import annotations

import math
import pickle
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn

from pytest_scrub import FunctionGraph, check, module, output
from pytest_scrub.data.dataset import Dataset
from pytest_scrub.engine.evaluator import Evaluator
from pytest_scrub.errors import DataError, HypothesisError, ModelError, Place, ScrubError
from pytest_scrub.metrics import Batch, Metric, logit_difference, zero_one_error
from pytest_scrub.network import as_graph
from pytest_scrub.swaps.swap_set import SwapSet
from pytest_scrub.tree.nodes import EXACT, Node
from tests.reference.generate import Architecture, build

ROWS = 200
NUMBERS = torch.randint(0, 3, (ROWS,), generator=torch.Generator().manual_seed(0))
OTHERS = torch.randint(0, 3, (ROWS,), generator=torch.Generator().manual_seed(1))
GRAPH = FunctionGraph(
    p=lambda a: 2.0 * a,
    q=lambda b: 1.0 * b,
    output=lambda p, q: torch.stack([p + q, 0 * p, p - q], 1),
)
CHANGED = (
    " was changed after the Dataset was made, so no claim can say which data it is about; make a "
    "new Dataset of the changed data, or give it a copy of what is meant to change"
)


def refuses(sentence: str, kind: type[ScrubError] = DataError) -> Any:
    """The whole sentence, so that no error loses its name or its remedy."""
    return pytest.raises(kind, match=rf"^{re.escape(sentence)}(\nsaid at .*)?$")


def data(
    *, a: Any = None, b: Any = None, labels: Any = None, feature: Any = lambda batch: batch["a"]
) -> Dataset:
    given = [
        default.clone() if value is None else value
        for value, default in ((a, NUMBERS), (b, OTHERS), (labels, NUMBERS))
    ]
    return Dataset({"a": given[0], "b": given[1]}, labels=given[2], features={"f": feature})


def gap(of: Dataset, metric: Any = None, graph: Any = GRAPH, claimed: Node | None = None) -> Any:
    """Of a claim about one node, without any search."""
    claimed = output(module("p", agrees_on="f")) if claimed is None else claimed
    return check(claimed, graph, of, tolerance=9.0, metric=metric, adversaries=()).gap


# --- what is handed over is a copy ----------------------------------------------------------------


def test_a_feature_function_that_works_in_place_leaves_the_data_alone() -> None:
    def zeroed(batch: dict[str, Tensor]) -> Tensor:
        return batch["a"].zero_()

    made = data(feature=zeroed)
    made.feature("f")
    assert made.inputs["a"].equal(NUMBERS)
    extended = made.extend(
        {"a": torch.ones(1, dtype=torch.int64), "b": torch.ones(1, dtype=torch.int64)}
    )
    assert extended.inputs["a"][-1] == 1


def test_a_metric_that_works_in_place_changes_nothing_for_others() -> None:
    def weighted(out: Tensor, batch: Batch) -> Tensor:
        return (out[:, :, 0] * batch.positions).sum(1)

    def spoiling(out: Tensor, batch: Batch) -> Tensor:
        value = weighted(out, batch)
        batch.feature("f")[:] = 0
        for tensor in (
            out,
            batch.rows,
            batch.labels,
            batch.positions,
            batch.clean,
            *batch.inputs.values(),
        ):
            assert tensor is not None
            tensor.zero_()
        return value

    sequences = FunctionGraph(p=lambda a: 2.0 * a, output=lambda p: p)
    rows = torch.randn(ROWS, 4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    made = Dataset({"a": rows}, labels=torch.zeros(ROWS), features={"f": np.arange(ROWS) % 2})
    metrics = [
        Metric("weighted", weighted, pos=slice(1, 3)),
        Metric("spoiling", spoiling, pos=slice(1, 3), needs_clean=True),
    ]
    first, spoiled, again = (gap(made, metrics[i], sequences) for i in (0, 1, 0))
    assert first == spoiled == again


def test_show_works_on_a_copy() -> None:
    made = Dataset({"x": torch.ones(2, 2)}, show=lambda row: str(row["x"].zero_()))
    made.show(0)
    assert made.inputs["x"].sum() == 4


def test_computed_by_works_on_a_copy_also_where_mutants_are_made() -> None:
    def doubled(values: Any) -> Any:
        values *= 2
        return values

    claimed = output(module("p", agrees_on="f", computed_by=doubled), module("q", agrees_on=EXACT))
    made = data()
    verdict = check(claimed, GRAPH, made, tolerance=9.0, mutate=True, adversaries=())
    assert (verdict.average, verdict.power is not None) == ("held", True)
    assert made.feature("f").tolist() == NUMBERS.tolist()


def test_a_function_of_records_works_on_a_copy(tmp_path: Any) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text('{"ids": [1, 2], "kind": 3}\n' * 2)
    features = {
        "first": lambda record: record.pop("kind"),
        "second": lambda record: record.get("kind", 0),
    }
    made = Dataset.from_jsonl(path, tokenize="ids", features=features)
    assert (made.feature("first").tolist(), made.feature("second").tolist()) == ([3, 3], [3, 3])


def test_a_node_that_works_in_place_changes_nothing_for_the_other_nodes() -> None:
    graph = FunctionGraph(p=lambda a: a.mul_(0), q=lambda p, a: p + a, output=lambda q: q)
    assert graph.run({"a": NUMBERS.clone()}).equal(NUMBERS)


def slopes(node: Callable[[Tensor, Tensor], Tensor]) -> list[list[float]]:
    graph = FunctionGraph(p=lambda a: 2.0 * a, output=lambda p, b: node(p, b).sin())
    evaluator = Evaluator(
        graph, data(), output(module("p", agrees_on="f")), Metric("sine", lambda out, batch: out)
    )
    rows = list(range(20))
    found = evaluator.slopes(
        SwapSet(rows, [rows, rows], evaluator.space.paths, evaluator.dataset.digest())
    )
    return [slope.gradient.tolist() for slope in found]


def test_a_node_that_works_in_place_has_a_gradient() -> None:
    assert slopes(lambda p, b: p.add_(b)) == slopes(lambda p, b: p + b) != []


def test_a_node_that_overwrites_what_its_gradient_needs_is_told() -> None:
    def product(p: Tensor, b: Tensor) -> Tensor:
        value = p * p
        p.zero_()
        return value + b

    with refuses(
        "donors are ranked by a gradient, but a graph of functions or the metric sine overwrites a "
        "tensor that its "
        "gradient needs; let it change a clone() instead, or leave WhichDonors() out",
        ModelError,
    ):
        slopes(product)


# --- data that are changed later ------------------------------------------------------------------


def exchanged(made: Dataset) -> None:
    made.inputs["a"] = OTHERS


def relabelled(made: Dataset) -> None:
    made.labels = OTHERS


def added(made: Dataset) -> None:
    made.inputs["c"] = OTHERS


def overwritten(made: Dataset) -> None:
    torch.as_tensor(made.feature("f")).zero_()


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (exchanged, "input 'a'"),
        (relabelled, "labels="),
        (added, "input 'c'"),
        pytest.param(
            overwritten,
            "feature 'f'",
            marks=pytest.mark.filterwarnings("ignore:The given NumPy array"),
        ),
    ],
)
def test_a_dataset_that_is_changed_is_refused(change: Callable[[Dataset], None], what: str) -> None:
    made = data()
    gap(made)
    change(made)
    with refuses(what + CHANGED):
        gap(made)


@pytest.mark.parametrize(
    "given", [Tensor.clone, Tensor.numpy, Tensor.tolist, lambda t: pd.Series(t.numpy())]
)
@pytest.mark.parametrize(
    ("role", "what"), [("b", "input 'b'"), ("labels", "labels="), ("feature", "feature 'f'")]
)
@pytest.mark.parametrize("used", [True, False], ids=["after a claim", "before any"])
def test_what_was_handed_over_and_is_overwritten_is_refused(
    given: Callable[[Tensor], Any], role: str, what: str, used: bool
) -> None:
    value = given(NUMBERS.clone())
    made = data(**{role: value})
    if used:
        gap(made)
    value[7] = 3
    with refuses(what + CHANGED):
        gap(made)


@pytest.mark.parametrize(
    "put",
    [list.clear, lambda column: column.append(column), lambda column: column.append(lambda: 0)],
)
def test_a_column_that_holds_no_data_any_more_is_refused(put: Callable[[list[Any]], Any]) -> None:
    column = NUMBERS.tolist()
    made = data(feature=column)
    put(column)
    with refuses("feature 'f'" + CHANGED):
        gap(made)


def test_data_that_are_changed_and_restored_stay_refused() -> None:
    value = NUMBERS.clone()
    made = data(a=value)
    value[7] = 3
    with pytest.raises(DataError, match="was changed"):
        gap(made)
    value.copy_(NUMBERS)
    with pytest.raises(DataError, match="was changed"):
        gap(made)


def test_no_verdict_is_given_on_data_that_were_changed_meanwhile() -> None:
    def spoiling(out: Tensor, batch: Batch) -> Tensor:
        batch.dataset.inputs["a"].zero_()
        return out[:, 0]

    with refuses("input 'a'" + CHANGED):
        gap(data(), spoiling)


def test_a_change_is_noticed_whatever_was_made_of_the_dataset() -> None:
    value = NUMBERS.clone()
    made = data(a=value)
    others = [made.with_features({"more": OTHERS}), made.to("cpu")]
    for other in (made, *others):
        other.require_unchanged()
    value[7] = 3
    for other in (made, *others):
        with pytest.raises(DataError, match="input 'a' was changed"):
            other.require_unchanged()


def test_what_was_not_changed_is_not_refused() -> None:
    words = [str(number) for number in NUMBERS.tolist()]
    columns = {
        "words": words,
        "rows": iter(range(ROWS)),
        "pairs": list(zip(words, words, strict=True)),
    }
    made = Dataset({"a": NUMBERS.tolist()}, labels=NUMBERS.to(torch.int32), features=columns)
    for name in columns:
        made.feature(name)
    for other in (
        made,
        made.to("cpu"),
        made.with_features({"more": OTHERS}),
        pickle.loads(pickle.dumps(made)),
    ):
        other.require_unchanged()


# --- features that depend on chance, or on the batch ----------------------------------------------


@pytest.mark.parametrize(
    "feature",
    [
        lambda batch: torch.rand(len(batch["a"])),
        lambda batch: (torch.rand(len(batch["a"])) > 0.5).tolist(),
        lambda batch: batch["a"].argsort(),
        lambda batch: batch["a"] > batch["a"].double().mean(),
        lambda batch: [("x", i) for i in range(len(batch["a"]))],
        lambda batch: OTHERS,
    ],
    ids=["random", "coin", "rank", "above the mean", "row number", "a column"],
)
def test_a_feature_that_depends_on_more_than_its_row_is_refused(feature: Any) -> None:
    with pytest.raises(
        DataError,
        match=r"feature 'f' .*; (or )?compute it once and give it as a column(\nsaid at .*)?$",
    ):
        gap(data(feature=feature))


def test_rounding_is_no_dependence_on_the_batch() -> None:
    weight = torch.randn(3, 64, generator=torch.Generator().manual_seed(0))
    made = data(
        feature=lambda batch: (nn.functional.one_hot(batch["a"], 3).float() @ weight).sum(1) / 3
    )
    assert len(set(made.feature("f").tolist())) >= 3


def test_a_feature_in_error_is_not_left_out_of_the_search() -> None:
    made = Dataset(
        {"a": NUMBERS, "b": OTHERS},
        labels=NUMBERS,
        features={"f": NUMBERS, "broken": lambda batch: 1 / 0},
    )
    with pytest.raises(
        DataError,
        match=r"the function of feature 'broken' raised ZeroDivisionError: division by zero",
    ):
        check(output(module("p", agrees_on="f")), GRAPH, made, tolerance=9.0)


# --- what raises ----------------------------------------------------------------------------------


def broken(*_: Any) -> Any:
    raise KeyError("mine")


HERE = (
    f"raised KeyError: 'mine' ({Place(__file__, broken.__code__.co_firstlineno + 1)}); mend "
    "the function"
)


@pytest.mark.parametrize(
    ("run", "what", "kind"),
    [
        (lambda: gap(data(feature=broken)), "output/p: the function of feature 'f'", DataError),
        (lambda: gap(data(), broken), "the metric broken", DataError),
        (
            lambda: gap(data(), claimed=output(module("p", agrees_on="f", computed_by=broken))),
            "output/p: computed_by=",
            HypothesisError,
        ),
        (lambda: Dataset([1], show=broken).show(0), "the function show=", DataError),
    ],
)
def test_an_exception_of_the_users_is_told_with_its_function_and_line(
    run: Callable[[], Any], what: str, kind: type[ScrubError]
) -> None:
    with refuses(f"{what} {HERE}", kind) as caught:
        run()
    causes, error = [], caught.value
    while error is not None:
        causes.append(type(error))
        error = error.__cause__
    assert causes[-1] is KeyError


def test_an_exception_in_a_node_is_told_as_its_own() -> None:
    def node(p: Tensor) -> Tensor:
        raise KeyError("mine")

    line = node.__code__.co_firstlineno + 1
    with refuses(
        f"node 'output' raised KeyError: 'mine' ({Place(__file__, line)}); mend the function",
        ModelError,
    ) as caught:
        gap(data(), graph=FunctionGraph(p=lambda a: a, output=node))
    assert isinstance(caught.value.__cause__, KeyError)


@pytest.mark.parametrize(
    ("run", "sentence", "kind"),
    [
        (
            lambda: gap(data(), lambda out: out),
            "the metric <lambda> is called with (output, batch), but takes (out)",
            DataError,
        ),
        (
            lambda: Metric("m", abs, stand_in=lambda: 0),
            "the metric m is called with (output, batch), but takes (x, /)",
            DataError,
        ),
        (
            lambda: Metric("m", max, stand_in=lambda: 0),
            "the stand-in for m is called with (output, batch), but takes ()",
            DataError,
        ),
        (
            lambda: gap(
                data(), claimed=output(module("p", agrees_on="f", computed_by=lambda a, b: a))
            ),
            "output/p: computed_by= is called with (f), but takes (a, b)",
            HypothesisError,
        ),
    ],
)
def test_a_function_takes_as_many_arguments_as_it_is_called_with(
    run: Callable[[], Any], sentence: str, kind: type[ScrubError]
) -> None:
    with refuses(f"{sentence}; give it as many arguments", kind):
        run()


# --- what metrics return --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lower", "upper"),
    [
        (1, 1),
        (5, 1),
        (math.nan, 1),
        (0, math.nan),
        ("0", 1),
        (0, None),
        (0, True),
        (torch.tensor(0.0), 1),
    ],
)
def test_bounds_are_two_numbers_in_order(lower: Any, upper: Any) -> None:
    with refuses(
        f"the metric m has the bounds lower={lower!r} and upper={upper!r}; give two numbers, the "
        "lower one first, or leave out what it does not have"
    ):
        Metric("m", lambda out, batch: out, lower=lower, upper=upper)


@pytest.mark.parametrize(
    ("bounds", "values", "said"),
    [
        ({"lower": 0, "upper": 3}, [1, 5, 2], "5 for row 1, above upper=3"),
        ({"lower": 0}, [1, 1, -2], "-2 for row 2, below lower=0"),
        ({"upper": 0}, [1e-6, 0, 0], "1e-06 for row 0, above upper=0"),
        ({"lower": 0, "upper": 1e-12}, [0, 2e-12, 0], "2e-12 for row 1, above upper=1e-12"),
    ],
)
def test_a_value_beyond_the_bounds_names_row_value_and_bound(
    bounds: dict[str, float], values: list[float], said: str
) -> None:
    metric = Metric("m", lambda out, batch: torch.tensor(values, dtype=torch.float64), **bounds)
    batch = Batch(data(), torch.arange(3), None, None)
    with refuses(f"the metric m is {said}; intervals rely on the bounds, so give true ones"):
        metric(torch.zeros(3, 2), batch)


@pytest.mark.parametrize(
    ("bounds", "value"),
    [({"lower": 0}, -1e-17), ({"lower": 0, "upper": 1}, 1 + 1e-15), ({"upper": -1e6}, -1e6 + 1e-9)],
)
def test_rounding_is_not_beyond_the_bounds(bounds: dict[str, float], value: float) -> None:
    metric = Metric("m", lambda out, batch: torch.full((3,), value, dtype=torch.float64), **bounds)
    assert float(metric(torch.zeros(3, 2), Batch(data(), torch.arange(3), None, None))[0]) == value


@pytest.mark.parametrize("scale", [1.0, 1e4])
def test_the_bounds_of_our_own_metrics_are_true(scale: float) -> None:
    from pytest_scrub.metrics import cross_entropy, kl_to_clean

    out = scale * torch.randn(
        ROWS, 50, generator=torch.Generator().manual_seed(0), dtype=torch.float64
    )
    near = out * (1 + 1e-16 * torch.arange(ROWS)[:, None])
    for labels in (out.argmax(-1), out.argmin(-1)):
        batch = Batch(data(), torch.arange(ROWS), labels, None, near)
        for metric in (cross_entropy(), kl_to_clean(), zero_one_error()):
            metric(out, batch)


def test_the_stand_in_has_no_bounds_of_the_metric() -> None:
    metric = Metric(
        "m", lambda out, _: out[:, 0] * 0, lower=0, upper=1, stand_in=lambda out, _: out[:, 0] + 9
    )
    assert metric.to_rank_by(
        torch.zeros(3, 2), Batch(data(), torch.arange(3), None, None)
    ).tolist() == [9, 9, 9]


@pytest.mark.parametrize(
    ("metric", "said"),
    [
        (
            zero_one_error,
            "metric= takes a Metric, and zero_one_error makes one; call it: zero_one_error(...)",
        ),
        (
            logit_difference,
            "metric= takes a Metric, and logit_difference makes one; call it: "
            "logit_difference(...)",
        ),
        (
            lambda out, _: zero_one_error(),
            "the metric <lambda> returns a Metric; call it: metric=<lambda>(...)",
        ),
        (
            lambda _, batch: batch.clean[:, 0],
            "batch.clean is there only for a metric that asks for it; make it with Metric(name, "
            "function, needs_clean=True)",
        ),
    ],
)
def test_a_metric_that_is_not_called_or_does_not_ask(metric: Any, said: str) -> None:
    with refuses(said):
        gap(data(), metric)


@pytest.mark.parametrize(
    ("returned", "got"),
    [
        (lambda out: out[:, 0].to_sparse(), "float64 sparse_coo (3,)"),
        (lambda out: out[:, 0].to("meta"), "float64 meta (3,)"),
        (lambda out: out[:, 0].to(torch.complex64), "complex64 (3,)"),
        (lambda out: out[:, 0].tolist(), "list"),
    ],
)
def test_a_metric_returns_real_numbers(returned: Callable[[Tensor], Any], got: str) -> None:
    with refuses(f"the metric m has to return one number per reference, [3], not {got}"):
        Metric("m", lambda out, _: returned(out))(
            torch.zeros(3, 2), Batch(data(), torch.arange(3), None, None)
        )


def test_a_metric_may_return_what_requires_a_gradient() -> None:
    assert gap(data(), lambda out, _: torch.zeros(len(out), requires_grad=True)).mean == 0


def test_a_number_whose_differences_overflow_is_refused() -> None:
    with pytest.raises(
        DataError,
        match=r"is 1.7e\+308 for row \d+, too large to take differences of; let it return smaller",
    ):
        gap(data(), lambda out, _: 0 * out[:, 0] + 1.7e308)


# --- what computed_by= returns --------------------------------------------------------------------


UNFIT = r"is NaN or infinite for the donor row \d+, or too large for float32; mend the function"


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (
            lambda a: None,
            r"returns NoneType, of which no tensor can be made \(.*\); return a tensor",
        ),
        (lambda a: "x", r"returns str, of which no tensor can be made \(.*\); return a tensor"),
        (
            lambda a: 1.0,
            r"has to return \[\d+\], one value per position, or the same without the position, not "
            r"\[\]",
        ),
        (lambda a: a * math.nan, UNFIT),
        (lambda a: a * 1e300, UNFIT),
        (
            lambda a: a * 1j,
            r"returns a complex128 tensor; return one of real numbers, all of them there",
        ),
        (
            lambda a: torch.tensor(a).to_sparse(),
            r"returns a int64 sparse_coo tensor; return one of real numbers, .*",
        ),
    ],
)
def test_a_computed_value_is_real_numbers(function: Any, said: str) -> None:
    with pytest.raises(HypothesisError, match=rf"^output/p: computed_by= {said}(\nsaid at .*)?$"):
        gap(data(), claimed=output(module("p", agrees_on="f", computed_by=function)))


@pytest.mark.parametrize(
    "function",
    [lambda a: a, lambda a: a.tolist(), lambda a: nn.Parameter(torch.tensor(a).double())],
)
def test_a_computed_value_may_be_of_any_kind(function: Any) -> None:
    assert gap(data(), claimed=output(module("p", agrees_on="f", computed_by=function))).mean < 0.5


# --- inputs, labels and columns of any kind -------------------------------------------------------


def test_one_row_whose_labels_are_a_view_has_a_digest() -> None:
    tokens = torch.tensor([[1, 2, 3]])
    made = Dataset(tokens, labels=tokens[:, -1])
    assert made.digest() == Dataset(tokens, labels=[3]).digest()
    assert Dataset({"x": tokens[:, -1]}).row_digest(0) == Dataset(
        {"x": torch.tensor([3])}
    ).row_digest(0)


@pytest.mark.parametrize(
    "given",
    [
        torch.arange(3).expand(4, 3),
        torch.arange(12).view(3, 4).T,
        np.arange(12).reshape(4, 3)[::-1],
        torch.ones(4, 3, requires_grad=True),
        torch.ones(4, 3, dtype=torch.complex64).conj(),
        torch.ones(4, 3, dtype=torch.bfloat16),
        torch.ones(4, 3) > 0,
        pd.DataFrame(np.arange(12).reshape(4, 3)),
    ],
    ids=[
        "expanded",
        "transposed",
        "backwards",
        "gradient",
        "conjugate",
        "bfloat16",
        "bool",
        "table",
    ],
)
def test_inputs_of_any_layout_have_content(given: Any) -> None:
    made = Dataset(
        {"x": given}, labels=None if torch.is_tensor(given) and given.is_complex() else given
    )
    made.require_unchanged()
    assert (len(made.content), len(made.digest())) == (4, 32)


SPARSE = torch.eye(3).to_sparse()
RAGGED = "; give numbers, in rows of one length"
NUMBERLESS = (
    "is a tensor whose numbers cannot be read row by row (float32 sparse_coo{}); give a dense one"
)
ENDLESS: list[Any] = []
ENDLESS.append(ENDLESS)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Dataset({"x": SPARSE}), "input 'x' " + NUMBERLESS.format("")),
        (lambda: Dataset([1, 2, 3], labels=SPARSE), "labels= " + NUMBERLESS.format("")),
        (
            lambda: Dataset([1, 2, 3], features={"f": SPARSE}).feature("f"),
            "feature 'f' " + NUMBERLESS.format(" on cpu"),
        ),
        (
            lambda: Dataset([1], labels=torch.ones(1, device="meta")),
            "labels= is on the device meta, which keeps no numbers; load it on another",
        ),
        (
            lambda: Dataset(ENDLESS),
            "input 'tokens' is no tensor (too many dimensions 'list')" + RAGGED,
        ),
        (
            lambda: Dataset([1], features={"f": ENDLESS}).feature("f"),
            "feature 'f' holds lists in lists without end; give numbers, strings or tuples",
        ),
        (
            lambda: Dataset([1], labels=["a"]),
            "labels= is no tensor (too many dimensions 'str')" + RAGGED,
        ),
        (
            lambda: Dataset([1], labels=[1j]),
            "labels= are complex numbers, which no metric compares; give integers or floats",
        ),
        (lambda: Dataset({0: [1]}), "the inputs have the name 0, of type int; names are strings"),
        (
            lambda: Dataset([1], features={0: [1]}),
            "features= has the name 0, of type int; names are strings",
        ),
        (
            lambda: Dataset([1], features=np.ones(3)),
            "features= maps names to columns or functions, it is no ndarray",
        ),
        (
            lambda: Dataset([1], digest=7),
            "digest= is text that identifies inputs and labels, not 7",
        ),
        (
            lambda: Dataset(np.ma.array([1, 2], mask=[0, 1])),
            "input 'tokens' has masked values, of which there is nothing to read; fill them or "
            "leave the rows out",
        ),
        (
            lambda: Dataset([1, 2], features={"f": np.ma.array([1, 2], mask=[0, 1])}).feature("f"),
            "feature 'f' has masked values, which equal nothing; fill them",
        ),
    ],
)
def test_what_holds_no_numbers_is_one_sentence(make: Callable[[], Any], said: str) -> None:
    with refuses(said):
        make()


def test_row_numbers_in_rows_of_many_lengths_are_refused() -> None:
    with pytest.raises(DataError, match=r"^references= takes row numbers, or a mask of 2 bools \("):
        Dataset([1, 2], references=[[1], [1, 2]])


def test_a_table_is_read_by_rows() -> None:
    table = pd.DataFrame({"x": [1, 2], "y": [3, 4]})
    made = Dataset(
        [1, 2],
        labels=table["x"],
        features={"both": table, "word": pd.Series(["a", "b"], index=[7, 8])},
    )
    assert made.feature("both").tolist() == [[1, 3], [2, 4]]
    assert made.feature("word").tolist() == ["a", "b"]


def test_an_input_may_be_called_label() -> None:
    from hypothesis import strategies as st

    made = Dataset.from_strategy(
        st.integers(0, 9),
        lambda number: {"label": [number]},
        rows=5,
        labels=lambda number: [number, 0],
    )
    inputs, labels = made.source.encode(3)
    assert (inputs["label"].tolist(), labels.tolist()) == ([[3]], [[3, 0]])


# --- token ids ------------------------------------------------------------------------------------


class Embedded(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.out = nn.Embedding(5, 4), nn.Linear(4, 3)

    def forward(self, tokens: Tensor) -> Tensor:
        out: Tensor = self.out(self.embed(tokens).sum(1))
        return out


@pytest.mark.parametrize("wrong", [5, -1])
@pytest.mark.parametrize(
    "make", [Embedded, lambda: build(Architecture(d_vocab=5)).bridge], ids=["module", "transformer"]
)
def test_a_token_id_that_the_network_does_not_know_is_named(
    make: Callable[[], Any], wrong: int
) -> None:
    tokens = torch.zeros(30, 3, dtype=torch.int64)
    tokens[20, 2] = wrong
    with refuses(
        f"input 'tokens' holds the token id {wrong} on row 20, but the network knows 5 tokens, 0 "
        "to 4; mend the tokenizer, or give padding an id that exists",
        ModelError,
    ):
        Evaluator(as_graph(make()), Dataset(tokens, labels=tokens[:, 0]), output())


def test_token_ids_are_integers() -> None:
    with refuses(
        "input 'tokens' holds float32 numbers, but the network reads token ids; give integers",
        ModelError,
    ):
        Evaluator(as_graph(Embedded()), Dataset(torch.zeros(3, 4), labels=[0, 0, 0]), output())
