"""What processes send each other, and how many bytes of it.

Shape legend: W processes, n entries that a process sends, m entries that it receives.
"""

from __future__ import annotations

from collections import Counter

import torch
import torch.distributed as dist
from torch import Tensor


class Exchange:
    """Messages from every process to every process of a group. Made on all processes at once.

    Args:
        group: of all processes, with no other use.

    Attributes:
        rank, world_size: of this process in the group.
        sent: bytes that this process has sent to others, by kind; what it keeps is not counted.
    """

    def __init__(self, group: dist.ProcessGroup) -> None:
        self.group = group
        self.rank, self.world_size = dist.get_rank(group), dist.get_world_size(group)
        self.sent: Counter[str] = Counter()

    def sizes(self, mine: list[list[int]], device: torch.device) -> list[list[int]]:
        """The sizes that each process announces to this one.

        Args:
            mine: a list of sizes for each process, all of one length; device: of the group.
        """
        told_WS = torch.tensor(mine, dtype=torch.int64, device=device)
        there_WS = self.swap("sizes", told_WS, [1] * self.world_size, [1] * self.world_size)
        return there_WS.tolist()

    def swap(self, kind: str, given: Tensor, counts: list[int], expected: list[int]) -> Tensor:
        """What the others send to this process, in the order of their ranks.

        Args:
            kind: under which its bytes are counted.
            given: [n, ...], what goes to each process, in the order of their ranks.
            counts: entries of `given` for each process.
            expected: entries from each process.

        Returns:
            [m, ...] of the same dtype.
        """
        given = given.contiguous()
        entry = given[:1].numel() if given.shape[0] else 0
        leaving = sum(counts) - counts[self.rank]
        self.sent[kind] += leaving * entry * given.element_size()
        taken = given.new_empty((sum(expected), *given.shape[1:]))
        dist.all_to_all_single(taken, given, expected, counts, group=self.group)
        return taken
