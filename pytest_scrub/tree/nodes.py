"""Hypotheses: immutable trees of nodes that say which component agrees on what, and what it reads.

The meaning follows Chan et al., "Causal Scrubbing: a method for rigorously testing interpretability
hypotheses" (2022). A tree knows nothing of a model or of data; what can only be checked against
those is checked when they are brought together (`pytest_scrub.engine.checks`).
"""

from __future__ import annotations

import functools
import inspect
import math
import operator
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, NamedTuple, TypedDict, TypeVar, Union

import numpy as np

import pytest_scrub
from pytest_scrub.common.calls import as_doubles, short_repr, with_plain_arguments
from pytest_scrub.errors import HypothesisError, Place, did_you_mean, located_at
from pytest_scrub.tree.edits import VectorEdit
from pytest_scrub.tree.predictions import Prediction, Predicts, prediction
from pytest_scrub.tree.units import MOST_UNITS, named, shown, text_from, text_of

if TYPE_CHECKING:
    from torch import Tensor
    from typing_extensions import Unpack

ROOT = "output"
HEAD_SLOTS = ("q", "k", "v")
PATTERN_SLOTS = ("q", "k")
# whose heads and MLPs, where they are not those of the only stack or of the decoder itself
ENCODER, CROSS = "encoder", "cross"
MOST_LAYERS = 10**6  # beyond any network, so that a larger number is a mistake
ORTHONORMAL_TOLERANCE = 1e-4  # what float32 columns reach after a QR decomposition, with room


@dataclass(frozen=True)
class Agreement:
    """On what two inputs have to agree: a conjunction of feature names.

    `EXACT` is agreement on the whole input, `ANYTHING` the empty conjunction.
    """

    features: tuple[str, ...] = ()
    exact: bool = False

    def __or__(self, other: Agreement) -> Agreement:
        """Agreement on both; `EXACT` absorbs, `ANYTHING` is neutral."""
        if self.exact or other.exact:
            return EXACT
        return Agreement(tuple(sorted({*self.features, *other.features})))

    def __str__(self) -> str:
        if self.exact:
            return "EXACT"
        return " and ".join(self.features) or "ANYTHING"

    __repr__ = __str__


EXACT = Agreement(exact=True)
ANYTHING = Agreement()

AgreesOn = Union[Agreement, str, Sequence[str]]


class Span(NamedTuple):
    """A slice of positions (`slice` itself is not hashable before Python 3.12)."""

    start: int | None
    stop: int | None
    step: int | None

    def __str__(self) -> str:
        ends = self[:2] if self.step is None else self
        return ":".join("" if end is None else str(end) for end in ends)

    @property
    def slice(self) -> slice:
        return slice(*self)


@dataclass(frozen=True, repr=False)
class Each:
    """What `pos=EACH` says: a donor of its own for every position; `EACH(with_shift=True)`: from
    any position."""

    with_shift: bool = False

    def __call__(self, *others: object, with_shift: bool | None = None, **unknown: object) -> Each:
        if with_shift is None or others or unknown:
            given = [*map(short_repr, others), *(f"{name}=" for name in unknown)]
            raise HypothesisError(
                "EACH is given as it is, pos=EACH, or called with with_shift= alone, "
                f"pos=EACH(with_shift=True), not with {', '.join(given) or 'nothing'}"
                f"{did_you_mean(next(iter(unknown), ''), ['with_shift'])}"
            )
        if not isinstance(with_shift, bool):
            raise HypothesisError(
                f"with_shift= of EACH is True or False, not {short_repr(with_shift)}"
            )
        return Each(with_shift)

    def __repr__(self) -> str:
        return "each"


EACH = Each()

Position = Union[int, Span, str]


