"""What a network computes with besides its weights: the code of its modules, and their attributes.

Both are taken as they are in memory, not from files, which may have been edited since they were
imported.
"""

from __future__ import annotations

import functools
import sys
import sysconfig
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from enum import Enum
from hashlib import blake2b
from pathlib import PurePath
from types import CodeType, FunctionType, MethodType, ModuleType, SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from pytest_scrub.network.digests import digest_of

SIMPLE = (
    bool, int, float, complex, str, bytes, type(None), type(...), range,
    torch.dtype, torch.device, torch.Size,
)  # fmt: skip
PLAIN = frozenset(SIMPLE)  # these alone, not what is made from them
CONTAINERS = frozenset({dict, list, tuple})
TENSORS = frozenset({Tensor, nn.Parameter})
HOOKS = ("_forward_hooks", "_forward_pre_hooks")  # by a number that counts all hooks of the process
HELD = ("_parameters", "_buffers", "_modules")
UNREAD = frozenset(
    {"_backward_hooks", "_backward_pre_hooks", "_state_dict_hooks", "_load_state_dict_pre_hooks"}
)
INSTALLED = tuple(
    sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")
)
OWN = ""  # the package of code that is the user's
DEEPEST = 40  # what is nested deeper is named by its type alone

Namespace = Mapping[str, Any]


def code_text(code: CodeType | None) -> list[str]:
    """What a function does, whatever it is called and wherever it lies in memory."""
    if code is None:
        return []
    inner = [
        part
        for constant in code.co_consts
        if isinstance(constant, CodeType)
        for part in code_text(constant)
    ]
    plain = [
        _constant(constant) for constant in code.co_consts if not isinstance(constant, CodeType)
    ]
    return [code.co_code.hex(), *code.co_names, *plain, *inner]


def _constant(value: Any) -> str:
    """The constant as text; the order of a set is another one in every process."""
    if isinstance(value, frozenset):
        return f"frozenset({', '.join(sorted(map(_constant, value)))})"
    return repr(value)


class Spelled(NamedTuple):
    """All that modules and functions hold and are computed by, but for parameters and buffers:
    configurations, flags, unregistered tensors, hooks, whatever can be spelled out.

    - `digest`: hex, the same in another process.
    - `weights`: the parameters and buffers, each once, in the order of the modules.
    - `packages`: the installed ones that classes and functions are of; None where some are of none.
    """

    digest: str
    weights: list[Tensor]
    packages: frozenset[str] | None


def spelled(parts: Iterable[Any]) -> Spelled | None:
    """What there is to say of modules and functions; None where their code cannot be seen."""
    parts = tuple(parts)
    modules = [part for part in parts if isinstance(part, nn.Module)]
    inner = [part for module in modules for part in module.modules()]
    held = (
        tensor
        for part in inner
        for those in (part._parameters, part._buffers)
        for tensor in those.values()
    )
    speller = _Speller({id(tensor): tensor for tensor in held if tensor is not None})
    try:
        for part in parts:
            speller.spell(part)
    except _Unknown:
        return None
    text = "\0".join(speller.text).encode("utf-8", "backslashreplace")
    packages = None if OWN in speller.packages else frozenset(speller.packages)
    digest = blake2b(text, digest_size=16).hexdigest()
    return Spelled(digest, list(speller.weights.values()), packages)


class _Unknown(Exception):
    """Something that is computed by code that is nowhere to be read."""


