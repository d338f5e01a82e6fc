"""Saved counterexamples: what a file holds, what is refused, and the same swaps found again on
other data."""

from __future__ import annotations

import errno
import gc
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from pytest_scrub.adversaries import resolving
from pytest_scrub.adversaries.resolving import ClaimChanged, RowsGone, resolve
from pytest_scrub.adversaries.saved import (
    SHOWN_OF_MINIMAL,
    SHOWN_OF_WORST,
    DamagedFile,
    NewerFile,
    Saved,
    SavedRow,
    SavedSwaps,
    load,
    path_for,
    rows_of,
    save,
    set_aside,
    written_by,
)
from pytest_scrub.data.dataset import Dataset
from pytest_scrub.engine.evaluator import Evaluator
from pytest_scrub.errors import DataError, ScrubError
from pytest_scrub.metrics import Metric
from pytest_scrub.network import as_graph
from pytest_scrub.swaps.slots import slots_of
from pytest_scrub.swaps.space import SwapSet, SwapSpace
from pytest_scrub.tree.nodes import ANYTHING, EXACT, head, module, output
from tests.test_swaps import datasets, hypotheses

TWO = output(head(0, 0, agrees_on=ANYTHING), head(1, 0, agrees_on=ANYTHING))
SLOTS = tuple(slot.path for slot in slots_of(TWO))


def refuses(kind: type[Exception], sentence: str) -> Any:
    """The whole sentence, so that no error loses its name or its remedy."""
    return pytest.raises(kind, match=rf"^{re.escape(sentence)}$")


def saved_of(
    dataset: Dataset, worst: SwapSet, minimal: SwapSet | None = None, known: int | None = None
) -> Saved:
    minimal = worst[:1] if minimal is None else minimal
    rows, places = rows_of(dataset, worst, minimal, known)

    def swaps(adversary: str, swap_set: SwapSet) -> SavedSwaps:
        clean = np.arange(float(len(swap_set)))
        return SavedSwaps.of(
            adversary,
            swap_set,
            places,
            clean=clean,
            scrubbed=clean + 2.5,
            pointwise=adversary == "which donors",
        )

    return Saved(
        written_by=written_by(),
        claim="tests/test_x.py::test_claim[a]",
        hypothesis=tuple(str(worst.hypothesis or TWO).split("\n")),
        slots=worst.slots,
        metric="cross_entropy",
        tolerance=0.1,
        worst=swaps("which donors", worst),
        minimal=swaps("which nodes", minimal),
        rows=rows,
        model="net",
        model_digest="ab",
        dataset_digest=dataset.digest(),
    )


def tokens(rows: int = 6, seed: int = 0) -> torch.Tensor:
    """Rows that all differ."""
    return torch.cat(
        [torch.arange(rows)[:, None], torch.randint(0, 5, (rows, 3), generator=_seeded(seed))],
        dim=1,
    )


def _seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def drawn(dataset: Dataset, n: int = 5, hypothesis: Any = TWO) -> SwapSet:
    return SwapSpace(hypothesis, dataset).draw(n, np.random.default_rng(0))


def contents(dataset: Dataset, swap_set: SwapSet) -> list[list[str]]:
    lines = [swap_set.references, *swap_set.donors]
    return [[dataset.row_digest(row) for row in line.tolist()] for line in lines]


@pytest.fixture
def example() -> Saved:
    """Five references, two of whose donors are in no dataset."""
    dataset = Dataset(tokens())
    extended = dataset.extend(tokens(2, seed=1) + 100)
    swap_set = drawn(extended)
    donors = swap_set.donors.copy()
    donors[1, 0], donors[2, 3] = 6, 7
    return saved_of(extended, replace(swap_set, donors=donors), known=len(dataset))


# --- what a file holds ----------------------------------------------------------------------------


def test_it_comes_back_as_it_was(tmp_path: Path, example: Saved) -> None:
    path = tmp_path / ".scrub" / "x.json"  # the folder is made
    save(path, example)
    assert load(path) == example
    assert example.worst.gap == 2.5
    assert (example.worst.clean, example.worst.scrubbed) == (2.0, 4.5)
    assert sum(row.inputs is not None for row in example.rows) == 2
    assert [p.name for p in path.parent.iterdir()] == ["x.json"]


def test_a_file_is_the_same_whenever_it_is_written(tmp_path: Path, example: Saved) -> None:
    first, second = tmp_path / "a.json", tmp_path / "b.json"
    save(first, example)
    save(second, load(first))
    assert first.read_bytes() == second.read_bytes()