class Subspace:
    """A linear subspace of the residual stream, given by orthonormal columns.

    **Arguments**

    - `basis`: `[d_model, k]`, a torch tensor or an array; `basis.T @ basis` must be the identity.

    **Raises** `HypothesisError` where it is not a matrix with orthonormal columns.
    """

    def __init__(self, basis: Tensor | np.ndarray[Any, Any]) -> None:
        try:
            columns = as_doubles(basis)
        except (TypeError, ValueError) as error:
            raise HypothesisError(
                f"subspace= takes a [d_model, k] matrix of orthonormal columns ({error})"
            ) from None
        if columns.ndim != 2 or not 0 < columns.shape[1] <= columns.shape[0]:
            remedy = {1: "; give one direction as v[:, None] / v.norm()", 2: "; transpose it"}
            raise HypothesisError(
                "subspace= takes a [d_model, k] matrix of orthonormal columns, not one of shape "
                f"{columns.shape}{remedy.get(columns.ndim, '') if columns.size else ''}"
            )
        if not np.allclose(
            columns.T @ columns, np.eye(columns.shape[1]), atol=ORTHONORMAL_TOLERANCE
        ):
            raise HypothesisError(
                "the columns of subspace= are not orthonormal; take the Q of "
                "torch.linalg.qr(columns)"
            )
        columns.setflags(write=False)
        self.basis = columns

    @property
    def width(self) -> int:
        """The d_model it belongs to."""
        return int(self.basis.shape[0])

    def is_orthogonal_to(self, other: Subspace) -> bool:
        return self.width == other.width and bool(
            np.abs(self.basis.T @ other.basis).max() < ORTHONORMAL_TOLERANCE
        )

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Subspace) and np.array_equal(self.basis, other.basis)

    def __hash__(self) -> int:
        return hash((self.basis.shape, self.basis.tobytes()))

    def __str__(self) -> str:
        return f"a {self.basis.shape[1]}-dimensional subspace"

    __repr__ = __str__


@dataclass(frozen=True, eq=False)
class Node:
    """One claim about one component (or a group of them); see the constructors `head`, `mlp`,
    `output`, ...

    Trees that differ only in the order of siblings are equal.
    """

    components: tuple[str, ...]
    agrees_on: Agreement | None  # None: only the root, whose input is the reference
    reads: tuple[Node, ...] = ()
    into: str | None = None
    pos: Position | Each | None = None
    subspace: Subspace | None = None
    via: str | None = None  # None: as the model graph reads by default
    rest: Agreement | None = None  # None: a leaf, which has no rest
    computed_by: Callable[..., Any] | None = None
    shares: str | None = None
    name: str | None = None
    predicts: Prediction | None = None  # of the root alone
    edited: VectorEdit | None = None  # then it takes no donor
    # where it is written, which is no part of the claim
    place: Place | None = field(default=None, repr=False)

    @property
    def is_leaf(self) -> bool:
        return self.rest is None

    @property
    def is_each(self) -> bool:
        """Whether it has a donor of its own for every position."""
        return isinstance(self.pos, Each)

    @property
    def is_shifted(self) -> bool:
        """Whether these donors may come from any position."""
        return isinstance(self.pos, Each) and self.pos.with_shift

    @property
    def component(self) -> str:
        """`head1.0`, or `group(head1.0+head2.0)`."""
        return _joined(self.components)

    @property
    def label(self) -> str:
        """The node's part of a slot path: its name or component, slot and position."""
        into = f"[{self.into}]" if self.into else ""
        pos = "" if self.pos is None else f"@{self.pos}"
        return f"{self.name or shown(self.component)}{into}{pos}"

    def _key(self) -> tuple[object, ...]:
        reads = frozenset(Counter(self.reads).items())
        return tuple({**vars(self), "reads": reads, "place": None}.values())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Node) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())

    def describe(self) -> str:
        """One line: what is claimed of this node, without its children."""
        text = self.label if self.name is None else f"{self.label} ({shown(self.component)})"
        if self.edited is not None:
            text += f", {self.edited}"
        elif self.agrees_on is not None:
            text += f" {_in_words(self.agrees_on)}"
        if self.is_shifted:
            text += ", from any position"
        if self.subspace is not None:
            text += f", in {self.subspace}"
        if self.via == "any":
            text += ", along every path"
        if self.computed_by is not None:
            text += f", computed by {getattr(self.computed_by, '__name__', 'a function')}"
        if self.shares is not None:
            text += f", shares the donor of {self.shares}"
        if self.rest is not None and self.rest != ANYTHING:
            text += f", rest {_in_words(self.rest)}"
        if self.predicts is not None:
            text += f", {self.predicts}"
        return text

    def __str__(self) -> str:
        lines = [self.describe()]
        for nth, child in enumerate(self.reads, 1):
            guides = ("└── ", "    ") if nth == len(self.reads) else ("├── ", "│   ")
            first, *below = str(child).splitlines()
            lines += [guides[0] + first, *(guides[1] + line for line in below)]
        return "\n".join(lines)

    __repr__ = __str__

    def _repr_html_(self) -> str | None:
        """A drawing and the text, for notebooks; None where Jinja is not installed."""
        with suppress(ModuleNotFoundError):
            return str(pytest_scrub.drawn(pytest_scrub.sketch(self), str(self)))
        return None


