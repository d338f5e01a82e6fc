"""What a network computes with besides its weights: the code of its modules, and their attributes.

Both are taken as they are in memory, not from files, which may have been edited since they were
imported.
"""

from __future__ import annotations

import dis
import functools
import operator
import sys
import sysconfig
from collections import ChainMap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from enum import Enum
from hashlib import blake2b
from itertools import accumulate, filterfalse
from pathlib import PurePath
from types import CellType, CodeType, FunctionType, MethodType, ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from pytest_scrub.network.digests import digest_of
from pytest_scrub.network.placement import HOOK, hooks_of, kept_elsewhere

SIMPLE = (
    bool, int, float, complex, str, bytes, type(None), type(...), range,
    torch.dtype, torch.device, torch.Size,
)  # fmt: skip
# these alone, not what is made from them
PLAIN = frozenset(SIMPLE)
CONTAINERS = frozenset({dict, list, tuple})
TENSORS = frozenset({Tensor, nn.Parameter})
HELD = ("_parameters", "_buffers", "_modules")
# hooks of a forward pass are read by themselves: here they have numbers that count all hooks of the
# process; the others do not take part in one
UNREAD = frozenset({
    "_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks",
    "_state_dict_hooks", "_load_state_dict_pre_hooks", HOOK,
})  # fmt: skip
INSTALLED = tuple(
    sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")
)
OWN = ""  # the package of code that is the user's
DEEPEST = 40  # what is nested deeper is named by its type alone

Namespace = Mapping[str, Any]
Read = Callable[[Any], Sequence[Any]]


def code_text(code: CodeType | None) -> list[str]:
    """What a function does, whatever it is called and wherever it lies in memory."""
    return [
        text
        for each in _with_inner(code)
        for text in (
            each.co_code.hex(),
            *each.co_names,
            *(_constant(value) for value in each.co_consts if not isinstance(value, CodeType)),
        )
    ]


def names_in(code: CodeType) -> frozenset[str]:
    """The globals and attributes that code names, that of functions in it included."""
    return frozenset(name for each in _with_inner(code) for name in each.co_names)


@functools.lru_cache(maxsize=4096)
def _imports_in(code: CodeType, package: str) -> list[str]:
    """What modules that code imports as it runs may be called: relative names are of a package
    around it."""
    names = [
        step.argval
        for each in _with_inner(code)
        for step in dis.get_instructions(each)
        if step.opname == "IMPORT_NAME"
    ]
    around = ["", *(f"{outer}." for outer in accumulate(package.split("."), "{}.{}".format))]
    return [f"{outer}{name}".rstrip(".") for name in names for outer in around]


def _with_inner(code: CodeType | None) -> Iterator[CodeType]:
    """Code, and that of the functions that are made in it."""
    if code is not None:
        yield code
        for value in code.co_consts:
            if isinstance(value, CodeType):
                yield from _with_inner(value)


def _constant(value: Any) -> str:
    """The constant as text; the order of a set is another one in every process."""
    if isinstance(value, frozenset):
        return f"frozenset({', '.join(sorted(map(_constant, value)))})"
    return repr(value)


def _are_same(some: Sequence[Any], others: Sequence[Any]) -> bool:
    """Whether two sequences hold the same objects."""
    return len(some) == len(others) and all(map(operator.is_, some, others))


def spelled(source: Any, read: Read = tuple) -> Spelled | None:
    """What there is to say of the modules and functions that are read from `source`; None where
    their code cannot be seen."""
    try:
        return Spelled(source, read)
    except _Unknown:
        return None


class _Unknown(Exception):
    """Something that is computed by code that is nowhere to be read."""


