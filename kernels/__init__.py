"""Retrieval and attention kernels over lifelong histories. Knows nothing of `ctr`."""

from kernels.category_topk.op import category_topk
from kernels.cosine_topk.op import cosine_topk
from kernels.gathered.op import gathered_dot, gathered_sum
from kernels.hamming_topk.op import hamming_topk
from kernels.simtier.op import simtier

__all__ = [
    "category_topk",
    "cosine_topk",
    "gathered_dot",
    "gathered_sum",
    "hamming_topk",
    "simtier",
]
