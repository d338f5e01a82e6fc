"""Metrics: from the network's output and what is known of the reference to one number per reference.

A metric says which output positions it reads; the output comes from the root's carrier at the carrier's
positions, labels are the reference's own. Everything is computed in float64, and shapes are checked, never
broadcast.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pytest_scrub.errors import DataError
from pytest_scrub.hypothesis_tree import Span

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pytest_scrub.data import Dataset

MetricPosition = int | slice | Span | str | None


@dataclass(frozen=True)
class Batch:
    """What a metric may know of its references.

    - `dataset`, `rows`: the references, int64 `[B]` rows of the dataset.
    - `labels`: `[B, ...]` or None.
    - `positions`: the reference's output positions that are read, `[K]`, `[B, K]` (-1 = none) or None for all.
    - `clean`: the unscrubbed output on the references, for metrics that ask for it.
    """

    dataset: Dataset
    rows: Tensor
    labels: Tensor | None
    positions: Tensor | None
    clean: Tensor | None = None

    @property
    def inputs(self) -> dict[str, Tensor]:
        """The model inputs of the references."""
        return self.dataset.batch(self.rows.cpu().numpy())

    @property
    def valid(self) -> Tensor | None:
        """bool `[B, K]` where a reference may have fewer positions than others, else None."""
        return None if self.positions is None or self.positions.ndim == 1 else self.positions >= 0

    def feature(self, name: str) -> NDArray[Any]:
        """The values of a feature on the references."""
        values: NDArray[Any] = self.dataset.feature(name)[self.rows.cpu().numpy()]
        return values

    def require_labels(self, metric: str) -> Tensor:
        """The labels; **raises** `DataError` where the dataset has none."""
        if self.labels is None:
            raise DataError(f"the metric {metric} needs labels; give the Dataset labels=")
        return self.labels


@dataclass(frozen=True)
class Metric:
    """One number per reference.

    - `function`: `(output [B, (K,) ...] float64, Batch) -> [B]`.
    - `pos`: the output positions it reads; None = those of the dataset's `label_pos`.
    - `lower`, `upper`: its bounds.
    - `worse`: `"higher"` or `"lower"`.
    - `stand_in`: what donors are ranked by instead, where the gradient vanishes though the metric could still grow.
    - `needs_clean`: whether it reads `Batch.clean`.
    """

    name: str
    function: Callable[[Tensor, Batch], Tensor]
    pos: MetricPosition = None
    lower: float = -math.inf
    upper: float = math.inf
    worse: str = "higher"
    stand_in: Callable[[Tensor, Batch], Tensor] | None = None
    needs_clean: bool = False

    def __post_init__(self) -> None:
        if self.worse not in ("higher", "lower"):
            raise DataError(f"worse= of the metric {self.name} is 'higher' or 'lower', not {self.worse!r}")

    @property
    def to_rank_by(self) -> Metric:
        """The stand-in as a metric, or this one."""
        if self.stand_in is None:
            return self
        return replace(self, name=f"the stand-in for {self.name}", function=self.stand_in, stand_in=None)

    def __call__(self, output: Tensor, batch: Batch) -> Tensor:
        """`[B]` float64. **Raises** `DataError` for another shape, or a number that is not finite."""
        value = self.function(output.double(), batch)
        if not isinstance(value, Tensor) or value.shape != (len(batch.rows),):
            got = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise DataError(
                f"the metric {self.name} has to return one number per reference, [{len(batch.rows)}], not {got}"
            )
        if not value.isfinite().all():
            row = int(batch.rows[int((~value.isfinite()).nonzero()[0])])
            raise DataError(f"the metric {self.name} is NaN or infinite for row {row}; look at its label and output")
        return value.double()


def as_metric(metric: Metric | Callable[[Tensor, Batch], Tensor] | None) -> Metric:
    """A metric as claims may give it: ready, a plain function of (output, batch), or None for cross-entropy."""
    if metric is None:
        return cross_entropy()
    if isinstance(metric, Metric):
        return metric
    if not callable(metric):
        raise DataError(f"metric= takes a Metric or a function of (output, batch), not {metric!r}")
    return Metric(getattr(metric, "__name__", "metric"), metric)


def _mean_over_positions(values: Tensor, batch: Batch) -> Tensor:
    """`[B]` or `[B, K]` to `[B]`; absent positions do not count."""
    if values.ndim == 1:
        return values
    if batch.valid is None:
        return values.mean(1)
    return (values * batch.valid).sum(1) / batch.valid.sum(1)


def _class_labels(name: str, output: Tensor, batch: Batch, labels: Tensor) -> Tensor:
    """**Raises** `DataError` unless `labels` are class indices that fit `output` without broadcasting."""
    if labels.is_floating_point() or labels.shape != output.shape[:-1]:
        raise DataError(
            f"the metric {name} needs one class index for each output it reads, {list(output.shape[:-1])}, but the "
            f"labels are {str(labels.dtype).removeprefix('torch.')} {list(labels.shape)}; say which output positions "
            f"the labels speak of with label_pos= of the Dataset or pos= of the metric"
        )
    used = labels if batch.valid is None or labels.ndim == 1 else labels[batch.valid]
    if used.numel() and not 0 <= int(used.min()) <= int(used.max()) < output.shape[-1]:
        raise DataError(f"the metric {name} got a label outside 0 to {output.shape[-1] - 1}, the network's classes")
    return labels.clamp(0, output.shape[-1] - 1)


def _cross_entropy(name: str, output: Tensor, batch: Batch, labels: Tensor) -> Tensor:
    labels = _class_labels(name, output, batch, labels)
    loss = F.cross_entropy(output.flatten(0, -2), labels.flatten(), reduction="none")
    return _mean_over_positions(loss.view(labels.shape), batch)


def _log_odds_against(output: Tensor, batch: Batch) -> Tensor:
    """The log-odds that it is not the label's class, which grow with the loss and never saturate."""
    labels = _class_labels("log-odds", output, batch, batch.require_labels("log-odds"))
    others = output.scatter(-1, labels.unsqueeze(-1), torch.finfo(output.dtype).min).logsumexp(-1)
    return _mean_over_positions(others - output.gather(-1, labels.unsqueeze(-1)).squeeze(-1), batch)


