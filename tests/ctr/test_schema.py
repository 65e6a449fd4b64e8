"""The manifest: what is read from it, and what each damage is called."""

import json

import pytest

from ctr.schema import StoreError, read_schema


@pytest.fixture
def manifest(tiny_store):
    """As one of the first releases wrote it: without a checksum, so that it may be changed."""
    manifest = json.loads((tiny_store / "manifest.json").read_text())
    del manifest["checksum"]
    return manifest


def read(folder, manifest):
    text = manifest if isinstance(manifest, str) else json.dumps(manifest)
    (folder / "manifest.json").write_text(text)
    return read_schema(folder)


def test_everything_in_the_manifest_is_read(tmp_path, manifest):
    manifest["features"]["event"] = [{"name": "liked", "table": "brand"}]
    manifest["features"]["sample"] = [{"name": "likes", "table": "shop"}]
    manifest["features"]["item"].append({"name": "tags", "table": "brand", "width": 5})
    schema = read(tmp_path, manifest)
    assert schema.name == manifest["name"]
    assert schema.table_rows == {n: t["rows"] for n, t in manifest["tables"].items()}
    for kind in ("user", "item", "event", "sample"):
        found = [(f.name, f.table) for f in getattr(schema, kind)]
        assert found == [(f["name"], f["table"]) for f in manifest["features"][kind]]
    assert {f.name: f.width for f in schema.item if f.width > 1} == {"tags": 5}
    assert schema.max_history == manifest["histories"]["max_length"]
    assert vars(schema.vectors) == manifest["vectors"]
    found = {n: (s.samples, s.positives, s.users) for n, s in schema.splits.items()}
    expected = manifest["splits"].items()
    assert found == {n: (s["samples"], s["positives"], s["users"]) for n, s in expected}


def test_the_digest_follows_the_manifest(tmp_path, tiny_store, manifest):
    raw = (tiny_store / "manifest.json").read_text()
    assert read(tmp_path, raw).digest == read_schema(tiny_store).digest
    same = read(tmp_path, manifest).digest
    name = next(iter(manifest["files"]))
    manifest["files"][name]["blake2b"] = "0" * 32
    assert read(tmp_path, manifest).digest != same


def test_what_stores_of_the_first_releases_do_not_say(tmp_path, manifest):
    schema = read(tmp_path, manifest)
    assert schema.sample == ()
    assert all(spec.width == 1 for spec in schema.item)
    assert all(split.labelled and not split.source_rows for split in schema.splits.values())


def test_a_split_without_labels_has_no_positives(tmp_path, manifest):
    given = manifest["splits"]["test"]
    given |= {"labelled": False, "source_rows": True}
    del given["positives"]
    split = read(tmp_path, manifest).splits["test"]
    assert (split.positives, split.labelled, split.source_rows) == (None, False, True)
    given["labelled"] = True
    with pytest.raises(StoreError, match=r"manifest\.json: no key 'positives'"):
        read(tmp_path, manifest)


@pytest.mark.parametrize("kind", ["user", "event", "sample", "item"])
def test_only_items_have_lists_and_of_two_at_least(tmp_path, manifest, kind):
    entry = {"name": "tags", "table": "brand", "width": 1 if kind == "item" else 2}
    manifest["features"].setdefault(kind, []).append(entry)
    with pytest.raises(StoreError, match=rf"{kind} feature tags of width {entry['width']}: only"):
        read(tmp_path, manifest)


def test_a_manifest_changed_since_it_was_written(tmp_path, tiny_store):
    raw = (tiny_store / "manifest.json").read_text()
    changed = raw.replace('"table": "profile_1"', '"table": "profile_3"')
    assert changed != raw
    with pytest.raises(StoreError, match=r"manifest\.json: its checksum differs; prepare"):
        read(tmp_path, changed)
    with pytest.raises(StoreError, match="its checksum differs"):
        read(tmp_path, json.loads(raw) | {"checksum": None})


def test_a_store_without_vectors(tmp_path, manifest):
    schema = read(tmp_path, manifest | {"vectors": None})
    assert schema.vectors is None
    with pytest.raises(StoreError, match=rf"model\.gsu=cosine needs item vectors.*'{schema.name}'"):
        schema.require_vectors("model.gsu=cosine")
    schema.require_item_feature("category", "model.gsu=category")
    with pytest.raises(StoreError, match=r"model\.x needs .*'colour'.*has: category, brand, shop"):
        schema.require_item_feature("colour", "model.x")


def test_a_store_with_vectors_has_them(manifest, tmp_path):
    read(tmp_path, manifest).require_vectors("model.gsu=cosine")


