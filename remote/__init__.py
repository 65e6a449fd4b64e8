"""Paths that are URLs, for whoever reads or writes them; knows nothing of stores or models."""
