"""Two runs' losses: where they part, what only one has, and logs that cannot be compared."""

import json
import math
import random
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from ctr.run_folder import RunFolder
from ctr.run_log import RunLog
from tools.compare_loss import compare, main, read_losses

ROOT = Path(__file__).resolve().parents[2]


def write_run(folder, losses):
    """A run folder as `ctr` writes it."""
    folder.mkdir()
    log = RunLog(RunFolder(folder), enabled=True, step=0)
    for step, loss in losses.items():
        log.write("train", step, {"epoch": 0, "samples": 10 * step, "loss": loss})
    log.write("valid", max(losses), {"auc": 0.5})
    log.write("summary", max(losses), {"steps": max(losses)})
    log.close()
    return folder


@pytest.fixture
def runs(tmp_path):
    """Makes a run from losses by step; returns its folder as a string."""
    made = []

    def make(losses):
        made.append(write_run(tmp_path / f"run{len(made)}", losses))
        return str(made[-1])

    return make


def test_the_log_keeps_every_bit(tmp_path):
    generator = random.Random(5)
    bits = [generator.getrandbits(62) for _ in range(500)]
    values = [struct.unpack("<d", struct.pack("<Q", pattern))[0] for pattern in bits]
    losses = {step: value for step, value in enumerate(values, 1) if math.isfinite(value)}
    losses[1_000] = 0.1 + 0.2
    assert read_losses(write_run(tmp_path / "run", losses)) == losses


def test_equal_runs(runs, capsys):
    first, second = runs({2: 0.7, 4: 0.6, 6: 0.5}), runs({2: 0.7, 4: 0.6, 6: 0.5})
    assert main([first, f"{second}/metrics.jsonl"]) == 0
    shown = capsys.readouterr().out
    assert "equal to the last bit: 3 steps compared (2 to 6)" in shown
    assert "only in" not in shown


def test_the_first_different_step_is_named(runs, capsys):
    last_bit = math.nextafter(0.6, 1.0)
    first, second = runs({2: 0.7, 4: 0.6, 6: 0.5}), runs({2: 0.7, 4: last_bit, 6: 0.25})
    assert main([first, second]) == 1
    shown = capsys.readouterr().out
    assert f"first different at step 4: A 0.6, B {last_bit!r}" in shown
    assert "B - A = 1.1102230246251565e-16 (1.85e-16 of the larger)" in shown
    assert "2 of 3 steps compared (2 to 6) differ" in shown


def test_a_tolerance_is_relative_to_the_larger(runs, capsys):
    first, second = runs({1: 100.0, 2: 0.001}), runs({1: 100.9, 2: 0.001009})
    assert main([first, second, "--tolerance", "0.01"]) == 0
    assert "equal within 0.01" in capsys.readouterr().out
    assert main([first, second, "--tolerance", "0.001"]) == 1
    assert "first different at step 1" in capsys.readouterr().out


def test_steps_of_one_run_are_listed_but_make_no_difference(runs, capsys):
    first = runs(dict.fromkeys(range(1, 21), 0.5))
    second = runs(dict.fromkeys([1, 2, 22, 23], 0.5))
    assert main([first, second]) == 0
    shown = capsys.readouterr().out
    assert "2 steps compared (1 to 2)" in shown
    assert "only in A: 18 steps (3, 4, 5, ..., 18, 19, 20)" in shown
    assert "only in B: 2 steps (22, 23)" in shown


def test_means_over_different_steps_are_not_compared(runs, capsys):
    # B wrote an extra line at step 3, so its loss of step 4 is of that step alone.
    first, second = runs({2: 0.7, 4: 0.6, 6: 0.5}), runs({2: 0.7, 3: 0.9, 4: 0.3, 6: 0.5})
    assert main([first, second]) == 0
    shown = capsys.readouterr().out
    assert "2 steps compared (2 to 6)" in shown
    assert "not compared, means since different steps: 1 step (4)" in shown
    every_step, every_other = runs(dict.fromkeys(range(1, 5), 0.5)), runs({2: 0.5, 4: 0.5})
    assert main([every_step, every_other]) == 2
    assert "trainer.log_every" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("a", "b", "same"),
    [(0.0, -0.0, False), (math.nan, math.nan, True), (math.nan, 0.5, False), (1.0, 1.0, True)],
)
@pytest.mark.parametrize("tolerance", [0.0, 1e-6])
def test_zeros_and_what_is_not_finite(a, b, same, tolerance):
    # Within a tolerance the two zeros are one number.
    expected = same or (a == b and tolerance > 0)
    assert (compare({1: a}, {1: b}, tolerance).different == []) is expected


def test_a_loss_of_skipped_steps_is_none(runs, capsys):
    first, second = runs({1: 0.5, 2: None}), runs({1: 0.5, 2: None})
    assert main([first, second]) == 0
    assert main([first, runs({1: 0.5, 2: 0.25}), "--tolerance", "0.1"]) == 1
    assert "at step 2: A none (every step skipped), B 0.25" in capsys.readouterr().out


def test_runs_without_a_common_step(runs, capsys):
    assert main([runs({1: 0.5}), runs({2: 0.5})]) == 2
    assert "no step was logged by both" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 2: not JSON"),
        ("[1]", "line 2: list, must be a JSON object"),
        ('{"step": 1, "loss": 0.5}', "line 2, key 'kind': missing"),
        ('{"kind": "train", "loss": 0.5}', "line 2, key 'step': missing"),
        ('{"kind": "train", "step": 2}', "line 2, key 'loss': missing"),
        ('{"kind": "train", "step": 2, "loss": "low"}', "line 2, key 'loss': 'low', must be"),
        ('{"kind": "train", "step": true, "loss": 1.0}', "line 2, key 'step': True, must be int"),
        ('{"kind": "train", "step": 1, "loss": 0.5}', "line 2, key 'step': 1 was there before"),
    ],
)
def test_a_damaged_log_is_named_by_file_line_and_key(line, message, runs, tmp_path, capsys):
    damaged = tmp_path / "damaged.jsonl"
    damaged.write_text(json.dumps({"kind": "train", "step": 1, "loss": 0.5}) + f"\n{line}\n")
    assert main([runs({1: 0.5}), str(damaged)]) == 2
    shown = capsys.readouterr().err
    assert f"error: {damaged}" in shown
    assert message in shown


def test_a_run_that_is_not_there_or_logged_nothing(runs, tmp_path, capsys):
    assert main([runs({1: 0.5}), str(tmp_path / "absent")]) == 2
    assert "absent" in capsys.readouterr().err
    (tmp_path / "empty.jsonl").write_text("")
    assert main([str(tmp_path / "empty.jsonl"), runs({1: 0.5})]) == 2
    assert "no line of kind 'train'" in capsys.readouterr().err


@pytest.mark.parametrize("tolerance", ["-1", "1", "nan", "some"])
def test_a_tolerance_must_be_a_share(tolerance, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["a", "b", f"--tolerance={tolerance}"])
    assert stopped.value.code == 2
    assert "must be a number in [0, 1)" in capsys.readouterr().err


def test_the_exit_code_reaches_the_shell(runs):
    command = [sys.executable, "-m", "tools.compare_loss", runs({1: 0.5}), runs({1: 0.25})]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1, done.stderr
    assert "first different at step 1" in done.stdout