class _Speller:
    """Spells objects out as text that is the same in another process, and gathers where their
    classes and functions are from.

    - `weights`: tensors whose digest is taken elsewhere, by id.
    """

    def __init__(self, weights: dict[int, Tensor]) -> None:
        self.weights = weights
        self.text: list[str] = []
        self.packages: set[str] = set()
        self._seen: dict[int, tuple[int, Any]] = {}  # with the object, so that no id is used again
        self._noted: set[type] = set()
        self._read: set[tuple[int, str]] = set()

    def spell(self, value: Any, depth: int = 0) -> None:
        if isinstance(value, SIMPLE) and not isinstance(value, Enum):
            self.text.append(f"{type(value).__name__} {value!r}")
        elif isinstance(value, (Enum, PurePath, np.generic)):
            self.text.append(str(value))
        elif id(value) in self._seen:
            self.text.append(f"again {self._seen[id(value)][0]}")
        else:
            self._seen[id(value)] = (len(self._seen), value)
            self.text.append(_name(type(value)))
            if depth < DEEPEST:
                self._spell_new(value, depth + 1)

    def _spell_new(self, value: Any, depth: int) -> None:
        if type(value) in CONTAINERS:  # most of what a network holds
            self._spell_all(value, depth)
        elif isinstance(value, Tensor):
            if type(value) not in TENSORS:  # what is computed of it may be its own affair
                self._note(type(value), depth)
            known = id(value) in self.weights or value.is_meta
            self.text.append("weight" if known else digest_of([("", value)]))
        elif isinstance(value, np.ndarray):
            self.text.append(f"{value.dtype} {value.shape} {blake2b(value.tobytes()).hexdigest()}")
        elif isinstance(value, torch.jit.ScriptModule):
            raise _Unknown
        elif isinstance(value, RemovableHandle):
            pass  # of a hook that is spelled where it hangs
        elif isinstance(value, (type, FunctionType, MethodType, functools.partial, ModuleType)):
            self._spell_code(value, depth)
        elif isinstance(value, nn.Module):
            self._note(type(value), depth)
            self._spell_all(_telling(value), depth)
            for name in HOOKS:
                hooks = vars(value).get(name, {}).values()
                self._spell_all([hook for hook in hooks if not _is_bookkeeping(hook)], depth)
        elif isinstance(value, (Mapping, Sequence, AbstractSet)):
            self._note(type(value), depth)
            self._spell_all(value, depth)
        elif (
            type(value).__module__.partition(".")[0] not in sys.stdlib_module_names
            or type(value) is SimpleNamespace
        ):
            self._note(type(value), depth)
            self._spell_all(_telling(value), depth)

    def _spell_code(self, value: Any, depth: int) -> None:
        if isinstance(value, FunctionType):
            self.packages.add(_package(value.__globals__))
            self.text += code_text(value.__code__)
            cells = [cell.cell_contents for cell in value.__closure__ or () if is_set(cell)]
            self._spell_all((value.__defaults__, value.__kwdefaults__, *cells), depth)
            if not _is_installed(value.__globals__):
                self._spell_names(names_in(value.__code__), value.__globals__, depth)
        elif isinstance(value, MethodType):
            self._spell_all((value.__func__, value.__self__), depth)
        elif isinstance(value, functools.partial):
            self._spell_all((value.func, value.args, value.keywords), depth)
        else:
            self.text.append(value.__name__ if isinstance(value, ModuleType) else _name(value))
            if isinstance(value, type):
                self._note(value, depth)

    def _spell_names(self, names: AbstractSet[str], found: Namespace, depth: int) -> None:
        """The globals that code reads, and what it reads of modules among them."""
        for name in sorted(names & found.keys()):
            if (id(found), name) in self._read:  # modules import one another
                continue
            self._read.add((id(found), name))
            self.text.append(name)
            if _is_installed(found) and _is_bookkeeping(found[name]):
                # known by its version; torch exchanges some of its own once its compiler is
                # imported
                continue
            self.spell(found[name], depth)
            if isinstance(found[name], ModuleType) and depth < DEEPEST:
                self._spell_names(names, vars(found[name]), depth + 1)

    def _spell_all(self, values: Any, depth: int) -> None:
        if isinstance(values, AbstractSet):
            self.text += sorted(
                repr(value) if isinstance(value, SIMPLE) else _name(type(value)) for value in values
            )
        elif isinstance(
            values, Mapping
        ):  # in its own order, which is that of computation in a Sequential
            self._spell_each(list(values), depth)
            self._spell_each(list(values.values()), depth)
        else:
            self._spell_each(list(values), depth)

    def _spell_each(self, values: list[Any], depth: int) -> None:
        shown, others = list[Any](), list[Any]()
        for value in values:
            kind = type(value)
            is_plain = kind in PLAIN or (kind in CONTAINERS and not value)
            shown.append(value if is_plain else object)
            if not is_plain:
                others.append(value)
        self.text.append(repr(shown))
        for value in others:
            self.spell(value, depth)

    def _note(self, kind: type, depth: int) -> None:
        """A class and its bases: what is not installed is spelled, and so are methods that were put
        into an installed class, or that torch has generated for one network."""
        for base in kind.__mro__:
            if base in self._noted:
                continue
            self._noted.add(base)
            if base.__module__ == "torch.fx.graph_module" and "forward" in vars(base):
                self.text += code_text(getattr(vars(base)["forward"], "__code__", None))
            self.packages.add(_package(_namespace(base)))
            self._spell_class(base, depth)

    def _spell_class(self, kind: type, depth: int) -> None:
        is_installed = _is_installed(_namespace(kind))
        for name, value in list(vars(kind).items()):
            for function in _functions_in(value):
                if not is_installed or not _is_installed(function.__globals__):
                    self.text.append(name)
                    self.spell(function, depth)
            if not is_installed and not name.startswith("_") and not callable(value):
                self.text.append(name)
                self.spell(value, depth)


def names_in(code: CodeType) -> frozenset[str]:
    """The globals and attributes that code names, that of functions in it included."""
    inner = (names_in(constant) for constant in code.co_consts if isinstance(constant, CodeType))
    return frozenset(code.co_names).union(*inner)


def _telling(value: Any) -> dict[str, Any]:
    """The attributes that say how an object computes: those of installed classes keep count of runs
    in private."""
    kind = type(value)
    names = (name for base in kind.__mro__ for name in _slots_of(base))
    held = {name: getattr(value, name) for name in names if hasattr(value, name)} | getattr(
        value, "__dict__", {}
    )
    private = _is_installed(_namespace(kind))
    unread = [
        name
        for name in held
        if name in UNREAD or (private and name.startswith("_") and name not in HELD)
    ]
    for name in (*HOOKS, *unread):
        held.pop(name, None)
    return held


def _slots_of(kind: type) -> tuple[str, ...]:
    slots = vars(kind).get("__slots__", ())
    return (slots,) if isinstance(slots, str) else tuple(slots)


def _is_bookkeeping(hook: Any) -> bool:
    """Whether a hook is an installed package's own, made at the first run, and does not call one of
    the user's."""
    if not isinstance(hook, FunctionType) or not _is_installed(hook.__globals__):
        return False
    held = [cell.cell_contents for cell in hook.__closure__ or () if is_set(cell)]
    return all(
        _is_bookkeeping(inner)
        for inner in held
        if callable(inner) and not isinstance(inner, nn.Module)
    )


def is_set(cell: Any) -> bool:
    """Whether a variable of a closure has a value by now, other than None."""
    try:
        return cell.cell_contents is not None
    except ValueError:  # a name that is assigned later
        return False


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
