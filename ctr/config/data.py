"""Configuration of what is read, and how."""

from __future__ import annotations

from dataclasses import dataclass

from ctr.config.checks import require, require_one_of


@dataclass
class DataConfig:
    """What is read, and how.

    Attributes:
        store: folder of a prepared store, or its URL (docs/storage.md).
        train_split, valid_split, test_split: names in its manifest; valid_split may be null.
        batch_size: samples a process and step.
        history_length: latest behaviours a sample may see.
        shuffle: shuffle users (their samples stay together) each epoch.
        workers: threads that build batches; prefetch: batches built ahead.
        vectors: where the frozen item vectors are (docs/vectors.md): replicated, all of them on
            each GPU, or on a CPU in the memory map of the store; pinned, in page-locked memory of
            the host, read by a GPU in place; sharded, each process with some of the rows.
    """

    store: str = "stores/world"
    train_split: str = "train"
    valid_split: str | None = None
    test_split: str = "test"
    batch_size: int = 1000
    history_length: int = 1000
    shuffle: bool = True
    workers: int = 1
    prefetch: int = 4
    vectors: str = "replicated"

    def validate(self) -> None:
        """Raise ConfigError on a value that cannot run."""
        for key in ("batch_size", "history_length", "workers", "prefetch"):
            value = getattr(self, key)
            require(value >= 1, f"data.{key}", value, "set at least 1")
        require_one_of("data.vectors", self.vectors, ("replicated", "pinned", "sharded"))
