"""Configuration of the network and its embedding tables."""

from __future__ import annotations

from dataclasses import dataclass, field

from ctr.config.checks import require, require_one_of

_ATTENTIONS = ("target", "multi_head", "sa_ta", "sa_ta_paper", "asta", "twin")
_SEARCHES = ("cosine", "category", "id_soft", "recent", "eta", "twin", "none")
_SEQUENCES = ("recent", "retrieved")


@dataclass
class ModelConfig:
    """Which parts make the network (MUSE, arXiv 2512.07216; QIN, arXiv 2504.17699).

    Attributes:
        recent_length: latest behaviours of the recent branch.
        recent_attention: units that model them.
        gsu: strategy that picks the long branch's behaviours; none leaves the branch out (DIN).
        hash_bits: of a code of gsu=eta.
        retrieved: K, behaviours picked.
        retrieved_attention: units that model the picks; sa_ta is the reference code's form of
            MUSE's, sa_ta_paper the paper's; gsu=twin searches by the logits of twin.
        heads: of multi_head and twin; divides 2 embedding.dim.
        whole_attention: unit that reads all that a sample may see, without a search; sdim or none.
        sdim_hashes: m, SimHash bits of sdim; sdim_group: tau, bits of a signature, divides m.
        means: sequences whose plain mean the head gets, too.
        simtier: histogram of similarities; code and paper forms as published.
        simtier_bins: code form: 22; paper form: any number of equal tiers of [-1, 1].
        simtier_on: sequences it counts.
        behaviour_features: item features that belong to a behaviour, beside the item; null for
            those of category and tags that the store has.
        user_id: whether the head gets the embedding of the user's id.
        content_dim: width to which frozen vectors are projected as part of an item; 0 leaves them
            out.
        content_tower: widths of the layers of MAKE's tower over frozen vectors (arXiv 2407.19467);
            empty leaves it out.
        content_tower_on: sequence of behaviours that it attends to.
        content_tower_dim: width to which it projects vectors.
        content_tower_run: run (model=make) from which a new run takes over the tower's weights;
            null to train it from scratch.
        content_tower_frozen: never change what was taken over.
        head: tower, qnn (QIN) or dcnv2; content for the content tower's logit and nothing else,
            which pre-trains it.
        hidden: widths of a tower; activation: between its layers.
        head_layers, head_rows, head_dropout: of qnn; head_layers also of dcnv2.
    """

    recent_length: int = 50
    recent_attention: list[str] = field(default_factory=lambda: ["target"])
    gsu: str = "cosine"
    hash_bits: int = 32
    retrieved: int = 50
    retrieved_attention: list[str] = field(default_factory=lambda: ["sa_ta"])
    heads: int = 4
    whole_attention: str = "none"
    sdim_hashes: int = 48
    sdim_group: int = 3
    means: list[str] = field(default_factory=lambda: ["recent", "retrieved"])
    simtier: str = "code"
    simtier_bins: int = 22
    simtier_on: list[str] = field(default_factory=lambda: ["recent", "retrieved"])
    behaviour_features: list[str] | None = None
    user_id: bool = True
    content_dim: int = 0
    content_tower: list[int] = field(default_factory=list)
    content_tower_on: str = "retrieved"
    content_tower_dim: int = 64
    content_tower_run: str | None = None
    content_tower_frozen: bool = False
    head: str = "tower"
    hidden: list[int] = field(default_factory=lambda: [256, 128, 64])
    activation: str = "dice"
    head_layers: int = 3
    head_rows: int = 4
    head_dropout: float = 0.0

    def validate(self) -> None:
        """Raise ConfigError on a value that cannot run."""
        require_one_of("model.gsu", self.gsu, _SEARCHES)
        for key in ("recent_attention", "retrieved_attention"):
            self._require_names(key, _ATTENTIONS)
        for key in ("means", "simtier_on"):
            self._require_names(key, _SEQUENCES)
        require_one_of("model.simtier", self.simtier, ("code", "paper", "none"))
        require_one_of("model.head", self.head, ("tower", "qnn", "dcnv2", "content"))
        require_one_of("model.activation", self.activation, ("dice", "prelu", "relu"))
        for key in ("recent_length", "retrieved", "simtier_bins", "head_layers", "head_rows"):
            value = getattr(self, key)
            require(value >= 1, f"model.{key}", value, "set at least 1")
        require(self.content_dim >= 0, "model.content_dim", self.content_dim, "set at least 0")
        dropout = self.head_dropout
        require(0.0 <= dropout < 1.0, "model.head_dropout", dropout, "set a share in [0, 1)")
        require(
            self.simtier != "code" or self.simtier_bins == 22,
            "model.simtier_bins",
            self.simtier_bins,
            "the code form has 22 bins; set 22, or model.simtier=paper",
        )
        require(
            self.gsu != "none" or self.simtier == "none" or "retrieved" not in self.simtier_on,
            "model.simtier_on",
            self.simtier_on,
            "model.gsu=none retrieves nothing to count; set [recent], or model.simtier=none",
        )
        require(
            bool(self.hidden) and min(self.hidden) > 0, "model.hidden", self.hidden, "set widths"
        )
        self._check_long()
        self._check_content_tower()

    def _check_long(self) -> None:
        require_one_of("model.whole_attention", self.whole_attention, ("sdim", "none"))
        require(self.heads >= 1, "model.heads", self.heads, "set at least 1")
        require(1 <= self.hash_bits <= 256, "model.hash_bits", self.hash_bits, "set 1 to 256")
        group, hashes = self.sdim_group, self.sdim_hashes
        require(1 <= group <= 8, "model.sdim_group", group, "set 1 to 8 bits")
        require(
            hashes >= 1 and hashes % group == 0,
            "model.sdim_hashes",
            hashes,
            f"set a multiple of model.sdim_group={group}",
        )
        require(
            self.gsu != "twin" or "twin" in self.retrieved_attention,
            "model.retrieved_attention",
            self.retrieved_attention,
            "model.gsu=twin searches by the logits of twin; set [twin], or another model.gsu",
        )

    def _check_content_tower(self) -> None:
        tower, frozen = self.content_tower, self.content_tower_frozen
        require(min(tower, default=1) > 0, "model.content_tower", tower, "set widths")
        dim = self.content_tower_dim
        require(dim >= 1, "model.content_tower_dim", dim, "set at least 1")
        require(
            bool(tower) or self.content_tower_run is None,
            "model.content_tower_run",
            self.content_tower_run,
            "there is no tower to take it; set model.content_tower, as model=muse_make does",
        )
        require(
            not frozen or (self.content_tower_run is not None and self.head != "content"),
            "model.content_tower_frozen",
            frozen,
            "nothing would ever be learnt; set model.content_tower_run and another model.head "
            "than content, or false",
        )
        on = self.content_tower_on
        require_one_of("model.content_tower_on", on, _SEQUENCES)
        require(
            not tower or on == "recent" or self.gsu != "none",
            "model.content_tower_on",
            on,
            "model.gsu=none retrieves nothing; set recent, or another model.gsu",
        )
        if self.head == "content":
            self._check_pretraining()

    def _check_pretraining(self) -> None:
        require(bool(self.content_tower), "model.head", "content", "set model.content_tower")
        # Searches that need no embedding table, and none for a sequence that needs no search.
        searches = {"recent": ("none",), "retrieved": ("cosine", "category", "recent")}
        require_one_of("model.gsu", self.gsu, searches[self.content_tower_on])
        parts = {"simtier": "none", "whole_attention": "none", "means": [], "recent_attention": []}
        parts["retrieved_attention"] = []
        for key, without in parts.items():
            value = getattr(self, key)
            accepted = f"model.head=content trains the tower alone; set {without}, as model=make"
            require(value == without, f"model.{key}", value, accepted)

    def _require_names(self, key: str, accepted: tuple[str, ...]) -> None:
        names = getattr(self, key)
        for name in names:
            require_one_of(f"model.{key}", name, accepted)
        require(len(set(names)) == len(names), f"model.{key}", names, "set each once")


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