def _joined(components: Sequence[str]) -> str:
    return components[0] if len(components) == 1 else f"group({'+'.join(map(shown, components))})"


def _in_words(agreement: Agreement) -> str:
    return "is EXACT" if agreement.exact else f"agrees on {agreement}"


def is_head(component: str) -> bool:
    """Whether `component` is an attention head of a transformer, `head1.0` or `cross.head1.0`."""
    return re.fullmatch(r"(\w+\.)?head\d+\.\d+", component) is not None


def is_attn(component: str) -> bool:
    """Whether `component` is all heads of a layer of a transformer, `attn1` or `encoder.attn1`."""
    return re.fullmatch(r"(\w+\.)?attn\d+", component) is not None


def is_pattern(component: str) -> bool:
    """Whether `component` is the attention of a head of a transformer, `pattern1.0`."""
    return re.fullmatch(r"(\w+\.)?pattern\d+\.\d+", component) is not None


def natural_key(component: str) -> tuple[object, ...]:
    """Sorts `head2.0` before `head10.0`."""
    return tuple(
        (int(part), "") if part.isdigit() else (math.inf, part)
        for part in re.split(r"(\d+)", component)
    )


def _agreement(of: AgreesOn, *, where: str) -> Agreement:
    """What `agrees_on=` and `rest=` accept, as an `Agreement`."""
    if isinstance(of, Agreement):
        return of
    names = list(of) if isinstance(of, Iterable) and not isinstance(of, (str, Mapping)) else [of]
    for name in names:
        if isinstance(name, Agreement):
            raise HypothesisError(
                f"{where} has {name} in a list; EXACT and ANYTHING stand alone, without the list"
            )
        if not isinstance(name, str):
            raise HypothesisError(
                f"{where} takes the name of a feature of the dataset, a list of names, EXACT or "
                f"ANYTHING, not {short_repr(name)}"
            )
    if not names:
        raise HypothesisError(
            f"{where} got an empty list; write ANYTHING where no agreement is claimed"
        )
    return Agreement(tuple(sorted({str(name) for name in names})))


def position(pos: object, where: str) -> Position | None:
    """What `pos=` names, in plain values. **Raises** `HypothesisError` for what can be no
    position."""
    if pos is None or isinstance(pos, str):
        return pos
    with suppress(TypeError):
        if not isinstance(pos, slice):
            return _whole(pos)
        ends = (pos.start, pos.stop, pos.step)
        span = Span(*(None if end is None else _whole(end) for end in ends))
        if span.step != 0:
            return span
    raise HypothesisError(
        f"pos= of {where} takes an int, a slice or the name of a dataset column, not "
        f"{short_repr(pos)}"
    )


