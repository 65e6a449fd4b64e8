"""Comparisons as a user asks for them: of run folders, of files, of seeds, on slices."""

import json

import numpy as np
import polars as pl
import pytest
from sklearn.metrics import roc_auc_score

from tools.compare_runs import main


def frame(gain, seed=0, rows=6000, users=300):
    """Predictions of a model that knows a part of what makes users click; rows of seed 0 always."""
    random = np.random.default_rng(0)
    user = random.integers(0, users, rows)
    known, hidden = random.normal(size=rows), random.normal(size=rows)
    label = (random.random(rows) < 1 / (1 + np.exp(1 - known - hidden))).astype(np.uint8)
    noise = 0.02 * np.random.default_rng(seed).normal(size=rows) if seed else 0.0
    score = 1 / (1 + np.exp(1 - known - gain * hidden - noise))
    made = {"sample": np.arange(rows), "user": user, "label": label, "score": score}
    made |= {"kind": random.choice(["new", "old"], rows), "age": random.integers(1, 80, rows)}
    return pl.DataFrame(made).sample(fraction=1.0, shuffle=True, seed=seed)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Folders of runs: plain, and better by two seeds."""
    root = tmp_path_factory.mktemp("runs")
    for name, made in {
        "plain": frame(0.0),
        "plain-2": frame(0.0, 2),
        "better": frame(0.5),
        "better-2": frame(0.5, 2),
    }.items():
        (root / name).mkdir()
        made.write_parquet(root / name / "predictions_test.parquet")
    return root


def compare(capsys, *arguments):
    main([*map(str, arguments), "--resamples", "500"])
    return capsys.readouterr()


def found(capsys, *arguments):
    return json.loads(compare(capsys, *arguments, "--json").out)


def failure(capsys, *arguments):
    with pytest.raises(SystemExit) as stopped:
        main(list(map(str, arguments)))
    error = capsys.readouterr().err
    assert stopped.value.code == 2
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    return error


def test_a_better_run_is_told_in_plain_words(runs, capsys):
    shown = compare(capsys, runs / "plain", runs / "better").out
    assert "6,000 rows of" in shown
    for metric in ("AUC +0.0", "GAUC +0.0", "log loss -0.0"):
        (line,) = (line for line in shown.splitlines() if line.startswith(metric))
        assert ": better (A 0." in line
    assert "DeLong, as if rows were independent" in shown
    assert "say nothing about other seeds" in shown
    worse = compare(capsys, runs / "better", runs / "plain").out
    assert worse.count(": worse (A 0.") == 3


def test_values_are_those_of_the_rows(runs, capsys):
    told = found(capsys, runs / "plain", runs / "better", "--metrics", "auc", "ndcg@2")
    rows = pl.read_parquet(runs / "better" / "predictions_test.parquet")
    auc, ndcg = told["differences"]
    assert auc["b"] == [pytest.approx(roc_auc_score(rows["label"], rows["score"]), rel=1e-12)]
    assert auc["low"] < auc["difference"] < auc["high"]
    assert (ndcg["metric"], ndcg["delong_low"]) == ("ndcg@2", None)


def test_a_run_against_itself_shows_no_difference(runs, capsys):
    told = found(capsys, runs / "plain", runs / "plain")
    assert {d["verdict"] for d in told["differences"]} == {"no difference shown"}
    assert {(d["low"], d["high"]) for d in told["differences"]} == {(0.0, 0.0)}


def test_seeds_are_combined(runs, capsys):
    a, b = (runs / "plain", runs / "plain-2"), (runs / "better", runs / "better-2")
    shown = compare(capsys, "--seeds-a", *a, "--seeds-b", *b).out
    assert "A: mean 0." in shown
    assert "over 2 seeds (0." in shown
    assert shown.count("seed by seed: +") + shown.count("seed by seed: -") == 3
    assert "hold the spread of training seeds" in shown
    both = found(capsys, "--seeds-a", *a, "--seeds-b", *b)["differences"][0]
    assert both["difference"] == pytest.approx(np.mean(both["b"]) - np.mean(both["a"]))


def test_slices_and_their_caution(runs, capsys):
    shown = compare(capsys, runs / "plain", runs / "better", "--slice", "kind", "age").out
    assert "where kind = new: " in shown
    assert "where age <= " in shown
    assert "21 intervals were looked at" in shown
    assert "about 1.1 of them would exclude 0 by chance" in shown
    assert "99.76% intervals (Bonferroni)" in shown


def test_slices_from_another_file(runs, capsys, tmp_path):
    extra = tmp_path / "extra.parquet"
    made = pl.DataFrame({"sample": np.arange(5000), "place": ["a"] * 4990 + ["b"] * 10})
    made.write_parquet(extra)
    both = (runs / "plain", runs / "better")
    done = compare(capsys, *both, "--slice", "place", "--slices-from", extra)
    assert "where place = b: 10 rows" in done.out
    assert "warning: slice column 'place': 1,000 rows are empty and in no slice" in done.err
    assert "warning: place = b: " in done.err
    assert "users are few" in done.err
    made.with_columns(place=pl.lit(None, pl.String)).write_parquet(extra)
    done = compare(capsys, *both, "--slice", "place", "--slices-from", extra)
    assert "warning: slice column 'place': empty in all 6,000 rows" in done.err
    assert "where" not in done.out
    assert "has no column 'shop'" in failure(capsys, *both, "--slice", "shop")


def test_all_slice_columns_of_an_evaluation(runs, capsys, tmp_path):
    both = (runs / "plain", runs / "better", "--metrics", "auc")
    assert "has no slice column; ctr/evaluate.py writes" in failure(capsys, *both, "--slice", "all")
    cold = [0] * 2000 + [number % 100 + 1 for number in range(4000)]
    seen = [number % 2 == 0 for number in range(6000)]
    made = {"sample": np.arange(6000), "target_train_samples": cold, "target_has_vector": seen}
    extra = tmp_path / "extra.parquet"
    pl.DataFrame(made).write_parquet(extra)
    shown = compare(capsys, *both, "--slice", "all", "kind", "--slices-from", extra).out
    named = [line.split(" rows of ")[0] for line in shown.splitlines() if line[:5] == "where"]
    assert named[:7] == [
        "where target_train_samples = 0: 2,000",
        "where 0 < target_train_samples <= 25: 1,000",
        "where 25 < target_train_samples <= 50: 1,000",
        "where 50 < target_train_samples <= 75: 1,000",
        "where target_train_samples > 75: 1,000",
        "where target_has_vector = False: 3,000",
        "where target_has_vector = True: 3,000",
    ]
    assert [name.split(":")[0] for name in named[7:]] == ["where kind = new", "where kind = old"]


def test_many_values_are_cut_to_the_most_frequent(runs, capsys, tmp_path):
    extra = tmp_path / "extra.parquet"
    names = [f"city {number % 30:02d}" for number in range(6000)]
    pl.DataFrame({"sample": np.arange(6000), "city": names}).write_parquet(extra)
    both = (runs / "plain", runs / "better", "--metrics", "auc")
    done = compare(capsys, *both, "--slice", "city", "--slices-from", extra)
    assert done.out.count("where city = ") == 20
    assert "30 values; only the 20 most frequent" in done.err


def test_files_of_another_system(tmp_path, capsys):
    names = {"user": "uid", "label": "click", "score": "p"}
    for name, gain in (("old", 0.0), ("new", 0.5)):
        made = (
            frame(gain)
            .rename(names)
            .with_columns(request=pl.col("sample") // 5, item=pl.col("sample") % 5)
        )
        made.drop("sample").write_parquet(tmp_path / f"{name}.parquet")
    files = ["--a", tmp_path / "old.parquet", "--b", tmp_path / "new.parquet"]
    columns = ["--label", "click", "--score", "p", "--user", "uid"]
    told = found(capsys, *files, *columns, "--key", "request", "item")
    assert {d["verdict"] for d in told["differences"]} == {"better"}
    error = failure(capsys, *files, *columns, "--key", "request")
    assert "key request=" in error
    assert "occurs more than once, as do 6,000 rows in all" in error
    key = ("--key", "request", "item")
    error = failure(capsys, *files, *columns, *key, "--group", "request")
    assert "needs each group within one user" in error
    assert "has no column 'label', 'score'" in failure(capsys, *files, *key)


def test_rows_that_do_not_match(tmp_path, capsys):
    a, b, c = (tmp_path / f"{name}.parquet" for name in "abc")
    rows = frame(0.0)
    rows.write_parquet(a)
    rows.filter(pl.col("sample") >= 10).write_parquet(b)
    error = failure(capsys, a, b)
    assert f"10 keys are only in {a} (first: sample=0)" in error
    assert "--common-rows" in error
    done = compare(capsys, a, b, "--common-rows")
    assert "5,990 rows of" in done.out
    assert "warning: 10 rows are not in both" in done.err
    rows.with_columns(label=1 - pl.col("label")).write_parquet(c)
    assert "6,000 labels differ" in failure(capsys, a, c)
    rows.with_columns(pl.col("sample") + 10_000).write_parquet(c)
    assert "no key is in both" in failure(capsys, a, c, "--common-rows")
    rows.with_columns(pl.col("sample").cast(pl.String) + "x").write_parquet(c)
    assert "cannot be compared" in failure(capsys, a, c)


def test_the_unknown_user_is_many_people(runs, tmp_path, capsys):
    for name in ("plain", "better"):
        made = pl.read_parquet(runs / name / "predictions_test.parquet")
        (tmp_path / name).mkdir()
        made = made.with_columns(user=pl.when(pl.col("user") < 150).then(0).otherwise("user"))
        made.write_parquet(tmp_path / name / "predictions_test.parquet")
    told = found(capsys, tmp_path / "plain", tmp_path / "better")
    unknown = (made["user"] == 0).sum()
    assert told["users"] == 150 + unknown
    path = "predictions_test.parquet"
    told = found(capsys, tmp_path / "plain" / path, tmp_path / "better" / path)
    assert told["users"] == 151


def test_a_slice_of_one_class_is_undefined_and_told(runs, capsys):
    done = compare(capsys, runs / "plain", runs / "better", "--slice", "label")
    assert "AUC undefined: these rows lack clicks or non-clicks" in done.out
    assert "warning: auc where label = 0: undefined" in done.err


def test_what_cannot_be_compared(runs, tmp_path, capsys):
    assert "give RUN_A RUN_B" in failure(capsys, runs / "plain")
    assert "metric 'f1': unknown" in failure(capsys, "a", "b", "--metrics", "f1")
    error = failure(capsys, runs / "plain", runs / "better", "--split", "valid")
    assert "has no predictions_valid.parquet (splits there: test)" in error
    assert "cannot be read as Parquet" in failure(capsys, tmp_path / "x.parquet", runs / "plain")
