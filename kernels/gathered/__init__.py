"""Attention over rows picked by index, without a [B, K, D] copy of the rows."""