def _whole(number: Any) -> int:
    """A whole number of any library. **Raises** `TypeError` for what is none, and for a bool."""
    if isinstance(number, bool):
        raise TypeError
    return operator.index(number)


class NodeOptions(TypedDict, total=False):
    """What every constructor but `output` accepts; see `head`."""

    agrees_on: AgreesOn | None
    reads: Sequence[Node]
    into: str | None
    pos: int | slice | str | Each | None
    subspace: Tensor | np.ndarray[Any, Any] | Subspace | None
    via: str | None
    rest: AgreesOn | None
    computed_by: Callable[..., Any] | None
    shares: str | None
    name: str | None


# What stands for `**claim` in the signatures that `help` and editors show.
_OPTIONS = tuple(
    inspect.Parameter(
        name,
        inspect.Parameter.KEYWORD_ONLY,
        default=() if name == "reads" else None,
        annotation=hint.__forward_arg__,
    )
    for name, hint in NodeOptions.__annotations__.items()
)
_Constructor = TypeVar("_Constructor", bound=Callable[..., Node])


def _constructor(make: _Constructor) -> _Constructor:
    """Its nodes, and its errors, know the line of the user that called it."""
    called = with_plain_arguments(make, _OPTIONS)

    @functools.wraps(called)
    def construct(*given: Any, **claim: Any) -> Node:
        __tracebackhide__ = True
        place = Place.of_call()
        try:
            return replace(called(*given, **claim), place=place)
        except HypothesisError as error:
            error.places = error.places or ((place,) if place else ())
            raise

    return construct  # type: ignore[return-value]


def _children(what: str, reads: Sequence[Node]) -> tuple[Node, ...]:
    where = ROOT if what == ROOT else f"reads= of {what}"
    is_many = isinstance(reads, Iterable) and not isinstance(reads, (str, Mapping))
    children: tuple[Any, ...] = tuple(reads) if is_many else (reads,)
    for child in children:
        if not isinstance(child, Node):
            given = (
                "a list; write output(*nodes)"
                if what == ROOT and isinstance(child, list)
                else short_repr(child)
            )
            raise HypothesisError(
                f"{where} takes nodes such as head(1, 0, agrees_on=...), not {given}"
            )
        with located_at(child):
            if child.components == (ROOT,):
                raise HypothesisError(
                    f"{what} reads output, but output is the root: a hypothesis has exactly one"
                )
            if child.agrees_on is None:
                raise HypothesisError(
                    f"{child.component} names no feature; say agrees_on= with a feature of the "
                    "dataset, EXACT or ANYTHING"
                )
    return children


def _is_text(given: object) -> bool:
    return isinstance(given, str)


# What some options are: whether a value can be one, and what one is, in words.
_KINDS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "name": (
        lambda name: isinstance(name, str) and bool(name) and "/" not in name,
        "text without a slash, which parts the names in a path",
    ),
    "into": (_is_text, "the name of a slot such as 'q'"),
    "shares": (_is_text, "the name= of another node"),
    "via": (lambda via: isinstance(via, str) and via in ("direct", "any"), "'direct' or 'any'"),
    "computed_by": (callable, "a function of the features"),
}


