"""Metrics of a file as a user asks for them."""

import json

import numpy as np
import polars as pl
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from tools.score import main

EXACT = {"rel": 1e-12}


@pytest.fixture(scope="module")
def rows():
    random = np.random.default_rng(0)
    click = random.random(4000) < 0.2
    p = (0.3 * click + 0.7 * random.random(4000)).round(2).astype(np.float32)
    user = [f"u{number}" for number in random.integers(0, 300, 4000)]
    return pl.DataFrame({"click": click, "p": p, "user": user, "request": np.arange(4000) // 8})


@pytest.fixture
def file(rows, tmp_path):
    path = tmp_path / "p.parquet"
    rows.write_parquet(path)
    return str(path)


def test_json(rows, file, capsys):
    names = ["--label", "click", "--score", "p"]
    main([file, *names, "--group", "user", "request", "--k", "3", "--unknown", "1", "--json"])
    found = json.loads(capsys.readouterr().out)
    label, score = rows["click"].to_numpy(), rows["p"].to_numpy()
    assert found["rows"] == 4000
    assert found["auc"] == pytest.approx(roc_auc_score(label, score), **EXACT)
    assert found["pr_auc"] == pytest.approx(average_precision_score(label, score), **EXACT)
    assert found["groups"]["user"]["groups"] == rows["user"].n_unique()
    # Request 1 stands for none; no user is called so.
    assert found["groups"]["request"]["groups"] == 499
    assert 0 < found["groups"]["request"]["ndcg@3"] < 1
    assert 0 < found["groups"]["request"]["hit_rate@3"] < 1


def test_text(file, capsys):
    main([file, "--label", "click", "--score", "p", "--group", "request"])
    shown = capsys.readouterr().out
    assert "by request" in shown
    assert "groups have one class and no AUC; GAUC covers" in shown
    assert "4,000 rows in" in shown
    assert "200_thresholds" not in shown


def test_shortcuts(file, capsys):
    main([file, "--label", "click", "--score", "p", "--group", "user", "--shortcuts", "500"])
    shown = capsys.readouterr().out
    assert "auc_200_thresholds" in shown
    assert "batch_gauc_coverage" in shown


def test_undefined_is_null_and_told(tmp_path, capsys):
    path = tmp_path / "p.parquet"
    pl.DataFrame({"label": [0, 0], "score": [0.5, 0.5], "user": [1, 1]}).write_parquet(path)
    main([str(path), "--group", "user", "--k", "1", "--json"])
    found = json.loads(capsys.readouterr().out)
    assert found["auc"] is None
    assert found["groups"]["user"]["ndcg@1"] is None
    main([str(path)])
    assert "auc                       undefined" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "has no column 'label', 'score'; it has 'click', 'p', 'user', 'request'"),
        (("--label=click", "--score=p", "--group=usr"), "has no column 'usr'"),
        (("--label=click", "--score=p", "--group=request", "--unknown=x"), "is no value of it"),
        (("--label=request", "--score=p"), "column 'request': values other than 0 and 1: row 16"),
        (("--label=p", "--score=p"), "columns 'p' and 'p' are the same"),
    ],
)
def test_errors_are_one_line(file, arguments, message, capsys):
    with pytest.raises(SystemExit) as stopped:
        main([file, *arguments])
    error = capsys.readouterr().err
    assert stopped.value.code == 2
    assert error.startswith(f"error: {file}: ")
    assert message in error
    assert error.count("\n") == 1


def test_k_must_be_a_whole_number(file, capsys):
    with pytest.raises(SystemExit):
        main([file, "--k", "0"])
    assert "must be a whole number of 1 or more" in capsys.readouterr().err


