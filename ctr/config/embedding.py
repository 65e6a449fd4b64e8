"""Configuration of the embedding tables: shape, optimizer, and which process holds what."""

from __future__ import annotations

from dataclasses import dataclass, field

from ctr.config.checks import require, require_one_of


@dataclass
class EmbeddingConfig:
    """Embedding tables, their optimizer and how they may be sharded.

    Attributes:
        dim: width of a table; narrow_dim: of one with fewer rows than narrow_below.
        init_std: of a truncated normal.
        precision: fp32, or fp16 for weights of half the size; embeddings, gradients and the states
            of the optimizer stay float32.
        optimizer: fused into the backward pass, for the rows that a step touches (adam needs a
            GPU); or dense_adam, torch's Adam over whole tables, for tables that are small enough
            for every process to hold and update them all.
        lr, eps: of that optimizer.
        weight_decay: L2 penalty. rowwise_adagrad adds it to the gradient of the rows that a step
            touches, dense_adam to that of all rows; the fused adam has decoupled decay only, which
            takes lr * weight_decay off the rows that a step touches.
        sharding: TorchRec sharding types the planner may choose from; data_parallel for dense_adam.
        table_sharding: the same for single tables, by name. [data_parallel] keeps a table whole on
            every process and adds its gradients up: for small tables that every step reads.
        slots: rows, row 0 included, of tables whose ids come and go: a new id takes the row of
            another (docs/managed_ids.md). Other tables have a row for each id of the vocabulary.
        eviction: whose row it takes: lru, lfu or distance_lfu.
    """

    dim: int = 16
    narrow_dim: int = 8
    narrow_below: int = 16
    init_std: float = 0.001
    precision: str = "fp32"
    optimizer: str = "rowwise_adagrad"
    lr: float = 0.05
    eps: float = 1.0e-8
    weight_decay: float = 0.0
    sharding: list[str] = field(default_factory=lambda: ["table_wise", "row_wise"])
    table_sharding: dict[str, list[str]] = field(default_factory=dict)
    slots: dict[str, int] = field(default_factory=dict)
    eviction: str = "lru"

    @property
    def replicated(self) -> frozenset[str]:
        """Tables that every process holds whole, and that update themselves all the same."""
        every = self.table_sharding.items()
        return frozenset(name for name, types in every if types == ["data_parallel"])

    def validate(self) -> None:
        """Raise ConfigError on a value that cannot run."""
        optimizers = ("rowwise_adagrad", "adagrad", "sgd", "adam", "dense_adam")
        require_one_of("embedding.optimizer", self.optimizer, optimizers)
        require_one_of("embedding.precision", self.precision, ("fp32", "fp16"))
        require(
            self.precision == "fp32" or not (self.replicated or self.optimizer == "dense_adam"),
            "embedding.precision",
            self.precision,
            "only fbgemm's kernels for shards add float32 updates to float16 rows; set fp32, or no "
            "data_parallel table",
        )
        for key in ("dim", "narrow_dim"):
            value = getattr(self, key)
            require(value > 0 and value % 4 == 0, f"embedding.{key}", value, "set a multiple of 4")
        require(self.init_std > 0, "embedding.init_std", self.init_std, "set above 0")
        require(self.lr > 0, "embedding.lr", self.lr, "set a positive rate")
        require(
            self.eps > 0, "embedding.eps", self.eps, "set above 0: it divides where a gradient is 0"
        )
        decay = self.weight_decay
        require(decay >= 0, "embedding.weight_decay", decay, "set at least 0")
        require(
            decay == 0 or self.optimizer not in ("adagrad", "sgd"),
            "embedding.weight_decay",
            decay,
            f"fbgemm leaves it out of its {self.optimizer} without a word; set 0, or "
            "embedding.optimizer to rowwise_adagrad or dense_adam",
        )
        self._check_sharding()
        self._check_slots()

    def _check_slots(self) -> None:
        require_one_of("embedding.eviction", self.eviction, ("lru", "lfu", "distance_lfu"))
        for table, slots in self.slots.items():
            key = f"embedding.slots.{table}"
            require(slots >= 2, key, slots, "row 0 is no id's; set at least 2")
            require(
                "data_parallel" not in self.table_sharding.get(table, []),
                key,
                slots,
                f"rows start anew where their shard is; take {table} out of slots, or out of "
                "embedding.table_sharding",
            )
        require(
            not self.slots or self.optimizer != "dense_adam",
            "embedding.slots",
            self.slots,
            "rows start anew where their shard is, and embedding.optimizer=dense_adam has none; "
            "set {}, or another optimizer",
        )

    def _check_sharding(self) -> None:
        given = self.sharding
        _check_types("embedding.sharding", given)
        if self.optimizer == "dense_adam":
            require(
                given == ["data_parallel"],
                "embedding.sharding",
                given,
                "embedding.optimizer=dense_adam updates whole tables; set [data_parallel]",
            )
        else:
            require(
                "data_parallel" not in given,
                "embedding.sharding",
                given,
                f"embedding.optimizer={self.optimizer} updates rows where their shard is; set "
                "other types and name small tables in embedding.table_sharding, or set "
                "embedding.optimizer=dense_adam",
            )
        for name, types in self.table_sharding.items():
            self._check_table_sharding(f"embedding.table_sharding.{name}", types)

    def _check_table_sharding(self, key: str, given: list[str]) -> None:
        _check_types(key, given)
        require(
            self.optimizer != "dense_adam",
            key,
            given,
            "embedding.optimizer=dense_adam updates whole tables; set no table_sharding",
        )
        if "data_parallel" not in given:
            return
        require(
            given == ["data_parallel"],
            key,
            given,
            "a table is whole on every process or it is not; set [data_parallel] or other types",
        )
        # What a dense gradient cannot tell is which rows the step touched.
        require(
            self.optimizer != "adam" and self.weight_decay == 0,
            key,
            given,
            "its gradient reaches all rows, where embedding.optimizer=adam and "
            "embedding.weight_decay are for those that a step touches; set other types, or "
            "rowwise_adagrad, adagrad or sgd without weight_decay",
        )


def _check_types(key: str, given: list[str]) -> None:
    """Raise ConfigError unless there is a sharding type, and none but those that are known."""
    require(bool(given), key, given, "set at least one type")
    for name in given:
        require_one_of(key, name, ("table_wise", "row_wise", "column_wise", "data_parallel"))
