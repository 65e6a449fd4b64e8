"""Configurations that must pass, and those that must not, with what the message says."""

import re
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from ctr.config import ConfigError, RunConfig, parse_as, parse_config
from ctr.evaluate import EvaluateConfig

CONF = Path(__file__).resolve().parents[2] / "conf"


def parse(**groups):
    return parse_config(OmegaConf.create(groups))


def choices(group):
    names = sorted(path.stem for path in (CONF / group).glob("*.yaml"))
    assert names, f"conf/{group} is empty"
    return [f"{group}={name}" for name in names]


def test_the_defaults_are_valid():
    assert parse() == RunConfig()
    RunConfig().validate()


def test_values_arrive_with_their_types():
    config = parse(data={"batch_size": "32"}, trainer={"lr": 1, "max_steps": None}, seed="7")
    assert config.data.batch_size == 32
    assert config.trainer.lr == 1.0
    assert config.trainer.max_steps is None
    assert config.seed == 7
    assert config.run_path == Path("runs/latest")


@pytest.mark.parametrize(
    "override",
    [
        c
        for g in ("model", "data", "embedding", "trainer", "cluster", "experiment")
        for c in choices(g)
    ],
)
def test_every_file_of_conf_composes_and_parses(override):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = parse_config(compose("train", [override]))
    assert isinstance(config, RunConfig)


@pytest.mark.parametrize("model", choices("model"))
def test_every_model_composes_with_every_dataset(model):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        for data in choices("data"):
            parse_config(compose("train", [model, data]))


@pytest.mark.parametrize(("name", "kind"), [("train", RunConfig), ("evaluate", EvaluateConfig)])
def test_every_key_is_in_conf_so_that_a_command_can_set_it(name, kind):
    def keys(config):
        return {k: keys(v) if isinstance(v, dict) else None for k, v in config.items()}

    with initialize_config_dir(str(CONF), version_base="1.3"):
        composed = OmegaConf.to_container(compose(name))
    assert keys(composed) == keys(OmegaConf.to_container(OmegaConf.structured(kind)))


@pytest.mark.parametrize(("name", "kind"), [("train", RunConfig), ("evaluate", EvaluateConfig)])
def test_the_defaults_of_conf_and_of_the_dataclasses_are_the_same(name, kind):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        assert parse_as(kind, compose(name)) == kind()


@pytest.mark.parametrize(
    ("raw", "key", "nearest"),
    [
        ({"sed": 1}, "sed", "seed"),
        ({"trainr": {"lr": 1.0}}, "trainr", "trainer"),
        ({"data": {"batchsize": 1}}, "data.batchsize", "data.batch_size"),
        ({"model": {"retreived": 1}}, "model.retreived", "model.retrieved"),
        ({"embedding": {"dims": 1}}, "embedding.dims", "embedding.dim"),
        ({"trainer": {"max_step": 1}}, "trainer.max_step", "trainer.max_steps"),
    ],
)
def test_a_misspelt_key_gets_the_nearest_known_one(raw, key, nearest):
    with pytest.raises(ConfigError) as caught:
        parse_config(OmegaConf.create(raw))
    message = str(caught.value)
    assert message == f"{key}: no such configuration key; did you mean {nearest}?"


def test_a_key_like_no_other_gets_the_list():
    with pytest.raises(ConfigError, match=r"zzzzqqq: .*known keys: .*data\.batch_size, .*seed"):
        parse(zzzzqqq=1)


def test_a_misspelt_key_of_an_evaluation():
    with pytest.raises(ConfigError, match=r"splt: .*did you mean split\?"):
        parse_as(EvaluateConfig, OmegaConf.create({"splt": "test"}))


