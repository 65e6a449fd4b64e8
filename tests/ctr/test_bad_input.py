"""Mistakes on the command line: one line that names the thing, and nothing left behind."""

import json
import shutil

import pytest

from ctr.run_folder import RunFolder
from ctr.schema import read_schema
from tests import starter


def nothing(folder, tiny_store, config):
    """The store is enough."""


def without_vectors(folder, tiny_store, config):
    """A store that has no item vectors."""
    path = shutil.copytree(tiny_store, folder / "bare") / "manifest.json"
    manifest = json.loads(path.read_text())
    del manifest["checksum"]
    path.write_text(json.dumps(manifest | {"vectors": None}))


def used_folder(folder, tiny_store, config):
    """A run under the name that every case trains to."""
    RunFolder(folder / "run").create(config, read_schema(tiny_store))


def other_store(folder, tiny_store, config):
    """A run, and a store that it was not trained on."""
    used_folder(folder, tiny_store, config)
    without_vectors(folder, tiny_store, config)


# name -> what lies there before, the command (STORE stands for the store), what stderr must say
CASES = {
    "no store": (
        nothing,
        "train.py data.store=nowhere",
        ["error: nowhere/manifest.json: cannot be read", "datasets.world --out"],
    ),
    "misspelt key": (
        nothing,
        "train.py data.store=STORE data.batchsize=100",
        ["Could not override 'data.batchsize'", "Key 'batchsize' is not in struct"],
    ),
    "more behaviours picked than seen": (
        nothing,
        "train.py data.store=STORE data.history_length=60 model.retrieved=61",
        ["error: model.retrieved=61: more than data.history_length=60"],
    ),
    "misspelt split, found last": (
        nothing,
        "train.py data.store=STORE data.valid_split=vald trainer.progress=false",
        ["error: ", "no split 'vald'; it has: train, test"],
    ),
    "no vectors": (
        without_vectors,
        "train.py data.store=bare model=muse",
        ["error: model.gsu=cosine needs item vectors", "choose a model without them"],
    ),
    "run folder in use": (
        used_folder,
        "train.py data.store=STORE",
        ["error: run=run: holds a run already; set resume=true"],
    ),
    "evaluation of no run": (
        nothing,
        "evaluate.py",
        ["error: run=run: no config.yaml"],
    ),
    "evaluation on another store": (
        other_store,
        "evaluate.py store=bare",
        ["error: run=run: trained on another store"],
    ),
}


def tree(folder):
    return {p: p.read_bytes() if p.is_file() else None for p in sorted(folder.rglob("*"))}


@pytest.mark.parametrize("name", CASES)
def test_a_mistake(name, tmp_path, tiny_store, config):
    prepare, command, expected = CASES[name]
    prepare(tmp_path, tiny_store, config)
    before = tree(tmp_path)
    script, *options = command.replace("STORE", str(tiny_store)).split()
    asked = ("run=run", "device=cpu", *options)
    done = starter.run(None, f"ctr/{script}", *asked, folder=tmp_path, timeout=120)
    assert done.returncode != 0, done.stdout
    for part in expected:
        assert part in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    assert tree(tmp_path) == before