def _node(components: tuple[str, ...], **claim: Unpack[NodeOptions]) -> Node:
    what = _joined(components)
    given: dict[str, Any] = {name: value for name, value in claim.items() if value is not None}
    for option, (fits, meant) in _KINDS.items():
        if option in given and not fits(given[option]):
            raise HypothesisError(
                f"{option}= of {what} is {meant}, not {short_repr(given[option])}"
            )
    children = _children(what, claim.get("reads", ()))
    for option in ("agrees_on", "rest"):
        if option in given:
            given[option] = _agreement(given[option], where=f"{option}= of {what}")
    if children:
        given.setdefault("rest", ANYTHING)
    elif "rest" in given:
        raise HypothesisError(
            f"{what} has rest= but reads nothing; a leaf has no rest, so leave it out"
        )
    if "computed_by" in given:
        if children:
            raise HypothesisError(
                f"{what} has both computed_by= and reads=; a computed node is a leaf"
            )
        if not given.get("agrees_on", ANYTHING).features:
            raise HypothesisError(
                f"computed_by= of {what} needs agrees_on= to name the features it is computed from"
            )
    if "subspace" in given and not isinstance(given["subspace"], Subspace):
        given["subspace"] = Subspace(given["subspace"])
    if not isinstance(given.get("pos"), Each):
        given["pos"] = position(given.get("pos"), what)
    node = Node(components, **{"agrees_on": None, **given, "reads": children})
    _require_leaf_where_each(node, what)
    return node


def _require_leaf_where_each(node: Node, what: str) -> None:
    if node.is_each and (node.reads or node.computed_by is not None):
        has = "reads=" if node.reads else "computed_by="
        raise HypothesisError(
            f"{what} has pos=EACH and {has}, but only a leaf that takes activations has a donor of "
            "its own for each position; claim the positions one by one"
        )
    if node.is_shifted and node.agrees_on == EXACT:
        raise HypothesisError(
            f"{what} has pos=EACH(with_shift=True) and agrees_on=EXACT, which is its own position "
            "of its own input; name a feature, or leave with_shift= out"
        )


def _counted(what: str, number: object, most: int = MOST_LAYERS) -> int:
    """A layer or a head. **Raises** `HypothesisError` for what is no number that counts from 0."""
    with suppress(TypeError):
        if 0 <= (counted := _whole(number)) < most:
            return counted
    raise HypothesisError(f"{what} is a whole number counted from 0, not {short_repr(number)}")


@_constructor
def output(
    *reads: Node,
    agrees_on: AgreesOn | None = None,
    rest: AgreesOn | None = None,
    predicts: Predicts | None = None,
    rivals: Mapping[str, Predicts] | None = None,
) -> Node:
    """The root: the network's output, read where the metric reads it.

    **Arguments**

    - `reads`: the components whose contribution to the output is claimed.
    - `agrees_on`: only where the reference itself may be exchanged; without it the root's input is
      the reference.
    - `rest`: on what everything unclaimed must agree. By default `ANYTHING`, which claims that
      what `reads` agree on is enough; `EXACT` claims that what else they compute is not needed.
    - `predicts`: the label that a swap should lead to, `[batch]` like the dataset's, where it is
      not the reference's own: a function whose arguments are called `reference`, or after the
      `name=` of a node, whose row's feature values it then gets (`FeatureValues`). The metric
      of the scrubbed output is taken against it. (Interchange interventions: Geiger et al., "Causal
      Abstractions of Neural Networks", 2021.)
    - `rivals`: other such functions, by name; the claim is held only where it predicts better than
      each of them, on the swaps for which the two differ.

    **Raises** `HypothesisError` where the arguments contradict each other.
    """
    node = _node((ROOT,), agrees_on=agrees_on, reads=reads, rest=rest)
    return replace(node, predicts=prediction(predicts, rivals))


