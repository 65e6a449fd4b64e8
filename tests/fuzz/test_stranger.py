"""Files from a stranger run no code: every format that could carry some is opened with an exploit.

Checkpoints' indexes are in tests/ctr/checkpoint, arrays of a store in
tests/ctr/data/test_store.py.
"""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import shutil
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml

from ctr.checkpoint import CheckpointError, newest
from ctr.config import ConfigError, RunConfig
from ctr.data.batch import Batch
from ctr.evidence import EvidenceError, read_batch
from ctr.run_folder import RunFolder
from datasets import taobao_mm
from datasets.errors import DataError
from datasets.events_config import read_config
from datasets.parquet import INTEGER, ParquetSource
from datasets.verify import verify
from tests.fuzz.stores import make_store, reseal


class Exploit:
    """Runs a shell command where it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch '{self.marker}'",)


@pytest.fixture
def marker(tmp_path: Path) -> Iterator[Path]:
    """A file that appears if an exploit runs; proven by running it once more at the end."""
    path = tmp_path / "marker"
    yield path
    assert not path.exists(), "code of the file was run"
    pickle.loads(pickle.dumps(Exploit(path)))
    assert path.exists(), "the exploit itself does nothing: the test proves nothing"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store, to be copied."""
    return make_store(tmp_path_factory.mktemp("stranger") / "store")


TAGS = (
    "!!python/object/apply:os.system [\"touch '{}'\"]",
    "!!python/object/apply:subprocess.check_call [[touch, '{}']]",
    "!!python/object/new:os.system [\"touch '{}'\"]",
    "!!python/object/apply:builtins.eval [\"open('{}', 'w')\"]",
    "!!python/name:os.system",
    "!!python/module:os",
)


@pytest.mark.parametrize("tag", TAGS)
def test_tags_of_a_configuration(tag: str, marker: Path, tmp_path: Path) -> None:
    for text in (tag.format(marker), f"seed: {tag.format(marker)}", f"? {tag.format(marker)}\n: 1"):
        (tmp_path / "config.yaml").write_text(text)
        with pytest.raises(ConfigError, match=r"config\.yaml: cannot be read"):
            RunFolder(tmp_path).read_config()
        with pytest.raises(DataError, match=r"config\.yaml: not readable as YAML"):
            read_config(tmp_path / "config.yaml")


def test_what_an_unsafe_reader_would_run(tmp_path: Path) -> None:
    """The attack that the test above repels works where anything may be loaded."""
    marker = tmp_path / "marker"
    yaml.unsafe_load(TAGS[0].format(marker))
    assert marker.exists()


