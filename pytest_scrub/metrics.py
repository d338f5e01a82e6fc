"""Metrics: from the network's output and what is known of the reference to one number per
reference.

A metric says which output positions it reads; the output comes from the root's carrier at the
carrier's positions, labels are the reference's own. Everything is computed in float64, and shapes
are checked, never broadcast.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from numbers import Real
from typing import TYPE_CHECKING, Any, Literal, NoReturn

import torch
import torch.nn.functional as F
from torch import Tensor

from pytest_scrub.common.calls import is_whole, short_repr
from pytest_scrub.common.user_code import call_user_function, require_arguments
from pytest_scrub.errors import DataError
from pytest_scrub.tree.nodes import Span

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pytest_scrub.data.dataset import Dataset

MetricPosition = int | slice | Span | str | None
SLACK = 1e-9  # of a bound: what rounding in float64 may do to a value that should lie on it
AT_ONCE = 1 << 18  # logits that are float64 at a time, so that they stay in a processor's cache
LARGEST = 1e100  # squares and sums of it are still finite in float64


@dataclass(frozen=True)
class Batch:
    """What a metric may know of its references.

    - `dataset`, `rows`: the references, int64 `[B]` rows of the dataset.
    - `labels`: `[B, ...]` or None.
    - `positions`: the reference's output positions that are read, `[K]`, `[B, K]` (-1 = none) or
      None for all.
    - `clean`: the unscrubbed output on the references, for metrics that ask for it with
      `needs_clean`.

    All of it is a copy, or cannot be written to; `dataset` is the claim's own, and a claim during
    which it was changed is refused.
    """

    dataset: Dataset
    rows: Tensor
    labels: Tensor | None
    positions: Tensor | None
    given_clean: Tensor | None = None

    @property
    def clean(self) -> Tensor:
        """The unscrubbed output; **raises** `DataError` for a metric that did not ask for it."""
        if self.given_clean is None:
            raise DataError(
                "batch.clean is there only for a metric that asks for it; make it with "
                "Metric(name, function, needs_clean=True)"
            )
        return self.given_clean

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
    - `lower`, `upper`: its bounds, which intervals rely on; a value beyond them is an error.
    - `worse`: `"higher"` or `"lower"`.
    - `stand_in`: what donors are ranked by instead, where the gradient vanishes though the metric
      could still grow.
    - `needs_clean`: whether it reads `Batch.clean`.
    - `tokens`: where it is of what the network goes on with, how many tokens: output is then these,
      int64 `[B, tokens]`.
    """

    name: str
    function: Callable[[Tensor, Batch], Tensor]
    pos: MetricPosition = None
    lower: float = -math.inf
    upper: float = math.inf
    worse: Literal["higher", "lower"] = "higher"
    stand_in: Callable[[Tensor, Batch], Tensor] | None = None
    needs_clean: bool = False
    tokens: int = 0

    def __post_init__(self) -> None:
        if not is_whole(self.tokens, 0, math.inf):
            raise DataError(
                f"tokens= of the metric {self.name} is a whole number, not "
                f"{short_repr(self.tokens)}"
            )
        if self.tokens and self.pos != -1:
            raise DataError(
                f"the metric {self.name} is of the tokens after the last position; make it with "
                "continuation(...), or say pos=-1"
            )
        functions = {f"the metric {self.name}": self.function}
        if self.stand_in is not None:
            functions[self._stand_in] = self.stand_in
        for what, function in functions.items():
            if not callable(function):
                raise DataError(
                    f"{what} is of type {type(function).__name__}; give a function of (output, "
                    "batch)"
                )
            require_arguments(what, function, ("output", "batch"))
        bounds = (self.lower, self.upper)
        if not all(map(_is_number, bounds)) or not self.lower < self.upper:
            raise DataError(
                f"the metric {self.name} has the bounds lower={self.lower!r} and "
                f"upper={self.upper!r}; give two "
                "numbers, the lower one first, or leave out what it does not have"
            )
        if self.worse not in ("higher", "lower"):
            raise DataError(
                f"worse= of the metric {self.name} is 'higher' or 'lower', not {self.worse!r}"
            )

    @property
    def to_rank_by(self) -> Metric:
        """The stand-in as a metric, or this one."""
        if self.stand_in is None:
            return self
        return Metric(
            self._stand_in, self.stand_in, self.pos, worse=self.worse, needs_clean=self.needs_clean
        )

    @property
    def _stand_in(self) -> str:
        return f"the stand-in for {self.name}"

    def __call__(self, output: Tensor, batch: Batch) -> Tensor:
        """`[B]` float64. **Raises** `DataError` for what is not one real number per reference
        within the bounds, or where the function raises."""
        rows = batch.rows.clone()
        value = call_user_function(
            f"the metric {self.name}", self.function, self._given(output), batch
        )
        if isinstance(value, Metric):
            raise DataError(
                f"the metric {self.name} returns a Metric; call it: metric={self.name}(...)"
            )
        if not isinstance(value, Tensor) or value.shape != (len(rows),) or not is_real(value):
            raise DataError(
                f"the metric {self.name} has to return one number per reference, [{len(rows)}], "
                f"not {_got(value)}"
            )
        value = value.double() if torch.is_grad_enabled() else value.detach().double()
        if not bool(self._is_usable(value).all()):
            self._refuse(rows, value)
        return value

    def _given(self, output: Tensor) -> Tensor:
        """What its function gets, which it may write to; tokens as they are said."""
        return output.clone() if self.tokens else output.to(torch.float64, copy=True)

    def _is_usable(self, value: Tensor) -> Tensor:
        """bool `[B]`: finite, small enough to be squared, and within the bounds but for
        rounding."""
        low, high = self._slack(self.lower), self._slack(self.upper)
        return (value >= max(self.lower - low, -LARGEST)) & (
            value <= min(self.upper + high, LARGEST)
        )

    def _slack(self, bound: float) -> float:
        """Relative to the bound, or to 1 where a single bound is 0."""
        width = self.upper - self.lower
        return (
            SLACK * (width if math.isfinite(width) else abs(bound) or 1.0)
            if math.isfinite(bound)
            else 0.0
        )

    def _refuse(self, rows: Tensor, value: Tensor) -> NoReturn:
        at = int((~self._is_usable(value)).nonzero()[0])
        row, number = int(rows[at]), float(value[at])
        what = f"the metric {self.name} is {number:.12g} for row {row}"
        if not math.isfinite(number):
            what = f"the metric {self.name} is NaN or infinite for row {row}"
            raise DataError(f"{what}; look at its label and output")
        if abs(number) > LARGEST:
            raise DataError(
                f"{what}, too large to take differences of; let it return smaller numbers"
            )
        bound = (
            f"below lower={self.lower:.12g}"
            if number < self.lower
            else f"above upper={self.upper:.12g}"
        )
        raise DataError(f"{what}, {bound}; intervals rely on the bounds, so give true ones")