@_constructor
def head(layer: int, head: int, *, of: str | None = None, **claim: Unpack[NodeOptions]) -> Node:
    """Attention head `head` of layer `layer`, both counted from 0.

    **Arguments** (the same for every constructor, by keyword)

    - `agrees_on`: a feature, a list of features, `EXACT` or `ANYTHING`: on what its donor agrees
      with the parent's own input.
    - `reads`: child nodes; none makes it a leaf.
    - `into`: `"q"`, `"k"` or `"v"`: only that slot of the parent head reads it.
    - `pos`: an int, a slice, or the name of a dataset column with a position or mask per input.
      `EACH` gives a leaf a donor of its own for every position, which agrees on the feature's value
      there (`[rows, positions]`; what has one value for a row is the same at all of them);
      `EACH(with_shift=True)` a donor from any position of any row where the value is the same.
    - `subspace`: `[d_model, k]` orthonormal columns; the remainder belongs to the rest.
    - `via`: `"direct"` through the residual stream, or `"any"` along every path.
    - `rest`: on what its unclaimed inputs must agree; `EXACT` turns "this is enough" into "what
      else this computes is not needed".
    - `computed_by`: a function of the agreed feature values (arrays `[batch]`, one for each feature
      in alphabetical order) that replaces the activation: `[batch, positions, d_model]`, or
      `[batch, d_model]` where it is the same at every position that is read. Biases are added to
      it: those of values, of the output of heads and of MLPs.
    - `shares`: the `name=` of another node with the same feature whose donor this node takes: a
      sibling, or any node where all between the two and the nearest one above both agree on what
      settles the feature.
    - `name`: how reports call the node.
    - `of`: of a network with an encoder and a decoder, `"encoder"` for the encoder's heads, and
      `"cross"` for those of the decoder that look at what the encoder made; by default those of the
      decoder that look at itself. (Of heads, and `"encoder"` of MLPs.)

    **Raises** `HypothesisError` where the arguments contradict each other.
    """
    at = _counted("the layer of a head", layer), _counted("the number of a head", head)
    return _node((f"{_side('a head', of)}head{at[0]}.{at[1]}",), **claim)


def _side(what: str, of: str | None, sides: Sequence[str] = (ENCODER, CROSS)) -> str:
    """What comes before the name of a component that is not the decoder's own."""
    if of is None:
        return ""
    if of not in sides:
        raise HypothesisError(
            f"of= of {what} is {' or '.join(map(repr, sides))}, or left out, not {short_repr(of)}"
        )
    return f"{of}."


@_constructor
def attn(layer: int, *, of: str | None = None, **claim: Unpack[NodeOptions]) -> Node:
    """All that the attention of layer `layer` adds, the sum of its heads; arguments as for
    `head`."""
    number = _counted("the layer of an attention", layer)
    return _node((f"{_side('an attention', of)}attn{number}",), **claim)


@_constructor
def mlp(layer: int, *, of: str | None = None, **claim: Unpack[NodeOptions]) -> Node:
    """The MLP of layer `layer`; arguments as for `head`."""
    number = _counted("the layer of an MLP", layer)
    return _node((f"{_side('an MLP', of, (ENCODER,))}mlp{number}",), **claim)


@_constructor
def stream(layer: int, *, of: str | None = None, **claim: Unpack[NodeOptions]) -> Node:
    """The residual stream before layer `layer`, or after all layers where it is their number: all
    that was added to it until then; arguments as for `head`."""
    number = _counted("the layer of a stream", layer)
    return _node((f"{_side('a stream', of, (ENCODER,))}stream{number}",), **claim)


@_constructor
def pattern(layer: int, head: int, *, of: str | None = None, **claim: Unpack[NodeOptions]) -> Node:
    """The attention probabilities of head `head` of layer `layer`, which this head alone reads, in
    place of queries, keys and mask; arguments as for `head`. Its `pos=` means queries, and is the
    same for all inputs."""
    at = _counted("the layer of a pattern", layer), _counted("the head of a pattern", head)
    return _node((f"{_side('a pattern', of)}pattern{at[0]}.{at[1]}",), **claim)


@_constructor
def neurons(
    layer: int, units: int | slice | Sequence[int], *, of: str | None = None,
    **claim: Unpack[NodeOptions],
) -> Node:  # fmt: skip
    """Some hidden units of the MLP of layer `layer`: what they hold times their rows of its output
    matrix. One node with one donor; arguments as for `head`, and

    - `units`: their numbers: an int, a slice or a list.
    """
    number = _counted("the layer of neurons", layer)
    basis = f"{_side('neurons', of, (ENCODER,))}neurons{number}"
    return _node((named(basis, _units(f"units= of {basis}", units)),), **claim)


