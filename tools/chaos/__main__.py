"""Kill training runs and preparations at random moments, resume them, compare how they end.

    python -m tools.chaos [--kills 30] [--processes 1 2 4] [--seed N] [--folder DIR] [--short]

Every run trains a small model on a small synthetic store, on the CPU. One of its processes kills
itself (SIGKILL) at a moment of preparation, start, loading, forward, backward, optimizer step,
checkpoint writing, validation or logging; the same command then resumes it. It must end with the
same weights, optimizer states, metrics and samples, bit for bit, as a run that nobody killed. The
exit code is 0 if all do.
"""

from __future__ import annotations

import argparse
import itertools
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from tools.chaos.points import PREPARING, RESUMING, STAGES, STEPS, Point, choose
from tools.chaos.runs import Runs
from tools.chaos.start import Case, Result
from tools.chaos.stores import kill_preparation

# Checkpoint writing has most places at which a kill could do harm.
_CYCLE = (
    *("checkpoint", "backward", "loading", "checkpoint", "optimizer", "any time"),
    *("checkpoint", "forward", "validation", "checkpoint", "logs", "start"),
)
# From this step on at least two checkpoints are complete, so that one can be damaged.
_LATE = 11


def main(arguments: Sequence[str] | None = None) -> int:
    """Kill, resume, compare and print; returns the exit code."""
    options = _parser().parse_args(arguments)
    seed = random.SystemRandom().randrange(1 << 31) if options.seed is None else options.seed
    chance = random.Random(seed)
    folder = options.folder or Path(tempfile.mkdtemp(prefix="chaos-"))
    if folder.exists() and any(folder.iterdir()):
        print(f"error: --folder {folder}: is not empty; choose another", file=sys.stderr)
        return 2
    if options.short:
        cases = short_plan(chance)
    else:
        cases = plan(options.kills, options.processes, chance)
    print(f"seed {seed}, runs in {folder}\n", flush=True)
    started = time.perf_counter()
    results = run_cases(cases, folder, chance)
    print(f"\n{table(results)}\n\n{time.perf_counter() - started:.0f} s in all")
    passed = holds(results)
    if passed and options.folder is None:
        shutil.rmtree(folder)
    return 0 if passed else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tools.chaos",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--seed", type=int, help="of the moments; by default another every time")
    parser.add_argument("--folder", type=Path, help="keep the runs here; by default they go")
    parser.add_argument("--short", action="store_true", help="a few kills that are always the same")
    return parser


def plan(kills: int, processes: Sequence[int], chance: random.Random) -> list[Case]:
    """Cases with so many kills in all.

    Args:
        kills: how many; an eighth of them in preparations.
        processes: of the runs in turn; those of many processes are rarer, since they cost more.
        chance: chooses the moments.
    """
    cases = []
    for _ in range(kills // 8):
        cases.append(Case(0, (choose("preparation", PREPARING, 1, chance, longest=0.5),)))
    left = kills - len(cases)
    stages, sizes = itertools.cycle(_CYCLE), itertools.cycle(_turns(processes))
    for number in itertools.count(1):
        if left <= 0:
            break
        size = next(sizes)
        # Some are killed again as they resume; of others the newest checkpoint is damaged.
        if number % 5 == 0 and left > 1:
            case = _twice(size, chance)
        elif number % 4 == 0:
            case = _damaged(size, chance)
        else:
            stage = next(stages)
            longest = 0.4 * size if stage == "any time" else 0.02
            case = Case(size, (choose(stage, STAGES[stage], size, chance, longest=longest),))
        cases.append(case)
        left -= len(case.points)
    return cases


def _twice(size: int, chance: random.Random) -> Case:
    again = choose("resuming", RESUMING, size, chance)
    # Without a checkpoint none would be loaded, and that moment would never come.
    loading = again.function == "ctr.checkpoint:load"
    return Case(size, (_in_step(size, chance, (8, 14) if loading else (1, 7)), again))


def _damaged(size: int, chance: random.Random) -> Case:
    return Case(size, (_in_step(size, chance, (_LATE, STEPS)),), damage=True)


def _in_step(size: int, chance: random.Random, calls: tuple[int, int]) -> Point:
    stage = chance.choice(("forward", "backward", "optimizer"))
    return choose(stage, STAGES[stage], size, chance, calls)


def _turns(processes: Sequence[int]) -> Iterator[int]:
    """Each number as often in turn as 4 divided by it, but at most twice."""
    for turn in range(2):
        yield from (size for size in processes if turn < max(1, min(2, 4 // size)))


def short_plan(chance: random.Random) -> list[Case]:
    """A few kills in little time: those that could do most harm."""
    backward = choose("backward", STAGES["backward"], 2, chance, calls=(_LATE, 16))
    return [
        Case(0, (Point("preparation", "datasets.store:sync", "after", call=5),)),
        Case(0, (Point("preparation", "datasets.store:StoreWriter._move_into_place", "before"),)),
        Case(2, (Point("checkpoint", "ctr.checkpoint.folder:_write_synced", "half", call=4),)),
        Case(2, (backward,), damage=True),
        Case(1, (choose("loading", STAGES["loading"], 1, chance),)),
    ]


def run_cases(cases: Sequence[Case], folder: Path, chance: random.Random) -> list[Result]:
    """Run all cases and print a line for each.

    Args:
        cases: in order; folder: for everything; chance: decides what is damaged.
    """
    runs, results = Runs(folder), []
    for number, case in enumerate(cases, 1):
        name = f"case-{number:02d}"
        if case.processes:
            result = runs.kill(name, case, chance)
        else:
            result = kill_preparation(runs.folder / name, case, runs.store)
        results.append(result)
        print(_line(number, case, result), flush=True)
    return results


def _line(number: int, case: Case, result: Result) -> str:
    moments = "; ".join(f"{point.stage}: {point}" for point in case.points)
    where = f"{case.processes} processes" if case.processes > 1 else "1 process"
    loaded = ", ".join(f"step {step}" for step in result.resumed_from) or "the start"
    damage = ", newest damaged" if case.damage else ""
    ending = "equal" if result.equal else "NOT EQUAL"
    line = f"{number:2d}  {where}, {moments}{damage}; from {loaded}: {ending}"
    return "\n    ".join([f"{line} ({result.seconds:.0f} s)", *result.problems])


def table(results: Sequence[Result]) -> str:
    """The six figures."""
    return "\n".join(f"{name:26s}{value:5d}" for name, value in figures(results).items())


def figures(results: Sequence[Result]) -> dict[str, int]:
    """The six figures by name. A case with two kills has one ending, which counts for both."""
    return {
        "kills": sum(r.kills for r in results),
        "resumes": sum(r.resumes for r in results),
        "bit-equal endings": sum(r.kills for r in results if r.equal),
        "samples seen twice": sum(r.twice for r in results),
        "samples missed": sum(r.missed for r in results),
        "damaged checkpoints used": sum(r.damaged for r in results),
    }


def holds(results: Sequence[Result]) -> bool:
    """Whether everything is as promised."""
    kills, resumes, endings, *faults = figures(results).values()
    return kills == resumes == endings and not any(faults) and not any(r.problems for r in results)


if __name__ == "__main__":
    sys.exit(main())
