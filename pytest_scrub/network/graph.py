"""The seam between hypotheses and networks: what a model graph can do, and a component of one.

An engine never sees a network. It asks a graph which component reads which (`slots`), for clean
activations (`capture`), and for a component's value when some of what it reads is replaced
(`reader`).
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from pytest_scrub.data.columns import Ints
from pytest_scrub.data.dataset import Dataset, Positions
from pytest_scrub.errors import HypothesisError, ModelError, NotASumError, did_you_mean
from pytest_scrub.network.digests import Version, digest_of, version_of
from pytest_scrub.network.placement import Fetch
from pytest_scrub.tree.edits import VectorEdit
from pytest_scrub.tree.nodes import Node, Subspace, natural_key
from pytest_scrub.tree.units import named, numbers, shown, split

MOST_SHOWN = 12  # components in a message
PROOF_ROWS = 16  # at most, on which arithmetic is proved against the network

Inputs = Mapping[str, Tensor]
Where = Tensor | None
"""Positions of a value: None = all, int64 `[K]` = the same for every row, int64 `[B, K]` = per row,
-1 = none."""
FixedPositions = tuple[int, ...] | None
"""Positions that are the same for every row; None = all."""


class Site(NamedTuple):
    """A clean activation that is cached.

    - `kind`: `"value"` of components (summed), `"stream"`, `"block"` (the sum of a block's parts
      before its norm), or of a head its projected `"q"`, `"k"`, `"v"`, or `"z"`, of which its value
      is a product with its own output weights.
    - `names`: components, or the one point of the residual stream or name of a block.
    - `positions`: the positions that are kept; None keeps all.
    """

    kind: str
    names: tuple[str, ...]
    positions: FixedPositions = None

    def where(self, device: torch.device) -> Where:
        """The positions that it keeps."""
        return None if self.positions is None else torch.tensor(self.positions, device=device)

    def __str__(self) -> str:
        at = "" if self.positions is None else f" at {', '.join(map(str, self.positions))}"
        return f"{self.kind} of {'+'.join(map(shown, self.names))}{at}"


@dataclass(frozen=True)
class Edit:
    """One child as its parent reads it.

    - `components`: what is replaced; several are replaced together by their sum.
    - `into`: the parent's slot, None for every slot that can read it.
    - `at`: where in the parent's carrier the value is put; None = position to position.
    - `anywhere`: read along every path, not directly.
    - `site`: where the clean value of the components is kept in the form in which this value comes.
    - `change`: what changes the value as it is, in whose place no other one comes.
    """

    components: tuple[str, ...]
    into: str | None
    at: Positions | None
    subspace: Subspace | None
    anywhere: bool
    site: Site
    change: VectorEdit | None = None

    @property
    def is_whole(self) -> bool:
        """Whether nothing is left of what it replaces."""
        is_part = self.subspace is not None or self.change is not None
        return len(self.components) == 1 and self.at is None and not is_part


Edits = Sequence[tuple[Edit, Tensor]]
"""Edits, each with the value that replaces."""


class Clean(Protocol):
    """Access to clean activations and inputs of dataset rows."""

    def take(self, site: Site, rows: Tensor, where: Where) -> Tensor:
        """The site's activation on `rows` (int64 `[B]`) at `where`: `[B, (K,) ...]`."""
        ...

    def inputs(self, rows: Tensor) -> dict[str, Tensor]:
        """The model inputs of `rows`."""
        ...

    @property
    def input_names(self) -> Collection[str]:
        """What these are called."""
        ...


Compute = Callable[[Clean, Tensor, Where, Sequence[Tensor]], Tensor]
"""Called with clean activations, the carrier rows `[B]`, the positions that are wanted and the
values of the edits; gives `[B, (K,) ...]`."""