class Spelled:
    """All that modules and functions hold and are computed by, but for parameters and buffers:
    configurations, flags, unregistered tensors, hooks, whatever can be spelled out as text.

    - `digest`: hex, the same in another process.
    - `weights`: the parameters and buffers, each once, in the order of the modules; `fetched`: what
      gets the numbers of those that are not in memory.
    - `packages`: the installed ones that classes and functions are of; None where some are of none.
    """

    def __init__(self, source: Any, read: Read) -> None:
        # how an object was read, the object, and what it held
        self._parts: list[tuple[Read, Any, Sequence[Any]]] = []
        # what holds no other objects and is no weight, and its text
        self._texts: list[tuple[Any, str]] = []
        # containers that held nothing, which are looked at all together
        self._empty: list[Any] = []
        # by id: its number in order, and the object itself, so that no id is used again
        self._seen: dict[int, tuple[int, Any]] = {}
        # classes, and pairs of names and where they were looked up
        self._done: set[Any] = set()
        self._packages: set[str] = set()
        self._hash = blake2b(digest_size=16)
        roots = self._parts_of(read, source)
        self.weights = self._parts_of(_read_weights, roots)
        self.fetched = dict(ChainMap(*(kept_elsewhere(root) for root in _modules_in(roots))))
        self._weight_ids = frozenset(map(id, self.weights))
        for root in roots:
            self._spell(root, 0)
        self._parts_of(lambda empty: list(filter(None, empty)), self._empty)
        self.digest = self._hash.hexdigest()
        self.packages = None if OWN in self._packages else frozenset(self._packages)

    def is_current(self) -> bool:
        """Whether all that was read is the very same, which takes a fraction of the time of
        spelling it; False also where something was exchanged for its equal."""
        return next(self.changed(), None) is None

    def held(self) -> Iterator[tuple[Any, Sequence[Any]]]:
        """Each object that was read, and what it held."""
        yield from ((value, found) for _, value, found in self._parts)

    def changed(self) -> Iterator[tuple[Any, Sequence[Any]]]:
        """Those that hold something else by now."""
        yield from ((empty, ()) for empty in self._empty if empty)
        for read, value, found in self._parts:
            if value is not self._empty and not _are_same(read(value), found):
                yield value, found
        yield from ((value, ()) for value, text in self._texts if _text(value) != text)

    def _parts_of(self, read: Read, value: Any) -> Sequence[Any]:
        """What an object holds, and a note of it."""
        found = read(value)
        self._parts.append((read, value, found))
        return found

    def _say(self, *texts: str) -> None:
        self._hash.update("\0".join((*texts, "")).encode("utf-8", "backslashreplace"))

    def _spell(self, value: Any, depth: int) -> None:
        kind = type(value)
        if isinstance(value, (*SIMPLE, Enum, PurePath, np.generic)):
            self._spell_text(value)
        elif kind in CONTAINERS and not value:
            self._empty.append(value)
            self._say(repr(value))
        elif id(value) in self._seen:
            self._say(f"again {self._seen[id(value)][0]}")
        else:
            self._seen[id(value)] = (len(self._seen), value)
            self._say(_name(kind))
            if depth < DEEPEST:
                self._spell_new(value, depth + 1)

    def _spell_new(self, value: Any, depth: int) -> None:
        if isinstance(value, (Tensor, np.ndarray)):
            if isinstance(value, Tensor) and type(value) not in TENSORS:
                # what is computed of it may be its own affair, and with what it holds
                self._spell_each(self._parts_of(_read_object, value), depth)
            if id(value) not in self._weight_ids:
                self._spell_text(value)
        elif isinstance(value, torch.jit.ScriptModule):
            raise _Unknown
        elif isinstance(value, CodeType):
            self._say(*code_text(value))
        elif isinstance(value, type):
            self._say(_name(value))
            for kind in self._parts_of(operator.attrgetter("__mro__"), value):
                self._spell_class(kind, depth)
        elif isinstance(value, FunctionType):
            self._packages.add(_package(value.__globals__))
            self._spell_each(self._parts_of(_read_function, value), depth)
            if not _is_installed(value.__globals__):
                for namespace in (value.__globals__, *self._parts_of(_read_imported, value)):
                    self._spell_names(names_in(value.__code__), namespace, depth)
        elif isinstance(value, ModuleType):
            self._say(value.__name__)
        elif read := reader_of(value):
            self._spell_each(self._parts_of(read, value), depth)

    def _spell_text(self, value: Any) -> None:
        text = _text(value)
        self._say(text)
        self._texts.append((value, text))

    def _spell_each(self, parts: Sequence[Any], depth: int) -> None:
        # most of what a network holds is plain
        self._say(repr([part if type(part) in PLAIN else object for part in parts]))
        for part in parts:
            if type(part) not in PLAIN:
                self._spell(part, depth)

    def _spell_names(self, names: AbstractSet[str], found: Namespace, depth: int) -> None:
        """The globals that code reads, and what it reads of modules among them."""
        # modules import one another
        if depth >= DEEPEST or (id(found), names) in self._done:
            return
        self._done.add((id(found), names))
        parts = self._parts_of(_read_names, (names, found))
        self._spell_each(parts, depth)
        for part in parts:
            if isinstance(part, ModuleType):
                self._spell_names(names, vars(part), depth + 1)

    def _spell_class(self, kind: type, depth: int) -> None:
        """What is not installed, and methods that were put into an installed class or that torch
        has generated for one network."""
        if kind in self._done:
            return
        self._done.add(kind)
        self._parts_of(_read_mapping, vars(kind))
        names = _namespace(kind)
        self._packages.add(_package(names))
        is_installed = _is_installed(names)
        for name, value in list(vars(kind).items()):
            told: list[Any] = [
                function
                for function in _functions_in(value)
                if not (is_installed and _is_installed(function.__globals__))
            ]
            if not is_installed and not name.startswith("_") and not callable(value):
                told.append(value)
            if told:
                self._spell_each([name, *told], depth)