def test_no_manifest_says_how_to_make_a_store(tmp_path):
    with pytest.raises(StoreError, match=r"manifest\.json: cannot be read.*datasets\.world --out"):
        read_schema(tmp_path / "nowhere")
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot be read"):
        read_schema(tmp_path / "file")


@pytest.mark.parametrize("text", ["", "{", "not json", '{"format": "lifelong-ctr-store",}'])
def test_not_json(tmp_path, text):
    with pytest.raises(StoreError, match=r"manifest\.json: not valid JSON"):
        read(tmp_path, text)


def test_too_deep_to_read(tmp_path):
    with pytest.raises(StoreError, match=r"manifest\.json: not valid JSON"):
        read(tmp_path, "[" * 100_000)


def test_not_text(tmp_path):
    (tmp_path / "manifest.json").write_bytes(b"\xff\xfe\x00\x9f")
    with pytest.raises(StoreError, match=r"manifest\.json: not valid JSON"):
        read_schema(tmp_path)


def test_another_format(tmp_path, manifest):
    with pytest.raises(StoreError, match="format is 'other', expected 'lifelong-ctr-store'"):
        read(tmp_path, manifest | {"format": "other"})
    with pytest.raises(StoreError, match="format is None"):
        read(tmp_path, {})


@pytest.mark.parametrize("version", [0, 3, "1", None])
def test_another_schema_version(tmp_path, manifest, version):
    expected = f"schema version {version}, this release reads 1 and 2; prepare the store again"
    with pytest.raises(StoreError, match=expected):
        read(tmp_path, manifest | {"schema_version": version})


@pytest.mark.parametrize(
    "path",
    [
        "schema_version",
        "name",
        "tables",
        "tables.item",
        "tables.category",
        "tables.brand.rows",
        "features",
        "features.user",
        "features.event",
        "features.item.0.table",
        "features.user.1.name",
        "histories",
        "histories.max_length",
        "vectors",
        "vectors.dtype",
        "vectors.width",
        "splits",
        "splits.train.samples",
    ],
)
def test_a_missing_key_is_named(tmp_path, manifest, path):
    *above, last = path.split(".")
    holder = manifest
    for key in above:
        holder = holder[int(key) if key.isdigit() else key]
    del holder[last]
    with pytest.raises(StoreError, match=rf"manifest\.json: .*{last}"):
        read(tmp_path, manifest)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("tables", []),
        ("tables", {"item": 5}),
        ("tables", {"item": {"rows": "many"}}),
        ("features", {"user": None, "item": [], "event": []}),
        ("features", {"user": ["user_id"], "item": [], "event": []}),
        ("histories", {"max_length": None}),
        ("vectors", {"width": "wide", "dtype": "int8", "items_with_vector": 1}),
        ("vectors", []),
        ("splits", {"train": {"samples": "all", "positives": 0, "users": 0}}),
        ("splits", {"train": 3}),
        ("splits", {"train": {"samples": 1, "positives": 0, "users": 1, "labelled": "no"}}),
        ("splits", {"train": {"samples": 1, "positives": 0, "users": 1, "source_rows": 1}}),
        ("features", {"user": [], "item": [], "event": [], "sample": None}),
        ("features", {"user": [], "item": [], "event": [], "sample": [{"name": "../x"}]}),
        ("splits", {"train": {"samples": True, "positives": 0, "users": 0}}),
        ("splits", {"../../x": {"samples": 1, "positives": 0, "users": 1}}),
        ("tables", {"item": {"rows": float("inf")}}),
        ("tables", {"item": {"rows": -1}}),
        ("tables", {"item": {"rows": 2**63}}),
        ("features", {"user": [], "item": [{"name": "a/b", "table": "item"}], "event": []}),
        ("features", {"user": [], "item": [], "event": [{"name": "..", "table": "item"}]}),
        ("splits", None),
    ],
)
def test_a_value_of_the_wrong_kind(tmp_path, manifest, key, value):
    with pytest.raises(StoreError, match=r"manifest\.json: .*prepare the store again"):
        read(tmp_path, manifest | {key: value})


@pytest.mark.parametrize("manifest", [[], 3, None, "text"])
def test_json_that_is_no_object(tmp_path, manifest):
    with pytest.raises(StoreError, match=r"manifest\.json: "):
        read(tmp_path, json.dumps(manifest))


def test_vectors_of_an_unknown_dtype(tmp_path, manifest):
    manifest["vectors"]["dtype"] = "object"
    with pytest.raises(StoreError, match="vectors of dtype object, expected int8, float16"):
        read(tmp_path, manifest)


def test_a_feature_of_an_unknown_table(tmp_path, manifest):
    manifest["features"]["item"][1]["table"] = "brands"
    with pytest.raises(StoreError, match="item feature brand: no table brands"):
        read(tmp_path, manifest)
