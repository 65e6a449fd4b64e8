"""tools.plan: figures of a whole command against numbers worked out by hand, and its errors."""

import json
from pathlib import Path

import fsspec
import pytest

from ctr.table_memory import Table
from tools.plan.__main__ import main
from tools.plan.figures import Piece, PlannedTable, Traffic, traffic_of

TAOBAO = ["--rows", "item=243153410", "user_id=6929606"]


def planned(capsys, *arguments):
    main([*arguments, "--json"])
    return json.loads(capsys.readouterr().out)


def refused(capsys, *arguments):
    with pytest.raises(SystemExit) as caught:
        main([*arguments])
    assert caught.value.code == 2
    return capsys.readouterr().err


def test_taobao_mm_on_one_gpu(capsys):
    found = planned(capsys, *TAOBAO, "--vectors", "128", "--devices", "1")
    item, user = found["tables"]
    assert item["bytes"] == {"weights": 243153410 * 64, "states": 243153410 * 4, "gradients": 0}
    assert user["bytes"]["weights"] == 6929606 * 64
    (device,) = found["devices"]
    tables = (243153410 + 6929606) * 68
    assert device["weights"] + device["states"] == tables
    assert device["items"] == 243153410 * 132
    assert device["room"] == 68 * 10**9 - tables - 243153410 * 132
    assert found["step"] == [dict.fromkeys(("sent", "received"), _traffic(0, 0, 0))]


def test_a_step_on_eight_gpus(capsys):
    found = planned(capsys, *TAOBAO, "embedding.sharding=[row_wise]", "data.vectors=sharded")
    # 91 users of 11 samples with 50 recent behaviours, 50 picks and a target of 1,000 samples.
    items = 91 * 50 + 1000 * 50 + 1000
    assert [table["distinct_ids"] for table in found["tables"]] == [items, 91]
    assert [table["ranks"] for table in found["tables"]] == [list(range(8))] * 2
    asked = (items + 91) * 7 / 8
    for step in found["step"]:
        for direction in ("sent", "received"):
            wanted = _traffic(asked * 8, asked * 64, asked * 64)
            assert step[direction] == pytest.approx(wanted, rel=1e-6)


def test_rows_of_whole_tables_all_come_from_one_device():
    table = Table("item", 100, 4, 4, "sgd", ("table_wise",))
    whole = PlannedTable(table, "table_wise", (Piece(1, 100, 4),))
    # 10 ids of 8 bytes one way, 10 rows of 16 bytes the other, their gradients back.
    others = Traffic(ids=80, gradients=160), Traffic(embeddings=160)
    owner = Traffic(embeddings=320), Traffic(ids=160, gradients=320)
    assert traffic_of([whole], {"item": 10}, 3) == [others, owner, others]


def test_a_replicated_table_sends_its_gradient_around_a_ring():
    table = Table("item", 100, 4, 4, "sgd", ("data_parallel",))
    everywhere = PlannedTable(table, "data_parallel", tuple(Piece(r, 100, 4) for r in range(4)))
    ring = Traffic(gradients=2 * 3 / 4 * 1600)
    assert traffic_of([everywhere], {"item": 10}, 4) == [(ring, ring)] * 4


def test_as_many_devices_as_it_takes(capsys):
    found = planned(capsys, "--rows", "item=23_600_000_000", "--devices", "auto")
    # 1.6048 TB on 68 GB each: 23.6 devices, and hosts have 8.
    assert found["cluster"]["devices"] == 24
    assert min(device["room"] for device in found["devices"]) > 0


def test_a_store_says_what_its_tables_are(capsys, trained):
    store = trained.read_config().data.store
    found = planned(capsys, f"data.store={store}", "--devices", "1")
    names = {table["name"] for table in found["tables"]}
    assert {"item", "user_id", "category"} <= names