@_constructor
def latents(
    dictionary: str, units: int | slice | Sequence[int], **claim: Unpack[NodeOptions]
) -> Node:
    """Some units of a dictionary, each its code times its row of the decoder. One node with one
    donor; arguments as for `head`, and

    - `dictionary`: its name, as `with_dictionaries` was told.
    - `units`: their numbers: an int, a slice or a list.
    """
    basis = _dictionary("latents", dictionary)
    return _node((named(basis, _units(f"units= of {basis}", units)),), **claim)


@_constructor
def error(dictionary: str, **claim: Unpack[NodeOptions]) -> Node:
    """What a dictionary leaves of its place: that less all of its units and its bias; arguments as
    for `head`, and

    - `dictionary`: its name, as `with_dictionaries` was told.
    """
    return _node((f"{_dictionary('error', dictionary)}.error",), **claim)


def _dictionary(what: str, name: object) -> str:
    if not isinstance(name, str) or not name.isidentifier():
        raise HypothesisError(
            f"{what} takes the name of a dictionary, as with_dictionaries was told, not "
            f"{short_repr(name)}"
        )
    return name


def _units(where: str, units: object) -> str:
    """The text of a set of units. **Raises** `HypothesisError` for what is none."""
    if isinstance(units, slice):
        ends = {"start": units.start, "stop": units.stop, "step": units.step}
        given = {
            n: _counted(f"{n} of {where}", end, MOST_UNITS)
            for n, end in ends.items()
            if end is not None
        }
        start, step = given.get("start", 0), given.get("step", 1)
        if not step or not range(start, given.get("stop", MOST_UNITS), step):
            raise HypothesisError(f"{where}: {short_repr(units)} holds no unit")
        if "stop" not in given:
            return text_from(start, step)
        return text_of(range(start, given["stop"], step))
    many = isinstance(units, Iterable) and not isinstance(units, (str, Mapping))
    each: Iterable[object] = units if many else (units,)  # type: ignore[assignment]  # as just seen
    numbers = sorted(_counted(f"a unit in {where}", unit, MOST_UNITS) for unit in each)
    if not numbers or len(set(numbers)) != len(numbers):
        what = "names one twice" if numbers else "is empty"
        raise HypothesisError(f"{where} {what}; give different units")
    return text_of(numbers)


@_constructor
def embed(**claim: Unpack[NodeOptions]) -> Node:
    """The token embedding; arguments as for `head`."""
    return _node(("embed",), **claim)


@_constructor
def pos_embed(**claim: Unpack[NodeOptions]) -> Node:
    """The learned position embedding (rotary models have none); arguments as for `head`."""
    return _node(("pos_embed",), **claim)


@_constructor
def mask(**claim: Unpack[NodeOptions]) -> Node:
    """Which keys are visible; only heads read it. Arguments as for `head`."""
    return _node(("mask",), **claim)


