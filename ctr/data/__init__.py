"""Prepared store -> batches."""
