"""Where in a run of a torch module a value is: what a module returns or is called with, at which of
its calls, which item of it, and which part of its last dimension.

Heads are such parts: what one of them hands to its attention's output projection.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import is_dataclass
from typing import Any, NamedTuple, Protocol, Union

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

# Which end of a module: what it returns, what it is called with first, both of these, of torch's
# own attention what all heads together hand to the output projection, which is not called as a
# module there, and of any attention the softmax in it.
OUT, IN, BOTH, HEADS, SOFTMAX = "out", "in", "both", "heads", "softmax"

Item = Union[int, str, None]
See = Callable[["Point", Any], Any]
"""Called with a point and what passes there; gives what passes instead, None to leave it."""


class Point(NamedTuple):
    """One end of a module, by the module's path."""

    path: str
    end: str = OUT


class Place(NamedTuple):
    """One value in a run.

    - `call`: which of the calls of that module.
    - `item`: which item of what passes there; None where that is a tensor itself.
    - `part`: which of how many equal parts of the last dimension; None for all of it.
    """

    point: Point
    call: int = 0
    item: Item = None
    part: tuple[int, int] | None = None

    def value(self, passing: Any) -> Any:
        """What is here of what passes; None where nothing of that kind does."""
        value = passing if self.item is None else items_of(passing).get(self.item)
        if self.part is None or not isinstance(value, Tensor):
            return value
        return self._parts(value)[..., self.part[0], :]

    def exchanged(self, passing: Any, new: Tensor, was: Tensor) -> Any:
        """What passes with something else here, in place of what was, and the rest as it is."""
        if self.part is not None:
            whole = passing if self.item is None else items_of(passing)[self.item]
            parts = self._parts(whole).clone()
            parts[..., self.part[0], :] = new
            new = parts.reshape(whole.shape)
        return new if self.item is None else with_item(passing, self.item, new)

    def _parts(self, value: Tensor) -> Tensor:
        """`[rows, positions, parts, width]`, whether heads have a dimension of their own or not."""
        assert self.part is not None
        return value.reshape(*value.shape[:2], self.part[1], -1)


class Added(NamedTuple):
    """What some of the inputs of a linear module, its codes, add to what it returns.

    - `point`: both of its ends; `call`: which of its calls.
    - `rows`: what each adds, `[inputs, width]`; `chosen`: which inputs, None for all.
    """

    point: Point
    rows: Tensor
    chosen: Tensor | None = None
    call: int = 0

    def some(self, chosen: Tensor) -> Added:
        """What fewer of them add."""
        return self._replace(rows=self.rows[chosen], chosen=chosen)

    def value(self, passing: Any) -> Any:
        """What they add, of what goes in and comes out."""
        codes = passing[0] if self.chosen is None else passing[0][..., self.chosen]
        return codes @ self.rows

    def exchanged(self, passing: Any, new: Tensor, was: Tensor) -> Any:
        """The same with something else added instead."""
        codes, out = passing
        return codes, out + (new - was)


class Attended(NamedTuple):
    """The attention probabilities of one head, `[rows, queries, keys]`."""

    point: Point
    head: int
    call: int = 0

    def value(self, passing: Any) -> Any:
        """What is here of all heads' together."""
        return passing[:, self.head]

    def exchanged(self, passing: Any, new: Tensor, was: Tensor) -> Any:
        """Those of all heads with others here."""
        other = passing.clone()
        other[:, self.head] = new
        return other


class AnyPlace(Protocol):
    """Where a value is: at a point of a run, in one of the calls of its module."""

    @property
    def point(self) -> Point: ...

    @property
    def call(self) -> int: ...

    def value(self, passing: Any) -> Any:
        """What is here of what passes."""

    def exchanged(self, passing: Any, new: Tensor, was: Tensor) -> Any:
        """What passes with something else here, in place of what was."""


def items_of(passing: Any) -> dict[Item, Any]:
    """What a module returned or was called with, item by item; a lone tensor has the key None."""
    if isinstance(passing, Tensor):
        return {None: passing}
    if isinstance(passing, Mapping):
        return dict(passing)
    if isinstance(passing, (tuple, list)):
        return dict(enumerate(passing))
    if is_dataclass(passing):
        fields: Mapping[Any, Any] = vars(passing)
        return dict(fields)
    return {}


def tensors_of(passing: Any) -> tuple[Item, ...]:
    """The items that are tensors, the first of them first."""
    return tuple(key for key, item in items_of(passing).items() if isinstance(item, Tensor))


def with_item(passing: Any, item: Item, new: Any) -> Any:
    """A copy of what a module returned or was called with, one item of it exchanged."""
    if isinstance(passing, tuple):
        items = tuple(new if key == item else old for key, old in enumerate(passing))
        # a named tuple takes them one by one
        return type(passing)(*items) if hasattr(passing, "_fields") else items
    other = copy.copy(passing)
    if isinstance(other, (Mapping, list)):
        other[item] = new  # type: ignore[index]  # what a module returns can be written to
    else:
        vars(other)[str(item)] = new
    return other


