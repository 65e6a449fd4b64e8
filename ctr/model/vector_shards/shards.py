"""A table of frozen vectors whose rows are spread over the processes.

Shape legend: N rows of the table, M width of a vector, W processes, U users, T events of all
histories, B queries of this process, Q queries that reach this process, K picks, n rows asked for,
d distinct ones, P bytes of a vector and its inverse norm.
"""

from __future__ import annotations

import threading
from collections import Counter

import torch
from torch import Tensor

from ctr.distributed import new_group
from ctr.model.vector_shards.exchange import Exchange
from ctr.model.vector_shards.questions import (
    Questions,
    cut_histories,
    merge_answers,
    questions_of,
    read_questions,
)
from ctr.model.vector_shards.rows import Ownership
from kernels import cosine_topk
from kernels.jagged import NO_KEY, check_per_query, check_queries, check_rows, pack_keys


class VectorShards:
    """This process's rows of a table of frozen vectors, and searches over all processes' rows.

    Made on all processes at once. `topk` and `fetch` are collective: all processes call the same
    ones in the same order, with an empty batch, too. They may run in a thread beside training,
    since the processes talk in a group of their own; two threads must not both call them, for
    nothing would keep their calls in one order.

    Args:
        vectors: int8, float16, bfloat16 or float32 [N, M], a memory map at best: only the own rows
            are read, into memory of their own.
        inv_norm: float32 [N]; 1 / norm of each row, 0 where it has no vector.
        device: where the own rows are kept, and where arguments and answers are; the default group
            of torch.distributed must speak for it.
    """

    def __init__(self, vectors: Tensor, inv_norm: Tensor, device: torch.device) -> None:
        self.rows, self.device = vectors.shape[0], device
        self.exchange = Exchange(new_group())
        self.owners = Ownership(self.exchange.rank, self.exchange.world_size)
        self.table = _with_padding(vectors[self.owners.own]).to(device)
        self.inv_norm = _with_padding(inv_norm[self.owners.own]).to(device)
        self._turn = threading.Lock()

    @property
    def sent(self) -> Counter[str]:
        """Bytes that this process has sent to others, by kind: sizes, events, queries, vectors of
        queries, answers, rows and vectors of `fetch`."""
        return self.exchange.sent

    def topk(
        self,
        history_rows_T: Tensor,
        offsets_U: Tensor,
        user_B: Tensor,
        k: int,
        query_rows_B: Tensor,
        begin_B: Tensor,
        end_B: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """What `kernels.cosine_topk` finds in the whole table; collective.

        To the bit with int8 vectors. With floats, the last bits of a score may differ as they do
        between batches of other users, since the events that are multiplied together are others.

        An event's row goes to its owner, once a user and not once a query; a query goes to all, and
        its vector from its owner to all; each process scores the events whose rows it owns, and
        sends its best K of them back.

        Args:
            history_rows_T: int32; row of every event, oldest first, user after user.
            offsets_U: int64 [U + 1]; each user's stretch of them.
            user_B: int64, rising; the user whose history a query searches.
            k: picks a query.
            query_rows_B: int32 or int64; row of each query.
            begin_B, end_B: int64; window of positions that a query may see.

        Returns:
            positions int32 [B, K], scores float32 [B, K]; see `kernels.cosine_topk`.

        Raises:
            ValueError: names the argument, what was given and what is accepted.
        """
        check_rows("history_rows", history_rows_T, self.rows)
        check_per_query("query_rows", query_rows_B, user_B)
        check_rows("query_rows", query_rows_B, self.rows)
        events = history_rows_T.numel()
        windows = check_queries(offsets_U, events, user_B, k, begin_B, end_B)
        offsets_U, user_B = offsets_U.long(), windows.user_Q
        sorted_rows = self.owners.sorted(history_rows_T)
        cut = cut_histories(sorted_rows, offsets_U, windows, events)
        message, lengths = questions_of(cut, windows, query_rows_B)
        rows_S = history_rows_T.index_select(0, cut.order_S).int()
        with self._turn:
            sizes = [[offsets_U.numel() - 1, user_B.numel(), n] for n in sorted_rows.counts]
            users, queries, theirs = zip(*self.exchange.sizes(sizes, self.device), strict=True)
            wanted = [2 * u + 3 * b for u, b in zip(users, queries, strict=True)]
            asked = self.exchange.swap("queries", message, lengths, wanted)
            rows = self.exchange.swap("events", rows_S, sorted_rows.counts, list(theirs))
            questions = read_questions(asked, rows, list(users), list(queries))
            key_QK = self._answer(questions, k)
            back = [user_B.numel()] * self.exchange.world_size
            key_WBK = self.exchange.swap("answers", key_QK, list(queries), back)
        key_WBK = key_WBK.view(self.exchange.world_size, -1, k)
        return merge_answers(key_WBK, cut, offsets_U, user_B)

    def fetch(self, rows_n: Tensor) -> tuple[Tensor, Tensor]:
        """Vectors of any rows from their owners, each distinct row sent once; collective.

        Args:
            rows_n: int32 or int64.

        Returns:
            vectors [n, M] of the table's dtype and inv_norm float32 [n]; zeros for row 0.

        Raises:
            ValueError: a row outside of the table.
        """
        check_rows("rows", rows_n, self.rows)
        row_d, index_n = torch.unique(rows_n, return_inverse=True)
        by_owner = self.owners.sorted(row_d)
        asked = row_d.index_select(0, by_owner.order_m).int()
        with self._turn:
            sizes = self.exchange.sizes([[count] for count in by_owner.counts], self.device)
            theirs = [count for (count,) in sizes]
            wanted = self.exchange.swap("fetched_rows", asked, by_owner.counts, theirs)
            packed = self._packed(wanted)
            found = self.exchange.swap("fetched_vectors", packed, theirs, by_owner.counts)
        vectors_d, inv_norm_d = self._unpacked(found, by_owner.order_m, row_d.numel())
        return vectors_d.index_select(0, index_n), inv_norm_d.index_select(0, index_n)

    def _answer(self, questions: Questions, k: int) -> Tensor:
        """Keys int64 [Q, K] of each query's best events among the own rows, NO_KEY for none."""
        vectors_QM, inv_norm_Q = self._query_vectors(questions.target_Q)
        position_QK, score_QK = cosine_topk(
            self.table,
            self.inv_norm,
            self.owners.place(questions.rows),
            questions.offsets_U,
            questions.user_Q,
            k,
            query_vectors=vectors_QM,
            query_inv_norm=inv_norm_Q,
            query_begin=questions.begin_Q,
            query_end=questions.end_Q,
        )
        key_QK = pack_keys(score_QK, position_QK.long())
        return key_QK.masked_fill_(position_QK < 0, NO_KEY)

    def _query_vectors(self, target_Q: Tensor) -> tuple[Tensor, Tensor]:
        """Vectors [Q, M] and inverse norms [Q] of all processes' queries, from their owners to all.

        All processes have been sent the same targets in the same order, so each knows without
        asking what it owes to the others and what they owe.
        """
        row_d, index_Q = torch.unique(target_Q, return_inverse=True)
        by_owner = self.owners.sorted(row_d)
        rank, world_size = self.exchange.rank, self.exchange.world_size
        own = by_owner.order_m.split(by_owner.counts)[rank]
        packed = self._packed(row_d.index_select(0, own)).repeat(world_size, 1)
        mine = [by_owner.counts[rank]] * world_size
        found = self.exchange.swap("query_vectors", packed, mine, by_owner.counts)
        vectors_d, inv_norm_d = self._unpacked(found, by_owner.order_m, row_d.numel())
        return vectors_d.index_select(0, index_Q), inv_norm_d.index_select(0, index_Q)

    def _packed(self, own_rows: Tensor) -> Tensor:
        """Vectors and inverse norms of own rows side by side: uint8 [n, P]."""
        place = self.owners.place(own_rows)
        vectors = self.table.index_select(0, place).view(torch.uint8)
        inv_norm = self.inv_norm.index_select(0, place)[:, None].view(torch.uint8)
        return torch.cat([vectors, inv_norm], dim=1)

    def _unpacked(self, found: Tensor, order_m: Tensor, rows: int) -> tuple[Tensor, Tensor]:
        """Vectors [rows, M] and inverse norms [rows]; found[i] is that of row order_m[i], zeros
        elsewhere."""
        packed = found.new_zeros(rows, found.shape[1]).index_copy_(0, order_m, found)
        vectors, inv_norm = packed[:, :-4].contiguous(), packed[:, -4:].contiguous()
        return vectors.view(self.table.dtype), inv_norm.view(torch.float32).view(-1)


def _with_padding(part: Tensor) -> Tensor:
    """A copy whose row 0 is padding, all zeros."""
    padded = part.new_zeros(part.shape[0] + 1, *part.shape[1:])
    padded[1:] = part
    return padded