@dataclass(frozen=True)
class Stages:
    """An output taken apart: `unembed(norm(stream(...)))`.

    - `stream`: a sum of what the carrier and each child contribute, `[B, K, d_model]`.
    """

    stream: Compute
    norm: Callable[[Tensor], Tensor]
    unembed: Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Reader:
    """A compiled reading of one component: what it needs, and how to get its value.

    - `value`: its value on the carrier rows, where the edits are put in.
    - `sites`: clean activations it takes, on its carrier rows.
    - `child_positions`: for each edit without positions of its own, whether the child's value is
      needed at `"all"` positions or only at the `"same"` ones as the reader's value.
    - `recomputes`: what is computed anew, in words.
    - `reruns`: whether whole layers are.
    - `stages`: of the output, where its children simply add to one stream that is then normalised.
    """

    value: Compute
    sites: tuple[Site, ...] = ()
    child_positions: tuple[str, ...] = ()
    recomputes: tuple[str, ...] = ()
    reruns: bool = False
    stages: Stages | None = None


@dataclass(frozen=True)
class Recoding:
    """Modules that recode what passes, and give it back as it was: an alignment that is not linear.

    - `modules`: from where it is recoded to where it is back.
    - `values`: the values of components in a run of some inputs, with the gradients of these
      modules' weights.
    """

    modules: nn.ModuleList
    values: Callable[[Iterable[str], Inputs], Mapping[str, Tensor]]


def recomputing(
    compute: Callable[[Clean, Tensor, Edits], Tensor], edits: Sequence[Edit], **needs: Any
) -> Reader:
    """A reader of what is computed at all positions, from the edits' values at all positions.

    **Arguments**

    - `compute`: called with clean activations, the carrier rows, and the edits with their values.
    - `needs`: what else a `Reader` says.
    """

    def value(clean: Clean, carrier: Tensor, where: Where, values: Sequence[Tensor]) -> Tensor:
        return select(compute(clean, carrier, list(zip(edits, values, strict=True))), where)

    return Reader(value, child_positions=("all",) * len(edits), **needs)


class Component(ABC):
    """One component of a network as claims name it. Each kind of component is a class.

    - `level`: where it lies in a picture of the network, in words.
    - `layer`: of a transformer, for what has layers.
    - `width`: the size of its value's last dimension, where it is known.
    - `adds`: whether what reads it reads the sum of such values.
    - `sum`: names the sum that it is a term of, where what reads it reads a function of that sum.
    - `divisible`: whether a part of its value can be claimed, whatever numbers it holds.
    - `hint`: why most others cannot read it, and what to do.
    - `is_drawn`: whether pictures show its level where no claim names it.
    - `basis`: of units of a place, that which they are some of; `units`: which, ascending.
    - `jumps`: whether its value may be another altogether where what it reads differs in its last
      digits.
    - `crosses`: whether it writes at several layers, so that its value is no term of the stream.
    - `instead`: slots that are read in place of others, with those.
    - `written_by`: the places whose values it holds, where it is not only one of its own.
    """

    layer: int | None = None
    width: int | None = None
    adds = False
    divisible = False
    hint: str | None = None
    is_drawn = True
    basis = ""
    units: Ints | None = None
    jumps = False
    crosses = False
    instead: Mapping[str, tuple[str, ...]] = MappingProxyType({})
    written_by: frozenset[str] = frozenset()

    def __init__(self, name: str, level: str | None = None) -> None:
        self.name, self.level = name, level or name

    @property
    def writers(self) -> frozenset[str]:
        """The places that write its value: those that are no sum of others. Units count as the
        whole of their place."""
        return self.written_by or frozenset({self.name})

    @property
    def title(self) -> str:
        """What pictures call it."""
        return shown(self.name)

    def common(self, other: Component) -> str:
        """What both hold, so that they are no two edges of what reads both; empty where they are.

        Units of one basis are told apart by their numbers, all else by what writes it.
        """
        if self.units is not None and other.units is not None and self.basis == other.basis:
            both = np.intersect1d(self.units, other.units, assume_unique=True)
            return named(self.basis, str(both[0])) if both.size else ""
        return min(self.writers & other.writers, default="")

    @property
    def sum(self) -> str:
        return ""

    @abstractmethod
    def slots(self, child: Any, anywhere: bool) -> tuple[str, ...]:
        """Its slots through which it can read another component; empty where it cannot."""

    def site(self, positions: FixedPositions) -> Site:
        """Where its clean value is kept."""
        return Site("value", (self.name,), positions)

    def reads_in_place(self, slot: str) -> bool:
        """Whether its value at a position depends on what the slot reads there only."""
        return False  # a plain function may read one position to compute another

    def exchanges(self, slot: str) -> bool:
        """Whether what goes into one of its other slots might as well go into this one."""
        return True

    def refusal(self, node: Node, dataset: Dataset) -> str | None:
        """What is wrong with a claim about this kind of component, and what to do."""
        return None

    def can_be_swapped_at(self, at: Positions | None, dataset: Dataset, rows: Ints) -> bool:
        """Whether any of `rows` may stand in for any other at these positions only."""
        return True