@_constructor
def edit(
    node: Node,
    *,
    add: Tensor | np.ndarray[Any, Any] | None = None,
    project_out: Tensor | np.ndarray[Any, Any] | None = None,
    into: str | None = None,
    pos: int | slice | str | None = None,
    via: str | None = None,
    name: str | None = None,
) -> Node:
    """A component that is changed as it is, and takes no donor: `edit(stream(6), add=v)`.

    With `min_gap=` or `predicts=` it is a claim of what the edit does; the control is a random
    vector of the same norm.

    **Arguments**

    - `node`: a bare node; the claim is made here.
    - `add`: `[d_model]`, added to its activation at every position, or at those of `pos=`.
    - `project_out`: `[d_model]`, a direction of which nothing is left.
    - `into`, `pos`, `via`, `name`: as for `head`.

    **Raises** `HypothesisError` unless one of `add` and `project_out` is given, a vector.
    """
    if not isinstance(node, Node) or node != Node(node.components, None):
        raise HypothesisError(
            "edit takes a bare node such as stream(6), with pos= and the like beside it, not "
            f"{short_repr(node) if not isinstance(node, Node) else node.describe()}"
        )
    if len(node.components) > 1:
        raise HypothesisError("edit takes one component; edit the members of a group one by one")
    vector = project_out if add is None else add
    if vector is None or (add is not None and project_out is not None):
        raise HypothesisError(
            f"edit of {node.component} takes either add= or project_out=, a vector [d_model]"
        )
    by = VectorEdit(vector, is_added=add is not None)
    if isinstance(pos, Each):
        raise HypothesisError(
            f"edit of {node.component} has pos=EACH, but it takes no donor; leave pos= out, which "
            "edits every position"
        )
    claim = _node(node.components, agrees_on=EXACT, into=into, pos=pos, via=via, name=name)
    return replace(claim, edited=by)


@_constructor
def module(
    path: str,
    /,
    *,
    call: int | None = None,
    item: int | str | None = None,
    head: int | None = None,
    **claim: Unpack[NodeOptions],
) -> Node:
    """A named module of a `torch.nn.Module`, or an input or node of a plain graph; arguments as for
    `head`, and of a module

    - `call`: which of its calls in a forward pass, counted from 0, where there are several.
    - `item`: which item of what it returns, by number or by name; by default the first tensor.
    - `head`: which head of a `torch.nn.MultiheadAttention`: what it hands to the output projection.
    """
    if not isinstance(path, str):
        raise HypothesisError(
            f"module takes the name of a module, an input or a node, not {short_repr(path)}"
        )
    if head is not None and item is not None:
        raise HypothesisError(f"module {path!r} is claimed as a head and as an item; leave one out")
    called = None if call is None else _counted(f"call= of module {path!r}", call)
    which = None if head is None else _counted(f"head= of module {path!r}", head)
    if item is not None and not (isinstance(item, str) and item.isidentifier()):
        item = _counted(f"item= of module {path!r}, where it is no name,", item)
    return _node((value_name(path, call=called, head=which, item=item),), **claim)


def value_name(path: str, **which: int | str | None) -> str:
    """A module's value as a component: `block`, or `block(call=1, item=0)`."""
    told = ", ".join(f"{key}={value}" for key, value in which.items() if value is not None)
    return f"{path}({told})" if told else path


@_constructor
def group(members: Sequence[Node | str], **claim: Unpack[NodeOptions]) -> Node:
    """Several components as one leaf with one donor:
    `group([head(1, 0), head(2, 0)], agrees_on="count")`.

    **Arguments**

    - `members`: bare nodes, or names of components. The claim is made on the group: arguments as
      for `head`.

    **Raises** `HypothesisError` for an empty group, or a member that makes a claim of its own.
    """
    names: list[str] = []
    if isinstance(members, Mapping) or not isinstance(members, (Node, Iterable)):
        raise HypothesisError(
            f"a group takes a list of nodes such as head(1, 0), not {short_repr(members)}"
        )
    for member in [members] if isinstance(members, (str, Node)) else members:
        node = Node((member,), None) if isinstance(member, str) else member
        if not isinstance(node, Node):
            raise HypothesisError(
                "a group takes nodes such as head(1, 0), or names of components, not "
                f"{short_repr(node)}"
            )
        if node != Node(node.components, None):
            raise HypothesisError(
                f"{node.component} makes a claim of its own inside a group; put agrees_on= and "
                "the like on the group"
            )
        names += node.components
    if len(set(names)) != len(names) or not names:
        raise HypothesisError(f"a group needs different components, not {names}")
    if claim.get("reads"):
        raise HypothesisError(
            "a group is one leaf with one donor and reads nothing; claim its members one by one"
        )
    return _node(tuple(sorted(names, key=natural_key)), **claim)
