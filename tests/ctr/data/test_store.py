"""Opening a store: what comes back, and what each damaged file is called."""

import json
import os
import pickle
import shutil

import numpy as np
import pytest

from ctr.data.store import Store
from ctr.schema import StoreError

AT_OPENING = ["users/history_offsets", "users/history_item", "users/feature_user_id"]
BY_SPLIT = [f"splits/train/{name}" for name in ("user", "item", "history_end", "label")]
BY_ITEM = ["items/feature_category", "items/vectors", "items/vector_inv_norm"]
EVERY_KIND = AT_OPENING + BY_SPLIT + BY_ITEM
OPTIONAL = ["splits/train/feature_likes", "splits/train/source_row", "items/feature_tags"]


@pytest.fixture
def damaged(tiny_store, tmp_path):
    """A copy of the store, to be damaged."""
    return shutil.copytree(tiny_store, tmp_path / "store")


def read_all(path):
    """Open a store and everything in it."""
    store = Store(path)
    return store, store.split("train"), store.item_features, store.vectors, store.vector_inv_norm


def edit_manifest(path, change):
    file = path / "manifest.json"
    manifest = json.loads(file.read_text())
    # Without its checksum it may be changed.
    del manifest["checksum"]
    change(manifest)
    file.write_text(json.dumps(manifest))


