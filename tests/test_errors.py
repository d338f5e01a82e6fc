"""A user's mistake is shown where the user made it, in a notebook too."""

from __future__ import annotations

import re
import sys
import traceback
import types
from pathlib import Path
from typing import Any

import pytest
import torch

from pytest_scrub import DataError, Dataset, FunctionGraph, check, module, output
from pytest_scrub.errors import Place


def checked(feature: str = "parity", **options: Any) -> Any:
    a = torch.arange(64) % 2
    network = FunctionGraph(A=lambda a: 4 * a - 2, output=lambda A: torch.stack([-A, A], -1) / 2)
    data = Dataset({"a": a.float()}, labels=a, features={"parity": a})
    hypothesis = output(module("A", agrees_on=feature))
    return check(hypothesis, network, data, tolerance=0.1, **options)


def shown_by_ipython(error: BaseException, monkeypatch: pytest.MonkeyPatch) -> str:
    """With the code that a notebook's shell shows errors with."""
    ultratb = pytest.importorskip("IPython.core.ultratb", reason="IPython is not installed")
    ipython = types.ModuleType("IPython")
    shell = types.SimpleNamespace(InteractiveTB=ultratb.AutoFormattedTB(mode="Context"))
    ipython.get_ipython = lambda: shell  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    return re.sub("\x1b\\[[0-9;]*m", "", "\n".join(error._render_traceback_()))


def files_in(shown: str) -> set[str]:
    return {Path(path).name for path in re.findall(r"File (\S+?\.py)", shown)}


def test_a_mistake_is_shown_on_the_users_line_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError) as caught:
        checked(feature="parrity")
    whole = list(traceback.walk_tb(caught.value.__traceback__))
    cause = caught.value.__cause__
    shown = shown_by_ipython(caught.value, monkeypatch)
    assert files_in(shown) == {"test_errors.py"}
    assert shown.count("the dataset has no feature 'parrity'; did you mean 'parity'?") == 1
    # and nothing is lost
    assert list(traceback.walk_tb(caught.value.__traceback__)) == whole
    assert len(whole) > 5
    assert caught.value.__cause__ is cause is not None


def test_a_line_of_a_cell_is_told_as_ipython_tells_it(monkeypatch: pytest.MonkeyPatch) -> None:
    cells = {"/tmp/ipykernel_7/42.py": ("Cell", "In[2]")}
    ipython = types.ModuleType("IPython")
    compiled = types.SimpleNamespace(format_code_name=cells.get)
    shell = types.SimpleNamespace(compile=compiled)
    ipython.get_ipython = lambda: shell  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    assert str(Place("/tmp/ipykernel_7/42.py", 3)) == "Cell In[2], line 3"
    assert str(Place("/elsewhere/claims.py", 3)) == "/elsewhere/claims.py:3"
    shell = None
    assert str(Place("/tmp/ipykernel_7/42.py", 3)) == "/tmp/ipykernel_7/42.py:3"


def test_a_users_function_that_fails_is_shown_with_what_it_called(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def broken(outputs: torch.Tensor, _: Any) -> torch.Tensor:
        return undone(outputs)

    def undone(outputs: torch.Tensor) -> torch.Tensor:
        raise ZeroDivisionError

    with pytest.raises(DataError, match="ZeroDivisionError") as caught:
        checked(metric=broken)
    shown = shown_by_ipython(caught.value, monkeypatch)
    assert files_in(shown) == {"test_errors.py"}
    assert "undone(outputs)" in shown
    assert "raise ZeroDivisionError" in shown

    def refusing(outputs: torch.Tensor, _: Any) -> torch.Tensor:
        raise DataError("of my own")

    with pytest.raises(DataError, match="of my own") as caught:
        checked(metric=refusing)
    assert 'raise DataError("of my own")' in shown_by_ipython(caught.value, monkeypatch)
