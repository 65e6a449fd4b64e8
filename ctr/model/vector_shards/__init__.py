"""Frozen vectors whose rows are spread over the processes: scores travel (docs/vectors.md)."""

from ctr.model.vector_shards.shards import VectorShards

__all__ = ["VectorShards"]
