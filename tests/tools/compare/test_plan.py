"""What a comparison is made of, and what is refused before the first run."""

import pytest

from ctr.config import ConfigError
from tools.compare.plan import (
    PlanError,
    Sweep,
    Variant,
    parse_variant,
    plan_runs,
    read_sweep,
    store_setting,
    variants_of,
)
from tools.composed import CONF, compose_run


def test_a_variant_is_a_label_and_settings_with_lists_in_them():
    found = parse_variant("small:model=muse,model.hidden=[64,32],+x.y=a:b")
    assert found == Variant("small", ("model=muse", "model.hidden=[64,32]", "+x.y=a:b"))
    assert parse_variant("as-it-is:").settings == ()


@pytest.mark.parametrize("text", ["muse", ":model=muse", "a b:model=muse", "a:model", "a/b:x=1"])
def test_a_variant_that_is_none_says_how_to_write_it(text):
    with pytest.raises(PlanError, match=r"--variants .*: write label:key=value"):
        parse_variant(text)


def sweep_file(folder, text):
    (folder / "experiment").mkdir()
    (folder / "experiment" / "some.yaml").write_text(text)
    return folder


def test_a_sweep_is_read_from_the_file_that_hydra_reads(tmp_path):
    text = "hydra:\n  sweeper:\n    params:\n      model.retrieved: 10, 2.5, 1e-3\n"
    expected = Sweep("some", "model.retrieved", ("10", "2.5", "0.001"))
    assert read_sweep("some", sweep_file(tmp_path, text)) == expected
    assert [float(v) for v in read_sweep("sweep_length").values] == sorted(
        float(v) for v in read_sweep("sweep_length").values
    )


@pytest.mark.parametrize(
    ("params", "reason"),
    [
        ("{}", "has 0 keys"),
        ("{a: '1,2', b: '3,4'}", "has 2 keys"),
        ("{a: '1'}", "give several numbers"),
        ("{a: 'muse,din'}", "give several numbers"),
    ],
)
def test_a_sweep_of_no_one_axis_is_refused(tmp_path, params, reason):
    conf = sweep_file(tmp_path, f"hydra:\n  sweeper:\n    params: {params}\n")
    with pytest.raises(PlanError, match=rf"some\.yaml: hydra\.sweeper\.params.*{reason}"):
        read_sweep("some", conf)


def test_an_unknown_sweep_names_those_that_are_there():
    with pytest.raises(PlanError, match=r"there are .*sweep_k, sweep_length"):
        read_sweep("sweep_nothing")


def test_rows_come_from_models_experiments_variants_and_points():
    found = variants_of(["muse"], ["world_din"], ["k5:model.retrieved=5"], None)
    assert [(v.label, v.settings, v.point) for v in found] == [
        ("muse", ("model=muse",), None),
        ("world_din", ("experiment=world_din",), None),
        ("k5", ("model.retrieved=5",), None),
    ]
    swept = variants_of(["muse"], [], [], Sweep("s", "model.retrieved", ("5", "10")))
    assert [(v.name, v.settings) for v in swept] == [
        ("muse-5", ("experiment=s", "model=muse", "model.retrieved=5")),
        ("muse-10", ("experiment=s", "model=muse", "model.retrieved=10")),
    ]


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (([], [], [], None), "nothing to compare: give --models"),
        ((["muse"], [], ["muse:model=din"], None), "two variants are called muse"),
        (([], ["world_din"], [], Sweep("s", "k", ("1", "2"))), "--sweep is an experiment itself"),
    ],
)
def test_what_cannot_be_compared_is_refused(arguments, reason):
    with pytest.raises(PlanError, match=reason):
        variants_of(*arguments)


def test_runs_know_folder_settings_split_and_checkpoint(tmp_path):
    best = ("data.valid_split=valid", "trainer.keep_best=auc", "data.test_split=held")
    variants = [Variant("muse", ("model=muse",)), Variant("best", best, "0.5")]
    runs = plan_runs(variants, [3, 4], tmp_path, ["data.batch_size=7"], None)
    assert [(r.folder.name, r.split, r.best) for r in runs] == [
        ("muse-3", "test", False),
        ("muse-4", "test", False),
        ("best-0.5-3", "held", True),
        ("best-0.5-4", "held", True),
    ]
    expected = ("seed=3", "data.batch_size=7", "model=muse", "trainer.progress=false")
    assert runs[0].settings == expected
    assert plan_runs(variants[:1], [3], tmp_path, [], "valid")[0].split == "valid"


@pytest.mark.parametrize(
    ("setting", "reason"),
    [
        ("model.retrieved=5000", r"^wide: model\.retrieved=5000: more than data\.history_length"),
        ("model.retreived=5", r"^wide: .*retreived"),
        ("model=nothing", r"^wide: .*nothing"),
    ],
)
def test_a_variant_that_cannot_run_is_named_before_any_runs(tmp_path, setting, reason):
    with pytest.raises(ConfigError, match=reason):
        plan_runs([Variant("wide", (setting,))], [1], tmp_path, [], None)


def test_a_store_is_a_path_from_here_or_a_url(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert store_setting(None) == []
    assert store_setting("stores/world") == [f"data.store={tmp_path}/stores/world"]
    assert store_setting("file:///stores/world") == ["data.store=/stores/world"]
    (setting,) = store_setting("s3://bucket/stores/world")
    assert setting == "data.store=s3://bucket/stores/world"
    assert compose_run([setting]).data.store == "s3://bucket/stores/world"
    with pytest.raises(PlanError, match=r"--store: s3://\.\.\.: .* may be a secret") as caught:
        store_setting("s3://key:secret@bucket/world")
    assert "key" not in str(caught.value).partition(";")[0]


def test_runs_that_would_share_a_folder_are_refused(tmp_path):
    variants = [Variant("a", (), "1"), Variant("a-1", ())]
    with pytest.raises(PlanError, match=r"two runs would share .*a-1-1"):
        plan_runs(variants, [1], tmp_path, [], None)


def test_the_ends_of_the_sweeps_that_are_there_can_run(tmp_path):
    files = sorted((CONF / "experiment").glob("sweep_*.yaml"))
    assert len(files) >= 2
    for file in files:
        first, *_, last = variants_of(["muse"], [], [], read_sweep(file.stem))
        assert len(plan_runs([first, last], [1], tmp_path, [], None)) == 2