class Widening(Metric):
    """A metric of ours whose function gets the network's own numbers, which it does not write to,
    and widens them itself."""

    def _given(self, output: Tensor) -> Tensor:
        return output


def _is_number(bound: object) -> bool:
    return isinstance(bound, Real) and not isinstance(bound, bool)


def is_real(value: Tensor) -> bool:
    """Whether a tensor holds real numbers, all of them in memory."""
    dense = value.layout == torch.strided and not (value.is_meta or value.is_quantized)
    return dense and not value.is_complex()


def kind_of(value: Tensor) -> str:
    """`"float32"`, or `"complex64"`, `"float32 sparse_coo"`, `"float32 meta"` of what is not
    real."""
    kind = str(value.dtype).removeprefix("torch.")
    layout = "" if value.layout == torch.strided else f" {str(value.layout).removeprefix('torch.')}"
    return kind + layout + (" meta" if value.is_meta else "")


def _got(value: object) -> str:
    if not isinstance(value, Tensor):
        return type(value).__name__
    return f"{'' if is_real(value) else kind_of(value) + ' '}{tuple(value.shape)}"


def as_metric(metric: Metric | Callable[[Tensor, Batch], Tensor] | None) -> Metric:
    """A metric as claims may give it: ready, a plain function of (output, batch), or None for
    cross-entropy."""
    if metric is None:
        return cross_entropy()
    if isinstance(metric, Metric):
        return metric
    if not callable(metric):
        raise DataError(f"metric= takes a Metric or a function of (output, batch), not {metric!r}")
    if metric in MAKERS:
        raise DataError(
            f"metric= takes a Metric, and {metric.__name__} makes one; call it: "
            f"{metric.__name__}(...)"
        )
    return Metric(getattr(metric, "__name__", "metric"), metric)


