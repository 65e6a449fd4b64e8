"""The made-up MicroLens_1M_x1: its schema is the published one, and interests can be learnt."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn.metrics import roc_auc_score

from datasets import microlens, microlens_world
from datasets.microlens_world import MicroLensSize, write_tables
from datasets.verify import verify

SIZE = MicroLensSize(
    rows=3000,
    valid_rows=1500,
    test_rows=400,
    users=900,
    items=800,
    categories=12,
    sequence_length=40,
)


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small made-up tables."""
    folder = tmp_path_factory.mktemp("microlens") / "raw"
    write_tables(folder, SIZE)
    return folder


def test_schema_is_the_published_one(raw: Path) -> None:
    number, numbers = pa.int64(), pa.list_(pa.int64())
    sample = {"user_id": number, "item_seq": numbers, "item_id": number}
    sample |= {"likes_level": number, "views_level": number}
    columns = {
        "train": {**sample, "label": number},
        "valid": {**sample, "label": number},
        "test": sample,
        "item_info": {
            "item_id": number,
            "item_tags": numbers,
            "item_emb_d128": pa.list_(pa.float32()),
        },
    }
    rows = {"train": 3000, "valid": 1500, "test": 400, "item_info": 801}
    assert {file.stem for file in raw.iterdir()} == columns.keys()
    for name, expected in columns.items():
        table = pq.read_table(raw / f"{name}.parquet")
        assert list(zip(table.schema.names, table.schema.types, strict=True)) == [*expected.items()]
        assert len(table) == rows[name]
        assert all(column.null_count == 0 for column in table.columns)


def test_values(raw: Path) -> None:
    info = pl.read_parquet(raw / "item_info.parquet")
    assert info["item_id"].to_list() == list(range(801))
    assert set(info["item_tags"].list.len()) == {5}
    assert set(info["item_emb_d128"].list.len()) == {128}
    assert not any(info["item_tags"][0])
    assert not any(info["item_emb_d128"][0])
    train = pl.read_parquet(raw / "train.parquet")
    assert set(train["item_seq"].list.len()) == {40}
    sequences = np.array(train["item_seq"].to_list())
    # Once an item has come, there is no more padding.
    assert (np.diff((sequences > 0).astype(int), axis=1) >= 0).all()
    assert (sequences[:, 0] == 0).any()
    assert (sequences[:, -1] == 0).any()
    for level in ("likes_level", "views_level"):
        assert set(train[level]) == set(range(11))
    assert 0.2 < train["label"].mean() < 0.7


def test_what_is_planted_can_be_found(raw: Path) -> None:
    """Vectors, tags and levels each order the labels of rows whose user has a history."""
    info = pl.read_parquet(raw / "item_info.parquet")
    vectors = np.array(info["item_emb_d128"].to_list())
    tags = np.array(info["item_tags"].to_list())
    valid = pl.read_parquet(raw / "valid.parquet").filter(pl.col("item_seq").list.sum() > 0)
    label, target = valid["label"].to_numpy(), valid["item_id"].to_numpy()
    sequences = np.array(valid["item_seq"].to_list())
    cosine = np.einsum("slm,sm->sl", vectors[sequences], vectors[target])
    close = np.where(sequences > 0, np.maximum(cosine, 0) ** 3, 0).sum(1) / (sequences > 0).sum(1)
    same = (tags[sequences][:, :, -2] == tags[target][:, None, -2]).mean(1)
    scores = {"vectors": close, "tags": same, "level": valid["likes_level"].to_numpy()}
    found = {name: roc_auc_score(label, score) for name, score in scores.items()}
    assert found["vectors"] > 0.75
    assert found["tags"] > 0.7
    assert found["level"] > 0.6


def test_prepared(raw: Path, tmp_path: Path) -> None:
    manifest = microlens.prepare(raw, tmp_path / "store")
    assert verify(tmp_path / "store") == manifest
    assert manifest["tables"]["item"]["rows"] == 801
    assert manifest["vectors"] == {"width": 128, "dtype": "float32", "items_with_vector": 800}
    # Sequences of a user begin one another, so nobody has two records.
    users = pl.concat(
        [
            pl.read_parquet(raw / f"{split}.parquet")["user_id"]
            for split in ("train", "valid", "test")
        ]
    )
    assert manifest["histories"]["records"] == 1 + users.n_unique()
    assert set(manifest["counts"].values()) == {0}


def test_repeatable(raw: Path, tmp_path: Path) -> None:
    arguments = [f"--{name.replace('_', '-')}={value}" for name, value in vars(SIZE).items()]
    assert microlens_world.main(["--out", str(tmp_path / "again"), *arguments]) == 0
    assert microlens_world.main(["--out", str(tmp_path / "other"), *arguments, "--seed=1"]) == 0
    for file in raw.iterdir():
        assert (tmp_path / "again" / file.name).read_bytes() == file.read_bytes()
        assert (tmp_path / "other" / file.name).read_bytes() != file.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["again", "other"]


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["--rows=0"], "must be positive"),
        (["--sequence-length=0"], "must be positive"),
        (["--items=10"], "10 items for 30 categories"),
        (["--styles=0"], "categories of 0 styles"),
    ],
)
def test_impossible_sizes(
    tmp_path: Path, arguments: list[str], problem: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert microlens_world.main(["--out", str(tmp_path / "raw"), *arguments]) == 2
    assert problem in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_existing_folder_stays(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert microlens_world.main(["--out", str(tmp_path)]) == 2
    assert "already exists" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_one_user(tmp_path: Path) -> None:
    tiny: dict[str, Any] = {"rows": 1, "valid_rows": 1, "test_rows": 1, "users": 1}
    write_tables(tmp_path / "raw", MicroLensSize(**tiny, items=1, categories=1, styles=1))
    microlens.prepare(tmp_path / "raw", tmp_path / "store")
    verify(tmp_path / "store")