def cross_entropy(pos: MetricPosition = None) -> Metric:
    """Cross-entropy (nats) of the logits against the labels: a class per row, or a token per position."""

    def function(output: Tensor, batch: Batch) -> Tensor:
        return _cross_entropy("cross_entropy", output, batch, batch.require_labels("cross_entropy"))

    return Metric("cross-entropy", function, pos, lower=0.0, stand_in=_log_odds_against)


def next_token_loss(pos: MetricPosition = slice(None, -1)) -> Metric:
    """Cross-entropy (nats) of the logits at `pos` against the reference's own next token."""

    def function(output: Tensor, batch: Batch) -> Tensor:
        tokens = batch.dataset.inputs.get("tokens", batch.dataset.inputs.get("input_ids"))
        if tokens is None or tokens.ndim != 2:
            raise DataError("the metric next_token_loss needs token inputs [rows, positions]")
        assert batch.positions is not None  # pos= always names some
        positions = batch.positions.expand(len(batch.rows), -1)
        if int(positions.max()) + 1 >= tokens.shape[1]:
            raise DataError(
                "the metric next_token_loss reads the last position, which has no next token; end pos= earlier"
            )
        labels = tokens[batch.rows[:, None], positions.clamp(min=0) + 1]
        return _cross_entropy("next_token_loss", output, batch, labels[:, 0] if output.ndim == 2 else labels)

    return Metric("next-token loss", function, pos, lower=0.0)


def kl_to_clean(pos: MetricPosition = None) -> Metric:
    """KL divergence (nats) of the scrubbed from the unscrubbed output distribution, KL(clean || scrubbed)."""

    def function(output: Tensor, batch: Batch) -> Tensor:
        assert batch.clean is not None  # asked for by needs_clean
        clean = batch.clean.double().log_softmax(-1)
        divergence = F.kl_div(output.log_softmax(-1), clean, reduction="none", log_target=True).sum(-1)
        return _mean_over_positions(divergence, batch)

    return Metric("KL to clean", function, pos, lower=0.0, needs_clean=True)


def _other_class(against: int | str, batch: Batch, labels: Tensor) -> Tensor:
    """The class that each label is compared with, like `labels`; one per row counts at all its positions."""
    if not isinstance(against, str):
        return torch.full_like(labels, against)
    values = batch.feature(against)
    if values.dtype.kind not in "biu":
        raise DataError(
            f"the metric logit_difference needs a class for each row, but the feature {against!r} holds "
            f"{values.dtype} values"
        )
    other = torch.as_tensor(values, device=labels.device).long()
    return other[:, None].expand_as(labels) if labels.ndim == 2 and other.ndim == 1 else other


def logit_difference(against: int | str, pos: MetricPosition = None) -> Metric:
    """The label's logit minus another class's: `against` is a class, or a feature that names one per row."""

    def function(output: Tensor, batch: Batch) -> Tensor:
        labels = _class_labels("logit_difference", output, batch, batch.require_labels("logit_difference"))
        other = _class_labels("logit_difference", output, batch, _other_class(against, batch, labels))
        picked = [output.gather(-1, which.unsqueeze(-1)).squeeze(-1) for which in (labels, other)]
        return _mean_over_positions(picked[0] - picked[1], batch)

    return Metric("logit difference", function, pos, worse="lower")


def zero_one_error(pos: MetricPosition = None) -> Metric:
    """1 where the largest logit is not the label's, else 0; a mean over positions."""

    def function(output: Tensor, batch: Batch) -> Tensor:
        labels = _class_labels("zero_one_error", output, batch, batch.require_labels("zero_one_error"))
        return _mean_over_positions((output.argmax(-1) != labels).double(), batch)

    return Metric("0-1 error", function, pos, lower=0.0, upper=1.0, stand_in=_log_odds_against)


def squared_error(pos: MetricPosition = None) -> Metric:
    """Squared difference of output and label, a mean over everything but the rows."""

    def function(output: Tensor, batch: Batch) -> Tensor:
        labels = batch.require_labels("squared_error")
        if labels.shape != output.shape:
            raise DataError(
                f"the metric squared_error needs labels of the output's shape {list(output.shape)}, "
                f"not {list(labels.shape)}"
            )
        error = (output - labels) ** 2
        return _mean_over_positions(error.flatten(2).mean(2), batch) if error.ndim > 2 else (
            _mean_over_positions(error, batch)
        )  # fmt: skip

    return Metric("squared error", function, pos, lower=0.0)
