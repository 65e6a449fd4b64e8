"""The store: what is written is read back, and a killed writer leaves nothing."""

from __future__ import annotations

import itertools
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from datasets.errors import DataError
from datasets.norms import inverse_norms
from datasets.npy import NpyAppender
from datasets.store import StoreWriter, main
from datasets.verify import verify
from tests.datasets.stores import ITEMS, write_extended, write_store


@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    histories=st.lists(st.lists(st.integers(0, ITEMS), max_size=5), min_size=1, max_size=6),
    number=st.integers(0, 10**12),
)
def test_round_trip(
    tmp_path: Path, open_store: Any, histories: list[list[int]], number: int
) -> None:
    path = tmp_path / f"store-{number}"
    manifest = write_store(path, histories, overwrite=True)
    assert verify(path) == manifest
    store = open_store(path)
    offsets, rows = store["users/history_offsets"], store["users/history_item"]
    assert offsets[:2].tolist() == [0, 0]
    found = [rows[a:b].tolist() for a, b in itertools.pairwise(offsets[1:])]
    assert found == histories
    assert store["users/event_liked"].tolist() == rows.tolist()
    assert store["splits/train/user"].tolist() == list(range(1, len(histories) + 1))
    assert store["splits/train/history_end"].tolist() == [len(h) for h in histories]
    assert manifest["histories"]["max_length"] == max(len(h) for h in histories)
    assert manifest["vectors"]["items_with_vector"] == 2
    np.testing.assert_allclose(
        store["items/vector_inv_norm"][:4], [0, 1 / 3, 0, 1 / 180.3135], 1e-6
    )


def test_samples_are_sorted_stably(tmp_path: Path, open_store: Any) -> None:
    with StoreWriter(tmp_path / "s", name="t", created_by="test", source={}) as store:
        store.histories()
        user, end = np.array([2, 1, 2, 2], np.int32), np.array([5, 9, 3, 5])
        store.add_split("train", user, np.arange(4, dtype=np.int32), end, np.zeros(4, np.uint8))
        store.finish()
    assert open_store(tmp_path / "s")["splits/train/item"].tolist() == [1, 2, 0, 3]


def test_lists_features_of_samples_and_a_split_without_labels(
    tmp_path: Path, open_store: Any
) -> None:
    manifest = write_extended(tmp_path / "s")
    assert verify(tmp_path / "s") == manifest
    store = open_store(tmp_path / "s")
    assert store["items/feature_tags"].tolist()[4] == [5, 4]
    assert manifest["features"]["item"] == [{"name": "tags", "table": "tag", "width": 2}]
    assert manifest["features"]["sample"] == [{"name": "mood", "table": "level"}]
    for split in ("train", "test"):
        assert store[f"splits/{split}/item"].tolist() == [5, 3, 4]
        assert store[f"splits/{split}/feature_mood"].tolist() == [0, 3, 5]
    assert store["splits/train/label"].tolist() == [1, 1, 0]
    assert store["splits/test/source_row"].tolist() == [7, 8, 9]
    assert manifest["splits"] == {
        "train": {"samples": 3, "positives": 2, "users": 2},
        "test": {"samples": 3, "users": 2, "labelled": False, "source_rows": True},
    }
    assert {file.name for file in (tmp_path / "s/splits/test").iterdir()} == {
        f"{name}.npy" for name in ("user", "item", "history_end", "feature_mood", "source_row")
    }


def test_a_store_without_extensions_says_nothing_of_them(tmp_path: Path) -> None:
    manifest = write_store(tmp_path / "s", [[1], [2]])
    assert manifest["features"].keys() == {"user", "item", "event"}
    assert manifest["splits"]["train"].keys() == {"samples", "positives", "users"}


def test_the_writer_refuses_what_the_format_has_not(tmp_path: Path) -> None:
    with StoreWriter(tmp_path / "s", name="t", created_by="test", source={}) as store:
        for kind, shape in (("user", (4, 2)), ("item", (4, 1)), ("item", (4, 2, 2))):
            with pytest.raises(ValueError, match="only items have lists"):
                store.add_feature(kind, "tags", np.zeros(shape, np.int32))
        with pytest.raises(ValueError, match="entry 0"):
            store.add_feature("item", "tags", np.array([[0, 1], [0, 0]], np.int32))
        store.sample_features({"mood": "level"})
        one = np.ones(1, np.int32)
        with pytest.raises(ValueError, match=r"features \[\] of samples, expected \['mood'\]"):
            store.add_split("train", one, one, np.zeros(1, np.int64), None)
        with pytest.raises(ValueError, match="one length"):
            store.add_split("train", one, one, np.zeros(1, int), None, features={"mood": one[:0]})


def test_appender_writes_what_numpy_reads(tmp_path: Path) -> None:
    appender = NpyAppender(tmp_path / "a.npy", np.int16, width=2)
    for rows in (3, 0, 2):
        appender.append(np.full((rows, 2), rows, np.int16))
    with pytest.raises(ValueError, match="expected"):
        appender.append(np.zeros(2, np.int16))
    appender.close()
    array = np.load(tmp_path / "a.npy", mmap_mode="r", allow_pickle=False)
    assert array.dtype == np.int16
    assert array.tolist() == [[3, 3]] * 3 + [[2, 2]] * 2


