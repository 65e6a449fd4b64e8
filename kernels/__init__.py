"""Retrieval kernels over jagged lifelong histories. Knows nothing of `ctr`; works without triton."""

from kernels.category_topk.op import category_topk
from kernels.cosine_topk.op import cosine_topk

__all__ = ["category_topk", "cosine_topk"]
