"""Datasets from files: npz, safetensors, JSON lines and Hugging Face, and what is
refused of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from pytest_scrub.data.dataset import Dataset
from pytest_scrub.errors import DataError
from tests.data.test_dataset import TOKENS, refuses


def test_from_npz(tmp_path: Path) -> None:
    path = tmp_path / "brackets.npz"
    np.savez(
        path, ids=np.array(TOKENS), ok=np.array([1, 0, 1, 0]), first=np.array(["a", "b", "a", "b"])
    )
    features = {"initial": "first", "total": lambda batch: batch["tokens"].sum(1)}
    data = Dataset.from_npz(path, inputs="ids", labels="ok", features=features, donors=[0])
    assert data.inputs["tokens"].tolist() == TOKENS
    assert data.labels.tolist() == [1, 0, 1, 0]
    assert data.feature("initial").tolist() == ["a", "b", "a", "b"]
    assert data.feature("total").tolist() == [9, 8, 9, 6]
    assert (data.name, data.donor_rows.tolist()) == ("brackets.npz", [0])
    assert list(Dataset.from_npz(path, inputs=["ids", "ok"], name="n").inputs) == ["ids", "ok"]
    assert list(Dataset.from_npz(path, inputs={"tokens": "ids", "n": "ok"}).inputs) == [
        "tokens",
        "n",
    ]
    with refuses(
        f"{path} has no field 'firts'; did you mean 'first'?; its fields are ids, ok, first"
    ):
        Dataset.from_npz(path, inputs="ids", features=["firts"])


def test_from_npz_never_unpickles(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    np.savez(path, ids=np.array(TOKENS), evil=np.array([{}, None], dtype=object), allow_pickle=True)
    assert len(Dataset.from_npz(path, inputs="ids")) == 4
    with pytest.raises(
        DataError, match=r"^'evil' of .*x.npz cannot be read \(.*\); store numbers or text$"
    ):
        Dataset.from_npz(path, inputs="ids", features=["evil"])


def test_from_npz_refuses_other_files(tmp_path: Path) -> None:
    np.save(tmp_path / "bare.npy", np.array(TOKENS))
    (tmp_path / "empty.npz").touch()
    (tmp_path / "junk.npz").write_bytes(b"PK\x03\x04junk")
    (tmp_path / "text.npz").write_text("hello")
    for name in ("bare.npy", "empty.npz", "junk.npz", "text.npz"):
        with pytest.raises(
            DataError, match=rf"{name} is not an .npz file \(.*\); write it with numpy.savez$"
        ):
            Dataset.from_npz(tmp_path / name, inputs="ids")


@pytest.mark.parametrize(
    "load",
    [
        lambda path: Dataset.from_npz(path, inputs="ids"),
        lambda path: Dataset.from_safetensors(path, inputs="ids"),
        lambda path: Dataset.from_jsonl(path, tokenize="ids"),
    ],
)
def test_a_missing_file_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, load: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    with refuses(f"there is no file data/x; relative paths start at {Path.cwd()}"):
        load("data/x")


def test_from_safetensors(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    save_file({"ids": torch.tensor(TOKENS), "ok": torch.tensor([1, 0, 1, 0])}, path)
    data = Dataset.from_safetensors(path, inputs="ids", labels="ok", features="ok")
    assert data.inputs["tokens"].tolist() == TOKENS
    assert data.labels.tolist() == data.feature("ok").tolist() == [1, 0, 1, 0]
    with refuses(f"{path} has no field 'id'; did you mean 'ids'?; its fields are ids, ok"):
        Dataset.from_safetensors(path, inputs="id")
    path.write_bytes(b"junk")
    with pytest.raises(DataError, match=r"is not a \.safetensors file"):
        Dataset.from_safetensors(path, inputs="ids")


def lines(tmp_path: Path, *records: Any) -> Path:
    path = tmp_path / "x.jsonl"
    path.write_text(
        "\n\n".join(r if isinstance(r, str) else json.dumps(r) for r in records) + "\n",
        encoding="utf-8",
    )
    return path


def test_from_jsonl(tmp_path: Path) -> None:
    path = lines(
        tmp_path,
        {"text": "()", "ok": True, "from": "\u2028"},
        {"text": "((", "ok": False, "from": "b"},
    )
    data = Dataset.from_jsonl(
        path,
        tokenize=lambda record: [" ()".index(c) for c in record["text"]],
        labels="ok",
        features={"source": "from", "first": lambda record: record["text"][0]},
    )
    assert data.inputs["tokens"].tolist() == [[1, 2], [1, 1]]
    assert list(data.inputs) == ["tokens"]
    assert data.labels.tolist() == [1, 0]
    assert data.feature("source").tolist() == ["\u2028", "b"]
    assert data.feature("first").tolist() == ["(", "("]
    assert data.name == "x.jsonl"
    assert Dataset.from_jsonl(path, tokenize=lambda r: [1], labels=len).labels.tolist() == [3, 3]


def test_from_jsonl_pads_on_the_right(tmp_path: Path) -> None:
    path = lines(tmp_path, {"ids": [1, 2, 3], "type": [4, 4, 4]}, {"ids": [5], "type": [6]})
    data = Dataset.from_jsonl(path, tokenize="ids", pad=9)
    assert data.inputs["tokens"].tolist() == [[1, 2, 3], [5, 9, 9]]
    assert data.inputs["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]
    hf = Dataset.from_jsonl(
        path, tokenize=lambda r: {"input_ids": r["ids"], "token_type_ids": r["type"]}, pad=9
    )
    assert hf.inputs["input_ids"].tolist() == [[1, 2, 3], [5, 9, 9]]
    assert hf.inputs["token_type_ids"].tolist() == [[4, 4, 4], [6, 0, 0]]
    own = Dataset.from_jsonl(
        path, tokenize=lambda r: {"tokens": r["ids"], "attention_mask": [0] * len(r["ids"])}, pad=9
    )
    assert own.inputs["attention_mask"].tolist() == [[0, 0, 0], [0, 0, 0]]
    even = Dataset.from_jsonl(path, tokenize=lambda r: [7], pad=9)
    assert even.inputs["attention_mask"].tolist() == [[1], [1]]


@pytest.mark.parametrize(
    ("records", "arguments", "sentence"),
    [
        (['{"ids": [1]}', "oops"], {},
         "line 3 of {} is not JSON (Expecting value: line 1 column 1 (char 0)); mend the line or "
         "take it out"),
        (["[1]"], {}, "line 1 of {} holds a list; write one JSON object per line"),
        ([{"ids": [1], "label": 1}, {"ids": [1], "lable": 1}], {"labels": "label"},
         "line 3 of {} has no field 'label'; did you mean 'lable'?; its fields are ids, lable"),
        ([{"ids": [1]}, {"ids": [1]}], {"features": ["f"]}, "line 1 of {} has no field 'f'; its "
                                                            "fields are ids"),
        ([{"ids": [1]}, {"ids": [1, 2]}], {},
         "'tokens' of {} has rows of 1 to 2 tokens; give pad= the id of the pad token"),
        ([{"ids": [1]}, {"ids": []}], {"pad": 0}, "'tokens' of {} has no tokens at row 1; take the "
                                                  "row out"),
        ([{"ids": [1]}, {"ids": None}], {"pad": 0}, "'tokens' of {} has no tokens at row 1; take "
                                                    "the row out"),
        ([{"ids": {"a": [1], "b": [1, 2]}}, {"ids": {"a": [1, 2], "b": [1]}}], {"pad": 0},
         "'b' of {} has rows of other lengths than 'a'"),
        ([{"ids": {"a": [1]}}, {"ids": {"b": [1]}}], {},
         "what tokenize= returns for line 3 of {} has no field 'a'; its fields are b"),
        ([""], {}, "the dataset has no rows; give at least one"),
    ],
)  # fmt: skip
def test_from_jsonl_refuses(
    tmp_path: Path, records: list[Any], arguments: dict[str, Any], sentence: str
) -> None:
    path = lines(tmp_path, *records)
    with refuses(sentence.replace("{}", str(path))):
        Dataset.from_jsonl(path, tokenize="ids", **arguments)


def test_from_jsonl_names_a_line_that_is_not_utf8(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_bytes(b'{"ids": [1]}\n{"ids": "\xff"}\n')
    with pytest.raises(
        DataError, match=r"^line 2 of .* is not JSON \(.*utf-8.*\); mend the line or take it out$"
    ):
        Dataset.from_jsonl(tmp_path / "x.jsonl", tokenize="ids")


def test_from_hf() -> None:
    table = datasets.Dataset.from_dict(
        {
            "input_ids": TOKENS,
            "label": [1, 0, 1, 0],
            "kind": ["a", "b", "a", "b"],
            "x": [0.1, 0.2, 0.1, 0.3],
        }
    ).with_format("torch")
    data = Dataset.from_hf(
        table, inputs={"tokens": "input_ids"}, labels="label", features=["kind", "x"], name="hf"
    )
    assert data.inputs["tokens"].tolist() == TOKENS
    assert data.labels.tolist() == [1, 0, 1, 0]
    assert data.feature("kind").tolist() == ["a", "b", "a", "b"]
    assert data.feature("x").tolist() == [0.1, 0.2, 0.1, 0.3]
    assert data.name == "hf"
    with refuses(
        "the Hugging Face dataset has no field 'lable'; did you mean 'label'?; its fields are "
        "input_ids, label, kind, x"
    ):
        Dataset.from_hf(table, inputs="input_ids", labels="lable")


def test_from_hf_pads() -> None:
    table = datasets.Dataset.from_dict({"ids": [[1, 2], [3]]})
    data = Dataset.from_hf(table, inputs="ids", pad=0)
    assert data.inputs["tokens"].tolist() == [[1, 2], [3, 0]]
    assert data.inputs["attention_mask"].tolist() == [[1, 1], [1, 0]]


def test_from_hf_takes_one_split() -> None:
    table = datasets.Dataset.from_dict({"ids": [[1, 2], [3, 4]]})
    with refuses("from_hf() takes one split of a datasets.Dataset, not a DatasetDict"):
        Dataset.from_hf(datasets.DatasetDict(train=table), inputs="ids")
    with refuses("from_hf() takes one split of a datasets.Dataset, not a list"):
        Dataset.from_hf([1], inputs="ids")


@pytest.mark.parametrize("spec", [[1], (1,), True, 1.5, {}, slice("a")])
def test_a_position_of_labels_that_can_be_none(spec: Any) -> None:
    with pytest.raises(
        DataError, match="label_pos= takes an int, a slice or the name of a feature, not"
    ):
        Dataset(torch.zeros(2, 3), label_pos=spec)
