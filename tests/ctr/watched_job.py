"""Child of test_watchdog: `watched_job.py OUT CASE...`; each case is a job of two forked processes.

In one start, since a start takes seconds. What rank R of a case says goes to OUT/CASE.R, and
OUT/CASE.json gets the exit codes and seconds.
"""

import json
import os
import signal
import sys
import time
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist

from ctr.distributed import Process
from ctr.stages import Stages
from ctr.watchdog import Watchdog

TIMEOUT = 2.0


def train(case: str, stages: Stages, watchdog: Watchdog, rank: int) -> None:
    """Six steps with a collective in each; in the fourth rank 1 is in trouble."""
    done = 0
    watchdog.count(lambda: done)
    for step in range(6):
        with stages.running("forward"):
            dist.all_reduce(torch.ones(1))
        with stages.running("backward"):
            if step == 3 and rank == 1:
                # As long as the others need to have heard of the step.
                time.sleep(3 * watchdog.interval)
                trouble(case)
            dist.all_reduce(torch.ones(1))
        done += 1
    if case == "slow":
        with stages.running("validation"):
            # Longer than a step may take, and none of the others is to blame either.
            if rank == 1:
                time.sleep(1.5 * TIMEOUT)
            dist.all_reduce(torch.ones(1))


def trouble(case: str) -> None:
    if case == "hangs":
        time.sleep(60)
    if case == "stopped":
        os.kill(os.getpid(), signal.SIGSTOP)
    if case == "dies":
        os.kill(os.getpid(), signal.SIGKILL)
    if case == "fails":
        raise ValueError("no such luck")


def work(case: str, out: Path, rank: int) -> None:
    with (out / f"{case}.{rank}").open("w") as said:
        os.dup2(said.fileno(), 2)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{out}/{case}.store",
        rank=rank,
        world_size=2,
        timeout=timedelta(seconds=40),
    )
    stages = Stages()
    with Watchdog(stages, Process(rank, 2, 2, torch.device("cpu")), TIMEOUT) as watchdog:
        train(case, stages, watchdog, rank)


def main() -> None:
    """Run the cases one after the other."""
    out, cases = Path(sys.argv[1]), sys.argv[2:]
    for case in cases:
        begin = time.monotonic()
        children = []
        for rank in (0, 1):
            child = os.fork()
            if child == 0:
                code = 1
                try:
                    work(case, out, rank)
                    code = 0
                except (ValueError, RuntimeError):
                    pass
                finally:
                    os._exit(code)
            children.append(child)
        codes = [os.waitstatus_to_exitcode(os.waitpid(children[0], 0)[1])]
        seconds = time.monotonic() - begin
        if case == "stopped":
            os.kill(children[1], signal.SIGKILL)
        codes.append(os.waitstatus_to_exitcode(os.waitpid(children[1], 0)[1]))
        found = {"codes": codes, "seconds": seconds}
        (out / f"{case}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main()