def _mean_over_positions(values: Tensor, batch: Batch) -> Tensor:
    """`[B]` or `[B, K]` to `[B]`; absent positions do not count."""
    if values.ndim == 1:
        return values
    if batch.valid is None:
        return values.mean(1)
    return (values * batch.valid).sum(1) / batch.valid.sum(1)


def _class_labels(name: str, output: Tensor, batch: Batch, labels: Tensor | None = None) -> Tensor:
    """The labels, or those of the batch. **Raises** `DataError` unless they are class indices that
    fit `output` without broadcasting."""
    labels = batch.require_labels(name) if labels is None else labels
    if labels.is_floating_point() or labels.shape != output.shape[:-1]:
        raise DataError(
            f"the metric {name} needs one class index for each output it reads, "
            f"{list(output.shape[:-1])}, but the labels are "
            f"{str(labels.dtype).removeprefix('torch.')} {list(labels.shape)}; "
            f"{_class_remedy(output, labels)}"
        )
    used = labels if batch.valid is None or labels.ndim == 1 else labels[batch.valid]
    if used.numel() and not 0 <= int(used.min()) <= int(used.max()) < output.shape[-1]:
        bad = int(used.min()) if int(used.min()) < 0 else int(used.max())
        raise DataError(
            f"the metric {name} got the class {bad}, but the network's go from 0 to "
            f"{output.shape[-1] - 1}; mend the labels, or what they are compared with"
        )
    return labels.clamp(0, output.shape[-1] - 1)


def _class_remedy(output: Tensor, labels: Tensor) -> str:
    """What to do about labels that are no class indices of an output."""
    wanted = output.ndim - 1
    if not wanted:
        return "the network gives one number for each row, so take squared_error, for instance"
    if not labels.is_floating_point() and labels.shape == (*output.shape[:-1], 1):
        return "take the last axis away: labels.squeeze(-1)"
    if labels.shape == output.shape:
        return "give indices, not one number for each class: labels.argmax(-1)"
    if labels.ndim > wanted or labels.is_floating_point():
        return f"give whole numbers with {wanted} {'axes' if wanted > 1 else 'axis'}"
    return (
        "say which output positions the labels speak of with label_pos= of the Dataset or pos= of "
        "the metric"
    )


def _cross_entropy(name: str, output: Tensor, batch: Batch, labels: Tensor | None = None) -> Tensor:
    labels = _class_labels(name, output, batch, labels)
    each = output.flatten(0, -2)
    few = max(1, AT_ONCE // each.shape[-1]) if output.device.type == "cpu" else max(1, len(each))
    losses = [
        F.cross_entropy(some.double(), own, reduction="none")
        for some, own in zip(
            torch.split(each, few), torch.split(labels.flatten(), few), strict=True
        )
    ]
    return _mean_over_positions(torch.cat(losses).view(labels.shape), batch)


def _log_odds_against(output: Tensor, batch: Batch) -> Tensor:
    """The log-odds that it is not the label's class, which grow with the loss and never
    saturate."""
    labels = _class_labels("log-odds", output, batch)
    others = output.scatter(-1, labels.unsqueeze(-1), -LARGEST / 2).logsumexp(-1)
    return _mean_over_positions(others - _picked(output, labels), batch)


def _picked(output: Tensor, labels: Tensor) -> Tensor:
    """The output of each label's class."""
    return output.gather(-1, labels.unsqueeze(-1)).squeeze(-1)


def cross_entropy(pos: MetricPosition = None) -> Metric:
    """Cross-entropy (nats) of the logits against the labels: a class per row, or a token per
    position."""

    def function(output: Tensor, batch: Batch) -> Tensor:
        return _cross_entropy("cross_entropy", output, batch)

    return Widening("cross-entropy", function, pos, lower=0.0, stand_in=_log_odds_against)


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
                "the metric next_token_loss reads the last position, which has no next token; end "
                "pos= earlier"
            )
        labels = tokens[batch.rows[:, None], positions.clamp(min=0) + 1]
        return _cross_entropy(
            "next_token_loss", output, batch, labels[:, 0] if output.ndim == 2 else labels
        )

    return Widening("next-token loss", function, pos, lower=0.0)


