"""Show where a training step's time goes, and how much of the search the pipeline hides.

    python -m tools.profile_step [--steps 30] [--trace step.json] [key=value ...]
    torchrun --nproc-per-node 2 -m tools.profile_step experiment=world_muse data.batch_size=500

Trains a new model of the configuration three times over the same samples: each step in its turn,
with the pipeline, and with every search done before the clock starts. The losses must be equal to
the last bit before a time is printed. What the pipeline does not hide of the search is the
difference between the second and the third. Nothing is kept of the training; --trace writes a trace
of a few steps with the pipeline for chrome://tracing or ui.perfetto.dev. Times are the first
process's; on a GPU a stage's time is that of its launches, and only steps are times of the device.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from ctr.command import errors_to_exit
from ctr.config import ConfigError, RunConfig
from ctr.data.store import Store
from ctr.distributed import Process, gather_objects, process_group
from ctr.model.gsu import STRATEGIES, SearchShape
from tools.arguments import whole_number
from tools.composed import compose_run
from tools.profile_step.rehearsal import AHEAD, BEFORE, IN_TURN, Rehearsal, rehearse
from tools.profile_step.spans import WAITING, StageTime, stage_times

_TRACED = 5


def main(arguments: Sequence[str] | None = None) -> int:
    """Rehearse, compare and print; returns the exit code."""
    options = _parser().parse_args(arguments)
    with errors_to_exit():
        config = compose_run(options.settings)
        store = Store(config.data.store)
        with process_group(config.device) as process:
            _check(config, store, process, options)
            taken = {
                manner: rehearse(config, store, process, manner, options.steps, options.warmup)
                for manner in (IN_TURN, AHEAD, BEFORE)
            }
            losses = {manner: gather_objects(r.loss, process) for manner, r in taken.items()}
            if len({str(values) for values in losses.values()}) > 1:
                raise ConfigError(f"the losses of the three differ, which is a fault: {losses}")
            if options.trace is not None:
                _trace(config, store, process, options.trace)
            if process.is_first:
                print(_report(taken, config))
                if options.json is not None:
                    options.json.write_text(json.dumps(_numbers(taken), indent=2) + "\n")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tools.profile_step",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("settings", nargs="*", metavar="key=value", help="as for ctr/train.py")
    add("--steps", type=whole_number(1), default=30, help="timed, of each manner (default: 30)")
    add("--warmup", type=whole_number(1), default=5, help="steps before those (default: 5)")
    add("--trace", type=Path, metavar="FILE", help="write a trace of 5 steps here")
    add("--json", type=Path, metavar="FILE", help="write the numbers here")
    return parser


def _check(config: RunConfig, store: Store, process: Process, options: argparse.Namespace) -> None:
    strategy = STRATEGIES.get(config.model.gsu)
    if strategy is not None and strategy(SearchShape(1, 1, 1)).reads_trained:
        raise ConfigError(
            f"model.gsu={config.model.gsu}: its search reads what is trained and cannot run ahead "
            "of a step; profile one of cosine, category, recent, none"
        )
    for option, file in (("--json", options.json), ("--trace", options.trace)):
        if process.is_first and file is not None:
            _check_file(option, file)
    wanted = max(options.steps + options.warmup, _TRACED)
    split = store.split(config.data.train_split)
    there = len(split) // (config.data.batch_size * process.world_size)
    if there < wanted:
        raise ConfigError(
            f"--steps {options.steps} --warmup {options.warmup}: an epoch has {there} whole steps "
            f"of the {wanted} that are needed; give fewer, or set a smaller data.batch_size"
        )


def _check_file(option: str, file: Path) -> None:
    """Raise ConfigError, before minutes are spent, where the file could not be written."""
    if file.is_dir():
        raise ConfigError(f"{option} {file}: is a folder; name a file")
    if not file.parent.is_dir():
        raise ConfigError(f"{option} {file}: no folder {file.parent}; make it first")


def _trace(config: RunConfig, store: Store, process: Process, path: Path) -> None:
    # Its import takes a second, and few ask for a trace.
    from torch.profiler import _ExperimentalConfig, profile

    # Without it the threads that search and load are left out.
    with profile(experimental_config=_ExperimentalConfig(profile_all_threads=True)) as profiler:
        rehearse(config, store, process, AHEAD, _TRACED - 1, 1)
    if process.is_first:
        profiler.export_chrome_trace(str(path))


def _report(taken: dict[str, Rehearsal], config: RunConfig) -> str:
    numbers = _numbers(taken)
    lines = [
        f"{numbers['samples']:,} samples a step, L = {config.data.history_length:,}",
        "",
        f"{'manner':<18}{'ms a step':>12}{'samples/s':>12}",
    ]
    for manner, found in numbers["manners"].items():
        lines.append(f"{manner:<18}{found['ms']:>12.1f}{found['samples_per_s']:>12,.0f}")
    lines += [
        "",
        f"{'stage (pipeline)':<24}{'thread':<8}{'ms':>8}{'of a step':>11}  beside compute",
    ]
    for stage in numbers["stages"]:
        beside = "" if stage["beside"] is None else f"{stage['beside']:>15.0%}"
        row = f"{stage['name']:<24}{stage['thread']:<8}{stage['ms']:>8.1f}{stage['share']:>11.0%}"
        lines.append(row + beside)
    lines += [
        "",
        f"search not hidden   {numbers['not_hidden']:.1%} of a step",
        f"main thread idle    {numbers['idle']:.1%} of a step",
        f"ids sent a step     {numbers['ids_sent']:,.0f}; one set a sample would be "
        f"{numbers['ids_per_sample']:,.0f} "
        f"({numbers['ids_per_sample'] / max(numbers['ids_sent'], 1):.1f} times as many)",
        "losses of the three manners: equal to the last bit",
    ]
    return "\n".join(lines)


def _numbers(taken: dict[str, Rehearsal]) -> dict:
    ahead, before = taken[AHEAD], taken[BEFORE]
    step = {manner: r.seconds() for manner, r in taken.items()}
    stages = stage_times(ahead.spans, ahead.steps)
    return {
        "samples": ahead.samples,
        "manners": {
            manner: {"ms": 1e3 * seconds, "samples_per_s": ahead.samples / seconds}
            for manner, seconds in step.items()
        },
        "stages": [_stage(stage, step[AHEAD]) for stage in stages],
        "not_hidden": 1.0 - step[BEFORE] / step[AHEAD],
        "idle": sum(s.seconds for s in stages if s.name in WAITING) / step[AHEAD],
        "ids_sent": before.distinct,
        "ids_per_sample": before.asked,
    }


def _stage(stage: StageTime, step: float) -> dict:
    return {
        "name": stage.name,
        "thread": stage.thread,
        "ms": 1e3 * stage.seconds,
        "share": stage.seconds / step,
        "beside": stage.beside,
    }


if __name__ == "__main__":
    sys.exit(main())