@dataclass(frozen=True)
class Basis:
    """What a place is a sum of, by number: some of its units are a component that is made when a
    claim names it.

    - `count`: how many there are.
    - `units`: the component of this name that is these units.
    - `active`: of some inputs at how many positions each unit holds something, `[count]`; None
      where all of them do.
    """

    count: int
    units: Callable[[str, Ints], Component]
    active: Callable[[Inputs], Ints] | None = None


Kind = TypeVar("Kind", bound=Component)


class Parts(dict[str, Kind]):
    """Components by name, in order of computation. Sets of units are none of these, but are found
    by name.

    - `bases`: what they are units of, by name.
    """

    def __init__(
        self, parts: Iterable[Kind] = (), bases: Mapping[str, Basis] | None = None
    ) -> None:
        super().__init__((part.name, part) for part in parts)
        self.bases = {} if bases is None else bases
        self._named = dict[str, Any]()

    def __missing__(self, name: str) -> Kind:
        """**Raises** `KeyError` where it is neither, and `HypothesisError` where there are fewer
        units."""
        if name not in self._named:
            basis, text = split(name) or ("", "")
            if basis not in self.bases:
                raise KeyError(name)
            count = self.bases[basis].count
            units = numbers(text, count)
            if not units.size or units[-1] >= count:
                beyond = f"not {units[-1]}" if units.size else "none of these"
                raise HypothesisError(f"{basis} has {count} units, 0 to {count - 1}, {beyond}")
            self._named[name] = self.bases[basis].units(name, units)
        made: Kind = self._named[name]
        return made