# What objects hold --------------------------------------------------------------------------------


def reader_of(value: Any) -> Read | None:
    """How to read what an object holds; None for those of Python's own that say nothing."""
    for kind, read in READERS:
        if isinstance(value, kind):
            return read
    is_own = type(value).__module__.partition(".")[0] not in sys.stdlib_module_names
    return _read_object if is_own or type(value) is SimpleNamespace else None


def _read_weights(roots: Sequence[Any]) -> list[Tensor]:
    """The parameters and buffers of modules, each once."""
    modules = (part for root in _modules_in(roots) for part in root.modules())
    tensors = (
        tensor
        for part in modules
        for tensor in (*part._parameters.values(), *part._buffers.values())
        if tensor is not None
    )
    return list({id(tensor): tensor for tensor in tensors}.values())


def _modules_in(roots: Sequence[Any]) -> list[nn.Module]:
    return [root for root in roots if isinstance(root, nn.Module)]


def _read_module(module: nn.Module) -> list[Any]:
    after = filterfalse(is_bookkeeping, module._forward_hooks.values())
    before = filterfalse(is_bookkeeping, module._forward_pre_hooks.values())
    # those that only place a module, and fetch its weights, change no figure
    own = (hook for hook in hooks_of(module) if not _is_installed(_namespace(type(hook))))
    return [*_read_object(module), "hooks", *after, "pre-hooks", *before, *own]


def _read_object(value: Any) -> list[Any]:
    """The attributes that say how an object computes."""
    kind: Any = type(value)
    held = getattr(value, "__dict__", {})
    if slots := _slots(kind):
        held = {name: getattr(value, name) for name in slots if hasattr(value, name)} | held
    names = computing_names(kind, tuple(held))
    return [kind, *names, *map(held.__getitem__, names)]


@functools.lru_cache(maxsize=4096)
def computing_names(kind: type, names: tuple[str, ...]) -> list[str]:
    """Installed classes keep count of runs in private."""
    private = _is_installed(_namespace(kind))
    return [
        name
        for name in names
        if name not in UNREAD and (name in HELD or not (private and name.startswith("_")))
    ]


@functools.lru_cache(maxsize=4096)
def _slots(kind: type) -> list[str]:
    slots = (vars(base).get("__slots__", ()) for base in kind.__mro__)
    return [name for some in slots for name in ((some,) if isinstance(some, str) else some)]


def _read_mapping(value: Mapping[Any, Any]) -> list[Any]:
    """In its own order, which is that of computation in a Sequential."""
    return [type(value), *value, *value.values()]


def _read_set(value: AbstractSet[Any]) -> list[Any]:
    """In an order that is the same in every process where the members are plain."""
    return [type(value), *sorted(value, key=repr)]


def _read_sequence(value: Iterable[Any]) -> list[Any]:
    return [type(value), *value]


