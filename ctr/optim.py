"""Optimizers: fused into the backward pass for embedding tables, AdamW for everything else.

Small tables may go without fusion: then Adam updates them with the rest.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
import torchrec.optim
from fbgemm_gpu.split_table_batched_embeddings_ops_training import WeightDecayMode
from torch import nn
from torchrec.optim.optimizers import in_backward_optimizer_filter

from ctr.config import ConfigError, EmbeddingConfig, TrainerConfig
from ctr.model.replicated import ReplicatedCollection

_SPARSE = {
    "rowwise_adagrad": torchrec.optim.RowWiseAdagrad,
    "adagrad": torchrec.optim.Adagrad,
    "sgd": torchrec.optim.SGD,
    "adam": torchrec.optim.Adam,
}


def fuse_sparse_optimizer(tables: nn.Module, config: EmbeddingConfig, device: torch.device) -> None:
    """Update embedding tables inside the backward pass; call before the model is sharded.

    With embedding.optimizer=dense_adam it leaves them to `dense_optimizer`.

    Raises:
        ConfigError: an optimizer that fbgemm has no kernel for on this device.
    """
    if config.optimizer == "dense_adam":
        return
    if config.optimizer == "adam" and device.type == "cpu":
        raise ConfigError(
            "embedding.optimizer=adam: fbgemm has no fused Adam for CPU; set rowwise_adagrad, "
            "adagrad, sgd or dense_adam, or run on a GPU"
        )
    options: dict[str, float] = {"lr": config.lr}
    if config.optimizer != "sgd":
        options["eps"] = config.eps
    if config.weight_decay > 0:
        options["weight_decay"] = config.weight_decay
        # Without a mode the row-wise Adagrad has no decay; Adam has one mode only and ignores it.
        options["weight_decay_mode"] = WeightDecayMode.L2
    replicated = [m for m in tables.modules() if isinstance(m, ReplicatedCollection)]
    for collection in replicated:
        collection.to(device).update_in_backward(config.optimizer, options)
    whole = {id(parameter) for collection in replicated for parameter in collection.parameters()}
    sharded = [parameter for parameter in tables.parameters() if id(parameter) not in whole]
    for parameter in sharded:
        # What TorchRec's sharder looks for. `apply_optimizer_in_backward` would also make an
        # optimizer of torch for the whole table, and keep both for as long as the process lives.
        parameter._optimizer_classes = [_SPARSE[config.optimizer]]  # type: ignore[attr-defined]
        parameter._optimizer_kwargs = [dict(options)]  # type: ignore[attr-defined]
        parameter._in_backward_optimizers = []  # type: ignore[attr-defined]


def dense_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Parameters that learn and that no fused optimizer updates, by name."""
    every = in_backward_optimizer_filter(model.named_parameters())
    return {name: parameter for name, parameter in every if parameter.requires_grad}


def dense_optimizer(
    model: nn.Module, tables: Iterable[nn.Parameter], config: TrainerConfig, rates: EmbeddingConfig
) -> torch.optim.AdamW:
    """AdamW over the dense parameters; vectors and scalars are not decayed.

    Args:
        model: sharded; tables: its embedding tables, a group of their own where no optimizer is
            fused into them: Adam with an L2 penalty.
        config: of the loop; rates: of the tables.
    """
    of_tables = {id(table) for table in tables}
    every = dense_parameters(model).values()
    parameters = [p for p in every if id(p) not in of_tables]
    groups: list[dict[str, Any]] = [
        {
            "params": [p for p in parameters if p.ndim > 1],
            "weight_decay": config.weight_decay,
        },
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    if unfused := [p for p in every if id(p) in of_tables]:
        groups.append(
            {
                "params": unfused,
                "lr": rates.lr,
                "eps": rates.eps,
                "weight_decay": rates.weight_decay,
                "decoupled_weight_decay": False,
            }
        )
    return torch.optim.AdamW(groups, lr=config.lr, fused=True)
