"""Saved counterexamples: what a file holds, what is refused, and the same swaps found again on
other data."""

from __future__ import annotations

import errno
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
from hypothesis import given
from hypothesis import strategies as st

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
    save,
    set_aside,
)
from pytest_scrub.data.dataset import Dataset
from pytest_scrub.swaps.space import SwapSet
from tests.adversaries.counterexamples import (
    SLOTS,
    TWO,
    contents,
    drawn,
    refuses,
    saved_of,
    seeded,
    tokens,
)
from tests.reference import edits
from tests.sizes import only_in_full

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
    dataset = Dataset(torch.randint(0, 5, (4000, 40), generator=seeded(0)))
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


@only_in_full
def test_two_processes_write_at_once(tmp_path: Path, example: Saved, warm: None) -> None:
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
    path.write_text(data.draw(edits.edited(path.read_text())))
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


# --- cost -----------------------------------------------------------------------------------------


def test_plain_values_only(example: Saved) -> None:
    """What a file holds, a report can print and another process can unpickle."""
    json.dumps(asdict(example), allow_nan=False)