def kl_to_clean(pos: MetricPosition = None) -> Metric:
    """KL divergence (nats) of the scrubbed from the unscrubbed output distribution, KL(clean ||
    scrubbed)."""

    def function(output: Tensor, batch: Batch) -> Tensor:
        clean = batch.clean.double().log_softmax(-1)
        terms = F.kl_div(output.log_softmax(-1), clean, reduction="none", log_target=True)
        return _mean_over_positions(terms.sum(-1), batch)

    return Metric("KL to clean", function, pos, lower=0.0, needs_clean=True)


def _other_class(against: int | str, batch: Batch, labels: Tensor) -> Tensor:
    """The class that each label is compared with, like `labels`; one per row counts at all its
    positions."""
    if not isinstance(against, str):
        return torch.full_like(labels, against)
    try:
        values = batch.feature(against)
    except DataError as error:
        raise DataError(f"the metric logit_difference is against a feature, and {error}") from None
    if values.dtype.kind not in "biu":
        raise DataError(
            f"the metric logit_difference needs a class for each row, but the feature {against!r} "
            f"holds {values.dtype} values"
        )
    other = torch.as_tensor(values, device=labels.device).long()
    return other[:, None].expand_as(labels) if labels.ndim == 2 and other.ndim == 1 else other


def logit_difference(against: int | str, pos: MetricPosition = None) -> Metric:
    """The label's logit minus another class's: `against` is a class, or a feature that names one
    per row."""

    def function(output: Tensor, batch: Batch) -> Tensor:
        name = "logit_difference"
        labels = _class_labels(name, output, batch)
        other = _class_labels(name, output, batch, _other_class(against, batch, labels))
        mine, others = (_picked(output, which).double() for which in (labels, other))
        return _mean_over_positions(mine - others, batch)

    return Widening("logit difference", function, pos, worse="lower")


def zero_one_error(pos: MetricPosition = None) -> Metric:
    """1 where the largest logit is not the label's, else 0; a mean over positions."""

    def function(output: Tensor, batch: Batch) -> Tensor:
        labels = _class_labels("zero_one_error", output, batch)
        return _mean_over_positions((output.argmax(-1) != labels).double(), batch)

    return Metric("0-1 error", function, pos, lower=0.0, upper=1.0, stand_in=_log_odds_against)


def squared_error(pos: MetricPosition = None) -> Metric:
    """Squared difference of output and label, a mean over everything but the rows."""

    def function(output: Tensor, batch: Batch) -> Tensor:
        labels = batch.require_labels("squared_error")
        if labels.shape != output.shape:
            raise DataError(
                "the metric squared_error needs labels of the output's shape "
                f"{list(output.shape)}, not {list(labels.shape)}"
            )
        error = (output - labels) ** 2
        if error.ndim > 2:
            error = error.flatten(2).mean(2)
        return _mean_over_positions(error, batch)

    return Metric("squared error", function, pos, lower=0.0)


def continuation(
    compare: Callable[[Tensor, Batch], Tensor],
    tokens: int,
    *,
    lower: float = -math.inf,
    upper: float = math.inf,
    worse: Literal["higher", "lower"] = "higher",
) -> Metric:
    """What a function makes of the next tokens that the network says after its prompt, each the one
    with the largest logit: swaps hold while the prompt is read.

    **Arguments**

    - `compare`: `(said, batch) -> [B]`, of int64 `[B, tokens]`; `batch.clean` are those that are
      said without a swap. Nothing ends a continuation, so a token that ends a text is one of them.
    - `tokens`: how many; each takes a pass of the network.
    - `lower`, `upper`, `worse`: as of a `Metric`.
    """
    if not is_whole(tokens, 1, math.inf):
        raise DataError(
            f"tokens= of continuation(...) is a whole number of at least 1, not "
            f"{short_repr(tokens)}"
        )
    called = getattr(compare, "__name__", "a function")
    name = f"{called} of the next {tokens} tokens" if tokens > 1 else f"{called} of the next token"
    return Metric(name, compare, -1, lower, upper, worse, needs_clean=True, tokens=tokens)


# What makes a metric and is none itself.
MAKERS: tuple[Callable[..., Any], ...] = (
    cross_entropy, next_token_loss, kl_to_clean, logit_difference, zero_one_error, squared_error,
    continuation,
)  # fmt: skip