def test_what_is_printed(capsys):
    main([*TAOBAO, "--vectors", "128", "+embedding.table_sharding.user_id=[data_parallel]"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("8 x GPU, 1 x 8; 80.00 GB each")
    (item,) = (line for line in lines if line.startswith("item "))
    assert " ".join(item.split()) == "item 243,153,410 16 15.56 GB 972.61 MB row_wise 0-7"
    (user,) = (line for line in lines if line.startswith("user_id "))
    assert user.split()[-2:] == ["data_parallel", "0-7"]
    assert "a prepared store" not in lines[-1]


def test_more_rows_than_a_store_has_are_planned_and_called_so(capsys):
    main(["--rows", "item=23600000000", "--devices", "auto"])
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == "a prepared store has rows for 2,147,483,647 ids a table, not for 23,600,000,000"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--rows", "item=23600000000"], "132,600,000,000 bytes are missing; 24 such devices"),
        (
            ["--rows", "item=23600000000", "--vectors", "128"],
            "3,047,200,000,000 are missing; set data.vectors=sharded or pinned",
        ),
        (["--rows", "user_id=10"], "no table item; give item=ROWS, too"),
        (["--rows", "item=1e9"], "--rows item=1e9: write TABLE=ROWS"),
        (["--rows", "item=1_"], "--rows item=1_: write TABLE=ROWS"),
        (["--rows", "item=1²"], "--rows item=1²: write TABLE=ROWS"),
        (["--rows", "item=0"], "--rows item=0: write TABLE=ROWS"),
        (["--rows", "item=10", "--devices", "9"], "--devices 9: give auto, at most 8"),
        (["--rows", "item=10", "--devices", "²"], "--devices ²: give auto, at most 8"),
        (["--rows", "item=10", "--what"], "--what: no option"),
        (["--rows", "item=10", "model=make"], "model.head=content: has no embedding table"),
        (["--rows", "item=10", "cluster=default"], "cluster.device_memory=null"),
        (["data.store=/nowhere"], "/nowhere/manifest.json: cannot be read"),
        (["--rows", "item=10", "embedding.dmi=8"], "embedding.dmi"),
    ],
)
def test_an_error_is_one_line_that_says_what_to_do(capsys, arguments, message):
    error = refused(capsys, *arguments)
    assert error.startswith("error: ")
    assert message in error


@pytest.mark.parametrize(
    ("option", "least"), [("--samples-per-user", "1 or more"), ("--vectors", "0 or more")]
)
@pytest.mark.parametrize("number", ["-1", "²", "many"])
def test_a_number_that_counts_nothing_is_refused(capsys, option, least, number):
    error = refused(capsys, "--rows", "item=10", f"{option}={number}")
    assert f"argument {option}: {number!r} given, must be" in error
    assert least in error


@pytest.mark.parametrize("number", ["0", "inf", "nan"])
def test_samples_of_a_user_are_a_number_that_can_be(capsys, number):
    error = refused(capsys, "--rows", "item=10", "--samples-per-user", number)
    assert f"{number!r} given, must be a number of 1 or more" in error


def test_of_a_store_at_a_url_its_manifest_is_read(capsys, trained):
    store = Path(trained.read_config().data.store)
    system = fsspec.filesystem("memory")
    system.pipe_file("/plan/whole/manifest.json", (store / "manifest.json").read_bytes())
    system.pipe_file("/plan/cut/manifest.json", b"{")
    remote = planned(capsys, "data.store=memory://plan/whole", "--devices", "1")
    assert remote == planned(capsys, f"data.store={store}", "--devices", "1")
    error = refused(capsys, "data.store=memory://plan/cut")
    assert "error: memory://plan/cut/manifest.json: not valid JSON" in error
    error = refused(capsys, "data.store=memory://plan/none")
    assert "error: memory://plan/none: no manifest.json there; is this a prepared store" in error
    error = refused(capsys, "data.store=nothing://plan")
    assert error.startswith("error: nothing://plan")


def _traffic(ids, embeddings, gradients):
    return {"ids": ids, "embeddings": embeddings, "gradients": gradients}
