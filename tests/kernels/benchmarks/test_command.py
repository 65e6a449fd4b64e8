"""The command on tiny cases: what it writes, and that a wrong op shows no speed."""

import json
import shutil
import sys

import pytest
import torch

import kernels
from kernels.benchmarks import check, runner
from kernels.benchmarks.__main__ import main
from kernels.benchmarks.cases import CASES, CosineCase, SimtierCase
from kernels.benchmarks.check import CheckError, PassedTests, run_tests
from kernels.benchmarks.machine import ROOT, device_name, disturbance, slug
from kernels.benchmarks.report import figure
from kernels.benchmarks.timing import Effort, Rates, input_sets, peak_memory, percentile, times

CPU = torch.device("cpu")


@pytest.fixture
def tiny_cases(monkeypatch):
    """Three lengths of one search and a histogram, with tests that pass and rates by agreement."""
    searches = tuple(CosineCase(1, 2, length, 50, k=3, width=16) for length in (10, 20, 40))
    for op in list(CASES):
        monkeypatch.delitem(CASES, op)
    histograms = (SimtierCase(4, 6),)
    monkeypatch.setitem(CASES, "cosine_topk", {"cpu": searches, "cuda": searches})
    monkeypatch.setitem(CASES, "simtier", {"cpu": histograms, "cuda": histograms})
    monkeypatch.setattr(runner, "run_tests", lambda op, device: PassedTests(["t"], "5 passed"))
    monkeypatch.setattr(runner, "measure_rates", lambda device: Rates(copy=1e9, matrix=1e6))


def benchmarks(*arguments):
    return main([*arguments, "--device", "cpu"])


def test_json_says_what_was_measured_on_what(tiny_cases, tmp_path, capsys):
    assert benchmarks("cosine_topk", "--out", str(tmp_path), "--repeats", "4", "--no-plots") == 0
    (path,) = tmp_path.iterdir()
    assert path.name == f"cosine_topk_{slug(device_name(CPU))}.json"
    report = json.loads(path.read_text())
    assert (report["op"], report["path"], report["device"]) == (
        "cosine_topk",
        "CPU",
        device_name(CPU),
    )
    assert report["hardware"]["cpu"] == report["device"]
    assert report["hardware"]["cores"] >= 1
    assert report["hardware"]["memory_gib"] > 0
    assert report["versions"]["torch"] == torch.__version__
    assert {"python", "triton", "lifelong-ctr"} <= report["versions"].keys()
    assert {"commit", "dirty"} == report["git"].keys()
    assert report["tests"] == {"paths": ["t"], "summary": "5 passed"}
    assert "VmHWM" in report["peak_extra_bytes_method"]
    assert report["date"]
    assert report["command"]
    first = report["cases"][0]
    assert first["shapes"] == {
        **{"users": 1, "queries": 2, "length": 10, "rows": 50},
        **{"k": 3, "zipf": 1.05, "width": 16},
    }
    ms = first["ms"]
    assert ms["repeats"] == len(ms["all"]) == 4
    assert 0 < ms["min"] == min(ms["all"]) <= ms["median"] <= ms["p90"] == max(ms["all"])
    assert first["bytes_moved"] == 10 * 20 + 2 * 3 * 8
    assert first["byte_floor_ms"] == pytest.approx(248 / 1e9 * 1e3)
    # 2 x 2 queries x 10 behaviours x 16 entries at a million operations a second.
    assert first["operation_floor_ms"] == pytest.approx(0.64)
    assert first["bound_by"] == "operations"
    assert first["share_of_floor"] == pytest.approx(0.64 / ms["median"])
    assert first["speed_up"] == pytest.approx(first["reference_ms"]["median"] / ms["median"])
    shown = capsys.readouterr().out
    assert "CPU path (plain torch)" in shown
    assert figure(ms["median"]) in shown