class ModelGraph(ABC):
    """A network as components that read one another.

    - `parts`: its components by name, in order of computation, `output` last.
    - `bases`: what sets of units are units of, by name; `parts` finds them by their own.
    - `reads_directly`: whether a child is read directly by default; otherwise along every path.
    - `source`: what kind of network this is, in words.
    - `indirect`: why children are never read directly, where that is for the network's own reasons.
    - `vocabulary`: how many tokens it reads, where that is known.
    """

    parts: Mapping[str, Component]
    reads_directly: bool
    source: str
    indirect: str | None = None
    vocabulary: int | None = None
    bases: Mapping[str, Basis] = MappingProxyType({})

    @property
    def components(self) -> tuple[str, ...]:
        return tuple(self.parts)

    @property
    def adds(self) -> bool:
        """Whether what components read are sums of values."""
        return any(part.adds for part in self.parts.values())

    @property
    @abstractmethod
    def device(self) -> torch.device:
        """Where inputs have to be."""

    @property
    def devices(self) -> tuple[torch.device, ...]:
        """All that it computes on."""
        return (self.device,)

    def slots(self, parent: str, child: str, anywhere: bool) -> tuple[str, ...]:
        """Slots of `parent` through which it can read `child`; empty where it cannot."""
        return self.parts[parent].slots(self.parts[child], anywhere)

    def heads_of(self, attention: str) -> Sequence[str]:
        """The heads of a layer's attention, by name; none where there is no such layer."""
        part = self.parts.get(attention)
        return () if part is None else tuple(sorted(part.writers, key=natural_key))

    def problem(self, name: str) -> str | None:
        """Why it has no component of that name, and what to do, where it knows."""
        return None

    def value_site(self, components: tuple[str, ...], positions: FixedPositions) -> Site:
        """Where the clean value of components is cached."""
        if len(components) > 1:
            return Site("value", components, positions)
        return self.parts[components[0]].site(positions)

    def jumps(self, site: Site) -> bool:
        """Whether what a site keeps may be another altogether in some places where the network
        differs in its last digits."""
        names = () if site.kind in ("stream", "block") else site.names
        return any(self.parts[name].jumps for name in names)

    def unchanged(self, component: str, where: Positions | None) -> Reader:
        """The component's clean value, as it is kept."""
        site = self.value_site((component,), kept_positions(where))
        return Reader(lambda clean, carrier, at, _: clean.take(site, carrier, at), (site,))

    def recoding(self, names: Iterable[str], inputs: Inputs) -> Recoding | None:
        """What recodes one of these values, and gives it back; none by default."""
        return None

    @abstractmethod
    def capture(self, sites: Sequence[Site], inputs: Inputs) -> dict[Site, Tensor]:
        """One clean run of the real network: the activations of `sites`, `[B, (K,) ...]`."""

    @abstractmethod
    def reader(self, component: str, edits: Sequence[Edit], where: Positions | None) -> Reader:
        """Compile how `component` is computed at `where` when its `edits` are replaced."""

    @abstractmethod
    def run(self, inputs: Inputs) -> Tensor:
        """The output of a clean run of the real network."""

    def proof_rows(self, inputs: Inputs) -> Sequence[int]:
        """The rows, of all the dataset's, on which it is proved."""
        return range(min(PROOF_ROWS, count_rows(inputs)))

    @abstractmethod
    def prove(self, inputs: Inputs, rows: Sequence[int] | None = None) -> None:
        """**Raises** `ModelError` where this graph's arithmetic is not the network's on these
        inputs, which are the dataset's at `rows`."""

    def require_usable(self, inputs: Inputs) -> None:  # noqa: B027  # most take anything
        """**Raises** `ModelError` for a row, of all the dataset's, that the network cannot be run
        on in earnest."""

    # What it is -----------------------------------------------------------------------------------

    @abstractmethod
    def tensors(self) -> Iterable[tuple[str, Tensor]]:
        """All tensors that it computes with, by name; the network's own."""

    @abstractmethod
    def text(self) -> Sequence[str]:
        """How they are combined, as far as text says it."""

    @abstractmethod
    def rebuilt(self) -> ModelGraph:
        """The graph of the same network as its weights are now."""

    def having(self, dictionaries: Mapping[str, Any]) -> ModelGraph:
        """The same with these dictionaries at its places, beside those that it has.

        **Raises** `ModelError` for one that does not fit, and where it has no such places.
        """
        raise ModelError(
            f"dictionaries stand at places of a transformer, as load_model gives one, which "
            f"{self.source} is not; claim its components"
        )

    def along_every_path(self, error: NotASumError) -> ModelGraph:
        """The graph of the same network read along every path, where its parts do not sum on the
        dataset's rows. **Raises** that error where there is none."""
        raise error

    def weights(self) -> Iterable[tuple[str, Tensor]]:
        """Everything learned, by name; the network's own tensors."""
        return self.tensors()

    def fetched(self) -> Mapping[int, Fetch]:
        """What gets the numbers of tensors that are not in memory, by their ids."""
        return {}

    def packed(self) -> Mapping[str, Any]:
        """The layers whose weights are packed, by name."""
        return {}

    def computed_by_objects(self) -> tuple[Any, ...] | None:
        """The torch modules, functions and classes that it is computed by; None where they do not
        say enough."""
        return None

    def digest(self) -> str:
        """Hex digest of the weights and of how they are combined."""
        return digest_of(self.tensors(), *self.text(), fetched=self.fetched())

    def version(self) -> Version:
        """Another value once a weight was changed: what was cached then is of another network."""
        return version_of(self.tensors())


