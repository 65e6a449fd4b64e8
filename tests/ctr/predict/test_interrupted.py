"""What a killed run leaves: its finished parts are used again, if they are whole and its own."""

import shutil

import numpy as np
import pytest

import ctr.inference
import ctr.predict
from ctr.run_folder import RunFolder

COLUMNS = {"sample_columns": {"likes": "likes"}, "history_end_column": "seen"}


@pytest.fixture
def stop_after(monkeypatch):
    """Lets so many parts be scored and raises at the next; returns how many were begun."""

    def install(parts):
        begun = []
        original = ctr.inference.predict

        def counted(*arguments):
            begun.append(1)
            if parts is not None and len(begun) > parts:
                raise KeyboardInterrupt
            return original(*arguments)

        monkeypatch.setattr(ctr.predict, "predict", counted)
        return begun

    return install


def test_goes_on_where_it_was_stopped(score, file, stop_after):
    expected = score(file, part_rows=10, **COLUMNS)
    out = file.parent / "scores.parquet"
    out.unlink()
    stop_after(2)
    with pytest.raises(KeyboardInterrupt):
        score(file, part_rows=10, **COLUMNS)
    assert not out.exists()
    left = sorted(path.name for path in (file.parent / "scores.parquet.parts").iterdir())
    assert left == [f"part-{n:06d}.{kind}" for n in (0, 1) for kind in ("json", "npy")]
    begun = stop_after(None)
    found = score(file, part_rows=10, **COLUMNS)
    assert found.equals(expected)
    assert len(begun) == -(-len(expected) // 10) - 2
    assert not (file.parent / "scores.parquet.parts").exists()


def left_behind(score, file, stop_after, parts=2, **options):
    """Stop after some parts, and forget the stop."""
    stop_after(parts)
    with pytest.raises(KeyboardInterrupt):
        score(file, **{"part_rows": 10, **COLUMNS, **options})
    stop_after(None)


def test_parts_of_another_checkpoint_are_not_used(
    score, file, raw, stop_after, run, tmp_path, caplog
):
    copy = RunFolder(shutil.copytree(run.path, tmp_path / "copy"))
    left_behind(score, file, stop_after, folder=copy)
    shutil.rmtree(max(copy.checkpoints.iterdir()))
    begun = stop_after(None)
    found = score(file, part_rows=10, folder=copy, **COLUMNS)
    assert "2 parts are of another checkpoint; they are scored again" in caplog.text
    assert len(begun) == -(-len(found) // 10)
    assert abs(found["score"].to_numpy() - raw["expected"].to_numpy()).max() > 1e-3
    assert found.equals(score(file, part_rows=10, folder=copy, **COLUMNS))


@pytest.mark.parametrize("what", ["samples", "part_rows"])
def test_parts_of_another_request_are_not_used(score, file, raw, stop_after, what, caplog):
    left_behind(score, file, stop_after)
    if what == "samples":
        raw[::-1].write_parquet(file)
    options = {"part_rows": 20 if what == "part_rows" else 10, **COLUMNS}
    found = score(file, **options)["score"].to_pylist()
    assert f"2 parts are of another {what}" in caplog.text
    expected = raw["expected"][::-1] if what == "samples" else raw["expected"]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)


def test_a_damaged_part_is_scored_again(score, file, raw, stop_after, caplog):
    left_behind(score, file, stop_after, parts=5, part_rows=5)
    parts = file.parent / "scores.parquet.parts"
    array = np.load(parts / "part-000001.npy")
    array[3] += 0.25
    np.save(parts / "part-000001.npy", array)
    seal = parts / "part-000002.json"
    seal.write_text(seal.read_text().replace('"user": 0', '"user": 1'))
    for kind in ("npy", "json"):
        shutil.copy(parts / f"part-000000.{kind}", parts / f"part-000003.{kind}")
    (parts / "part-000004.npy").unlink()
    begun = stop_after(None)
    found = score(file, part_rows=5, **COLUMNS)["score"].to_pylist()
    assert "4 parts are damaged; they are scored again" in caplog.text
    assert len(begun) == -(-len(raw) // 5) - 1
    np.testing.assert_allclose(found, raw["expected"], rtol=0, atol=1e-6)
