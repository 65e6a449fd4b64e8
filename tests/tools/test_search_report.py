"""Figures of a search against loops over rows, and what the command says and writes."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from ctr.config import ConfigError
from ctr.data.loader import BatchBuilder
from ctr.model.gsu import STRATEGIES, RecentSearch, Retrieved
from ctr.model.trace import Trace
from tools.search_report import attention
from tools.search_report.__main__ import _parser, main
from tools.search_report.attention import attention_recall
from tools.search_report.measure import search_report, usable
from tools.search_report.picks import searching, shared
from tools.trained_run import opened_run, with_dashes

K, L = 12, 60


# The command joins a process group of its own, so its tests come before those of an open run.


def test_the_command_prints_and_writes(trained, capsys):
    main([str(trained.path), "--against", "recent", "--recall-samples", "30", "--device", "cpu"])
    shown = capsys.readouterr().out
    path = trained.path / "gsu_test.json"
    found = json.loads(path.read_text())
    assert list(found) == [
        *("split", "samples", "gsu", "k", "fewer_than_k", "similarity", "age", "overlap"),
        "attention_recall",
    ]
    assert (found["split"], found["gsu"], found["k"]) == ("test", "cosine", K)
    assert list(found["overlap"]) == ["recent"]
    assert found["attention_recall"]["samples"] == 30
    assert f"{found['samples']:,} rows, K = 12" in shown
    assert f"{found['overlap']['recent']:6.1%}" in shown
    assert f"{found['attention_recall']['recall']:6.1%} of 30 rows" in shown
    assert f"written to {path}" in shown
    assert not list(trained.path.glob("*.tmp"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "no config.yaml; is this the folder of a run?"),
        (["RUN", "--split", "valid"], "no split 'valid'; it has: train, test"),
        (["RUN", "--store", "nowhere"], "manifest.json: cannot be read"),
    ],
)
def test_errors_are_one_line(trained, arguments, message, capsys):
    arguments = [str(trained.path) if argument == "RUN" else argument for argument in arguments]
    with pytest.raises(SystemExit) as stopped:
        main([*arguments, "--device", "cpu"])
    error = capsys.readouterr().err
    assert stopped.value.code == 2
    assert error.startswith("error: ")
    assert message in error
    assert error.count("\n") == 1


def test_torchrun_is_refused(trained, capsys, monkeypatch):
    monkeypatch.setattr("ctr.distributed.dist.init_process_group", lambda *_, **__: None)
    monkeypatch.setattr("ctr.distributed.dist.destroy_process_group", lambda: None)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(SystemExit):
        main([str(trained.path), "--device", "cpu"])
    assert "this tool is one process" in capsys.readouterr().err


def test_keys_may_be_written_as_in_configurations():
    given = ["run=runs/a", "user=-7", "item=x=y", "--top", "3", "other=1"]
    expected = ["runs/a", "--user=-7", "--item=x=y", "--top", "3", "other=1"]
    assert with_dashes(given, ("user", "item")) == expected


@pytest.fixture(scope="module")
def opened(trained):
    with opened_run(_parser().parse_args([str(trained.path), "--device", "cpu"])) as run:
        yield run


@pytest.fixture(scope="module")
def report(opened):
    return search_report(opened, ["category", "recent"], 0)[0]


def seen(run, row):
    """Positions that a row sees, the latest first, and their item rows."""
    end = int(run.split.history_end[row])
    positions = np.arange(end - 1, max(end - L, 0) - 1, -1)
    base = run.store.history_offsets[run.split.user[row]]
    return positions, run.store.history_item[0][base + positions]


def cosines(run, row):
    """Of each behaviour that a row sees, NaN where one of the two has no vector."""
    _, items = seen(run, row)
    vectors, target = run.store.vectors.astype(np.float64), run.split.item[row]
    norms = np.linalg.norm(vectors, axis=1)
    norms[0] = 0
    with np.errstate(invalid="ignore", divide="ignore"):
        return vectors[items] @ vectors[target] / norms[items] / norms[target]


def by_cosine(run, row):
    """Places (0 = latest) of the K highest cosines, the later of equal ones first."""
    cosine = cosines(run, row)
    known = np.flatnonzero(np.isfinite(cosine))
    # What float32 cannot tell apart is equal.
    return sorted(known, key=lambda place: (-np.float32(cosine[place].round(6)), place))[:K]


def test_counts_are_those_of_a_loop(opened, report):
    rows = range(len(opened.split))
    picked = [by_cosine(opened, row) for row in rows]
    assert report["samples"] == len(picked)
    assert report["fewer_than_k"] == np.mean([len(places) < K for places in picked])
    assert 0 < report["fewer_than_k"] < 1
    ages = np.concatenate([np.array(places, dtype=int) + 1 for places in picked])
    assert report["age"]["edges"] == [1, 2, 4, 8, 16, 32, 64]
    expected = np.histogram(ages, [1, 2, 4, 8, 16, 32, 64])[0]
    assert report["age"]["counts"] == expected.tolist()
    similarity = np.concatenate([cosines(opened, row)[places] for row, places in enumerate(picked)])
    edges = np.array(report["similarity"]["edges"])
    assert np.allclose(edges, np.linspace(-1, 1, 41))
    # A cosine on an edge may fall to either side of it.
    on_edge = np.abs(similarity[:, None] - edges).min(axis=1) < 1e-6
    expected = np.histogram(similarity, edges)[0]
    wrong = np.abs(np.array(report["similarity"]["counts"]) - expected).sum()
    assert sum(report["similarity"]["counts"]) == len(similarity)
    assert wrong <= 2 * on_edge.sum() < 0.1 * len(similarity)


def test_overlap_is_that_of_a_loop(opened, report):
    category = opened.store.item_features["category"]
    shares = {"category": [], "recent": []}
    for row in range(len(opened.split)):
        mine = set(by_cosine(opened, row))
        if not mine:
            continue
        _, items = seen(opened, row)
        wanted = category[opened.split.item[row]]
        same = np.flatnonzero((category[items] == wanted) & (wanted > 0))[:K]
        shares["category"].append(len(mine & set(same)) / len(mine))
        shares["recent"].append(len(mine & set(range(min(K, len(items))))) / len(mine))
    for name, expected in shares.items():
        assert report["overlap"][name] == pytest.approx(np.mean(expected), rel=1e-5)
        assert 0.05 < report["overlap"][name] < 0.95


class OldestFirst:
    """Everything that a sample sees, the oldest first: not how the tool asks for it."""

    def __call__(self, search):
        batch = search.batch
        length = batch.history_end_B - batch.history_begin_B
        place = torch.arange(int(length.max()))
        mask = place < length[:, None]
        base = batch.history_offsets_U[batch.user_B] + batch.history_begin_B
        return Retrieved((base[:, None] + place) * mask, mask)


@torch.no_grad()
def recall_by_hand(run):
    """Recall of every row that sees more than K, one row at a time."""
    builder = BatchBuilder(run.store, run.split, L)
    found = []
    for row in range(len(run.split)):
        if len(seen(run, row)[0]) <= K:
            continue
        batch, trace = builder.build(np.array([row]), 1), Trace()
        with searching(run.network, OldestFirst()):
            run.network(batch, trace)
        # The oldest has the highest place.
        weight = trace.weights["retrieved.sa_ta"][0].flip(0).tolist()
        best = sorted(range(len(weight)), key=lambda place: (-round(weight[place], 7), place))[:K]
        found.append(len(set(best) & set(by_cosine(run, row))) / K)
    return found


def part_of(run, begin, end):
    """The run with so many samples only."""
    return replace(run, split=run.split.part(begin, end))


def test_recall_of_attention_is_that_of_a_loop(opened, monkeypatch):
    split = opened.split.part(0, 40)
    # Some users see so little that nothing is to be chosen.
    little = np.where(split.user % 3 == 0, K - 2, L)
    few = replace(opened, split=replace(split, history_end=np.minimum(split.history_end, little)))
    expected = recall_by_hand(few)
    assert 15 < len(expected) < (few.split.history_end > 0).sum()
    with torch.no_grad():
        found = attention_recall(few, 10**6)
        # Several batches, and fewer rows.
        monkeypatch.setattr(attention, "_SEEN", 10 * L)
        assert attention_recall(few, 10**6) == found
        some = attention_recall(few, 15)
    assert found == {
        "recall": pytest.approx(np.mean(expected), abs=2e-3),
        "k": K,
        "samples": len(expected),
    }
    assert 0.3 < found["recall"] < 0.98
    assert some["samples"] == 15
    assert min(expected) <= some["recall"] <= 1


def test_another_search_is_recalled_less_and_the_own_one_comes_back(opened):
    own = opened.network.gsu
    with torch.no_grad():
        expected = attention_recall(opened, 10**6)["recall"]
        with searching(opened.network, RecentSearch(K)):
            assert attention_recall(opened, 10**6)["recall"] < expected
    assert opened.network.gsu is own


def test_every_search_can_be_compared_with_or_says_why_not(opened):
    found, notes = search_report(part_of(opened, 0, 40), [*STRATEGIES], 0)
    assert list(found["overlap"]) == [*STRATEGIES]
    assert found["overlap"]["cosine"] == pytest.approx(1.0)
    missing = [name for name, share in found["overlap"].items() if share is None]
    assert len(notes) == len(missing)
    for name, note in zip(missing, notes, strict=True):
        assert note.startswith(f"overlap with {name}: ")
    assert "twin" in missing, "its attention is not part of this model"
    shares = [share for share in found["overlap"].values() if share is not None]
    assert all(0 < share <= 1 for share in shares)
    assert len(set(shares)) == len(shares) >= 4


def test_no_row_that_sees_enough(opened):
    short = part_of(opened, 0, 1)
    assert opened.split.user[0] == 0
    found, notes = search_report(short, ["recent"], 10)
    assert found["attention_recall"] is None
    assert "no row sees more than 12" in notes[0]
    # Nothing was picked for the unknown user, so there is nothing to share.
    assert found["overlap"] == {"recent": None}
    assert found["fewer_than_k"] == 1.0
    assert json.loads(json.dumps(found)) == found


def test_shared_picks():
    def made(index, mask):
        return Retrieved(torch.tensor(index), torch.tensor(mask) > 0)

    a = made([[3, 1, 0], [3, 0, 0], [0, 0, 0]], [[1, 1, 1], [1, 0, 0], [1, 0, 0]])
    # Row 0 of one is never a pick of another row; what is masked is no pick.
    b = made([[1, 2, 0], [1, 0, 2], [0, 3, 0]], [[1, 1, 0], [1, 1, 1], [0, 1, 0]])
    assert shared(a, b).tolist() == [1, 0, 0]
    assert shared(a, a).tolist() == [3, 1, 1]


def test_a_search_that_the_store_cannot_serve(opened, monkeypatch):
    monkeypatch.setattr(opened.store, "schema", replace(opened.store.schema, item=()))
    found, notes = usable(opened, ["category", "recent"])
    assert found == ["recent"]
    assert "overlap with category: model.gsu=category needs the item feature" in notes[0]


def test_a_model_without_a_search_is_refused(opened):
    with searching(opened.network, None), pytest.raises(ConfigError, match="has no search"):
        search_report(opened, [], 0)
