"""Metrics: values against torch or by hand, which positions count, and shapes that are never
broadcast."""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from pytest_scrub.data.dataset import Dataset
from pytest_scrub.errors import DataError
from pytest_scrub.metrics import (
    Batch,
    Metric,
    as_metric,
    cross_entropy,
    kl_to_clean,
    logit_difference,
    next_token_loss,
    squared_error,
    zero_one_error,
)

ROWS, POSITIONS, CLASSES = 5, 4, 3
# three rows' positions, filled up with -1
MASK = torch.tensor([[0, 2, -1], [1, -1, -1], [0, 1, 2]])
TOKENS = torch.tensor([[0, 1, 2, 0], [2, 1, 0, 1], [1, 1, 2, 2], [0, 0, 1, 2], [2, 2, 0, 0]])
DATA = Dataset(
    TOKENS,
    features={
        "other": [0, 1, 2, 0, 1],
        "flag": [True, False, True, False, True],
        "tuple": [(0, 1, 2), (1, 1, 0), (0, 0, 0), (2, 2, 2), (1, 0, 1)],
        "word": list("abcde"),
        "ratio": [0.5] * 5,
        "ninth": [9] * 5,
    },
)


def refuses(sentence: str) -> Any:
    """The whole sentence, so that no error loses its name or its remedy."""
    return pytest.raises(DataError, match=rf"^{re.escape(sentence)}$")


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def batch(
    labels: Any = None,
    positions: Tensor | None = None,
    clean: Tensor | None = None,
    rows: Any = (0, 1, 2),
) -> Batch:
    labels = None if labels is None else torch.as_tensor(labels)
    return Batch(DATA, torch.tensor(list(rows)), labels, positions, clean)


# --- values ---------------------------------------------------------------------------------------


def test_cross_entropy_is_torchs() -> None:
    output, labels = noise(3, CLASSES), torch.tensor([2, 0, 1])
    expected = F.cross_entropy(output, labels, reduction="none")
    torch.testing.assert_close(cross_entropy()(output, batch(labels)), expected)
    # and the reference's label is its own: -log softmax, spelled out
    assert cross_entropy()(output, batch(labels))[0] == pytest.approx(
        float(output[0].exp().sum().log() - output[0, 2])
    )


def test_several_positions_are_averaged() -> None:
    output, labels = noise(3, POSITIONS, CLASSES), torch.randint(CLASSES, (3, POSITIONS))
    each = F.cross_entropy(output.transpose(1, 2), labels, reduction="none")
    value = cross_entropy()(output, batch(labels, positions=torch.arange(POSITIONS)))
    torch.testing.assert_close(value, each.mean(1))


def test_low_precision_is_computed_in_float64() -> None:
    output = noise(3, CLASSES).bfloat16()
    value = cross_entropy()(output, batch([0, 1, 2]))
    assert value.dtype == torch.float64
    torch.testing.assert_close(
        value, F.cross_entropy(output.double(), torch.arange(3), reduction="none")
    )
    assert zero_one_error()(output, batch([0, 1, 2])).dtype == torch.float64


@pytest.mark.parametrize("shape", [(3,), (3, 3), (3, 3, 2)])
def test_squared_error_is_a_mean_over_all_but_the_rows(shape: tuple[int, ...]) -> None:
    output, labels = noise(*shape), noise(*shape, seed=1)
    squares = (output - labels) ** 2
    torch.testing.assert_close(
        squared_error()(output, batch(labels)), squares.reshape(3, -1).mean(1)
    )
    whole = labels.round()
    assert torch.equal(
        squared_error()(output, batch(whole.long())), squared_error()(output, batch(whole))
    )


def test_zero_one_error_counts_what_is_not_largest() -> None:
    output = torch.tensor([[1.0, 0, 0], [0, 0, 1], [0, 2, 1]])
    assert zero_one_error()(output, batch([0, 1, 2])).tolist() == [0, 1, 1]
    several = torch.stack([output, output.flip(1)], 1)
    assert zero_one_error()(several, batch([[0, 2], [1, 1], [1, 0]])).tolist() == [0, 1, 0.5]


