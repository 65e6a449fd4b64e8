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