def test_a_file_reads_from_top_to_bottom(tmp_path: Path) -> None:
    """The whole text: one field, one row a line, the minimal swaps and their rows first."""
    dataset = Dataset([[1, 2], [3, 4], [5, 6]])
    worst = SwapSet([2, 0], [[2, 0], [2, 1], [0, 1]], SLOTS, dataset.digest(), TWO)
    saved = replace(
        saved_of(dataset, worst, worst[1:]), written_by="pytest-scrub 0.1.0", dataset_digest="cd"
    )
    save(tmp_path / "x.json", saved)
    digests = [dataset.row_digest(row) for row in (0, 1, 2)]
    assert (tmp_path / "x.json").read_text() == (
        """{
  "schema_version": 1,
  "written_by": "pytest-scrub 0.1.0",
  "claim": "tests/test_x.py::test_claim[a]",
  "metric": "cross_entropy",
  "model": "net",
  "model_digest": "ab",
  "dataset_digest": "cd",
  "tolerance": 0.1,
  "hypothesis": [
    "output",
    "├── head0.0 agrees on ANYTHING",
    "└── head1.0 agrees on ANYTHING"
  ],
  "slots": [
    "output/rest",
    "output/head0.0",
    "output/head1.0"
  ],
  "minimal": {
    "adversary": "which nodes",
    "pointwise": false,
    "gap": 2.5,
    "clean": 0.0,
    "scrubbed": 2.5,
    "references": [0],
    "donors": {
      "output/rest": [0],
      "output/head0.0": [1],
      "output/head1.0": [1]
    }
  },
  "worst": {
    "adversary": "which donors",
    "pointwise": true,
    "gap": 2.5,
    "clean": 0.5,
    "scrubbed": 3.0,
    "references": [2, 0],
    "donors": {
      "output/rest": [2, 0],
      "output/head0.0": [2, 1],
      "output/head1.0": [0, 1]
    }
  },
  "rows": [
    {"row": 0, "digest": "DIGEST0", "shown": "1 2"},
    {"row": 1, "digest": "DIGEST1", "shown": "3 4"},
    {"row": 2, "digest": "DIGEST2", "shown": "5 6"}
  ]
}
""".replace("DIGEST0", digests[0])
        .replace("DIGEST1", digests[1])
        .replace("DIGEST2", digests[2])
    )


def test_it_says_which_version_wrote_it(example: Saved) -> None:
    assert re.fullmatch(r"pytest-scrub \d+\.\d+\.\d+\S*", example.written_by)


texts = st.text(st.characters() | st.sampled_from("\x00\n\r\x85\u2028"), max_size=6)
finite = st.floats(allow_nan=False, allow_infinity=False)


@st.composite
def any_saved(draw: st.DrawFn) -> Saved:
    slots = tuple(draw(st.lists(texts, max_size=3, unique=True)))
    digests = draw(st.lists(texts, min_size=1, max_size=4, unique=True))
    rows = tuple(SavedRow(nth, digest, draw(texts)) for nth, digest in enumerate(digests))

    def swaps() -> SavedSwaps:
        place = st.integers(0, len(rows) - 1)
        references = draw(st.lists(place, min_size=1, max_size=3))
        column = st.lists(place, min_size=len(references), max_size=len(references)).map(tuple)
        return SavedSwaps(
            adversary=draw(texts),
            pointwise=draw(st.booleans()),
            **{name: draw(finite) for name in ("gap", "clean", "scrubbed")},
            references=tuple(references),
            donors={slot: draw(column) for slot in slots},
        )

    named = {
        name: draw(texts)
        for name in ("written_by", "claim", "metric", "model", "model_digest", "dataset_digest")
    }
    return Saved(
        hypothesis=tuple(draw(st.lists(texts, max_size=3))),
        slots=slots,
        tolerance=abs(draw(finite)),
        worst=swaps(),
        minimal=swaps(),
        rows=rows,
        **named,
    )


