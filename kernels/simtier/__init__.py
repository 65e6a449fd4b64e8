"""Histogram of similarities as features (SimTier: MUSE, arXiv 2512.07216; arXiv 2407.19467)."""
