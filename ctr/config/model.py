"""Configuration of the network and its embedding tables."""

from __future__ import annotations

from dataclasses import dataclass, field

from ctr.config.checks import require, require_one_of


_ATTENTIONS = ("target", "sa_ta", "sa_ta_paper", "asta")
_SEQUENCES = ("recent", "retrieved")


@dataclass
class ModelConfig:
    """Which parts make the network (MUSE, arXiv 2512.07216; QIN, arXiv 2504.17699).

    Attributes:
        recent_length: latest behaviours of the recent branch.
        recent_attention: units that model them.
        gsu: strategy that picks the long branch's behaviours; none leaves the branch out (DIN).
        retrieved: K, behaviours picked.
        retrieved_attention: units that model the picks; sa_ta is the reference code's form of
            MUSE's, sa_ta_paper the paper's.
        means: sequences whose plain mean the head gets, too.
        simtier: histogram of similarities; code and paper forms as published.
        simtier_bins: code form: 22; paper form: any number of equal tiers of [-1, 1].
        simtier_on: sequences it counts.
        behaviour_features: item features that belong to a behaviour, beside the item; null for
            those of category and tags that the store has.
        content_dim: width to which frozen vectors are projected as part of an item; 0 leaves them
            out.
        head: tower, qnn (QIN) or dcnv2.
        hidden: widths of a tower; activation: between its layers.
        head_layers, head_rows, head_dropout: of qnn; head_layers also of dcnv2.
    """

    recent_length: int = 50
    recent_attention: list[str] = field(default_factory=lambda: ["target"])
    gsu: str = "cosine"
    retrieved: int = 50
    retrieved_attention: list[str] = field(default_factory=lambda: ["sa_ta"])
    means: list[str] = field(default_factory=lambda: ["recent", "retrieved"])
    simtier: str = "code"
    simtier_bins: int = 22
    simtier_on: list[str] = field(default_factory=lambda: ["recent", "retrieved"])
    behaviour_features: list[str] | None = None
    content_dim: int = 0
    head: str = "tower"
    hidden: list[int] = field(default_factory=lambda: [256, 128, 64])
    activation: str = "dice"
    head_layers: int = 3
    head_rows: int = 4
    head_dropout: float = 0.0

    def validate(self) -> None:
        """Raise ConfigError on a value that cannot run."""
        require_one_of("model.gsu", self.gsu, ("cosine", "category", "id_soft", "recent", "none"))
        for key in ("recent_attention", "retrieved_attention"):
            self._require_names(key, _ATTENTIONS)
        for key in ("means", "simtier_on"):
            self._require_names(key, _SEQUENCES)
        require_one_of("model.simtier", self.simtier, ("code", "paper", "none"))
        require_one_of("model.head", self.head, ("tower", "qnn", "dcnv2"))
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
        optimizer: fused into the backward pass; adam needs a GPU.
        lr, eps: of that optimizer.
        sharding: TorchRec sharding types the planner may choose from.
    """

    dim: int = 16
    narrow_dim: int = 8
    narrow_below: int = 16
    init_std: float = 0.001
    optimizer: str = "rowwise_adagrad"
    lr: float = 0.05
    eps: float = 1.0e-8
    sharding: list[str] = field(default_factory=lambda: ["table_wise", "row_wise"])

    def validate(self) -> None:
        """Raise ConfigError on a value that cannot run."""
        require_one_of(
            "embedding.optimizer", self.optimizer, ("rowwise_adagrad", "adagrad", "sgd", "adam")
        )
        for key in ("dim", "narrow_dim"):
            value = getattr(self, key)
            require(value > 0 and value % 4 == 0, f"embedding.{key}", value, "set a multiple of 4")
        require(self.init_std > 0, "embedding.init_std", self.init_std, "set above 0")
        require(self.lr > 0, "embedding.lr", self.lr, "set a positive rate")
        require(self.eps >= 0, "embedding.eps", self.eps, "set at least 0")
        require(bool(self.sharding), "embedding.sharding", self.sharding, "set at least one type")
        for name in self.sharding:
            require_one_of("embedding.sharding", name, ("table_wise", "row_wise", "column_wise"))