def require_component(graph: ModelGraph, name: str, label: str) -> None:
    """**Raises** `HypothesisError` where the graph has no component of that name, `ModelError`
    where it knows why."""
    try:
        graph.parts[name]
    except HypothesisError as error:
        raise HypothesisError(f"{label}: {error}") from None
    except KeyError:
        if problem := graph.problem(name):
            raise ModelError(problem) from None
        asked, there = name, graph.components
        dictionary = name.removesuffix(".error") if name.endswith(".error") else None
        if parts := split(name):  # of a basis that there is not
            asked, there = parts[0], tuple(graph.bases)
            dictionary = None if "neurons" in asked else asked
        hint = _instead(asked, there, dictionary)
        raise HypothesisError(f"{label}: the network has no component {asked!r}{hint}") from None


def _instead(asked: str, there: Sequence[str], dictionary: str | None) -> str:
    """What might be meant: what is numbered alike, the nearest name, a dictionary that is not
    attached, or all there is."""
    if alike := [name for name in there if _kind(name) == _kind(asked)]:
        same_layer = asked.rstrip("0123456789")
        return f"; it has {_ranges([n for n in alike if n.startswith(same_layer)] or alike)[0]}"
    # short names, and two of which both end in .error, are near each other anyway
    if near := did_you_mean(asked, there, cutoff=0.6 if dictionary is None else 0.8):
        return near
    if dictionary is not None:
        return f"; with_dictionaries(model, {dictionary}=...) attaches a dictionary of that name"
    listed = _ranges(there)
    if len(listed) > MOST_SHOWN:
        listed[MOST_SHOWN - 2 : -1] = ["..."]
    return f"; it has {', '.join(listed) or 'none'}"


def _kind(name: str) -> str:
    return re.sub(r"\d+", "0", name)


def _ranges(names: Sequence[str]) -> list[str]:
    """Names of which those that differ in numbers alone are their first and last."""
    kinds: dict[str, list[str]] = {}
    for name in names:
        kinds.setdefault(_kind(name), []).append(name)
    ends = ((min(of, key=natural_key), max(of, key=natural_key)) for of in kinds.values())
    return [first if first == last else f"{first} to {last}" for first, last in ends]


def count_rows(inputs: Inputs) -> int:
    """How many there are of a batch."""
    return len(next(iter(inputs.values())))


def captured(values: Mapping[str, Tensor], sites: Iterable[Site]) -> dict[Site, Tensor]:
    """What each site keeps of its components' values."""
    found = {}
    for site in sites:
        value = summed(values[name] for name in site.names)
        found[site] = select(value, site.where(value.device))
    return found


def summed(values: Iterable[Tensor]) -> Tensor:
    """The sum of one or more tensors; of 16-bit ones it is rounded once."""
    first, *others = values
    return torch.stack([first, *others]).sum(0) if others else first


def same_numbers(first: Tensor, second: Tensor) -> bool:
    """Whether two tensors are equal, NaN for NaN: what is not finite is refused by name where it is
    captured."""
    if not first.is_floating_point() or first.shape != second.shape:
        return torch.equal(first, second)
    return torch.allclose(first, second, rtol=0, atol=0, equal_nan=True)


def projected_onto(difference: Tensor, subspace: Subspace | None) -> Tensor:
    """The part of `[..., d_model]` inside the subspace; all of it without one."""
    if subspace is None:
        return difference
    columns: Any = subspace.basis  # a tensor while it is fitted
    columns = columns if isinstance(columns, Tensor) else columns.copy()
    basis = torch.as_tensor(columns, dtype=difference.dtype, device=difference.device)
    return (difference @ basis) @ basis.T