def _read_function(function: FunctionType) -> list[Any]:
    return [
        function.__code__, function.__defaults__, function.__kwdefaults__, *closed_over(function)
    ]  # fmt: skip


def _read_imported(function: FunctionType) -> list[Namespace]:
    """What stands in the modules that it imports as it runs, of those that are imported by now and
    have no version."""
    package = str(function.__globals__.get("__package__") or "")
    named = map(sys.modules.get, _imports_in(function.__code__, package))
    found = {id(module): vars(module) for module in named if isinstance(module, ModuleType)}
    return [names for names in found.values() if not _is_installed(names)]


def _read_names(found: tuple[AbstractSet[str], Namespace]) -> list[Any]:
    """Globals by name; an installed function is known by its version, and torch exchanges some of
    its own once its compiler is imported."""
    names, values = found
    is_installed = _is_installed(values)
    return [
        part
        for name in sorted(names & values.keys())
        if not (is_installed and is_bookkeeping(values[name]))
        for part in (name, values[name])
    ]


READERS: tuple[tuple[type, Read], ...] = (
    (nn.Module, _read_module),
    # of a hook that is spelled where it hangs
    (RemovableHandle, lambda handle: ()),
    (AbstractSet, _read_set),
    (Mapping, _read_mapping),
    (Sequence, _read_sequence),
    (MethodType, operator.attrgetter("__func__", "__self__")),
    # what lru_cache makes, whose own code is not Python's
    (functools._lru_cache_wrapper, lambda cached: (cached.__wrapped__,)),
    (functools.partial, operator.attrgetter("func", "args", "keywords")),
)


def _text(value: Any) -> str:
    kind = _name(type(value))
    if isinstance(value, Tensor):
        return kind if value.is_meta else f"{kind} {digest_of([('', value)])}"
    if isinstance(value, np.ndarray):
        return f"{kind} {value.dtype} {value.shape} {blake2b(value.tobytes()).hexdigest()}"
    return f"{kind} {value!s}"


# Where code is from -------------------------------------------------------------------------------


def is_bookkeeping(hook: Any) -> bool:
    """Whether a hook is an installed package's own, made at the first run, and does not call one of
    the user's."""
    if not isinstance(hook, FunctionType) or not _is_installed(hook.__globals__):
        return False
    return all(
        is_bookkeeping(inner)
        for inner in closed_over(hook)
        if callable(inner) and not isinstance(inner, nn.Module)
    )


def closed_over(function: Any) -> list[Any]:
    """The values that a function closes over; None of a name that is assigned later."""
    return [_content(cell) for cell in getattr(function, "__closure__", None) or ()]


def _content(cell: CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:
        return None


def _name(kind: Any) -> str:
    return f"{getattr(kind, '__module__', '')}.{getattr(kind, '__qualname__', '')}"


def _namespace(kind: type) -> Namespace:
    """The names that the methods of a class see: of two files called conftest.py, its own."""
    function = next(
        (value for value in vars(kind).values() if isinstance(value, FunctionType)), None
    )
    if function is not None:
        return function.__globals__
    return vars(sys.modules[kind.__module__]) if kind.__module__ in sys.modules else {}


def _is_installed(names: Namespace) -> bool:
    """Whether a module belongs to Python, to an installed package, or to this one, all of which
    have a version."""
    return _lies_in_a_package(str(names.get("__name__")), str(names.get("__file__", "")))


def _package(names: Namespace) -> str:
    """The installed package that a module belongs to, or that it is of none."""
    name = str(names.get("__name__")).partition(".")[0]
    return name if name in sys.builtin_module_names or _is_installed(names) else OWN


@functools.lru_cache(maxsize=4096)
def _lies_in_a_package(name: str, file: str) -> bool:
    if name.partition(".")[0] in {"pytest_scrub", "builtins"}:
        return True
    return any(PurePath(file).is_relative_to(folder) for folder in INSTALLED if folder)


def _functions_in(value: Any) -> list[FunctionType]:
    """The functions of a method, a property, or whatever a decorator made of one."""
    inner = (getattr(value, name, None) for name in ("__func__", "fget", "__wrapped__"))
    return [found for found in (value, *inner) if isinstance(found, FunctionType)]
