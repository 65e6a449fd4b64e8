"""Logs of a run that is resumed: nothing twice, nothing of processes that are gone."""

import json

from ctr.run_log import SampleLog


def rows(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_resumed_log_drops_what_is_repeated_and_half_a_line(tmp_path):
    log = SampleLog(tmp_path, 0, 1, 0)
    for step in (1, 2, 3):
        log.write(step, [step, step + 10])
    log.close()
    path = tmp_path / "rank-0000.jsonl"
    path.write_text(path.read_text() + '{"step": 4, "sam')
    SampleLog(tmp_path, 0, 1, 2).close()
    assert rows(path) == [{"step": 1, "samples": [1, 11]}, {"step": 2, "samples": [2, 12]}]


def test_damaged_lines_are_dropped_and_counted(tmp_path, caplog):
    """A power failure leaves zeros, or parts of other files, where lines were not synced."""
    log = SampleLog(tmp_path, 0, 1, 0)
    for step in (1, 2):
        log.write(step, [step])
    log.close()
    path = tmp_path / "rank-0000.jsonl"
    first, second = path.read_bytes().splitlines()
    damaged = [b"\0" * 30, b"[1]", b'{"step": "3"}', b"\xff\xfe"]
    path.write_bytes(b"\n".join([first, *damaged, second, b""]))
    SampleLog(tmp_path, 0, 1, 2).close()
    assert rows(path) == [{"step": 1, "samples": [1]}, {"step": 2, "samples": [2]}]
    assert f"{path}: 4 damaged lines are dropped" in caplog.text


def test_fewer_processes_drop_the_rows_of_those_that_are_gone(tmp_path):
    for rank in (0, 1):
        log = SampleLog(tmp_path, rank, 2, 0)
        for step in (1, 2):
            log.write(step, [rank])
        log.close()
    SampleLog(tmp_path, 0, 1, 1).close()
    assert rows(tmp_path / "rank-0000.jsonl") == [{"step": 1, "samples": [0]}]
    assert rows(tmp_path / "rank-0001.jsonl") == [{"step": 1, "samples": [1]}]