def test_logit_difference_is_against_a_class_or_a_feature() -> None:
    output = torch.tensor([[5.0, 3, 1], [5, 3, 1], [5, 3, 1]])
    assert logit_difference(2)(output, batch([0, 1, 2])).tolist() == [4, 2, 0]
    # against 0, 1, 2
    assert logit_difference("other")(output, batch([1, 2, 0])).tolist() == [-2, -2, 4]
    assert logit_difference("other")(output, batch([0, 0, 0], rows=[2, 0, 4])).tolist() == [4, 0, 2]
    # a yes or no names class 1 or 0
    assert logit_difference("flag")(output, batch([2, 2, 2])).tolist() == [-2, -4, -2]


def test_logit_difference_against_a_feature_that_is_not_there() -> None:
    said = (
        "^the metric logit_difference is against a feature, and the dataset has no feature 'othr'; "
        r"did you mean 'other'\?; it has "
    )
    with pytest.raises(DataError, match=said):
        logit_difference("othr")(noise(3, CLASSES), batch([0, 1, 2]))


def test_logit_difference_at_several_positions() -> None:
    output = noise(3, 3, CLASSES)
    labels = torch.tensor([[0, 1, 2], [1, 1, 0], [2, 0, 0]])
    rows, columns = torch.arange(3)[:, None], torch.arange(3)
    own = output[rows, columns, labels]
    torch.testing.assert_close(
        logit_difference(1)(output, batch(labels)), (own - output[..., 1]).mean(1)
    )
    by_row = output[rows, columns, torch.tensor([0, 1, 2])[:, None]]
    torch.testing.assert_close(
        logit_difference("other")(output, batch(labels)), (own - by_row).mean(1)
    )
    by_position = output[rows, columns, torch.tensor([[0, 1, 2], [1, 1, 0], [0, 0, 0]])]
    torch.testing.assert_close(
        logit_difference("tuple")(output, batch(labels)), (own - by_position).mean(1)
    )


def test_kl_is_from_the_clean_distribution() -> None:
    output, clean = noise(3, CLASSES), noise(3, CLASSES, seed=1)
    p, q = clean.softmax(-1), output.softmax(-1)
    torch.testing.assert_close(
        kl_to_clean()(output, batch(clean=clean)), (p * (p / q).log()).sum(-1)
    )
    torch.testing.assert_close(
        kl_to_clean()(clean.float(), batch(clean=clean.float())),
        torch.zeros(3, dtype=torch.float64),
    )
    several = kl_to_clean()(
        output[:, None].expand(-1, 2, -1), batch(clean=clean[:, None].expand(-1, 2, -1))
    )
    torch.testing.assert_close(several, (p * (p / q).log()).sum(-1))


def test_next_token_loss_is_against_the_references_next_token() -> None:
    output = noise(3, POSITIONS - 1, CLASSES)
    rows = [4, 0, 4]
    value = next_token_loss()(output, batch(positions=torch.arange(POSITIONS - 1), rows=rows))
    expected = F.cross_entropy(output.transpose(1, 2), TOKENS[rows, 1:], reduction="none").mean(1)
    torch.testing.assert_close(value, expected)
    assert next_token_loss().pos == slice(None, -1)


def test_next_token_loss_at_one_position() -> None:
    output = noise(3, CLASSES)
    expected = F.cross_entropy(output, TOKENS[:3, 2], reduction="none")
    torch.testing.assert_close(
        next_token_loss(1)(output, batch(positions=torch.tensor([1]))), expected
    )
    one_each = torch.tensor([[1], [0], [2]])
    expected = F.cross_entropy(output, TOKENS[[0, 1, 2], [2, 1, 3]], reduction="none")
    torch.testing.assert_close(
        next_token_loss("where")(output, batch(positions=one_each)), expected
    )


# --- masks of positions: only those that are there count ------------------------------------------


def averaged(each: Tensor) -> Tensor:
    return torch.stack([each[0, :2].mean(), each[1, 0], each[2].mean()])