@pytest.mark.parametrize(
    ("raw", "key"),
    [
        ({"data": {"batch_size": "many"}}, "data.batch_size"),
        ({"data": {"batch_size": 1.5}}, "data.batch_size"),
        ({"data": {"batch_size": True}}, "data.batch_size"),
        ({"data": {"batch_size": None}}, "data.batch_size"),
        ({"data": {"batch_size": [1]}}, "data.batch_size"),
        ({"data": {"shuffle": "perhaps"}}, "data.shuffle"),
        ({"data": {"store": {"path": "x"}}}, "data.store"),
        ({"data": None}, "data"),
        ({"model": {"hidden": "wide"}}, "model.hidden"),
        ({"model": {"hidden": [64, "wide"]}}, r"model.hidden\[1\]"),
        ({"trainer": {"lr": "fast"}}, "trainer.lr"),
        ({"seed": "${nowhere}"}, "seed"),
        ({"data": 5}, "config"),
        ([1, 2], "config"),
    ],
)
def test_a_value_of_the_wrong_type_names_its_key(raw, key):
    with pytest.raises(ConfigError, match=rf"^{key}: "):
        parse_config(OmegaConf.create(raw))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("trainer.lr", float("inf")),
        ("trainer.spike", float("nan")),
        ("trainer.clip_norm", float("inf")),
        ("embedding.init_std", float("inf")),
        ("data.history_length", 2**63),
        ("model.hidden", [64, 10**30]),
        ("model.hidden", [[64], [32]]),
        ("seed", 2**64),
    ],
)
def test_a_value_that_no_run_can_use_names_its_key(key, value):
    raw = OmegaConf.create()
    OmegaConf.update(raw, key, value)
    expected = rf"^{key}=.*: set a ((finite )?number|list of single values)"
    with pytest.raises(ConfigError, match=expected):
        parse_config(raw)


IMPOSSIBLE = [
    ("data.batch_size", 0),
    ("data.history_length", 0),
    ("data.workers", 0),
    ("data.prefetch", 0),
    ("data.vectors", "shared"),
    ("model.gsu", "cosin"),
    ("model.retrieved_attention", ["din"]),
    ("model.recent_attention", ["target", "target"]),
    ("model.heads", 0),
    ("model.hash_bits", 0),
    ("model.hash_bits", 257),
    ("model.whole_attention", "target"),
    ("model.sdim_group", 9),
    ("model.sdim_hashes", 47),
    ("model.means", ["short"]),
    ("model.head", "mlp"),
    ("model.head_layers", 0),
    ("model.head_dropout", 1.0),
    ("model.content_dim", -1),
    ("model.content_tower", [0]),
    ("model.content_tower_dim", 0),
    ("model.content_tower_on", "latest"),
    ("model.content_tower_run", "runs/make"),
    ("model.content_tower_frozen", True),
    ("model.head", "content"),
    ("model.simtier", "paper2"),
    ("model.activation", "gelu"),
    ("model.recent_length", 0),
    ("model.retrieved", -1),
    ("model.simtier_bins", 0),
    ("model.simtier_bins", 20),
    ("model.simtier_on", ["short"]),
    ("model.hidden", []),
    ("model.hidden", [64, 0]),
    ("embedding.optimizer", "adamw"),
    ("embedding.dim", 0),
    ("embedding.dim", 6),
    ("embedding.narrow_dim", 10),
    ("embedding.init_std", 0.0),
    ("embedding.lr", 0.0),
    ("embedding.lr", float("nan")),
    ("embedding.eps", 0.0),
    ("embedding.sharding", []),
    ("embedding.sharding", ["diagonal"]),
    ("embedding.sharding", ["data_parallel"]),
    ("embedding.table_sharding.item", []),
    ("embedding.table_sharding.item", ["diagonal"]),
    ("embedding.table_sharding.item", ["data_parallel", "row_wise"]),
    ("cluster.hosts", 0),
    ("cluster.device_memory", 0.0),
    ("cluster.inter_host_bandwidth", -1.0),
    ("cluster.reserved", 1.0),
    ("embedding.optimizer", "dense_adam"),
    ("embedding.weight_decay", -1e-4),
    ("trainer.precision", "fp16"),
    ("trainer.pipeline", "sometimes"),
    ("embedding.precision", "bf16"),
    ("trainer.epochs", 0),
    ("trainer.log_every", 0),
    ("trainer.keep_checkpoints", 0),
    ("trainer.lr", -1.0),
    ("trainer.weight_decay", -0.1),
    ("trainer.max_steps", 0),
    ("trainer.checkpoint_every", -5),
    ("trainer.clip_norm", 0.0),
    ("trainer.timeout", 0.0),
    ("trainer.patience", 3),
    ("trainer.plateau", 0.5),
    ("seed", -1),
    ("device", "tpu"),
]


@pytest.mark.parametrize(("key", "value"), IMPOSSIBLE)
def test_an_impossible_value_names_its_key_and_a_way_out(key, value):
    raw = OmegaConf.create()
    OmegaConf.update(raw, key, value)
    with pytest.raises(ConfigError) as caught:
        parse_config(raw)
    message = str(caught.value)
    # A pair of values that do not go together is named by either.
    assert message.startswith((f"{key}=", f"{key.split('.')[0]}."))
    assert "set " in message or "set one of" in message


