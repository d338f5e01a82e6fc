"""Transformers whose components add to one residual stream.

A directly read child changes its parent's input by a difference of contributions, so nothing
between child and parent is run (Elhage et al., "A Mathematical Framework for Transformer Circuits",
2021). Reading along every path reruns the layers in between. The arithmetic is each kind's own, and
proved against the network's own hooks.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from pytest_scrub.data.dataset import Positions
from pytest_scrub.data.names import TOKENS
from pytest_scrub.errors import ModelError, NotASumError, hides_scrub_errors
from pytest_scrub.network.adapter import PLAIN_MODULE, Transformer
from pytest_scrub.network.dictionaries import Dictionary, tensors_of_all
from pytest_scrub.network.graph import (
    PROOF_ROWS,
    Edit,
    Inputs,
    ModelGraph,
    Parts,
    Reader,
    Site,
    select,
    summed,
)
from pytest_scrub.network.kinds.attention import Attn
from pytest_scrub.network.kinds.head import Head
from pytest_scrub.network.kinds.latents import Standing, no_error
from pytest_scrub.network.kinds.mask import Mask, sees_nothing, visible_keys
from pytest_scrub.network.kinds.neurons import basis_of, neurons_of, no_neurons
from pytest_scrub.network.kinds.part import Part, added, in_blocks, in_stages, total
from pytest_scrub.network.kinds.pattern import Pattern
from pytest_scrub.network.kinds.pointwise import Embedding, Mlp, Output, PositionEmbedding
from pytest_scrub.network.kinds.reading import Reading, ReadingPart
from pytest_scrub.network.kinds.stream import Between, Stream
from pytest_scrub.network.placement import devices_of
from pytest_scrub.network.precision import PROOF_TOLERANCE, off_by, widened
from pytest_scrub.network.vocabulary import require_ids
from pytest_scrub.tree.units import split

__tracebackhide__ = hides_scrub_errors

# Of sums of what is there already, of which only the last is rounded, channel by channel: a few
# channels of a large network hold thousands of times what the others do, beside which a part that
# is missing from all others would be nothing.
SUM_TOLERANCE = {
    torch.float64: 1e-5,
    torch.float32: 5e-5,
    torch.float16: 5e-3,
    torch.bfloat16: 3e-2,
}
# Tokens on which arithmetic shows itself; of long rows two are enough.
ENOUGH_TOKENS = 64
PLACES = {"pre": "before layer ", "mid": "before mlp", "post": "after layer "}


class ResidualGraph(ModelGraph):
    """A transformer as a graph of heads, MLPs and embeddings around one residual stream.

    **Arguments**

    - `transformer`: the network taken apart.
    - `dictionaries`: by name, what else its places are sums of.

    **Raises** `ModelError` for a dictionary that does not fit.
    """

    reads_directly = True
    vocabulary: int

    def __init__(
        self, transformer: Transformer, dictionaries: Mapping[str, Dictionary] | None = None
    ) -> None:
        self.transformer, self.source = transformer, transformer.source
        self.dictionaries = dict(dictionaries or {})
        self._held = {own.place for own in self.dictionaries.values()}
        parts = {part.name: part for part in self._components()}
        self._standing = [Standing(name, own, parts) for name, own in self.dictionaries.items()]
        mlps = [part for part in parts.values() if isinstance(part, Mlp) and part.mlp.hidden]
        self.bases = {basis_of(mlp): neurons_of(mlp) for mlp in mlps}
        self.bases |= {standing.name: standing.basis for standing in self._standing}
        errors = [error for standing in self._standing for error in standing.error]
        ordered = sorted([*parts.values(), *errors], key=lambda part: part.stage)
        self.parts: Parts[Part] = Parts(ordered, self.bases)
        self.vocabulary = len(transformer.model.embed.W_E)

    def _components(self) -> Iterator[Part]:
        """In order of computation."""
        transformer = self.transformer
        before = [Embedding(transformer)]
        if transformer.has_pos_embed:
            before.append(PositionEmbedding(transformer))
        yield from (Mask(transformer), *before)
        names = frozenset(part.name for part in before)
        for layer in range(len(transformer.attention)):
            yield Stream(transformer, layer, names)
            heads = [Head(transformer, layer, head) for head in range(transformer.n_heads)]
            yield from (*map(Pattern, heads), *heads, Attn(transformer, heads))
            names |= {head.name for head in heads}
            if transformer.mlps and not transformer.parallel and f"mid{layer}" in self._held:
                yield Between(transformer, layer, names)
            if transformer.mlps:
                yield Mlp(transformer, layer)
                names |= {f"mlp{layer}"}
        yield Stream(transformer, len(transformer.attention), names)
        yield Output(transformer)

    @property
    def device(self) -> torch.device:
        return self.transformer.device

    def problem(self, name: str) -> str | None:
        return no_neurons((split(name) or ("",))[0], self) or no_error(name, self._standing)

    @property
    def devices(self) -> tuple[torch.device, ...]:
        return devices_of(self.transformer.model)

    def run(self, inputs: Inputs) -> Tensor:
        return self.transformer.run(inputs)

    def reader(self, component: str, edits: Sequence[Edit], where: Positions | None) -> Reader:
        part = self.parts[component]
        assert isinstance(part, ReadingPart)  # the static checks refuse children of any other
        return Reading(part, self.parts, edits, where).reader()

    def tensors(self) -> Iterable[tuple[str, Tensor]]:
        yield from self.transformer.parameters()
        yield from tensors_of_all(self.dictionaries)

    @property
    def _single(self) -> list[Part]:
        """The components that are not made of others."""
        return [part for part in self.parts.values() if part.single]

    def text(self) -> Sequence[str]:
        names = tuple(part.name for part in self._single)
        more = (attention.text for attention in self.transformer.attention)
        beside = (f"{name}: {own.text}" for name, own in self.dictionaries.items())
        return self.source, str(self.transformer.causal), str(names), *filter(None, more), *beside

    def computed_by_objects(self) -> tuple[Any, ...]:
        own = type(self), type(self.transformer), self.transformer.model
        return *own, *self.dictionaries.items()

    def rebuilt(self) -> ResidualGraph:
        for dictionary in self.dictionaries.values():
            dictionary.refresh()
        return ResidualGraph(self.transformer.rebuilt(), self.dictionaries)

    def having(self, dictionaries: Mapping[str, Dictionary]) -> ResidualGraph:
        return ResidualGraph(self.transformer, {**self.dictionaries, **dictionaries})

    def along_every_path(self, error: NotASumError) -> ModelGraph:
        graph = self.transformer.along_every_path(error)
        return graph.having(self.dictionaries) if self.dictionaries else graph

    def capture(self, sites: Sequence[Site], inputs: Inputs) -> dict[Site, Tensor]:
        seen = self._seen(inputs, {hook for site in sites for hook in self._hooks(site)})
        return {site: self._captured(site, seen) for site in sites}

    def _hooks(self, site: Site) -> list[str]:
        if site.kind == "stream":
            return [f"resid_{point}" for point in site.names]
        if site.kind == "block":
            return list(site.names)
        return [hook for name in site.names for hook in self.parts[name].hooks_of(site.kind)]

    def _seen(self, inputs: Inputs, hooks: set[str]) -> dict[str, Tensor]:
        """The inputs, and the network's own activations of these names, from one pass."""
        names = sorted(hooks - {""})
        return {**inputs, **(self.transformer.capture(inputs, names) if names else {})}

    def _captured(self, site: Site, seen: Inputs) -> Tensor:
        where = site.where(self.device)
        if site.kind in ("stream", "block"):
            (hook,) = self._hooks(site)
            return select(seen[hook], where)
        return summed(self.parts[name].clean(site.kind, seen, where) for name in site.names)

    # Proof ----------------------------------------------------------------------------------------

    def proof_rows(self, inputs: Inputs) -> Sequence[int]:
        """The first that differ, until their tokens are enough, and one for each way in which rows
        are padded: another row is computed as these are."""
        tokens, visible = inputs[TOKENS], visible_keys(inputs)
        enough = min(PROOF_ROWS, max(2, -(-ENOUGH_TOKENS // tokens.shape[1])))
        alike = _first_of_each(visible)
        paddings = sorted(alike, key=lambda row: int(visible[row].sum()))
        first = _first_of_each(tokens, enough)
        # of short rows there is room for both
        rows = dict.fromkeys([*first[:2], *_spread(paddings, PROOF_ROWS - 2), *first[2:]])
        return sorted([*rows][:PROOF_ROWS])

    @torch.no_grad()
    def prove(self, inputs: Inputs, rows: Sequence[int] | None = None) -> None:
        """Two clean runs agree; the parts sum to what their blocks add and to the stream;
        recomputed parts are the network's own.

        **Raises** `ModelError` naming the first part that differs, relative to the output's scale.
        """
        readers = [part for part in self._single if isinstance(part, ReadingPart)]
        hooks = {hook for part in self._single for hook in (part.hook, part.sum)}
        hooks |= {f"resid_{part.point}" for part in readers}
        hooks.update(*(standing.proof_hooks for standing in self._standing))
        seen = self._seen(inputs, hooks)
        for name, value in seen.items():
            if not value.isfinite().all():
                row = int((~value.isfinite()).flatten(1).any(1).nonzero()[0])
                row = row if rows is None else rows[row]
                raise ModelError(
                    f"{self.source}: {name} is NaN or infinite on row {row}; take the row out, or "
                    "mend the weights"
                )
        self._same(
            "two clean runs on the same inputs",
            seen["logits"],
            self.run(inputs),
            "make it deterministic (eval mode)",
        )
        self._prove_sums(seen)
        visible = visible_keys(inputs)
        for part in readers:
            mine = part.computed(seen[f"resid_{part.point}"], visible)
            theirs = part.clean("value", seen, None)
            self._same(f"{part.name}, recomputed from what it reads,", mine, theirs)
        for standing in self._standing:
            standing.prove(seen, self.source)

    def _prove_sums(self, seen: Inputs) -> None:
        stream = torch.zeros(())
        for stage in in_stages(self._single):
            if point := stage[0].point:
                place, layer = point.split(".")
                what = f"the stream {PLACES[place]}{layer}"
                own = seen[f"resid_{point}"]
                self._same(what, stream, own, largest=_by_channel(own), tolerance=SUM_TOLERANCE)
                stream = widened(own)  # so that rounding does not add up over the layers
            for block in in_blocks(stage):
                summed = total(block, (part.clean("value", seen, None) for part in block))
                if block[0].sum:
                    what = f"the sum of {', '.join(part.name for part in block)}"
                    self._same(what, summed, seen[block[0].sum])
                stream = stream + added(block[0], summed, self.transformer.dtype)

    def _same(
        self,
        what: str,
        mine: Tensor,
        theirs: Tensor,
        remedy: str | None = None,
        largest: Tensor | None = None,
        tolerance: Mapping[torch.dtype, float] = PROOF_TOLERANCE,
    ) -> None:
        if off := off_by(mine, theirs, largest, tolerance):
            kind = NotASumError if remedy is None else ModelError
            raise kind(
                f"{self.source}: {what} differs from the network's own by {off:.1e} of its scale, "
                f"so this network is not the sum of parts that a claim needs; "
                f"{remedy or PLAIN_MODULE}"
            )

    def require_usable(self, inputs: Inputs) -> None:
        """**Raises** `ModelError` for inputs of other names, for token ids that it does not know,
        and where a query sees no key at all: attention is then not defined."""
        self.transformer.require_names(inputs)
        require_ids(TOKENS, inputs[TOKENS], self.vocabulary)
        transformer, visible = self.transformer, visible_keys(inputs)
        nothing = "a query sees no key at all"
        if transformer.causal and not transformer.pads_left:
            _refuse_rows(~visible[:, 0], nothing, "pad on the right, since attention is causal")
        _refuse_rows(~visible.any(1), nothing, "unmask at least one token")
        if transformer.counts_visible:
            begins = (visible[:, 1:] & ~visible[:, :-1]).sum(1) + visible[:, 0].int()
            _refuse_rows(
                begins > 1,
                "the mask hides tokens between others, and this network counts positions without "
                "them",
                "mask at the ends only",
            )
        windows = [a.window for a in transformer.attention if a.window is not None]
        window = min(windows, default=None)
        blind = sees_nothing(visible, transformer.causal, window)
        if transformer.blind_is_unknown:
            _refuse_rows(
                blind,
                f"a query of padding sees no key within its window of {window}, where this network "
                "computes what is not taken apart",
                "shorten the padding",
            )
        if blind.any():  # what such a query attends to is proved where there is one
            row = int(blind.nonzero()[0])
            self.prove({name: value[row : row + 1] for name, value in inputs.items()}, [row])
        self._prove_positions(inputs, visible)

    @torch.no_grad()
    def _prove_positions(self, inputs: Inputs, visible: Tensor) -> None:
        """**Raises** `ModelError` where hidden tokens before visible ones make the model count
        positions otherwise than here when its user calls it."""
        moved = (visible & (~visible).cumsum(1).bool()).any(1).nonzero()[:PROOF_ROWS, 0]
        rows = {name: value[moved] for name, value in inputs.items()}
        called = self.transformer.called(rows) if len(moved) else None
        if called is None:
            return
        seen = visible[moved].to(called.device)
        if off_by(self.run(rows)[seen], called[seen]):
            raise ModelError(
                f"{self.source}: on rows such as {int(moved[0])} the mask hides tokens before "
                "others, and this bridge counts positions without them where it is called, but not "
                "the model in it; give the Hugging Face model itself"
            )


def _first_of_each(table: Tensor, most: int | None = None) -> list[int]:
    """The first of each kind of row, of `[rows, ...]`; no more than `most` of them."""
    found: dict[bytes, int] = {}
    for row, values in enumerate(table.cpu().numpy()):
        found.setdefault(values.tobytes(), row)
        if len(found) == most:
            break
    return [*found.values()]


def _spread(rows: Sequence[int], most: int) -> list[int]:
    """At most so many, evenly spread, the first and the last among them."""
    last, steps = len(rows) - 1, min(most, len(rows)) - 1
    return [rows[step * last // max(1, steps)] for step in range(steps + 1)]


def _by_channel(value: Tensor) -> Tensor:
    """The largest number of each channel, `[d_model]`, and at least that of a usual one."""
    largest = value.abs().flatten(0, -2).amax(0).float()
    usual = largest.median()
    return largest.clamp(min=float(usual if usual else largest.mean()))


def _refuse_rows(refused: Tensor, what: str, remedy: str) -> None:
    """**Raises** `ModelError` naming the first row that is refused, of bool `[B]`."""
    if refused.any():
        raise ModelError(f"on row {int(refused.nonzero()[0])} {what}: {remedy}")
