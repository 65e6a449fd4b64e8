"""The folder of a run: written once, read back, and refused where it does not fit."""

import json

import pytest
import yaml

from ctr.config import ConfigError
from ctr.run_folder import RunFolder, check_resumable
from ctr.schema import read_schema


@pytest.fixture
def schema(tiny_store):
    return read_schema(tiny_store)


@pytest.fixture
def made(tmp_path, config, schema):
    folder = RunFolder(tmp_path / "runs" / "one")
    folder.create(config, schema)
    return folder


def test_the_configuration_comes_back_wherever_the_folder_is(made, config, tmp_path):
    made.path.rename(tmp_path / "moved")
    found = RunFolder(tmp_path / "moved").read_config()
    assert found.run_path == tmp_path / "moved"
    found.run = config.run
    assert found == config


def test_it_tells_how_it_was_made(made, schema):
    environment = json.loads(made.environment.read_text())
    assert environment["store_digest"] == schema.digest
    assert environment["store"] == schema.name
    assert {"torch", "torchrec", "numpy"} <= set(environment["versions"])


def test_a_folder_is_used_once(made, config, schema):
    before = made.config.read_text()
    config.seed += 1
    with pytest.raises(ConfigError, match=r"holds a run already; set resume=true"):
        made.check_unused()
    with pytest.raises(ConfigError, match=r"holds a run already; set resume=true"):
        made.create(config, schema)
    assert made.config.read_text() == before


def test_a_path_that_cannot_be_a_folder(tmp_path, config, schema):
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(ConfigError, match=r"^run=.*file.*: cannot be written"):
            RunFolder(path).create(config, schema)


def test_no_run_there(tmp_path):
    with pytest.raises(ConfigError, match=r"no config\.yaml; is this the folder of a run\?"):
        RunFolder(tmp_path).read_config()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", r"config\.yaml: cannot be read"),
        ("\x00", r"config\.yaml: cannot be read"),
        ("just words", "just words"),
        ("[1, 2]", "config: "),
        ("data: {batchsize: 5}", r"did you mean data\.batch_size"),
        ("data: {batch_size: 0}", "data.batch_size=0: set at least 1"),
        ("[" * 100_000, r"config\.yaml: has a reference .* or too many levels"),
        ("!!binary aGVsbG8=", r"config\.yaml: "),
        ("data: &a {store: *a}", r"config\.yaml: has a reference"),
        ("seed: ${oc.decode:", r"config\.yaml: "),
    ],
)
def test_a_damaged_configuration(made, text, message):
    made.config.write_text(text)
    with pytest.raises(ConfigError, match=message) as caught:
        made.read_config()
    assert str(made.config) in str(caught.value)


@pytest.mark.timeout(60)
def test_a_configuration_of_references_to_references(made):
    lines = ["a: &a [x, x, x, x, x, x, x, x, x]"]
    for one, two in zip("abcdefghijk", "bcdefghijkl", strict=True):
        lines.append(f"{two}: &{two} [{', '.join([f'*{one}'] * 9)}]")
    made.config.write_text("\n".join(lines))
    with pytest.raises(ConfigError, match="has a reference"):
        made.read_config()


def test_a_configuration_changed_since_it_was_written(made, config):
    whole = made.config.read_text()
    for changed in (
        whole.replace("seed: 42", "seed: 43"),
        whole[: whole.index("embedding:")],
        whole + "\n",
    ):
        made.config.write_text(changed)
        with pytest.raises(ConfigError, match=r"config\.yaml: changed since .*command line"):
            made.read_config()
    config.seed = 43
    made.write_config(config)
    assert made.read_config().seed == 43


def test_a_configuration_of_the_first_releases_has_no_checksum(made, config):
    whole = made.config.read_text()
    made.config.write_text(whole.partition("\n")[2])
    found = made.read_config()
    found.run = config.run
    assert found == config


def test_the_store_must_be_the_one_trained_on(made, tiny_store, tmp_path, schema):
    made.check_store(schema)
    manifest = json.loads((tiny_store / "manifest.json").read_text())
    del manifest["checksum"]
    (tmp_path / "manifest.json").write_text(json.dumps(manifest | {"created_by": "another"}))
    with pytest.raises(ConfigError, match=r"trained on another store .*set data\.store"):
        made.check_store(read_schema(tmp_path))


@pytest.mark.parametrize("text", [None, "", "{", "[]", "{}", "3", "[" * 100_000])
def test_a_damaged_environment(made, schema, text):
    made.environment.unlink()
    if text is not None:
        made.environment.write_text(text)
    with pytest.raises(ConfigError, match=r"environment\.json: cannot be read"):
        made.check_store(schema)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("data.history_length", 59),
        ("data.shuffle", False),
        ("model.retrieved", 11),
        ("model.hidden", [8]),
        ("embedding.dim", 32),
        ("seed", 43),
    ],
)
def test_resuming_must_not_change_what_the_run_is(made, key, value):
    old, new = made.read_config(), made.read_config()
    check_resumable(old, new)
    *part, last = key.split(".")
    setattr(getattr(new, part[0]) if part else new, last, value)
    with pytest.raises(ConfigError, match=rf"^{key}: differ from the run to resume in {old.run}"):
        check_resumable(old, new)


def test_resuming_names_every_change(made):
    old, new = made.read_config(), made.read_config()
    new.data.history_length, new.model.gsu, new.seed = 1, "none", 0
    with pytest.raises(ConfigError, match=r"^data\.history_length, model\.gsu, seed: "):
        check_resumable(old, new)


def test_resuming_may_train_longer_elsewhere_and_with_more_threads(made):
    old, new = made.read_config(), made.read_config()
    new.trainer.epochs, new.trainer.max_steps = 5, 1000
    new.data.workers, new.data.prefetch, new.data.store = 3, 9, "moved"
    new.data.vectors = "sharded"
    new.device = "cpu"
    # Another number of processes takes another size to make the same steps.
    new.data.batch_size = 7
    check_resumable(old, new)


def test_a_run_with_adam_cannot_be_resumed_exactly_and_says_so(made):
    old, new = made.read_config(), made.read_config()
    old.embedding.optimizer = new.embedding.optimizer = "adam"
    with pytest.raises(ConfigError, match=r"embedding\.optimizer=adam"):
        check_resumable(old, new)


def test_the_written_configuration_is_plain_yaml(made, config):
    written = yaml.safe_load(made.config.read_text())
    assert written["data"]["history_length"] == config.data.history_length
    assert written["model"]["simtier_on"] == config.model.simtier_on