@pytest.mark.parametrize("metric", [cross_entropy(), zero_one_error(), logit_difference(1)])
def test_absent_positions_do_not_count(metric: Metric) -> None:
    output, labels = noise(3, 3, CLASSES), torch.tensor([[0, 1, 2], [1, 0, 0], [2, 1, 0]])
    one_by_one = torch.stack([metric(output[:, k], batch(labels[:, k])) for k in range(3)], 1)
    torch.testing.assert_close(metric(output, batch(labels, positions=MASK)), averaged(one_by_one))
    # What stands where there is no position is nobody's business, be it no class at all.
    torch.testing.assert_close(
        metric(output, batch(torch.where(MASK < 0, -100, labels), positions=MASK)),
        averaged(one_by_one),
    )
    with pytest.raises(DataError, match="got the class -100, but the network's go from 0 to 2"):
        metric(output, batch(torch.where(MASK == 1, -100, labels), positions=MASK))


def test_absent_positions_do_not_count_in_other_metrics() -> None:
    output, other = noise(3, 3, CLASSES), noise(3, 3, CLASSES, seed=1)
    squares = torch.stack([squared_error()(output[:, k], batch(other[:, k])) for k in range(3)], 1)
    torch.testing.assert_close(
        squared_error()(output, batch(other, positions=MASK)), averaged(squares)
    )
    torch.testing.assert_close(
        squared_error()(output[..., 0], batch(other[..., 0], positions=MASK)),
        averaged((output[..., 0] - other[..., 0]) ** 2),
    )
    divergences = torch.stack(
        [kl_to_clean()(output[:, k], batch(clean=other[:, k])) for k in range(3)], 1
    )
    torch.testing.assert_close(
        kl_to_clean()(output, batch(clean=other, positions=MASK)), averaged(divergences)
    )
    losses = torch.stack(
        [
            F.cross_entropy(output[:, k], TOKENS[torch.arange(3), MASK[:, k] + 1], reduction="none")
            for k in range(3)
        ],
        1,
    )
    torch.testing.assert_close(next_token_loss()(output, batch(positions=MASK)), averaged(losses))


# --- what a metric may know -----------------------------------------------------------------------


def test_a_function_gets_the_output_in_float64_and_the_reference() -> None:
    def largest(output: Tensor, batch: Batch) -> Tensor:
        assert output.dtype == torch.float64
        assert batch.inputs["tokens"].tolist() == TOKENS[[4, 0]].tolist()
        assert batch.feature("other").tolist() == [1, 0]
        assert batch.valid is None
        return output.float().max(-1).values

    metric = as_metric(largest)
    assert (metric.name, metric.pos, metric.worse, metric.needs_clean) == (
        "largest",
        None,
        "higher",
        False,
    )
    assert (metric.lower, metric.upper) == (-math.inf, math.inf)
    value = metric(torch.tensor([[1.0, 2], [4, 3]]), batch(rows=[4, 0]))
    assert value.tolist() == [2, 4]
    assert value.dtype == torch.float64


def test_what_may_be_a_metric() -> None:
    assert as_metric(None).name == "cross-entropy"
    metric = squared_error()
    assert as_metric(metric) is metric
    with refuses("metric= takes a Metric or a function of (output, batch), not 'accuracy'"):
        as_metric("accuracy")  # type: ignore[arg-type]


def test_valid_marks_the_positions_that_are_there() -> None:
    assert batch(positions=torch.arange(3)).valid is None
    assert batch(positions=MASK).valid.tolist() == (MASK >= 0).tolist()  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("metric", "lower", "upper", "worse", "has_stand_in", "needs_clean"),
    [
        (cross_entropy(), 0, math.inf, "higher", True, False),
        (next_token_loss(), 0, math.inf, "higher", False, False),
        (squared_error(), 0, math.inf, "higher", False, False),
        (kl_to_clean(), 0, math.inf, "higher", False, True),
        (zero_one_error(), 0, 1, "higher", True, False),
        (logit_difference(0), -math.inf, math.inf, "lower", False, False),
    ],
)
def test_a_metric_knows_its_bounds_and_direction(
    metric: Metric, lower: float, upper: float, worse: str, has_stand_in: bool, needs_clean: bool
) -> None:
    assert (metric.lower, metric.upper, metric.worse) == (lower, upper, worse)
    assert (metric.stand_in is not None, metric.needs_clean) == (has_stand_in, needs_clean)
    assert (metric.to_rank_by is metric) == (not has_stand_in)