def test_plots_are_written(tiny_cases, tmp_path):
    assert benchmarks("--out", str(tmp_path), "--repeats", "1") == 0
    names = sorted(path.name.replace(slug(device_name(CPU)), "cpu") for path in tmp_path.iterdir())
    assert names == [
        "cosine_topk_cpu.json",
        "cosine_topk_cpu_length.png",
        "cosine_topk_cpu_roofline.png",
        "simtier_cpu.json",
        "simtier_cpu_roofline.png",
    ]
    for path in tmp_path.glob("*.png"):
        assert path.read_bytes().startswith(b"\x89PNG")


def test_without_matplotlib_it_says_what_to_install(tiny_cases, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert benchmarks("cosine_topk", "--out", str(tmp_path)) == 2
    assert "pip install matplotlib" in capsys.readouterr().err
    assert benchmarks("simtier", "--out", str(tmp_path), "--repeats", "1", "--no-plots") == 0


def test_a_wrong_result_shows_no_speed_but_the_other_ops_do(
    tiny_cases, tmp_path, monkeypatch, capsys
):
    right = kernels.cosine_topk

    def wrong(*arguments, **named):
        positions, scores = right(*arguments, **named)
        return positions.flip(1), scores

    monkeypatch.setattr(kernels, "cosine_topk", wrong)
    assert benchmarks("--out", str(tmp_path), "--repeats", "1", "--no-plots") == 1
    shown = capsys.readouterr()
    assert "cosine_topk, case u1_q2_l10" in shown.err
    assert "no speed for cosine_topk" in shown.err
    assert "u1_q2_l10  " not in shown.out
    assert "simtier on " in shown.out
    assert [path.name.split("_")[0] for path in tmp_path.iterdir()] == ["simtier"]


def test_a_failing_test_shows_no_speed(tiny_cases, tmp_path, monkeypatch, capsys):
    def fail(op, device):
        raise CheckError(f"{op}: its tests did not pass")

    monkeypatch.setattr(runner, "run_tests", fail)
    assert benchmarks("simtier", "--out", str(tmp_path)) == 1
    shown = capsys.readouterr()
    assert "its tests did not pass" in shown.err
    assert " ms" not in shown.out
    assert not list(tmp_path.iterdir())


def test_cases_are_listed_and_chosen_by_name(tiny_cases, tmp_path, capsys):
    assert benchmarks("--list") == 0
    assert capsys.readouterr().out.splitlines() == [
        "cosine_topk u1_q2_l10",
        "cosine_topk u1_q2_l20",
        "cosine_topk u1_q2_l40",
        "simtier b4_k6_n22_tenths_log",
    ]
    assert benchmarks("--list", "--cases", "u1_q2_l20") == 0
    assert capsys.readouterr().out == "cosine_topk u1_q2_l20\n"
    assert benchmarks("simtier", "--cases", "u1_q2_l20") == 2
    assert "u1_q2_l20" in capsys.readouterr().err


def test_the_reference_sequence_is_left_out_where_it_does_not_fit(
    tiny_cases, tmp_path, monkeypatch
):
    monkeypatch.setattr(runner, "_REFERENCE_SHARE", {"cpu": 0.0})
    assert benchmarks("cosine_topk", "--out", str(tmp_path), "--repeats", "1") == 0
    report = json.loads(next(tmp_path.glob("*.json")).read_text())
    assert [case["reference_ms"] for case in report["cases"]] == [None] * 3
    assert [case["speed_up"] for case in report["cases"]] == [None] * 3


@pytest.mark.parametrize(
    ("code", "passes"),
    [
        ("def test_one():\n    assert 1 + 1 == 2\n", True),
        ("def test_one():\n    assert 1 + 1 == 3\n", False),
        ("import pytest\n\n@pytest.mark.skip\ndef test_one():\n    pass\n", False),
        ("", False),
    ],
)
def test_tests_must_pass_not_only_not_fail(code, passes, tmp_path):
    folder = tmp_path / "tests" / "kernels" / "some_op"
    folder.mkdir(parents=True)
    (folder / "test_it.py").write_text(code)
    if passes:
        found = run_tests("some_op", CPU, tmp_path)
        assert found.paths == ["tests/kernels/some_op"]
        assert found.summary.startswith("1 passed")
    else:
        with pytest.raises(CheckError, match="some_op"):
            run_tests("some_op", CPU, tmp_path)
    assert run_tests("other_op", CPU, tmp_path) is None


def test_the_tests_ask_for_no_plugin(monkeypatch, tmp_path):
    """A machine to measure on may have pytest and nothing else."""
    folder = tmp_path / "tests" / "kernels"
    folder.mkdir(parents=True)
    (folder / "test_some_op.py").write_text("def test_one():\n    pass\n")
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    monkeypatch.setenv("PYTEST_ADDOPTS", "-p no:timeout -p no:xdist")
    assert run_tests("some_op", CPU, tmp_path).summary.startswith("1 passed")


def test_tests_that_do_not_end_show_no_speed(monkeypatch, tmp_path):
    folder = tmp_path / "tests" / "kernels"
    folder.mkdir(parents=True)
    (folder / "test_some_op.py").write_text(
        "import time\n\n\ndef test_one():\n    time.sleep(60)\n"
    )
    monkeypatch.setattr(check, "_MOST_SECONDS", 0.5)
    with pytest.raises(CheckError, match=r"some_op: its tests did not end within 0\.5 s"):
        run_tests("some_op", CPU, tmp_path)


def test_a_case_that_cannot_be_run_is_named_and_the_other_ops_go_on(
    tiny_cases, tmp_path, monkeypatch, capsys
):
    def fail(call, *rest):
        raise torch.OutOfMemoryError("no room")

    monkeypatch.setattr(runner, "peak_memory", fail)
    assert benchmarks("--out", str(tmp_path), "--repeats", "1", "--no-plots") == 1
    errors = capsys.readouterr().err
    assert "error: cosine_topk, case u1_q2_l10: no room" in errors
    assert "error: simtier, case" in errors


def test_calls_rotate_over_input_sets_and_stop_when_time_is_up():
    seen: list[int] = []
    assert len(times(seen.append, 3, CPU, Effort(most=7, least=7, seconds=0.0))) == 7
    assert seen == [0, 0, 1, 2, 0, 1, 2, 0]
    assert len(times(seen.append, 3, CPU, Effort(most=7, least=2, seconds=-1.0))) == 2


def test_small_inputs_come_in_more_sets_than_large_ones():
    assert [input_sets(CPU, size) for size in (1, 10 << 20, 1 << 30)] == [8, 7, 3]


def test_figures_keep_three_digits():
    values = (0.00012345, 0.062, 4.3, 76.0, 630.0, 12_045.7, 0.0)
    assert [figure(value) for value in values] == [
        *("0.000123", "0.0620", "4.30", "76.0", "630", "12,046", "0")
    ]


def test_percentiles():
    assert percentile([4.0, 1.0, 3.0, 2.0], 0.9) == 4.0
    assert percentile([float(i) for i in range(1, 11)], 0.9) == 9.0


def test_memory_of_a_call_is_seen():
    taken = peak_memory(lambda: torch.ones(64 << 20, dtype=torch.uint8), CPU)
    if taken is None:
        pytest.skip("this system tells no peak of the resident set")
    assert 60 << 20 < taken < 80 << 20


def test_a_busy_machine_is_told():
    report = {"load_average_before": 1.9, "hardware": {"cores": 2}}
    assert "1.9 on 2 cores" in disturbance(report)
    assert disturbance({**report, "load_average_before": 0.2}) is None


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_command_on_a_gpu(tiny_cases, tmp_path):
    assert main(["--out", str(tmp_path), "--repeats", "2", "--device", "cuda"]) == 0
    for path in tmp_path.glob("*.json"):
        report = json.loads(path.read_text())
        assert report["path"] == "CUDA"
        assert report["hardware"]["gpu"] == report["device"]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_clock_and_memory_on_a_gpu():
    device = torch.device("cuda")
    seconds = times(lambda _: torch.ones(1 << 20, device=device), 3, device, Effort(3, 3, 0.0))
    assert all(value > 0 for value in seconds)
    taken = peak_memory(lambda: torch.ones(64 << 20, dtype=torch.uint8, device=device), device)
    assert taken == 64 << 20
