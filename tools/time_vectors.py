"""Time a search of vectors spread over processes beside that of a table of one's own.

    torchrun --standalone --nproc-per-node 2 -m tools.time_vectors [--rows 2000000]

Every process searches a batch of its own, all at once, as in training; on the CPU. What both find
is compared to the bit before anything is timed.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

from ctr.distributed import Process, gather_objects, process_group
from ctr.model.vector_shards import VectorShards
from kernels import cosine_topk
from kernels.benchmarks.cases import CosineCase
from kernels.benchmarks.inputs import histories, vector_table

# After ctr, which sets how OpenMP waits.
import torch  # isort: skip
import torch.distributed as dist  # isort: skip

# Users and queries of each, by length of history: about a thousand samples over short lives.
SHAPES = ((84, 12, 1_000), (10, 10, 10_000), (1, 10, 100_000))
REPEATS = 25


@dataclass(frozen=True)
class Times:
    """Of one shape, on the slowest process.

    Attributes:
        whole_ms, sharded_ms: milliseconds of a call, median: until it returned, and of processor
            time, which other work on the machine does not lengthen as much.
        sent: bytes that a process sends to others in one, on average.
    """

    whole_ms: tuple[float, float]
    sharded_ms: tuple[float, float]
    sent: float


def main() -> None:
    """Time every shape, and print a table on the first process."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=2_000_000, help="of the table of vectors")
    options = parser.parse_args()
    with process_group("cpu") as process:
        if process.is_first:
            print(f"| shape | own table | {process.world_size} shards | sent |")
            print("|---|---|---|---|")
        for users, queries, length in SHAPES:
            case = CosineCase(users, queries, length, options.rows)
            found = measure(case, process)
            if process.is_first:
                both = found.whole_ms, found.sharded_ms
                times = (f"{passed:.1f} ms ({used:.1f})" for passed, used in both)
                print(f"| {case.name} | {' | '.join(times)} | {found.sent / 1e3:,.0f} KB |")


def measure(case: CosineCase, process: Process, repeats: int = REPEATS) -> Times:
    """Times of one shape; on all processes at once.

    Raises:
        SystemExit: the two searches do not find the same.
    """
    table, inv_norm = vector_table(case.rows, case.width, process.device)
    shards = VectorShards(table, inv_norm, process.device)
    given = histories(case, process.device, 1 + process.rank)
    begin = torch.zeros_like(given.user_Q)
    end = torch.full_like(given.user_Q, case.length)
    arguments = given.rows_T, given.offsets, given.user_Q, case.k

    def whole() -> tuple[torch.Tensor, ...]:
        return cosine_topk(table, inv_norm, *arguments, query_rows=given.query_Q)

    def sharded() -> tuple[torch.Tensor, ...]:
        return shards.topk(*arguments, given.query_Q, begin, end)

    if not all(torch.equal(a, b) for a, b in zip(whole(), sharded(), strict=True)):
        raise SystemExit(f"error: {case.name}: the shards do not find what the table does")
    sent = sum(shards.sent.values())
    mine = (*_milliseconds(whole, repeats), *_milliseconds(sharded, repeats), sent)
    *times, sent_bytes = zip(*gather_objects(mine, process), strict=True)
    whole_ms, whole_used, sharded_ms, sharded_used = map(max, times)
    mean = statistics.mean(sent_bytes)
    return Times((whole_ms, whole_used), (sharded_ms, sharded_used), mean)


def _milliseconds(call: Callable[[], object], repeats: int) -> tuple[float, float]:
    """Medians of the time until a call returned and of the processor time of this process."""
    passed, used = [], []
    for _ in range(repeats):
        # All begin together, since all compute at once in training, too.
        dist.barrier()
        started, worked = time.perf_counter(), time.process_time()
        call()
        passed.append((time.perf_counter() - started) * 1e3)
        used.append((time.process_time() - worked) * 1e3)
    return statistics.median(passed), statistics.median(used)


if __name__ == "__main__":
    main()
