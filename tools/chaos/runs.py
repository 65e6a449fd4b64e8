"""Training runs that are killed and resumed, and how they end."""

from __future__ import annotations

import random
import time
from pathlib import Path

import numpy as np

from ctr.checkpoint import CheckpointError
from tools.chaos.ending import (
    Ending,
    count_samples,
    damaged_loads,
    differences,
    loaded_steps,
    read_ending,
    read_samples,
)
from tools.chaos.points import Point
from tools.chaos.start import Case, Result, mark_of, processes_of, start, worker
from tools.chaos.stores import prepare

EPOCHS = 2
# On any number of processes; 8 steps an epoch of the world.
STEP_SAMPLES = 96
SETTINGS = (
    *("device=cpu", "data.valid_split=test", "data.history_length=60", "data.workers=2"),
    *("model.recent_length=10", "model.retrieved=10", "model.hidden=[16,8]"),
    *(f"trainer.epochs={EPOCHS}", "trainer.checkpoint_every=3", "trainer.log_every=2"),
    *("trainer.keep_best=auc", "trainer.log_samples=true", "trainer.progress=false"),
)


class Runs:
    """Runs on one small store, which is prepared first.

    Args:
        folder: for everything; new, or empty.

    Raises:
        SystemExit: the store cannot be prepared.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()
        self.store = self.folder / "world"
        self.folder.mkdir(parents=True, exist_ok=True)
        if prepare(self.store, self.folder, "prepare", None):
            raise SystemExit(f"error: no store: see {self.folder / 'prepare.log'}")
        self.split_size = len(np.load(self.store / "splits" / "train" / "label.npy"))
        self._whole: dict[int, Ending] = {}

    def whole(self, processes: int) -> Ending:
        """The ending of the run on so many processes that is never killed; made once.

        Raises:
            SystemExit: it fails.
        """
        if processes not in self._whole:
            folder = self.folder / f"whole-{processes}"
            if self._start(folder, processes, "last", None):
                raise SystemExit(f"error: a run that nobody killed failed: see {folder}/last.log")
            self._whole[processes] = read_ending(folder / "run")
        return self._whole[processes]

    def kill(self, name: str, case: Case, chance: random.Random) -> Result:
        """Kill a run at its points, resume it each time, compare how it ends.

        Args:
            name: of its folder; case: what to do; chance: decides about the damage.
        """
        expected, started = self.whole(case.processes), time.perf_counter()
        result, folder = Result(), self.folder / name
        for place, point in enumerate(case.points):
            self._kill_once(result, folder, case.processes, place, point)
        damaged = damage_newest(folder / "run" / "checkpoints", chance) if case.damage else None
        code = self._start(folder, case.processes, "last", None)
        if code:
            result.problems.append(f"the last start ended with {code}: see {folder}/last.log")
        else:
            # The starts between the first kill and the last one were resumes, too.
            result.resumes = result.kills
            self._judge(result, folder / "run", expected)
        result.damaged, result.resumed_from = damaged_loads(folder), loaded_steps(folder)
        if case.damage:
            result.problems += _check_fallback(folder, result, damaged)
        result.seconds = time.perf_counter() - started
        return result

    def _judge(self, result: Result, run: Path, expected: Ending) -> None:
        result.twice, result.missed = count_samples(read_samples(run), self.split_size, EPOCHS)
        try:
            unlike = differences(read_ending(run), expected)
        except CheckpointError as error:
            unlike = [str(error)]
        result.problems += unlike
        result.equal = not unlike

    def arguments(self, run: Path, batch_size: int) -> list[str]:
        """Of every start of a run: the first one and those that resume it are the same command."""
        data = [f"data.store={self.store}", f"data.batch_size={batch_size}"]
        return ["ctr/train.py", f"run={run}", "resume=auto", *data, *SETTINGS]

    def _kill_once(
        self, result: Result, folder: Path, processes: int, place: int, point: Point
    ) -> None:
        code = self._start(folder, processes, str(place), point)
        if not mark_of(folder, str(place)).exists():
            result.problems.append(f"{point}: was not reached, ended with {code}")
            return
        result.kills += 1
        if code == 0:
            result.problems.append(f"{point}: the killed run ended with 0")
        if alive := processes_of(folder):
            result.problems.append(f"{point}: processes {alive} outlived the run")

    def _start(self, folder: Path, processes: int, key: str, point: Point | None) -> int:
        folder.mkdir(parents=True, exist_ok=True)
        arguments = self.arguments(folder / "run", STEP_SAMPLES // processes)
        command = worker(folder, key, point, arguments)
        if processes > 1:
            launcher = ["-m", "torch.distributed.run", "--standalone"]
            command = [*launcher, f"--nproc-per-node={processes}", *command]
        return start(folder / f"{key}.log", command)


def damage_newest(folder: Path, chance: random.Random) -> tuple[Path, int] | None:
    """Change a byte of the newest checkpoint, or cut off the end of one of its files.

    Returns:
        The checkpoint, and the step of the one before; None, and no damage, where that is missing.
    """
    complete = sorted(folder.glob("step-?????????/progress.json"))
    if len(complete) < 2:
        return None
    newest = complete[-1].parent
    file = chance.choice(sorted(path for path in newest.iterdir() if path.stat().st_size))
    content = bytearray(file.read_bytes())
    if chance.random() < 0.5:
        del content[chance.randrange(len(content)) :]
    else:
        content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
    file.write_bytes(content)
    return newest, int(complete[-2].parent.name.removeprefix("step-"))


def _check_fallback(folder: Path, result: Result, damaged: tuple[Path, int] | None) -> list[str]:
    """What is wrong with the way in which a damaged checkpoint was passed over."""
    if damaged is None:
        return ["nothing was damaged: there were no two checkpoints"]
    path, step_before = damaged
    problems = []
    if result.resumed_from[-1:] != [step_before]:
        problems.append(f"{path.name} was damaged; loaded were the steps {result.resumed_from}")
    log = (folder / "last.log").read_text()
    if str(path) not in log or "the checkpoint before it is taken" not in log:
        problems.append(f"no warning names {path}")
    return problems