def test_the_stand_in_grows_with_the_loss_and_does_not_saturate() -> None:
    logits = torch.tensor(
        [[40.0, 0, 1], [0.0, 80, 1], [3.0, 1, 2]], dtype=torch.float64, requires_grad=True
    )
    given = batch(torch.tensor([0, 1, 2]))
    loss, ranked = cross_entropy()(logits, given), cross_entropy().to_rank_by(logits, given)
    torch.testing.assert_close(F.softplus(ranked), loss, atol=1e-12, rtol=1e-9)
    assert loss[0] < 1e-12  # saturated, and yet
    assert (torch.autograd.grad(ranked.sum(), logits)[0].abs().max(1).values > 0.1).all()


@pytest.mark.parametrize(
    "make", [cross_entropy, zero_one_error, squared_error, kl_to_clean, next_token_loss]
)
def test_a_metric_reads_the_positions_it_is_given(make: Any) -> None:
    assert make(3).pos == 3
    assert make(slice(1, 2)).pos == slice(1, 2)
    assert logit_difference(0, pos="where").pos == "where"


# --- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "metric"),
    [
        ("cross_entropy", cross_entropy()),
        ("zero_one_error", zero_one_error()),
        ("logit_difference", logit_difference(0)),
        ("squared_error", squared_error()),
    ],
)
def test_labels_are_needed(name: str, metric: Metric) -> None:
    with refuses(f"the metric {name} needs labels; give the Dataset labels="):
        metric(noise(3, CLASSES), batch())


NO_CLASS = "but the network's go from 0 to 2; mend the labels, or what they are compared with"
WHOLE = torch.zeros(3, 1, dtype=torch.int64)
POSITIONED = (
    "say which output positions the labels speak of with label_pos= of the Dataset or pos= of the "
    "metric"
)


@pytest.mark.parametrize(
    ("output", "labels", "said", "remedy"),
    [
        ((3, POSITIONS, CLASSES), WHOLE[:, 0], "[3, 4], but the labels are int64 [3]", POSITIONED),
        (
            (3, CLASSES),
            WHOLE,
            "[3], but the labels are int64 [3, 1]",
            "take the last axis away: labels.squeeze(-1)",
        ),
        ((3, CLASSES), WHOLE[0], "[3], but the labels are int64 [1]", POSITIONED),
        ((3, POSITIONS, CLASSES), WHOLE, "[3, 4], but the labels are int64 [3, 1]", POSITIONED),
        (
            (3, CLASSES),
            torch.zeros(3),
            "[3], but the labels are float32 [3]",
            "give whole numbers with 1 axis",
        ),
        (
            (3, CLASSES),
            torch.zeros(3, CLASSES),
            "[3], but the labels are float32 [3, 3]",
            "give indices, not one number for each class: labels.argmax(-1)",
        ),
        (
            (3, CLASSES),
            WHOLE.expand(3, 2),
            "[3], but the labels are int64 [3, 2]",
            "give whole numbers with 1 axis",
        ),
        (
            (3,),
            WHOLE[:, 0],
            "[], but the labels are int64 [3]",
            "the network gives one number for each row, so take squared_error, for instance",
        ),
    ],
)
@pytest.mark.parametrize(
    ("name", "metric"),
    [
        ("cross_entropy", cross_entropy()),
        ("zero_one_error", zero_one_error()),
        ("logit_difference", logit_difference(0)),
    ],
)
def test_class_labels_are_never_broadcast(
    name: str, metric: Metric, output: tuple[int, ...], labels: Tensor, said: str, remedy: str
) -> None:
    with refuses(
        f"the metric {name} needs one class index for each output it reads, {said}; {remedy}"
    ):
        metric(noise(*output) if len(output) > 1 else noise(3), batch(labels))


