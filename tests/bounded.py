"""A metric for toy networks that change nothing: with bounds, few draws say so."""

from __future__ import annotations

from pytest_scrub import Metric


def capped_error(most: float = 1.0) -> Metric:
    """The absolute error against the label, counted as far as `most`."""
    return Metric(
        "capped error",
        lambda out, batch: (out - batch.labels).abs().clamp(max=most),
        lower=0.0,
        upper=most,
    )
