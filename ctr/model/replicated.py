"""Embedding tables that every process holds whole, and their updates.

Shape legend: N rows of a table, D its width.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
import torchrec.optim
from torch import Tensor, nn
from torchrec import EmbeddingCollection
from torchrec.optim.fused import FusedOptimizerModule
from torchrec.optim.keyed import KeyedOptimizer

# At the end of a collection's name; `ctr.state` leaves it out, so that a checkpoint is the same.
SUFFIX = "_replicated"

_RULES: dict[str, type[torch.optim.Optimizer]] = {
    "rowwise_adagrad": torchrec.optim.RowWiseAdagrad,
    "adagrad": torch.optim.Adagrad,
    "sgd": torch.optim.SGD,
}


class ReplicatedCollection(EmbeddingCollection, FusedOptimizerModule):
    """Tables that no sharder takes; they update themselves in the backward pass, too.

    Rows, rates and states end as those of fbgemm's kernel for a shard; what differs is that the
    gradient is that of all N rows, which is why these are for small tables. TorchRec has
    data-parallel tables, too, but their lookup pools the rows of a sequence on a CPU.
    """

    _optimizer: KeyedOptimizer | None = None

    def update_in_backward(self, rule: str, options: dict[str, Any]) -> None:
        """Add up the gradients of all processes and update, as soon as a gradient is there.

        Args:
            rule: rowwise_adagrad, adagrad or sgd; options: of that optimizer, such as lr.
        """
        tables = {name: layer.weight for name, layer in self.embeddings.items()}
        self._optimizer = _TableOptimizer(tables, _RULES[rule], options)
        for weight_ND in tables.values():
            weight_ND.register_post_accumulate_grad_hook(self._optimizer.update)

    @property
    def fused_optimizer(self) -> KeyedOptimizer:
        """Of these tables: TorchRec makes it a part of the whole model's."""
        return self._optimizer or KeyedOptimizer({}, {}, [])


class _TableOptimizer(KeyedOptimizer):
    """One optimizer of torch or TorchRec a table, with the names that fbgemm gives the states."""

    def __init__(
        self,
        tables: dict[str, nn.Parameter],
        rule: type[torch.optim.Optimizer],
        options: dict[str, Any],
    ) -> None:
        self.rules = {weight: rule([weight], **options) for weight in tables.values()}
        for weight, own in self.rules.items():
            # By it other parts know that this parameter updates itself.
            weight._in_backward_optimizers = [own]  # type: ignore[attr-defined]
        super().__init__(
            {f"embeddings.{name}.weight": weight for name, weight in tables.items()},
            {
                weight: {f"{name}.momentum1": sums}
                for name, weight in tables.items()
                if (sums := _sums(self.rules[weight], weight)) is not None
            },
            [group for own in self.rules.values() for group in own.param_groups],
        )

    def update(self, weight_ND: nn.Parameter) -> None:
        """Take a step with the mean of the processes' gradients, and drop the gradient."""
        assert weight_ND.grad is not None
        if dist.get_world_size() > 1:
            dist.all_reduce(weight_ND.grad)
            weight_ND.grad /= dist.get_world_size()
        self.rules[weight_ND].step()
        weight_ND.grad = None

    def step(self, closure: Any = None) -> None:
        """Nothing: the update is part of the backward pass."""


def _sums(rule: torch.optim.Optimizer, weight: Tensor) -> Tensor | None:
    """The sums of squares of an Adagrad, in the shape that fbgemm has them: [N] or [N, D]."""
    sums = rule.state[weight].get("sum")
    return None if sums is None else sums.squeeze(1) if sums.shape[1] == 1 else sums
