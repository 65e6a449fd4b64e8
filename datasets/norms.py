"""Norms of item vectors, the same wherever they are written or checked."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def inverse_norms(vectors: NDArray[Any]) -> NDArray[np.float32]:
    """1 / Euclidean norm of each vector, computed in float64; 0 for an all-zero vector.

    Args:
        vectors: [n, M], int8, float16 or float32.

    Returns:
        float32 [n].
    """
    wide = np.asarray(vectors, dtype=np.float64)
    norms = np.sqrt(np.einsum("nm,nm->n", wide, wide))
    inverse = np.divide(1.0, norms, out=np.zeros_like(norms), where=norms > 0)
    return inverse.astype(np.float32)
