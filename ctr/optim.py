"""Optimizers: fused into the backward pass for embedding tables, AdamW for everything else."""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torchrec.optim
from torch import nn
from torchrec.optim.apply_optimizer_in_backward import apply_optimizer_in_backward
from torchrec.optim.optimizers import in_backward_optimizer_filter

from ctr.config import ConfigError, EmbeddingConfig, TrainerConfig

_SPARSE = {
    "rowwise_adagrad": torchrec.optim.RowWiseAdagrad,
    "adagrad": torchrec.optim.Adagrad,
    "sgd": torchrec.optim.SGD,
    "adam": torchrec.optim.Adam,
}


def fuse_sparse_optimizer(
    parameters: Iterable[nn.Parameter], config: EmbeddingConfig, device: torch.device
) -> None:
    """Update embedding tables inside the backward pass; call before the model is sharded.

    Raises:
        ConfigError: an optimizer that fbgemm has no kernel for on this device.
    """
    if config.optimizer == "adam" and device.type == "cpu":
        raise ConfigError(
            "embedding.optimizer=adam: fbgemm has no fused Adam for CPU; set rowwise_adagrad, "
            "adagrad or sgd, or run on a GPU"
        )
    options: dict[str, float] = {"lr": config.lr}
    if config.optimizer != "sgd":
        options["eps"] = config.eps
    apply_optimizer_in_backward(_SPARSE[config.optimizer], parameters, options)


def dense_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Parameters that no fused optimizer updates, by name."""
    return dict(in_backward_optimizer_filter(model.named_parameters()))


def dense_optimizer(model: nn.Module, config: TrainerConfig) -> torch.optim.AdamW:
    """AdamW over the dense parameters; vectors and scalars are not decayed."""
    parameters = dense_parameters(model).values()
    groups = [
        {
            "params": [p for p in parameters if p.ndim > 1],
            "weight_decay": config.weight_decay,
        },
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=config.lr, fused=True)