def test_references_of_a_configuration_are_values(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("_target_: os.system\n_args_: [true]\n")
    with pytest.raises(ConfigError, match="_target_: no such configuration key"):
        RunFolder(tmp_path).read_config()
    (tmp_path / "config.yaml").write_text("data: {store: '${python:os.system}'}\n")
    with pytest.raises(ConfigError, match="python"):
        RunFolder(tmp_path).read_config()
    (tmp_path / "config.yaml").write_text("seed: 7\n")
    assert RunFolder(tmp_path).read_config() == RunConfig(seed=7, run=str(tmp_path))


def forms(marker: Path, folder: Path) -> Iterator[Path]:
    """Files where a batch is expected, each with the exploit in another place."""
    for number, content in enumerate(
        (
            Exploit(marker),
            {item.name: Exploit(marker) for item in fields(Batch)},
            {"user_features_U": {"a": [Exploit(marker)]}, "step_samples": 1},
        )
    ):
        for old in (False, True):
            path = folder / f"{number}{old}.pt"
            torch.save(content, path, _use_new_zipfile_serialization=not old)
            yield path
        bare = folder / f"{number}.pickle"
        bare.write_bytes(pickle.dumps(content))
        yield bare


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_a_saved_batch(marker: Path, tmp_path: Path) -> None:
    for path in forms(marker, tmp_path):
        with pytest.raises(EvidenceError, match=rf"{path.name}: not a saved batch"):
            read_batch(path)


@pytest.mark.parametrize("name", ["/dev/zero", "../step-000000001/progress.json", "a/../b"])
def test_a_checkpoint_that_names_a_file_outside(name: str, tmp_path: Path) -> None:
    """The checksum of /dev/zero would never be ready."""
    stored = {"step": 1, "files": {name: [0, ""]}}
    seal = hashlib.sha256(json.dumps(stored, sort_keys=True).encode()).hexdigest()
    (tmp_path / "step-000000001").mkdir()
    file = tmp_path / "step-000000001" / "progress.json"
    file.write_text(json.dumps({**stored, "sha256": seal}))
    with pytest.raises(CheckpointError, match=r"progress\.json: .*it names a file outside"):
        newest(tmp_path)


NPY = ("users/history_offsets", "users/history_item", "items/vectors", "splits/train/label")


@pytest.mark.parametrize("name", NPY)
@pytest.mark.parametrize("bare", [False, True])
def test_verifying_a_pickled_array(
    name: str, bare: bool, marker: Path, tmp_path: Path, made: Path
) -> None:
    store = shutil.copytree(made, tmp_path / "store")
    file = store / f"{name}.npy"
    if bare:
        file.write_bytes(pickle.dumps(Exploit(marker)))
    else:
        np.save(file, np.array([Exploit(marker)], dtype=object), allow_pickle=True)
    reseal(store)
    with pytest.raises(DataError, match=rf"{name}\.npy: not readable as \.npy"):
        verify(store)


@pytest.mark.parametrize("name", ["scl_emb_int8_p90_keys", "scl_emb_int8_p90_values"])
def test_pickled_arrays_of_the_joined_form(name: str, marker: Path, tmp_path: Path) -> None:
    for split in taobao_mm.SPLITS:
        (tmp_path / split).mkdir()
        pq.write_table(pa.table({"a": [1]}), tmp_path / split / "0.parquet")
    (tmp_path / "feature_map").mkdir()
    for stem, dtype in (("keys", np.int64), ("values", np.int8)):
        np.save(tmp_path / "feature_map" / f"scl_emb_int8_p90_{stem}.npy", np.zeros(1, dtype))
    exploit = np.array([Exploit(marker)], dtype=object)
    np.save(tmp_path / "feature_map" / f"{name}.npy", exploit, allow_pickle=True)
    with pytest.raises(DataError, match=rf"{name}\.npy: not readable as \.npy"):
        taobao_mm.JoinedTaobaoMM(tmp_path).pieces("vectors")


def hostile_table(marker: Path, values: pa.Array) -> pa.Table:
    """A table with pickles in all metadata that some reader once unpickled."""
    # The oldest protocol is text, which every reader takes.
    code = pickle.dumps(Exploit(marker), protocol=0)
    extension = {
        b"ARROW:extension:name": b"arrow.py_extension_type",
        b"ARROW:extension:metadata": code,
    }
    pandas = json.dumps({"columns": [{"metadata": code.decode("latin1"), "numpy_type": "object"}]})
    metadata = {b"pandas": pandas.encode(), b"code": code}
    schema = pa.schema([pa.field("raw", values.type, metadata=extension)], metadata=metadata)
    return pa.table([values], schema=schema)


def test_metadata_of_a_raw_table(marker: Path, tmp_path: Path) -> None:
    file = tmp_path / "table.parquet"
    pq.write_table(hostile_table(marker, pa.array([1, 2])), file)
    (batch,) = ParquetSource([file], {"raw": INTEGER}).batches("rows")
    assert batch.integers("raw").tolist() == [1, 2]


def test_metadata_of_a_vocabulary(marker: Path, tmp_path: Path, made: Path) -> None:
    store = shutil.copytree(made, tmp_path / "store")
    file = store / "vocab" / "item.parquet"
    table = pq.read_table(file)
    hostile = hostile_table(marker, table.column("raw").combine_chunks())
    changed = table.set_column(0, hostile.schema.field("raw"), hostile.column("raw"))
    pq.write_table(changed.replace_schema_metadata(hostile.schema.metadata), file)
    reseal(store)
    with pytest.raises(DataError, match=r"item\.parquet: columns .*py_extension_type"):
        verify(store)