@pytest.fixture
def sliced(tmp_path):
    """Predictions as an evaluation writes them, cold targets and missing similarities included."""
    random = np.random.default_rng(1)
    count = 3000
    user = random.integers(0, 200, count)
    cold = np.where(random.random(count) < 0.3, 0, random.integers(1, 60, count))
    label = random.random(count) < 0.25
    rows = pl.DataFrame(
        {
            "label": label,
            "score": (0.4 * label + 0.6 * random.random(count)).astype(np.float32),
            "user": user,
            "target_train_samples": cold.astype(np.int32),
            "best_similarity": [None if n % 10 == 0 else n / count for n in range(count)],
            "target_has_vector": [n % 10 > 0 for n in range(count)],
            "mean_similarity": pl.Series([None] * count, dtype=pl.Float32),
        }
    )
    path = tmp_path / "sliced.parquet"
    rows.write_parquet(path)
    return path, rows


def test_slices(sliced, capsys):
    path, rows = sliced
    main([str(path), "--slice", "all", "--resamples", "300", "--json", "--unknown", "0"])
    done = capsys.readouterr()
    found = json.loads(done.out)
    everything, *slices = found["slices"]
    columns = ["target_train_samples"] * 5 + ["target_has_vector"] * 2 + ["best_similarity"] * 4
    assert [part["column"] for part in slices] == columns
    names = [slices[place]["slice"] for place in (0, 5, 6)]
    assert names == [
        *("target_train_samples = 0", "target_has_vector = False", "target_has_vector = True")
    ]
    # The unknown user's rows are each of a user of their own.
    unknown = (rows["user"] == 0).sum()
    assert everything["users"] == rows["user"].n_unique() - 1 + unknown
    assert everything["metrics"]["auc"]["value"] == pytest.approx(found["auc"], **EXACT)
    cold, seen = rows.filter(pl.col("target_train_samples") == 0), slices[6]
    assert slices[0]["rows"] == len(cold)
    assert slices[0]["share"] == len(cold) / 3000
    expected = roc_auc_score(cold["label"], cold["score"])
    assert slices[0]["metrics"]["auc"]["value"] == pytest.approx(expected, **EXACT)
    assert seen["rows"] == rows["target_has_vector"].sum()
    for part in found["slices"]:
        for metric in ("auc", "gauc", "log_loss"):
            of_metric = part["metrics"][metric]
            assert of_metric["low"] < of_metric["value"] < of_metric["high"]
    assert "warning: slice column 'best_similarity': 300 rows are empty and in no slice" in done.err
    assert "warning: slice column 'mean_similarity': empty in all 3,000 rows" in done.err


def test_slices_in_words(sliced, capsys):
    path, rows = sliced
    arguments = ["--slice", "target_has_vector", "--metrics", "auc", "log_loss"]
    main([str(path), *arguments, "--resamples", "300"])
    shown = capsys.readouterr().out
    assert "slices, with 95% intervals from 300 resamples of users" in shown
    (line,) = (line for line in shown.splitlines() if "target_has_vector = True" in line)
    part = rows.filter("target_has_vector")
    assert line.split()[3:6] == [
        "2,700",
        "90.0%",
        f"{roc_auc_score(part['label'], part['score']):.4f}",
    ]
    assert "6 intervals: about 0.3 of them do not hold the true value" in shown
    assert shown.startswith(f"{path}\n  rows                          3,000\n")


def test_without_slices_nothing_is_read_into_memory(sliced, capsys, monkeypatch):
    path, _ = sliced
    monkeypatch.setattr("tools.score.read_aligned", None)
    main([str(path), "--group", "user"])
    assert "intervals" not in capsys.readouterr().out


def test_slices_that_cannot_be_made(sliced, file, capsys):
    path, _ = sliced
    for arguments, message in (
        ([str(path), "--slice", "shop"], "has no column 'shop'"),
        ([str(path), "--slice", "all", "--user", "uid"], "has no column 'uid'"),
        ([str(path), "--slice", "all", "--metrics", "f1"], "metric 'f1': unknown"),
        ([file, "--label=click", "--score=p", "--slice", "all"], "has no slice column"),
    ):
        with pytest.raises(SystemExit) as stopped:
            main(arguments)
        error = capsys.readouterr().err
        assert stopped.value.code == 2
        assert message in error
        assert error.count("\n") == 1
