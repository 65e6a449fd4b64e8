"""Cosine top-K over frozen item vectors (MUSE's General Search Unit, arXiv 2512.07216)."""
