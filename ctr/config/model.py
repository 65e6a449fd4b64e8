"""Configuration of the network."""

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
