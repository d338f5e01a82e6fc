"""By what code a network computes: which packages it is of, and what is known of the rest."""

from __future__ import annotations

import functools
import importlib.metadata
import os
import subprocess
import sys
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import nn

import pytest_scrub.extras.disk_cache.activations as activations
from pytest_scrub import Dataset
from pytest_scrub.network import as_graph
from pytest_scrub.network.code import spelled
from tests.extras.disk_cache.test_activations import Block, transformer
from tests.places import ROOT
from tests.reference.generate import Architecture, build
from tests.sizes import only_in_full


def test_every_package_that_a_network_is_of_has_its_version_in_the_key() -> None:
    graph = as_graph(transformer(kind="gpt2"))
    parts = activations.key_parts(graph, Dataset(torch.zeros(3, 3, dtype=torch.long)))
    assert parts is not None
    for package in ("pytest_scrub", "torch", "transformers", "transformer_lens"):
        assert parts[f"version of {package}"] == importlib.metadata.version(package)


def test_a_package_is_known_by_the_distribution_that_has_it() -> None:
    assert activations._versions("yaml") == importlib.metadata.version("PyYAML")
    assert activations._versions("there_is_no_such_package") == ""


@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:DeprecationWarning")
def test_of_what_torch_has_compiled_nothing_is_known() -> None:
    assert spelled([nn.Sequential(torch.jit.script(nn.Tanh()))]) is None


def test_a_generated_module_is_known_by_its_code() -> None:
    def made(function) -> nn.Module:
        return torch.fx.symbolic_trace(function)

    one, same, other = (made(lambda x: x + 1), made(lambda x: x + 1), made(lambda x: x + 2))
    one, same, other = (spelled([each]).digest for each in (one, same, other))
    assert one == same != other


def test_a_hook_is_known_by_what_it_does() -> None:
    """Not by its number, which counts all hooks of the process."""

    def digest(factor: float | None) -> str:
        torch.manual_seed(0)
        made = Block()
        if factor is not None:
            made.register_forward_hook(lambda module, inputs, out: out * factor)
        return spelled([made]).digest

    assert digest(2.0) == digest(2.0)
    assert len({digest(factor) for factor in (None, 2.0, 3.0)}) == 3


def test_a_function_whose_results_are_kept_is_known_by_what_it_computes() -> None:
    def known(number: int) -> str | None:
        kept = functools.lru_cache(lambda: number)
        found = spelled([kept])
        return None if found is None else found.digest

    assert known(1) == known(1)
    assert known(1) != known(2)


@pytest.mark.parametrize(
    "imported",
    [
        "import of_mine.helper; return of_mine.helper.f(x)",
        "import of_mine.helper as h; return (lambda: h.f(x))()",
        "from of_mine import helper; return helper.f(x)",
        "from of_mine.helper import f; return f(x)",
        "from . import helper; return helper.f(x)",
        "from .helper import f; return f(x)",
        "from ..helper import f; return f(x)",
    ],
)
def test_what_a_function_imports_as_it_runs_is_part_of_it(
    imported: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The helper that it calls is nowhere among the globals of its module."""
    package, helper = ModuleType("of_mine"), ModuleType("of_mine.helper")
    package.helper = helper  # type: ignore[attr-defined]
    for module in (package, helper):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    deeper = "from .." in imported
    names: dict[str, Any] = {"__package__": "of_mine.deeper" if deeper else "of_mine"}
    if deeper:
        monkeypatch.setitem(sys.modules, "of_mine.deeper", ModuleType("of_mine.deeper"))
    exec(f"def outer(x): {imported}", names)
    found = []
    for plus in (1, 1, 2):
        exec(f"def f(x): return x + {plus}", vars(helper))
        assert names["outer"](1) == 1 + plus
        found.append(spelled([names["outer"]]))
        assert [one.is_current() for one in found] == [False] * (len(found) - 1) + [True]
    one, same, other = (each.digest for each in found)
    assert one == same != other


def test_an_installed_package_that_a_function_imports_as_it_runs_has_a_version(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def outer(x: object) -> str:
        import json.decoder

        return json.dumps(x, cls=json.decoder.JSONDecoder)  # type: ignore[type-var]

    known = spelled([outer]).digest
    monkeypatch.setattr("json.dumps", lambda x: "")
    assert spelled([outer]).digest == known


@only_in_full
def test_digests_are_the_same_in_another_process() -> None:
    """Sets have another order there, and objects other addresses."""
    there = subprocess.run(
        [sys.executable, "-c", f"from {__name__} import digests; print(*digests())"],
        env={**os.environ, "PYTHONHASHSEED": "1"}, cwd=ROOT,
        capture_output=True, text=True, check=True,
    ).stdout.split()  # fmt: skip
    assert there == digests()
    assert len(set(there)) == 6


def digests() -> list[str]:
    found = []
    for kind in ("native", "gpt2", "llama"):
        graph = as_graph(build(Architecture(kind)).bridge)
        before = spelled(graph.computed_by_objects())
        graph.run({"tokens": torch.zeros(2, 3, dtype=torch.long)})
        assert spelled(graph.computed_by_objects()).digest == before.digest, "running is no change"
        found += [before.digest, "-".join(sorted(before.packages))]
    return found
