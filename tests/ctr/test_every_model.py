"""Every model of conf/model trains in two processes, saves, loads and evaluates to the same."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

MODELS = sorted(
    (path.stem for path in (Path(__file__).resolve().parents[2] / "conf/model").glob("*.yaml")),
    # muse_make takes over what make has learnt.
    key=lambda name: (name != "make", name),
)


@pytest.fixture(scope="module")
def runs(tiny_store, repository, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs")
    # Not by tests.starter: a model whose collectives follow the order of a set must fail here.
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command += ["tests/ctr/every_model.py", str(tiny_store), str(out), *MODELS]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(repository)}
    done = subprocess.run(command, cwd=repository, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    return out


@pytest.mark.parametrize("model", ["muse", "sim_hard"])
def test_where_vectors_are_changes_no_result(model, runs):
    def found(run):
        rows = (runs / run / "metrics.jsonl").read_text().splitlines()
        kept = [row for row in map(json.loads, rows) if row["kind"] in ("train", "valid")]
        for row in kept:
            row.pop("samples_per_s", None)
        return kept

    whole, sharded = found(model), found(f"{model}_sharded")
    assert {row["kind"] for row in whole} == {"train", "valid"}
    assert sharded == whole
    # Scores, and the cosines of the picks, which evaluation asks for whatever the model.
    names = model, f"{model}_sharded"
    scored, again = (pq.read_table(runs / name / "predictions_test.parquet") for name in names)
    assert "best_similarity" in scored.column_names
    assert again.equals(scored)


@pytest.mark.parametrize("model", MODELS)
def test_what_was_saved_predicts_as_what_was_trained(model, runs):
    rows = [json.loads(line) for line in (runs / model / "metrics.jsonl").read_text().splitlines()]
    trained = next(row for row in rows if row["kind"] == "valid")
    loaded = json.loads((runs / model / "evaluation_test.json").read_text())
    folded = json.loads((runs / model / "folded_test.json").read_text())
    for name in ("auc", "gauc", "log_loss"):
        assert loaded[name] == trained[name], name
        assert folded[name] == pytest.approx(loaded[name], abs=1e-6), name
    # A head that ignores its input would pass all of the above.
    assert loaded["auc"] != 0.5
    other = json.loads((runs / model / "folded_train.json").read_text())
    assert other["samples"] != loaded["samples"]