def select(value: Tensor, where: Where) -> Tensor:
    """`value [B, P, ...]` at `where`; absent positions (-1) repeat position 0 and mean nothing."""
    if where is None:
        return value
    where = where.to(value.device)
    if where.ndim == 1:
        return value[:, where]
    return value[torch.arange(len(value), device=value.device)[:, None], where.clamp(min=0)]


def read_from(donors: Tensor, at: Tensor, rows: int, positions: int) -> tuple[Tensor, Tensor]:
    """The row that each donor is, on a dataset with so many, and the position at which it is read
    in place of those `at`: as many further on as its number says (`SwapSet`)."""
    return donors % rows, (at.to(donors.device) + donors // rows) % positions


def position_ids(where: Where, value: Tensor) -> Tensor:
    """The positions that `value [B, K, ...]` is at; absent ones count as 0."""
    if where is None:
        return torch.arange(value.shape[1], device=value.device)
    return where.clamp(min=0).to(value.device)


def add_at(base: Tensor, where: Where, difference: Tensor, at: Where) -> Tensor:
    """`base` (at `where`) plus `difference` (at `at`), position by position.

    **Arguments**

    - `base`: `[B, K, ...]`.
    - `difference`: `[B, K', ...]`. Positions of `at` that are not in `where` are dropped.
    """
    if at is where:
        return base + difference
    if at is None:
        return base + select(difference, where)
    if where is None:
        where = torch.arange(base.shape[1], device=base.device)
    same = where.unsqueeze(-1) == at.unsqueeze(-2)  # [K, K'] or [B, K, K']
    pattern = "kj,bj...->bk..." if same.ndim == 2 else "bkj,bj...->bk..."
    return base + torch.einsum(pattern, same.to(base.dtype), difference)


def at_others(value: Tensor, where: Where, at: Where) -> Tensor:
    """`value [B, K, ...]` (at `where`) laid out at other positions; zero where it has none."""
    if at is where:
        return value
    assert at is not None
    return add_at(value.new_zeros(len(value), at.shape[-1], *value.shape[2:]), at, value, where)


def change_of(own: Tensor, change: VectorEdit) -> Tensor:
    """What an edit adds to a value `[..., width]` as it is."""
    vector = torch.as_tensor(change.vector.copy(), dtype=own.dtype, device=own.device)
    if change.is_added:
        return vector.expand_as(own)
    direction: Tensor = vector / vector.norm()
    return -torch.matmul(own, direction).unsqueeze(-1) * direction


def patched(name: str, value: Tensor, edits: Edits, rows: Tensor, where: Where = None) -> Tensor:
    """A component's value `[B, K, ...]` at `where` on the dataset's rows `[B]`, with what replaces
    it put in.

    **Arguments**

    - `edits`: those of any components, each with its value; several may be of parts of this one.
    """
    for edit, given in edits:
        if name not in edit.components:
            continue
        at = where if edit.at is None else at_rows(edit.at, rows)
        new = given.to(value.dtype)
        if edit.at is None and edit.change is None:
            new = select(new, where)
            if edit.subspace is None:
                value = new.expand_as(value)
                continue
        own = select(value, at) if where is None else at_others(value, where, at)
        if edit.change is not None:
            difference = change_of(own, edit.change)
        else:
            difference = projected_onto(new - own, edit.subspace)
        value = add_at(value, where, difference, at)
    return value


def at_rows(positions: Positions | None, rows: Tensor) -> Where:
    """Compiled positions as they are on `rows`."""
    if positions is None:
        return None
    index = _on_device(positions, rows.device)
    return index if positions.static else index[rows]


@lru_cache(maxsize=256)
def _on_device(positions: Positions, device: torch.device) -> Tensor:
    return torch.tensor(positions.index, device=device)


def kept_positions(positions: Positions | None) -> FixedPositions:
    """The positions a site has to keep: those that are the same for every row, or all."""
    return tuple(positions.index.tolist()) if positions is not None and positions.static else None