def test_norms_of_int8_do_not_overflow() -> None:
    vectors = np.full((1, 128), -128, np.int8)
    assert inverse_norms(vectors)[0] == np.float32(1 / (128 * np.sqrt(128)))


@pytest.mark.parametrize("version", [0, 3])
def test_another_schema_version_names_both(
    tmp_path: Path, version: int, capsys: pytest.CaptureFixture[str]
) -> None:
    write_store(tmp_path / "s", [[1]])
    file = tmp_path / "s" / "manifest.json"
    file.write_text(file.read_text().replace('"schema_version": 1', f'"schema_version": {version}'))
    assert main(["verify", str(tmp_path / "s")]) == 2
    message = capsys.readouterr().err
    assert message.startswith("error: ")
    assert f"schema version {version}, this code reads 1 and 2" in message
    assert "Prepare the data set again" in message


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_store(tmp_path / "s", [[1, 2]])
    assert main(["verify", str(tmp_path / "s")]) == 0
    assert main(["info", str(tmp_path / "s")]) == 0
    assert '"events": 2' in capsys.readouterr().out
    assert main(["verify", str(tmp_path / "absent")]) == 2


def test_existing_store_stays_unless_asked(tmp_path: Path) -> None:
    write_store(tmp_path / "s", [[1]])
    with pytest.raises(DataError, match="--overwrite"):
        write_store(tmp_path / "s", [[1, 2]])
    assert verify(tmp_path / "s")["histories"]["events"] == 1
    write_store(tmp_path / "s", [[1, 2]], overwrite=True)
    assert verify(tmp_path / "s")["histories"]["events"] == 2
    assert [path.name for path in tmp_path.iterdir()] == ["s"]


def test_overwrite_does_not_remove_what_is_no_store(tmp_path: Path) -> None:
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "thesis.txt").write_text("mine")
    with pytest.raises(DataError, match="not a store"):
        write_store(tmp_path / "s", [[1]], overwrite=True)
    assert (tmp_path / "s" / "thesis.txt").read_text() == "mine"


def test_failure_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="'train' has no samples"):
        write_store(tmp_path / "s", [])
    assert list(tmp_path.iterdir()) == []


KILLED = """
    import os, signal, sys
    from pathlib import Path
    import numpy as np
    from datasets.store import StoreWriter
    with StoreWriter(Path(sys.argv[1]), name="t", created_by="test", source={}) as store:
        store.histories().append(np.zeros(5, np.int32), np.array([5]))
        os.kill(os.getpid(), signal.SIGKILL)
"""


def test_killed_preparation_leaves_no_store(tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(KILLED), str(tmp_path / "s")], cwd=root, check=False
    )
    assert done.returncode == -signal.SIGKILL
    assert not (tmp_path / "s").exists()
    assert len(list(tmp_path.glob("s.tmp-*"))) == 1
    write_store(tmp_path / "s", [[1]])
    verify(tmp_path / "s")
    assert [path.name for path in tmp_path.iterdir()] == ["s"]


def test_a_store_that_came_meanwhile_stays_unless_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finish = StoreWriter.finish

    def late(self: StoreWriter) -> Any:
        monkeypatch.setattr(StoreWriter, "finish", finish)
        write_store(tmp_path / "s", [[1, 2]], overwrite=True)
        return finish(self)

    monkeypatch.setattr(StoreWriter, "finish", late)
    with pytest.raises(DataError, match="already exists"):
        write_store(tmp_path / "s", [[1]])
    assert verify(tmp_path / "s")["histories"]["events"] == 2
    monkeypatch.setattr(StoreWriter, "finish", late)
    write_store(tmp_path / "s", [[1]], overwrite=True)
    assert verify(tmp_path / "s")["histories"]["events"] == 1
    assert [path.name for path in tmp_path.iterdir()] == ["s"]


def test_a_store_that_cannot_be_replaced_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_store(tmp_path / "s", [[1]])
    rename = Path.rename

    def refuse(self: Path, target: Path) -> Path:
        if self.name == "store":
            raise OSError("no")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(OSError, match="no"):
        write_store(tmp_path / "s", [[1, 2]], overwrite=True)
    assert verify(tmp_path / "s")["histories"]["events"] == 1
    assert [path.name for path in tmp_path.iterdir()] == ["s"]


KILLED_BETWEEN = """
    import os, signal, sys
    from pathlib import Path
    from tests.datasets.stores import write_store

    rename = Path.rename

    def killed(path, target):
        if path.name == "store":
            os.kill(os.getpid(), signal.SIGKILL)
        return rename(path, target)

    Path.rename = killed
    write_store(Path(sys.argv[1]), [[1, 2]], overwrite=True)
"""


def test_a_kill_while_a_store_is_replaced_does_not_lose_it(tmp_path: Path) -> None:
    write_store(tmp_path / "s", [[1]])
    code = textwrap.dedent(KILLED_BETWEEN)
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "s")], cwd=root, check=False)
    assert done.returncode == -signal.SIGKILL
    assert not (tmp_path / "s").exists()
    # Whatever is asked next, it is there again.
    with pytest.raises(DataError, match="already exists"):
        write_store(tmp_path / "s", [[1, 2, 3]])
    assert verify(tmp_path / "s")["histories"]["events"] == 1
    assert [path.name for path in tmp_path.iterdir()] == ["s"]