@pytest.mark.parametrize(("key", "value"), [("patience", 0), ("plateau", 0.0), ("plateau", 1.0)])
def test_a_patience_or_plateau_out_of_range_names_its_key(key, value):
    fitting = {"keep_best": "auc", "patience": 8, "plateau": 0.5}
    data = {"valid_split": "valid"}
    assert parse(data=data, trainer=fitting).trainer.patience == 8
    with pytest.raises(ConfigError, match=rf"^trainer\.{key}={value}: set "):
        parse(data=data, trainer={**fitting, key: value})


def test_a_patience_needs_a_metric_and_that_a_validation_split():
    with pytest.raises(ConfigError, match=r"^trainer\.patience=2: .*set trainer\.keep_best"):
        parse(data={"valid_split": "valid"}, trainer={"patience": 2})
    with pytest.raises(ConfigError, match=r"^trainer\.keep_best=auc: .*set data\.valid_split"):
        parse(trainer={"patience": 2, "keep_best": "auc"})


@pytest.mark.parametrize("optimizer", ["adagrad", "sgd"])
def test_a_weight_decay_that_would_be_left_out_is_refused(optimizer):
    with pytest.raises(ConfigError, match=r"^embedding\.weight_decay=0\.1: .*leaves it out.*set 0"):
        parse(embedding={"weight_decay": 0.1, "optimizer": optimizer})


ALONE = {
    **{"head": "content", "content_tower": [8], "simtier": "none"},
    **{"means": [], "recent_attention": [], "retrieved_attention": []},
}


@pytest.mark.parametrize(
    "change",
    [
        {"gsu": "id_soft"},
        {"content_tower_on": "recent"},
        {"gsu": "none"},
        {"simtier": "code"},
        {"whole_attention": "sdim"},
        {"means": ["recent"]},
        {"recent_attention": ["target"]},
        {"retrieved_attention": ["sa_ta"]},
        {"content_tower": []},
        {"content_tower_frozen": True, "content_tower_run": "runs/make"},
    ],
)
def test_pre_training_of_a_content_tower_has_room_for_nothing_else(change):
    assert parse(model=ALONE).model.content_tower == [8]
    assert parse(model={**ALONE, "content_tower_on": "recent", "gsu": "none"})
    with pytest.raises(ConfigError, match=r"^model\.\w+=.*set "):
        parse(model={**ALONE, **change})


@pytest.mark.parametrize("key", ["retrieved", "recent_length"])
def test_no_more_behaviours_picked_than_seen(key):
    fitting = {"recent_length": 20, "retrieved": 20}
    parse(data={"history_length": 20}, model=fitting)
    with pytest.raises(ConfigError, match=rf"^model\.{key}=21: .*data\.history_length=20.*set"):
        parse(data={"history_length": 20}, model={**fitting, key: 21})


@pytest.mark.parametrize("change", [{"content_dim": 8}, {"content_tower": [8]}])
def test_vectors_on_other_processes_are_no_input_of_the_model(change):
    key, value = next(iter(change.items()))
    for vectors in ("replicated", "pinned"):
        parse(model=change, data={"vectors": vectors})
    named = rf"^model\.{key}={re.escape(str(value))}: .*set data\.vectors=replicated"
    with pytest.raises(ConfigError, match=named):
        parse(model=change, data={"vectors": "sharded"})
    assert parse(data={"vectors": "sharded"}).data.vectors == "sharded"


def test_pinned_vectors_are_for_a_gpu():
    with pytest.raises(ConfigError, match=r"^data\.vectors=pinned: .*device=cpu set replicated"):
        parse(data={"vectors": "pinned"}, device="cpu")


def test_twin_searches_by_its_own_attention():
    with pytest.raises(ConfigError, match=r"^model\.retrieved_attention=.*model\.gsu=twin.*set"):
        parse(model={"gsu": "twin"})
    parse(model={"gsu": "twin", "retrieved_attention": ["sa_ta", "twin"]})


def test_the_paper_form_of_simtier_may_have_any_number_of_bins():
    assert parse(model={"simtier": "paper", "simtier_bins": 20}).model.simtier_bins == 20


@pytest.mark.parametrize(
    "settings",
    [{"optimizer": "adam"}, {"weight_decay": 0.1}, {"optimizer": "dense_adam"}],
    ids=lambda settings: next(iter(settings)),
)
def test_a_whole_table_needs_an_optimizer_that_leaves_untouched_rows_alone(settings):
    places = {"table_sharding": {"item": ["data_parallel"]}}
    places["sharding"] = ["data_parallel" if "dense" in str(settings) else "row_wise"]
    with pytest.raises(ConfigError, match=r"embedding.table_sharding.item=.* set "):
        parse(embedding={**places, **settings})