@contextmanager
def seen(modules: Mapping[str, nn.Module], points: Iterable[Point], see: See) -> Iterator[None]:
    """While the network is run, `see` is shown what passes at these points, and may exchange it."""
    # what goes in and comes out comes first: it is part of what comes out
    points = sorted(points, key=lambda point: point.end != BOTH)
    heads = [point for point in points if point.end == HEADS]
    attending = {point: modules[point.path] for point in points if point.end == SOFTMAX}
    with ExitStack() as stack:
        for point in points:
            module = modules[point.path]
            if point.end == OUT:
                hook = module.register_forward_hook(
                    lambda _module, _given, out, point=point: see(point, out)
                )
            elif point.end == IN:
                hook = module.register_forward_pre_hook(_first(point, see), with_kwargs=True)
            elif point.end == BOTH:
                hook = module.register_forward_hook(_both(point, see))
            else:
                continue
            stack.enter_context(hook)
        if attending:
            stack.enter_context(_Softmaxes(attending, see))
        if heads:
            stack.enter_context(_Projections({point: modules[point.path] for point in heads}, see))
        yield


def _first(point: Point, see: See) -> Callable[..., Any]:
    """A hook that shows the first argument, and puts in what takes its place."""

    def before(_module: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> Any:
        key = None if given else next(iter(named))
        new = see(point, given[0] if key is None else named[key])
        if new is None:
            return None
        return ((new, *given[1:]), named) if key is None else (given, {**named, key: new})

    return before


def _both(point: Point, see: See) -> Callable[..., Any]:
    """A hook that shows what a module is called with and what it returns, and puts in what takes
    the place of the second."""

    def after(_module: nn.Module, given: tuple[Any, ...], out: Any) -> Any:
        new = see(point, (given[0], out))
        return None if new is None else new[1]

    return after


class _Softmaxes(TorchFunctionMode):
    """Shows the probabilities in attention modules, `[rows, heads, queries, keys]`, whether a
    softmax gives them or torch's fused attention has them, which is taken apart meanwhile."""

    def __init__(self, attentions: Mapping[Point, nn.Module], see: See) -> None:
        super().__init__()
        self._attentions, self._see = attentions, see
        self._inside: list[Point] = []  # the attentions that are being computed
        self._hooks = ExitStack()

    def __enter__(self) -> Any:
        for point, module in self._attentions.items():
            into = module.register_forward_pre_hook(
                lambda _module, _given, point=point: self._inside.append(point)
            )
            out = module.register_forward_hook(lambda *_: self._leave(), always_call=True)
            self._hooks.enter_context(into)
            self._hooks.enter_context(out)
        return super().__enter__()  # type: ignore[no-untyped-call]  # torch's

    def __exit__(self, *failure: Any) -> None:
        self._hooks.close()
        super().__exit__(*failure)  # type: ignore[no-untyped-call]  # torch's

    def _leave(self) -> None:
        self._inside.pop()

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if self._inside and func is functional.scaled_dot_product_attention:
            return self._fused(*args, **kwargs)
        result = func(*args, **kwargs)
        return self._shown(result) if self._inside and func in _SOFTMAX else result

    def _shown(self, probabilities: Tensor) -> Tensor:
        new = self._see(self._inside[-1], probabilities)
        return probabilities if new is None else new

    def _fused(self, *args: Any, **kwargs: Any) -> Tensor:
        """What `scaled_dot_product_attention` computes, one step after the other."""
        given = dict(zip(_FUSED, args, strict=False)) | kwargs
        query, key, value = (given[name] for name in ("query", "key", "value"))
        if given.get("enable_gqa"):
            each = query.shape[-3] // key.shape[-3]
            key, value = (x.repeat_interleave(each, -3) for x in (key, value))
        scale, mask = given.get("scale"), given.get("attn_mask")
        scores = query @ key.mT * (query.shape[-1] ** -0.5 if scale is None else scale)
        if given.get("is_causal"):
            mask = torch.ones_like(scores, dtype=torch.bool).tril()
        if mask is not None and mask.dtype == torch.bool:
            scores = scores.masked_fill(~mask, float("-inf"))
        elif mask is not None:
            scores = scores + mask
        # a query that sees no key gets nothing there
        mixed: Tensor = self._shown(scores.softmax(-1).nan_to_num(0.0)) @ value
        return mixed


_FUSED = (
    "query", "key", "value", "attn_mask", "dropout_p", "is_causal", "scale", "enable_gqa",
)  # fmt: skip
_SOFTMAX = {functional.softmax, torch.softmax, Tensor.softmax}
_ATTENTION = inspect.signature(functional.multi_head_attention_forward)


class _Projections(TorchFunctionMode):
    """Shows what the heads of torch's attention hand to its output projection, `[rows, positions,
    heads * width]`: with the identity in place of the projection, attention returns just that."""

    def __init__(self, attentions: Mapping[Point, Any], see: See) -> None:
        super().__init__()
        self._attentions, self._see = attentions, see

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is not functional.multi_head_attention_forward:
            return func(*args, **kwargs)
        given = _ATTENTION.bind(*args, **kwargs).arguments
        weight, bias = given["out_proj_weight"], given["out_proj_bias"]
        point = next(
            (p for p, module in self._attentions.items() if module.out_proj.weight is weight), None
        )
        if point is None:
            return func(*args, **kwargs)
        given["out_proj_weight"] = torch.eye(len(weight), dtype=weight.dtype, device=weight.device)
        given["out_proj_bias"] = None
        mixed, pattern = func(**given)  # [positions, rows, heads * width]
        new = self._see(point, mixed.transpose(0, 1))
        mixed = mixed if new is None else new.transpose(0, 1)
        flat = mixed.reshape(-1, mixed.shape[-1])
        return functional.linear(flat, weight, bias).view(*mixed.shape[:-1], -1), pattern


@contextmanager
def every_module_called() -> Iterator[None]:
    """While it lasts torch's transformer layers call their modules, as they do where one has a
    hook, and not one fused function instead."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)