@pytest.mark.parametrize("labels", [(3, 1), (1,), (3, CLASSES, 1)])
def test_targets_are_never_broadcast(labels: tuple[int, ...]) -> None:
    with refuses(
        f"the metric squared_error needs labels of the output's shape [3, 3], not {list(labels)}"
    ):
        squared_error()(noise(3, CLASSES), batch(noise(*labels)))


@pytest.mark.parametrize("label", [-1, CLASSES])
@pytest.mark.parametrize(
    ("name", "metric"), [("cross_entropy", cross_entropy()), ("zero_one_error", zero_one_error())]
)
def test_a_label_is_one_of_the_classes(name: str, metric: Metric, label: int) -> None:
    with refuses(f"the metric {name} got the class {label}, {NO_CLASS}"):
        metric(noise(3, CLASSES), batch([0, label, 1]))


def test_the_class_to_compare_with_is_one_of_the_classes() -> None:
    for against, said in ((-1, -1), (CLASSES, CLASSES), ("ninth", 9)):
        with refuses(f"the metric logit_difference got the class {said}, {NO_CLASS}"):
            logit_difference(against)(noise(3, CLASSES), batch([0, 1, 2]))
    for feature, kind in (("word", "object"), ("ratio", "float64")):
        with refuses(
            f"the metric logit_difference needs a class for each row, but the feature '{feature}' "
            f"holds {kind} values"
        ):
            logit_difference(feature)(noise(3, CLASSES), batch([0, 1, 2]))


def test_the_last_position_has_no_next_token() -> None:
    with refuses(
        "the metric next_token_loss reads the last position, which has no next token; end pos= "
        "earlier"
    ):
        next_token_loss()(noise(3, POSITIONS, CLASSES), batch(positions=torch.arange(POSITIONS)))


def test_next_token_loss_needs_tokens() -> None:
    for inputs in ({"pixels": torch.zeros(3, 4)}, {"tokens": torch.zeros(3, dtype=torch.int64)}):
        other = Batch(Dataset(inputs), torch.arange(3), None, torch.arange(3))
        with refuses("the metric next_token_loss needs token inputs [rows, positions]"):
            next_token_loss()(noise(3, 3, CLASSES), other)
    named = Batch(Dataset({"input_ids": TOKENS}), torch.arange(3), None, torch.arange(3))
    assert torch.equal(
        next_token_loss()(noise(3, 3, CLASSES), named),
        next_token_loss()(noise(3, 3, CLASSES), batch(positions=torch.arange(3))),
    )


@pytest.mark.parametrize(
    ("returned", "got"),
    [
        (torch.zeros(3, 1), "(3, 1)"),
        (torch.tensor(0.0), "()"),
        (torch.zeros(2), "(2,)"),
        (np.zeros(3), "ndarray"),
        (0.5, "float"),
        (None, "NoneType"),
    ],
)
def test_a_metric_is_one_number_per_reference(returned: Any, got: str) -> None:
    metric = Metric("mine", lambda output, batch: returned)
    with refuses(f"the metric mine has to return one number per reference, [3], not {got}"):
        metric(noise(3, CLASSES), batch())


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_metric_that_is_not_finite_names_the_row(bad: float) -> None:
    metric = Metric("mine", lambda output, batch: torch.tensor([0.0, bad, bad]))
    with refuses("the metric mine is NaN or infinite for row 4; look at its label and output"):
        metric(noise(3, CLASSES), batch(rows=[0, 4, 1]))


def test_an_integer_count_is_a_number() -> None:
    metric = Metric("mine", lambda output, batch: torch.tensor([1, 2, 3]))
    assert metric(noise(3, CLASSES), batch()).dtype == torch.float64


def test_a_metric_says_which_way_is_worse():
    with pytest.raises(
        DataError, match="worse= of the metric mine is 'higher' or 'lower', not 'up'"
    ):
        Metric("mine", lambda output, batch: output, worse="up")
