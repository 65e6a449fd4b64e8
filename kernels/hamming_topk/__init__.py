"""Hamming top-K over packed SimHash codes (ETA, arXiv 2108.04468)."""
