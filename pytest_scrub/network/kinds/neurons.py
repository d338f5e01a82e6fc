"""Neurons: the hidden units of an MLP, each with its row of the output matrix."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from pytest_scrub.data.columns import Ints
from pytest_scrub.errors import ModelError
from pytest_scrub.network.graph import Basis, Inputs, ModelGraph
from pytest_scrub.network.kinds.pointwise import Mlp
from pytest_scrub.network.kinds.units import Units
from pytest_scrub.network.precision import off_by

PROOF_ROWS = 2  # of every capture


class Neurons(Units):
    """Some hidden units of an MLP; of a gated one what its gate lets through."""

    place: Mlp

    def __init__(self, place: Mlp, name: str, units: Ints) -> None:
        super().__init__(place, name, basis_of(place), units)
        self.hook = f"hidden.{self.layer}"

    @property
    def output_weights(self) -> Tensor:
        return self.place.rows[self.chosen].to(self.transformer.device)

    def codes(self, stream: Tensor) -> Tensor:
        return self.place.hidden(stream).to(stream.device)[..., self.chosen]

    def hooks_of(self, kind: str) -> Sequence[str]:
        return *super().hooks_of(kind), self.place.hook, f"resid_{self.point}"

    def clean_codes(self, seen: Inputs) -> Tensor:
        self._prove({name: value[:PROOF_ROWS] for name, value in seen.items()})
        return seen[self.hook][..., self.chosen]

    def _prove(self, seen: Inputs) -> None:
        """**Raises** `ModelError` where the network's own hidden units, times the output matrix,
        are not what its MLP adds, or not what is recomputed of what it reads."""
        place, own = self.place, seen[self.hook]
        summed = off_by(own @ place.rows.to(own.device), place.clean("value", seen, None))
        alone = off_by(place.hidden(seen[f"resid_{self.point}"]).to(own.device), own)
        if off := max(summed, alone):
            raise ModelError(
                f"{self.transformer.source}: the hidden units of {place.name} are off by {off:.1e} "
                f"of the network's own; claim {place.name} as a whole"
            )


def basis_of(mlp: Mlp) -> str:
    """What all of its hidden units are called together, `neurons3`."""
    return mlp.name.replace("mlp", "neurons")


def neurons_of(mlp: Mlp) -> Basis:
    """All of them, of which claims name some."""
    return Basis(len(mlp.rows), lambda name, units: Neurons(mlp, name, units))


def no_neurons(basis: str, graph: ModelGraph) -> str | None:
    """Why a network has none of this name, where it has the MLP."""
    mlp = basis.replace("neurons", "mlp")
    if mlp == basis or mlp not in graph.parts:
        return None
    return (
        f"{mlp} of {graph.source} does not end in one known matrix, as experts and packed "
        f"layers do not, so it has no {basis}; claim {mlp} as a whole"
    )