class Exploit:
    """Runs a shell command where it is unpickled."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch '{self.marker}'",)


def test_a_whole_store_opens(tiny_store):
    manifest = json.loads((tiny_store / "manifest.json").read_text())
    store, train, features, vectors, inv_norm = read_all(tiny_store)
    assert len(store.history_offsets) == manifest["histories"]["records"] + 1
    assert len(store.history_item[0]) == manifest["histories"]["events"]
    assert set(store.user_features) == {f["name"] for f in manifest["features"]["user"]}
    assert len(train) == manifest["splits"]["train"]["samples"]
    assert train.label.sum() == manifest["splits"]["train"]["positives"]
    assert vectors.shape == (manifest["tables"]["item"]["rows"], manifest["vectors"]["width"])
    assert (inv_norm > 0).sum() == manifest["vectors"]["items_with_vector"]
    assert set(features) == {"category", "brand", "shop"}
    assert all(isinstance(a, np.memmap) for a in (store.history_item[0], train.item, vectors))


def test_writing_to_an_array_never_reaches_the_file(damaged):
    Store(damaged).history_item[0][:] = -1
    assert (Store(damaged).history_item[0] >= 0).all()


def test_no_vectors(damaged):
    edit_manifest(damaged, lambda manifest: manifest.update(vectors=None))
    (damaged / "items/vectors.npy").unlink()
    (damaged / "items/vector_inv_norm.npy").unlink()
    store = Store(damaged)
    assert store.vectors is None
    assert store.vector_inv_norm is None


def test_a_store_without_events_opens(damaged):
    records = len(np.load(damaged / "users/history_offsets.npy"))
    np.save(damaged / "users/history_offsets.npy", np.zeros(records, dtype=np.int64))
    np.save(damaged / "users/history_item.npy", np.zeros(0, dtype=np.int32))
    assert len(Store(damaged).history_item[0]) == 0


def test_an_event_column(damaged):
    def add(manifest):
        manifest["features"]["event"] = [{"name": "liked", "table": "brand"}]

    edit_manifest(damaged, add)
    with pytest.raises(StoreError, match=r"users/event_liked\.npy: missing"):
        Store(damaged)
    events = np.load(damaged / "users/history_item.npy")
    np.save(damaged / "users/event_liked.npy", events % 2)
    assert (Store(damaged).events["liked"] == events % 2).all()


def extended(path):
    """The store with all that newer ones may have; the test split is without labels."""

    def extend(manifest):
        manifest["features"]["sample"] = [{"name": "likes", "table": "brand"}]
        manifest["features"]["item"].append({"name": "tags", "table": "brand", "width": 3})
        manifest["splits"]["train"]["source_rows"] = True
        manifest["splits"]["test"]["labelled"] = False
        del manifest["splits"]["test"]["positives"]
        items = manifest["tables"]["item"]["rows"]
        np.save(path / "items/feature_tags.npy", np.zeros((items, 3), dtype=np.int32))
        for name, split in manifest["splits"].items():
            likes = np.arange(split["samples"], dtype=np.int32) % 2
            np.save(path / f"splits/{name}/feature_likes.npy", likes)
        rows = np.arange(manifest["splits"]["train"]["samples"])[::-1]
        np.save(path / "splits/train/source_row.npy", rows)
        (path / "splits/test/label.npy").unlink()

    edit_manifest(path, extend)
    return path


def test_a_store_with_all_that_is_optional(damaged):
    store = Store(extended(damaged))
    train = store.split("train")
    assert train.features["likes"].tolist() == [i % 2 for i in range(len(train))]
    assert train.source_row.tolist() == [*range(len(train))][::-1]
    assert store.item_features["tags"].shape == (store.schema.table_rows["item"], 3)
    test = store.split("test", need_labels=False)
    assert (test.label, test.source_row) == (None, None)
    assert len(test.features["likes"]) == len(test) == store.schema.splits["test"].samples


def test_a_split_without_labels_says_what_can_be_done_with_it(damaged):
    store = Store(extended(damaged))
    message = r"split 'test' has no labels to train or evaluate with; .*predict\.py .*samples=test"
    with pytest.raises(StoreError, match=message):
        store.split("test")


def test_a_part_of_a_split(damaged):
    train = Store(extended(damaged)).split("train")
    part = train.part(5, 9)
    assert len(part) == 4
    for name in ("user", "item", "history_end", "label", "source_row"):
        assert getattr(part, name).tolist() == getattr(train, name)[5:9].tolist()
    assert part.features["likes"].tolist() == train.features["likes"][5:9].tolist()


def set_at(place, value):
    def change(array):
        array[place] = value
        return array

    return change


# What reading would take for a place in another array: file, change, row that the message names.
PLACES = {
    "offsets fall": ("users/history_offsets", set_at(3, -(2**62)), "row 3"),
    "offsets overflow": ("users/history_offsets", set_at(3, 2**63 - 1), "row 4"),
    "offsets begin late": ("users/history_offsets", set_at(slice(0, 2), 1), "row 0"),
    "profile": ("users/feature_profile_1", set_at(5, -1), "row 5"),
    "category": ("items/feature_category", set_at(7, 10**6), "row 7"),
    "no such user": ("splits/train/user", set_at(-1, 2**31 - 1), "row "),
    "negative user": ("splits/train/user", set_at(0, -1), "row 0"),
    "users out of order": ("splits/train/user", set_at(-1, 0), "row "),
    "item": ("splits/train/item", set_at(9, -5), "row 9"),
    "no such event": ("splits/train/history_end", set_at(4, 2**40), "row 4"),
    "negative end": ("splits/train/history_end", set_at(4, -1), "row 4"),
    "label": ("splits/train/label", set_at(2, 2), "row 2"),
    "sample feature": ("splits/train/feature_likes", set_at(3, 10**6), "row 3: 1000000"),
    "negative sample feature": ("splits/train/feature_likes", set_at(-1, -1), "row "),
    "entry of a list": ("items/feature_tags", set_at((6, 2), 10**6), "row 6: 1000000"),
    "negative entry of a list": ("items/feature_tags", set_at((4, 0), -7), "row 4: -7"),
    "source row": ("splits/train/source_row", set_at(8, -1), "row 8: -1"),
}


@pytest.mark.parametrize("name", PLACES)
def test_a_place_that_is_not_there(damaged, name):
    file, change, row = PLACES[name]
    extended(damaged)
    np.save(damaged / f"{file}.npy", change(np.load(damaged / f"{file}.npy")))
    with pytest.raises(StoreError, match=rf"\.npy, {row}.*prepare the store again"):
        read_all(damaged)


def test_samples_of_a_user_must_be_in_order_across_chunks(damaged, monkeypatch):
    path = damaged / "splits/train/history_end.npy"
    user, end = np.load(damaged / "splits/train/user.npy"), np.load(path)
    row = int(np.flatnonzero((np.diff(user) == 0) & (end[1:] > 0))[0]) + 1
    end[row] -= 1
    np.save(path, end)
    for chunk in (1, row, row + 1, 1 << 20):
        monkeypatch.setattr("ctr.data.store._CHUNK_ROWS", chunk)
        with pytest.raises(StoreError, match=rf"user\.npy, row {row}: samples are not sorted"):
            Store(damaged).split("train")


def test_a_folder_that_is_no_store(tmp_path):
    with pytest.raises(StoreError, match=r"manifest\.json: cannot be read"):
        Store(tmp_path)


@pytest.mark.parametrize("name", EVERY_KIND + OPTIONAL)
def test_a_missing_file(damaged, name):
    extended(damaged)
    (damaged / f"{name}.npy").unlink()
    with pytest.raises(StoreError, match=rf"{name}\.npy: missing; prepare the store again"):
        read_all(damaged)


@pytest.mark.parametrize("name", EVERY_KIND)
@pytest.mark.parametrize("left", [0, 5, 60, 128, -1])
def test_a_file_cut_short(damaged, name, left):
    path = damaged / f"{name}.npy"
    os.truncate(path, left if left >= 0 else path.stat().st_size + left)
    with pytest.raises(StoreError, match=rf"{name}\.npy: .*prepare the store again"):
        read_all(damaged)


@pytest.mark.parametrize("name", EVERY_KIND)
@pytest.mark.parametrize(
    "change",
    [
        lambda array: array.astype(np.float64),
        lambda array: array.astype(array.dtype.newbyteorder(">") if array.itemsize > 1 else "u4"),
        lambda array: np.concatenate([array, array[:1]]),
        lambda array: array[:-1],
        lambda array: array[:0],
        lambda array: array[:, None],
        lambda array: np.array(array.flat[0]),
    ],
    ids=["dtype", "byte order", "longer", "shorter", "empty", "dimensions", "scalar"],
)
def test_an_array_of_another_kind(damaged, name, change):
    path = damaged / f"{name}.npy"
    np.save(path, change(np.load(path)))
    with pytest.raises(StoreError, match=r"expected|no user record"):
        read_all(damaged)


@pytest.mark.parametrize(
    ("name", "shape"), [("items/feature_tags", ", 3"), ("splits/train/feature_likes", "")]
)
@pytest.mark.parametrize(
    "change",
    [
        lambda array: array.astype(np.int64),
        lambda array: array[:-1],
        lambda array: array.repeat(2, axis=-1),
        lambda array: array[..., None],
    ],
    ids=["dtype", "shorter", "wider", "dimensions"],
)
def test_an_optional_array_of_another_kind(damaged, name, shape, change):
    path = extended(damaged) / f"{name}.npy"
    np.save(path, change(np.load(path)))
    with pytest.raises(StoreError, match=rf"{name}\.npy: .*expected int32 \[\d+{shape}\]"):
        read_all(damaged)


def test_vectors_of_another_width(damaged):
    path = damaged / "items/vectors.npy"
    np.save(path, np.load(path)[:, :-1])
    with pytest.raises(
        StoreError, match=r"items/vectors\.npy: int8 .*, 127\], expected int8 .*128"
    ):
        read_all(damaged)


@pytest.mark.parametrize("name", EVERY_KIND)
def test_a_pickled_array_runs_no_code(damaged, tmp_path, name):
    marker = tmp_path / "marker"
    np.save(damaged / f"{name}.npy", np.array([Exploit(marker)], dtype=object), allow_pickle=True)
    with pytest.raises(StoreError, match=rf"{name}\.npy: cannot be read"):
        read_all(damaged)
    assert not marker.exists()


def test_a_bare_pickle_runs_no_code(damaged, tmp_path):
    marker = tmp_path / "marker"
    raw = pickle.dumps(Exploit(marker))
    (damaged / "users/history_item.npy").write_bytes(raw)
    with pytest.raises(StoreError, match=r"history_item\.npy: cannot be read"):
        Store(damaged)
    assert not marker.exists()
    pickle.loads(raw)
    assert marker.exists(), "the exploit itself does nothing: this file's tests prove nothing"


def test_an_archive_of_arrays_is_no_array(damaged):
    with (damaged / "users/history_item.npy").open("wb") as file:
        np.savez(file, a=np.zeros(3))
    with pytest.raises(StoreError, match=r"history_item\.npy: not an array"):
        Store(damaged)


def test_any_damaged_header_is_an_error_of_ours(damaged):
    path = damaged / "users/history_item.npy"
    whole = path.read_bytes()
    random = np.random.default_rng(0)
    refused = 0
    for _ in range(300):
        raw = bytearray(whole)
        raw[random.integers(0, 128)] = random.integers(0, 256)
        path.write_bytes(raw)
        try:
            Store(damaged)
        except StoreError:
            refused += 1
    assert refused > 100


def test_an_unknown_split_lists_the_known_ones(store):
    with pytest.raises(StoreError, match="no split 'valid'; it has: train, test"):
        store.split("valid")


def test_an_empty_split(damaged):
    edit_manifest(damaged, lambda manifest: manifest["splits"]["test"].update(samples=0))
    for column in ("user", "item", "history_end", "label"):
        path = damaged / f"splits/test/{column}.npy"
        np.save(path, np.load(path)[:0])
    store = Store(damaged)
    with pytest.raises(StoreError, match="split 'test' has no samples"):
        store.split("test")
