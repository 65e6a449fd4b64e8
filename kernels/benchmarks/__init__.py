"""Benchmarks of the ops: checked first, then timed against what the hardware allows."""