@given(saved=any_saved())
def test_any_text_and_number_comes_back(
    tmp_path_factory: pytest.TempPathFactory, saved: Saved
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.json"
    save(path, saved)
    assert repr(load(path)) == repr(saved)  # repr: -0.0 is not 0.0
    path.read_bytes().decode("utf-8")


def test_a_lone_surrogate_comes_back(tmp_path: Path, example: Saved) -> None:
    """As a test id has it where a folder's name is no UTF-8."""
    saved = replace(example, claim="\udc80::test \\udc80")
    save(tmp_path / "x.json", saved)
    assert load(tmp_path / "x.json") == saved
    (tmp_path / "x.json").read_bytes().decode("utf-8")


def test_control_characters_and_unicode_in_what_is_shown(tmp_path: Path) -> None:
    shown = ['a"b\\', "größe 日本 🙂", "line\nbreak\ttab\x00\x1b[31m", "\u202eevil\u2028"]
    dataset = Dataset(tokens(4), show=lambda row: shown[int(row["tokens"][0])])
    saved = saved_of(dataset, SwapSet([0, 1, 2, 3], [[0, 1, 2, 3]] * 3, SLOTS, dataset.digest()))
    save(tmp_path / "x.json", saved)
    text = (tmp_path / "x.json").read_text("utf-8")
    assert "größe 日本 🙂" in text  # a reviewer can read it
    assert not set("\t\x00\x1b\u202e\u2028") & set(text)
    assert [row.shown for row in load(tmp_path / "x.json").rows] == [
        dataset.show(row) for row in range(4)
    ]


def test_long_rows_are_shown_in_part() -> None:
    dataset = Dataset(torch.arange(2 * 3000).reshape(2, 3000))
    worst = SwapSet([0, 1], [[0, 1]] * 3, SLOTS, dataset.digest())
    first, second = saved_of(dataset, worst, worst[:1]).rows
    assert SHOWN_OF_MINIMAL - 2 < len(first.shown) <= SHOWN_OF_MINIMAL
    assert SHOWN_OF_WORST - 2 < len(second.shown) <= SHOWN_OF_WORST
    assert re.fullmatch(r"3000 3001 .*\d \.\.\. .*5999", second.shown)
    assert dataset.show(1).startswith(second.shown.split(" ... ")[0])


def test_a_swap_set_of_thousands_is_a_small_file(tmp_path: Path) -> None:
    dataset = Dataset(torch.randint(0, 5, (4000, 40), generator=_seeded(0)))
    rng = np.random.default_rng(0)
    slots = tuple(f"output/head{i}.0" for i in range(6))
    worst = SwapSet(
        rng.permutation(4000), rng.integers(0, 4000, (6, 4000)), slots, dataset.digest()
    )
    path = tmp_path / "x.json"
    save(path, saved_of(dataset, worst))
    assert path.stat().st_size < 1_000_000
    assert len(path.read_text().splitlines()) < 4000 + 100
    loaded = load(path)
    assert loaded.digests(loaded.worst.references) == contents(dataset, worst)[0]


# --- writing --------------------------------------------------------------------------------------


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_full_disk_leaves_the_old_file(
    tmp_path: Path, example: Saved, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    path = tmp_path / "x.json"
    save(path, example)

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, call, full)
        with pytest.raises(OSError, match="No space left"):
            save(path, replace(example, claim="other"))
    assert load(path) == example
    assert list(tmp_path.iterdir()) == [path]


def test_a_write_that_stops_halfway_leaves_the_old_file(tmp_path: Path, example: Saved) -> None:
    resource = pytest.importorskip("resource")  # Windows has none
    path = tmp_path / "x.json"
    save(path, example)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))  # the kernel refuses the 101st byte
    try:
        with pytest.raises(OSError, match="File too large"):
            save(path, replace(example, claim="other"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert load(path) == example
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_what_is_no_number_is_never_written(tmp_path: Path, example: Saved, number: float) -> None:
    path = tmp_path / "x.json"
    save(path, example)
    for bad in (
        replace(example, tolerance=number),
        replace(example, minimal=replace(example.minimal, gap=number)),
    ):
        with pytest.raises(ValueError, match="not JSON compliant"):
            save(path, bad)
    assert load(path) == example
    assert list(tmp_path.iterdir()) == [path]


WRITER = """
import sys
from dataclasses import replace
from pathlib import Path
from pytest_scrub.adversaries.saved import load, save
path, name = Path(sys.argv[1]), sys.argv[2]
saved = replace(load(path), claim=name, hypothesis=(name * 20_000,))
print("ready", flush=True)
sys.stdin.readline()
for _ in range(60):
    save(path, saved)
"""


def test_two_processes_write_at_once(tmp_path: Path, example: Saved) -> None:
    path = tmp_path / "x.json"
    save(path, replace(example, claim="0", hypothesis=("0" * 20_000,)))
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, str(path), name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for name in "12"
    ]
    for writer in writers:
        assert writer.stdout.readline() == "ready\n"
    for writer in writers:
        writer.stdin.write("go\n")
        writer.stdin.flush()
    while any(writer.poll() is None for writer in writers):
        saved = load(path)
        assert saved == replace(example, claim=saved.claim, hypothesis=(saved.claim * 20_000,))
    for writer in writers:
        writer.communicate()
    assert [writer.returncode for writer in writers] == [0, 0]
    assert load(path).claim in ("1", "2")
    assert list(tmp_path.iterdir()) == [path]


# --- damaged files --------------------------------------------------------------------------------


def edited(change: Callable[[dict[str, Any]], Any]) -> Callable[[bytes], bytes]:
    def edit(content: bytes) -> bytes:
        record = json.loads(content)
        change(record)
        return json.dumps(record).encode()

    return edit


def inputs_of(record: dict[str, Any]) -> dict[str, Any]:
    return next(row["inputs"]["tokens"] for row in record["rows"] if "inputs" in row)


CONFLICT = b"<<<<<<< HEAD\n{}\n=======\n{}\n>>>>>>> other\n"
MISSING = {
    name: (edited(lambda record, name=name: record.pop(name)), f"missing required field `{name}`")
    for name in (
        "written_by", "claim", "hypothesis", "slots", "metric", "tolerance",
        "worst", "minimal",
        "rows", "model", "model_digest", "dataset_digest",
    )
}  # fmt: skip
DAMAGE: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "empty": (lambda content: b"", "it is no JSON: "),
    "cut off": (lambda content: content[: len(content) // 2], "it is no JSON: "),
    "zeros": (lambda content: bytes(len(content)), "it is no JSON: "),
    "other encoding": (lambda content: content.replace(b"net", b"n\xff"), "it is no JSON: "),
    "a merge conflict": (lambda content: CONFLICT, "it is no JSON: "),
    "nested too deep": (lambda content: b"[" * 200_000, "it is no JSON: "),
    "a list": (lambda content: b"[1, 2]", "its schema is None, not 1"),
    "no schema": (edited(lambda r: r.pop("schema_version")), "its schema is None, not 1"),
    "another schema": (edited(lambda r: r.update(schema_version=0)), "its schema is 0, not 1"),
    "schema true": (edited(lambda r: r.update(schema_version=True)),
    "Expected `int`, got `bool` - at `$.schema_version`"),
    "number for text": (edited(lambda r: r.update(claim=3)),
    "Expected `str`, got `int` - at `$.claim`"),
    "text for number": (edited(lambda r: r.update(tolerance="1")),
    "Expected `float`, got `str` - at `$.tolerance`"),
    "bool for number": (edited(lambda r: r["worst"].update(gap=True)),
    "Expected `float`, got `bool` - at `$.worst.gap`"),
    "NaN": (edited(lambda r: r["worst"].update(clean=float("nan"))),
    "Expected `float`, got `NoNumber` - at `$.worst.clean`"),
    "infinite": (
        lambda content: content.replace(b'"scrubbed": 2.5', b'"scrubbed": 1e999'),
        "Expected `float`, got `NoNumber` - at `$.",
    ),
    "adversary none": (edited(lambda r: r["minimal"].update(adversary=None)),
    "Expected `str`, got `null` - at `$.minimal.adversary`"),
    "slots of numbers": (edited(lambda r: r.update(slots=[1])),
    "Expected `str`, got `int` - at `$.slots[0]`"),
    "worst a list": (edited(lambda r: r.update(worst=[])),
    "Expected `object`, got `array` - at `$.worst`"),
    "a row too many": (
        edited(lambda r: r["worst"]["references"].__setitem__(0, len(r["rows"]))),
        "'references' names a row that it does not have",
    ),
    "a row below": (
        edited(lambda r: r["worst"]["donors"]["output/rest"].__setitem__(0, -1)),
        "'output/rest' names a row that it does not have",
    ),
    "row 0.0": (
        edited(lambda r: r["minimal"].update(references=[0.0])),
        "Expected `int`, got `float` - at `$.minimal.references[0]`",
    ),
    "row true": (
        edited(lambda r: r["minimal"].update(references=[True])),
        "Expected `int`, got `bool` - at `$.minimal.references[0]`",
    ),
    "a donor less": (
        edited(lambda r: r["worst"]["donors"]["output/head0.0"].pop()),
        "its swaps have not one donor for every reference",
    ),
    "a reference more": (
        edited(lambda r: r["worst"]["references"].append(0)),
        "its swaps have not one donor for every reference",
    ),
    "a slot less": (
        edited(lambda r: r["worst"]["donors"].popitem()),
        "its swaps have no reference, or donors of other slots than its own",
    ),
    "no reference": (
        edited(lambda r: r["minimal"].update(references=[],
        donors={slot: [] for slot in r["slots"]})),
        "its swaps have no reference, or donors of other slots than its own",
    ),
    "a slot of another name": (
        edited(
            lambda r: (
                r.update(slots=["references"]),
                [r[part].update(donors={"references": [0]}) for part in ("minimal", "worst")],
                [r[part].update(references=[10**6]) for part in ("minimal", "worst")],
            )
        ),
        "'references' names a row that it does not have",
    ),
    "rows out of order": (edited(lambda r: r["rows"].reverse()),
    "its rows are not numbered in order from 0"),
    "a row twice": (edited(lambda r: r["rows"].append({**r["rows"][0], "row": len(r["rows"])})),
                    "two of its rows have one digest"),
    "a row no dict": (edited(lambda r: r["rows"].append(7)), "Expected `object`, got `int` - at "),
    "a row unnamed": (edited(lambda r: r["rows"][0].pop("digest")),
    "missing required field `digest` - at `$.rows[0]`"),
    "inputs a list": (edited(lambda r: r["rows"][0].update(inputs=[])),
    "Expected `object | null`, got `array` - at `$.rows[0].inputs`"),
    "another value": (edited(lambda r: inputs_of(r)["values"].__setitem__(0, 9)),
    " do not have its digest"),
    "another dtype": (edited(lambda r: inputs_of(r).update(dtype="int32")),
    " do not have its digest"),
    "no dtype": (edited(lambda r: inputs_of(r).update(dtype="manual_seed")),
    "'manual_seed' is no dtype"),
    "a value too many": (edited(lambda r: inputs_of(r)["values"].append(9)), " is no tensor"),
    "a value too large": (edited(lambda r: inputs_of(r)["values"].__setitem__(0, 2**70)),
    " is no tensor"),
    "a word": (edited(lambda r: inputs_of(r)["values"].__setitem__(0, "nine")), " is no tensor"),
    "a shape of words": (edited(lambda r: inputs_of(r).update(shape=["4"])),
    "Expected `int`, got `str` - at `$.rows"),
    "no inputs": (edited(lambda r: r["rows"][0].update(inputs={})), " do not have its digest"),
    **MISSING,
}  # fmt: skip


@pytest.mark.parametrize(("damage", "why"), DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_file_is_named(
    tmp_path: Path, example: Saved, damage: Callable[[bytes], bytes], why: str
) -> None:
    path = tmp_path / "x.json"
    save(path, example)
    content = damage(path.read_bytes())
    assert content != path.read_bytes()
    path.write_bytes(content)
    with pytest.raises(DamagedFile) as error:
        load(path)
    assert type(error.value) is DamagedFile
    sentence = str(error.value)
    assert sentence.startswith(f"the saved counterexample {path} is damaged (")
    assert sentence.endswith("); restore it or delete it")
    assert why in sentence
    assert "\n" not in sentence


@given(data=st.data())
def test_no_edit_breaks_more_than_the_file(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """Any value anywhere in the file may be exchanged: it is loaded or refused, and nothing else
    happens."""
    path = tmp_path_factory.getbasetemp() / "edited.json"
    dataset = Dataset(tokens())
    save(path, saved_of(dataset, drawn(dataset, 2), known=3))
    record = json.loads(path.read_bytes())
    at: Any = record
    while True:
        key = data.draw(st.sampled_from(sorted(at) if isinstance(at, dict) else range(len(at))))
        if not isinstance(at[key], (dict, list)) or not at[key] or data.draw(st.booleans()):
            break
        at = at[key]
    at[key] = data.draw(
        st.sampled_from(
            [None, True, -1, 0, 1, 2**80, 1.5, "", "x", "inf", [], [0], [""], {}, {"": 0}]
        )
    )
    path.write_text(json.dumps(record))
    try:
        loaded = load(path)
    except DamagedFile:
        return
    save(path, loaded)
    assert load(path) == loaded


def test_a_file_of_a_newer_version_is_not_called_damaged(tmp_path: Path, example: Saved) -> None:
    path = tmp_path / "x.json"
    path.write_text(
        json.dumps({"schema_version": 3, "written_by": "pytest-scrub 9.0", "other": []})
    )
    with refuses(
        NewerFile,
        f"the saved counterexample {path} was written by a newer version (pytest-scrub 9.0, schema "
        "3 where this one reads 1); upgrade pytest-scrub, or delete the file",
    ):
        load(path)


def test_a_file_that_is_not_there_is_not_damaged(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        load(tmp_path / "x.json")
    with pytest.raises(FileNotFoundError):
        set_aside(tmp_path / "x.json")
    assert list(tmp_path.iterdir()) == []


def test_damaged_files_are_kept_beside_each_other(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    for content in ("one", "two", "three"):
        path.write_text(content)
        aside = set_aside(path)
        assert aside.read_text() == content
        assert not path.exists()
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "x.json.damaged",
        "x.json.damaged2",
        "x.json.damaged3",
    ]
    assert (tmp_path / "x.json.damaged").read_text() == "one"


# --- file names -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("claim", "name"),
    [
        ("tests/test_a.py::test_b[x-1]", r"tests-test_a\.py-test_b-x-1-[0-9a-f]{12}\.json"),
        (
            "tests/test_a.py::TestÜber::test_größe[日本]",
            r"tests-test_a\.py-TestUber-test_groe-[0-9a-f]{12}\.json",
        ),
        ("../../etc/passwd::x", r"etc-passwd-x-[0-9a-f]{12}\.json"),
        ("日本", r"claim-[0-9a-f]{12}\.json"),
        ("", r"claim-[0-9a-f]{12}\.json"),
        ("a" * 5000, r"a+\.\.\.a+-[0-9a-f]{12}\.json"),
        ("a\udc80\x00\n\\b:*?", r"a-b-[0-9a-f]{12}\.json"),
    ],
)
def test_a_claims_file_has_a_readable_name(tmp_path: Path, claim: str, name: str) -> None:
    path = path_for(tmp_path, claim)
    assert re.fullmatch(name, path.name)
    assert path.parent == tmp_path
    assert len(path.name) < 150


def test_names_that_differ_by_little_do_not_collide(tmp_path: Path) -> None:
    claims = [
        "t::a",
        "t::A",
        "t/a",
        "t-a",
        "t::a[1]",
        "t::a[1.0]",
        "t::ä",
        "t::a\u0308",
        "x" * 300,
        "x" * 301,
        "",
        "-",
    ]
    assert len({path_for(tmp_path, claim).name.lower() for claim in claims}) == len(claims)
    assert path_for(tmp_path, "t::a") == path_for(tmp_path, "t::a")


@given(claim=st.text(max_size=400))
def test_any_test_id_is_a_file(tmp_path_factory: pytest.TempPathFactory, claim: str) -> None:
    folder = tmp_path_factory.getbasetemp()
    path = path_for(folder, claim)
    assert re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*\.json", path.name)
    # nothing that is put around it makes it too long
    path.with_name(f".{path.name}.4194304-00000000.tmp").touch()


# --- the same swaps on other data -----------------------------------------------------------------


def test_rows_are_found_in_another_order_and_among_others(tmp_path: Path) -> None:
    dataset = Dataset(tokens())
    swap_set = drawn(dataset)
    save(tmp_path / "x.json", saved_of(dataset, swap_set))
    saved = load(tmp_path / "x.json")
    shuffled = torch.cat([tokens(4) + 50, tokens().flip(0)])
    other = Dataset(shuffled, labels=torch.ones(10), features={"f": range(10)})
    same, found = resolve(saved, saved.worst, other, TWO)
    assert same is other
    assert found.slots == SLOTS
    assert (found.dataset, found.hypothesis) == (other.digest(), TWO)
    assert found.references.tolist() == (9 - swap_set.references).tolist()
    assert found.donors.tolist() == (9 - swap_set.donors).tolist()
    again = resolve(saved, saved.minimal, other, TWO)[1]
    assert again == found[:1]


def shuffled(dataset: Dataset, order: np.ndarray) -> Dataset:
    place = np.argsort(order)
    return Dataset(
        dataset.inputs["tokens"][torch.as_tensor(order)],
        features={name: dataset.feature(name)[order] for name in dataset.feature_names},
        references=place[dataset.reference_rows],
        donors=place[dataset.donor_rows],
    )


@given(dataset=datasets(), hypothesis=hypotheses(depth=2), data=st.data())
def test_an_allowed_swap_set_is_one_again(
    dataset: Dataset, hypothesis: Any, data: st.DataObject
) -> None:
    """Rows of equal content differ in their features, and some are no donors or no references."""
    space = SwapSpace(hypothesis, dataset)
    assume(space.paths)
    swap_set = space.draw(4, np.random.default_rng(data.draw(st.integers(0, 9))))
    saved = saved_of(dataset, swap_set)
    other = shuffled(dataset, np.array(data.draw(st.permutations(range(len(dataset))))))
    same, found = resolve(saved, saved.worst, other, hypothesis)
    again = SwapSpace(hypothesis, same)
    assert again.check(found) == []
    assert set(found.references) <= set(other.reference_rows)
    assert contents(other, found) == contents(dataset, swap_set)
    assert again.moved(found).tolist() == space.moved(swap_set).tolist()


def test_what_was_not_swapped_stays_where_it_is() -> None:
    """Of equal rows the donor is the reference itself, which may not be the first of them."""
    dataset = Dataset([[1], [1], [2], [2]], features={"f": [0, 0, 1, 1]}, references=[1, 3])
    tree = output(module("a", agrees_on="f"), module("b", agrees_on=EXACT))
    saved = saved_of(dataset, SwapSpace(tree, dataset).unswapped(dataset.reference_rows))
    found = resolve(saved, saved.worst, dataset, tree)[1]
    assert found.references.tolist() == [1, 3]
    assert found.donors.tolist() == [[1, 3]] * 3


def test_one_choice_rules_out_another() -> None:
    """Of the equal rows 0 and 1 only the second agrees with a row that may be a donor."""
    tree = output(module("a", agrees_on="f"), module("b", agrees_on="g"))
    contents, features = [[1], [1], [2], [2], [2]], {"f": [0, 1, 1, 1, 0], "g": [0] * 5}
    dataset = Dataset(contents, features=features, references=[0, 1], donors=[3])
    swap_set = SwapSet(
        [1], [[1], [3], [1]], ("output/rest", "output/a", "output/b"), dataset.digest()
    )
    assert SwapSpace(tree, dataset).check(swap_set) == []
    saved = saved_of(dataset, swap_set)
    assert resolve(saved, saved.worst, dataset, tree) == (dataset, swap_set)


def test_who_shares_a_donor_chooses_with_its_owner() -> None:
    """The owner alone could take either of the equal rows 1 and 2; what the sharer reads agrees
    with the second."""
    sharer = module("b", agrees_on="f", shares="owner", reads=[module("c", agrees_on="g")])
    for reads in (
        [module("a", agrees_on="f", name="owner"), sharer],
        [sharer, module("a", agrees_on="f", name="owner")],
    ):
        tree = output(*reads)
        dataset = Dataset([[9], [1], [1], [2]], features={"f": [0] * 4, "g": [0, 0, 1, 1]})
        rows = {"output/owner": 2, "output/b": 2, "output/b/c": 3}
        paths = SwapSpace(tree, dataset).paths
        swap_set = SwapSet([0], [[rows.get(path, 0)] for path in paths], paths, dataset.digest())
        assert SwapSpace(tree, dataset).check(swap_set) == []
        saved = saved_of(dataset, swap_set)
        assert resolve(saved, saved.worst, dataset, tree) == (dataset, swap_set)


def test_equal_rows_that_no_choice_makes_allowed_are_left_to_the_check() -> None:
    tree = output(module("a", agrees_on="f"))
    before = Dataset([[1], [2], [2]], features={"f": [0, 0, 0]})
    saved = saved_of(before, SwapSet([0], [[0], [1]], ("output/rest", "output/a"), before.digest()))
    after = Dataset([[1], [2], [2]], features={"f": [0, 1, 1]})
    found = resolve(saved, saved.worst, after, tree)[1]
    assert found.donors.tolist() == [[0], [1]]
    assert [str(violation) for violation in SwapSpace(tree, after).check(found)] == [
        "output/a: row 1 may not stand in for row 0: they do not agree on f"
    ]


def test_rows_that_are_gone_are_counted_and_shown() -> None:
    before = Dataset(tokens(4))
    saved = saved_of(before, SwapSet([0, 1], [[0, 1], [2, 3], [3, 0]], SLOTS, before.digest()))
    after = Dataset(tokens(4)[:2])
    with refuses(
        RowsGone,
        "2 of the 4 rows of the saved swaps are gone from the dataset, the first is "
        f"{before.show(2)!r}; put them back, or delete the saved counterexample",
    ):
        resolve(saved, saved.worst, after, TWO)
    with pytest.raises(RowsGone, match=r"^2 of the 3 rows"):
        resolve(saved, saved.minimal, after, TWO)
    # the same numbers in another type are other rows
    with pytest.raises(RowsGone, match=r"^4 of the 4 rows"):
        resolve(saved, saved.worst, Dataset(tokens(4).int()), TWO)
    assert issubclass(RowsGone, ScrubError)


def test_only_the_swaps_asked_for_have_to_be_there() -> None:
    before = Dataset(tokens(4))
    saved = saved_of(before, SwapSet([0, 1], [[0, 1], [0, 3], [0, 0]], SLOTS, before.digest()))
    found = resolve(saved, saved.minimal, Dataset(tokens(4)[:1]), TWO)[1]
    assert (found.references.tolist(), found.donors.tolist()) == ([0], [[0], [0], [0]])


def test_a_claim_with_other_slots_is_named() -> None:
    dataset = Dataset(tokens())
    saved = saved_of(dataset, drawn(dataset))
    with refuses(
        ClaimChanged,
        "the claim has changed since: it has no slot 'output/head1.0', which the saved swaps fill",
    ):
        resolve(saved, saved.worst, dataset, output(head(0, 0, agrees_on=ANYTHING)))
    more = output(*TWO.reads, head(2, 0, agrees_on=ANYTHING))
    with refuses(
        ClaimChanged,
        "the claim has changed since: its slot 'output/head2.0' has no donors in the saved swaps",
    ):
        resolve(saved, saved.worst, dataset, more)


def test_siblings_may_change_places() -> None:
    dataset = Dataset(tokens())
    swap_set = drawn(dataset)
    saved = saved_of(dataset, swap_set)
    turned = output(*reversed(TWO.reads))
    found = resolve(saved, saved.worst, dataset, turned)[1]
    assert found.slots == (SLOTS[0], SLOTS[2], SLOTS[1])
    assert found.donors.tolist() == swap_set.donors[[0, 2, 1]].tolist()


# --- rows that no dataset has ---------------------------------------------------------------------


def test_fresh_rows_are_put_back(tmp_path: Path, example: Saved) -> None:
    save(tmp_path / "x.json", example)
    saved = load(tmp_path / "x.json")
    dataset = Dataset(tokens().flip(0), features={"first": lambda batch: batch["tokens"][:, 0]})
    extended, found = resolve(saved, saved.worst, dataset, TWO)
    assert (len(dataset), len(extended)) == (6, 8)
    assert found.dataset == extended.digest()
    assert contents(extended, found) == [
        saved.digests(line) for line in (saved.worst.references, *saved.worst.donors.values())
    ]
    assert SwapSpace(TWO, extended).check(found) == []
    assert extended.feature("first").tolist()[6:] == [
        row[0] for row in extended.inputs["tokens"].tolist()[6:]
    ]


def test_fresh_rows_that_the_dataset_has_by_now_are_its_own(example: Saved) -> None:
    dataset = Dataset(torch.cat([tokens(2, seed=1) + 100, tokens()]))
    same, found = resolve(example, example.worst, dataset, TWO)
    assert same is dataset
    assert {0, 1} <= set(found.donors.ravel().tolist())


def test_a_row_that_is_the_datasets_own_too_carries_no_inputs() -> None:
    extended = Dataset(tokens(3)).extend(tokens(3)[1:])
    for references, donors in ([[1], [[3]] * 3], [[0], [[3], [1], [4]]]):
        saved = saved_of(extended, SwapSet(references, donors, SLOTS, extended.digest()), known=3)
        carried = [row.digest for row in saved.rows if row.inputs is not None]
        assert carried == ([extended.row_digest(4)] if 4 in np.ravel(donors) else [])


def test_fresh_rows_that_do_not_fit_are_gone_too(example: Saved) -> None:
    worst = example.worst
    wanted = len({place for line in (worst.references, *worst.donors.values()) for place in line})
    unfit = [
        tokens()[:, 1:],
        tokens().int(),
        {"ids": tokens()},
        {"tokens": tokens(), "mask": torch.ones(6, 4)},
    ]
    for inputs in unfit:
        with pytest.raises(RowsGone, match=rf"^{wanted} of the {wanted} rows"):
            resolve(example, example.worst, Dataset(inputs), TWO)


def test_a_feature_that_became_a_column_says_so() -> None:
    tree = output(module("a", agrees_on="f"))
    slots = ("output/rest", "output/a")
    extended = Dataset([[1], [1]], features={"f": lambda batch: batch["tokens"][:, 0]}).extend(
        [[2]]
    )
    saved = saved_of(extended, SwapSet([0], [[2], [0]], slots, extended.digest()), known=2)
    with pytest.raises(
        DataError, match="feature 'f' is a column and has no values for rows that extend"
    ):
        resolve(saved, saved.worst, Dataset([[1], [1]], features={"f": [1, 1]}), tree)


DTYPES = [
    "bool", "uint8", "int8", "int16", "int32", "int64", "uint16", "uint32", "uint64", "float16",
    "bfloat16", "float32",
    "float64", "float8_e4m3fn", "float8_e5m2",
]  # fmt: skip


@pytest.mark.parametrize("name", DTYPES)
@pytest.mark.parametrize("shape", [(), (5,), (2, 3), (0, 3)])
def test_every_type_of_input_is_built_anew(
    tmp_path: Path, name: str, shape: tuple[int, ...]
) -> None:
    dtype = getattr(torch, name)
    size = (4, *shape)
    if dtype == torch.bool:
        values = torch.rand(size, generator=_seeded(0)) > 0.5
    elif dtype.is_floating_point:
        values = torch.randn(size, generator=_seeded(0), dtype=torch.float64).to(dtype)
        if values.numel() and torch.finfo(dtype).bits > 8:
            values.view(4, -1)[2, 0], values.view(4, -1)[3, 0] = -torch.inf, -0.0
    else:
        info = torch.iinfo(dtype)
        low, high = max(info.min, -(2**62)), min(info.max, 2**62)
        values = torch.randint(low, high, size, generator=_seeded(0)).to(dtype)
    ids = torch.arange(4)
    dataset = Dataset({"ids": ids[:2], "x": values[:2]})
    extended = dataset.extend({"ids": ids[2:], "x": values[2:]})
    saved = saved_of(extended, SwapSet([0, 1], [[2, 3]] * 3, SLOTS, extended.digest()), known=2)
    save(tmp_path / "x.json", saved)
    loaded = load(tmp_path / "x.json")
    again, found = resolve(loaded, loaded.worst, Dataset({"x": values[:2], "ids": ids[:2]}), TWO)
    assert found.donors.tolist() == [[2, 3]] * 3
    assert again.inputs["x"].dtype == dtype
    assert again.digest() == extended.digest()


def test_several_inputs_of_several_types(tmp_path: Path) -> None:
    inputs = {
        "input_ids": torch.randint(0, 50_000, (4, 7), generator=_seeded(0)),
        "attention_mask": torch.rand(4, 7, generator=_seeded(1)) > 0.3,
        "vision": torch.randn(4, 2, 3, generator=_seeded(2)).bfloat16(),
        "bias": torch.randn(4, generator=_seeded(3)),
    }
    dataset = Dataset({name: tensor[:2] for name, tensor in inputs.items()})
    extended = dataset.extend({name: tensor[2:] for name, tensor in inputs.items()})
    saved = saved_of(extended, SwapSet([0], [[1], [2], [3]], SLOTS, extended.digest()), known=2)
    save(tmp_path / "x.json", saved)
    loaded = load(tmp_path / "x.json")
    turned = replace(
        saved,
        rows=tuple(
            replace(row, inputs=row.inputs and dict(reversed(row.inputs.items())))
            for row in saved.rows
        ),
    )
    save(tmp_path / "y.json", turned)
    assert (tmp_path / "y.json").read_bytes() == (tmp_path / "x.json").read_bytes()
    again, found = resolve(loaded, loaded.worst, dataset, TWO)
    assert all(torch.equal(again.inputs[name], tensor) for name, tensor in inputs.items())
    assert found.donors.tolist() == [[1], [2], [3]]


# --- replay ---------------------------------------------------------------------------------------

REPLAY = """
import sys
from pathlib import Path
from tests.test_counterexamples import gap_of, replay_data, REPLAYED
from pytest_scrub.adversaries.saved import load
from pytest_scrub.adversaries.resolving import resolve
saved = load(Path(sys.argv[1]))
print(repr(gap_of(*resolve(saved, saved.worst, replay_data(flip=True), REPLAYED))))
"""
REPLAYED = output(module("0", agrees_on="positive"))


def replay_data(flip: bool = False) -> Dataset:
    inputs = torch.randn(30, 3, generator=_seeded(1))
    return Dataset(
        inputs.flip(0) if flip else inputs,
        features={"positive": lambda batch: batch["tokens"][:, 0] > 0},
    )


def gap_of(dataset: Dataset, swap_set: SwapSet) -> float:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2))
    evaluator = Evaluator(
        as_graph(network), dataset, REPLAYED, Metric("mean", lambda output, batch: output.mean(1))
    )
    return float((evaluator.evaluate(swap_set) - evaluator.unscrubbed(swap_set.references)).mean())


def test_another_process_measures_the_same_gap(tmp_path: Path) -> None:
    dataset = replay_data()
    extended = dataset.extend(torch.randn(5, 3, generator=_seeded(2)))
    swap_set = drawn(extended, 40, REPLAYED)
    save(tmp_path / "x.json", saved_of(extended, swap_set, known=len(dataset)))
    replayed = subprocess.run(
        [sys.executable, "-c", REPLAY, str(tmp_path / "x.json")],
        capture_output=True, text=True, check=True, cwd=Path(__file__).parents[1],
    )  # fmt: skip
    assert abs(gap_of(extended, swap_set)) > 1e-3
    assert float(replayed.stdout) == pytest.approx(gap_of(extended, swap_set), rel=1e-6)


# --- cost -----------------------------------------------------------------------------------------


def test_rows_are_hashed_once_and_forgotten_with_their_dataset(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls = []
    hashed = Dataset.row_digest
    monkeypatch.setattr(
        Dataset, "row_digest", lambda self, row: calls.append(row) or hashed(self, row)
    )
    dataset = Dataset(tokens())
    saved = saved_of(dataset, drawn(dataset))
    calls.clear()
    with pytest.raises(ClaimChanged):
        resolve(saved, saved.worst, dataset, output(head(0, 0, agrees_on=ANYTHING)))
    assert calls == []
    resolve(saved, saved.worst, dataset, TWO)
    resolve(saved, saved.minimal, dataset, TWO)
    assert calls == list(range(6))
    assert dataset in resolving._FOUND
    before = len(resolving._FOUND)
    del dataset
    gc.collect()
    assert len(resolving._FOUND) < before


def test_plain_values_only(example: Saved) -> None:
    """What a file holds, a report can print and another process can unpickle."""
    json.dumps(asdict(example), allow_nan=False)
