"""The tensors of a training run by name: what a checkpoint saves and loads in place."""

from __future__ import annotations

import re

import torch
from torch import Tensor, nn
from torchrec.distributed import DistributedModelParallel

from ctr.distributed import Process
from ctr.model.replicated import SUFFIX

# A collection of replicated tables.
_REPLICATED = re.compile(rf"(\bcollections\.dim_\d+){SUFFIX}\.")


def model_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Weights and running statistics, sharded ones as ShardedTensor."""
    tensors = model.state_dict()
    return {f"model.{_stored_name(name)}": tensor for name, tensor in tensors.items()}


def _stored_name(name: str) -> str:
    """A name that does not tell whether a table is sharded or on every process."""
    return _REPLICATED.sub(r"\1.", name)


def sparse_optimizer_tensors(model: DistributedModelParallel) -> dict[str, Tensor]:
    """States of the optimizers that are fused into the embedding tables."""
    states = model.fused_optimizer.state_dict()["state"]
    return {
        f"sparse_optimizer.{_stored_name(parameter)}.{name}": tensor
        for parameter, state in states.items()
        for name, tensor in state.items()
        if not isinstance(tensor, int | float)
    }


def dense_optimizer_tensors(
    optimizer: torch.optim.Optimizer, parameters: dict[str, nn.Parameter]
) -> dict[str, Tensor]:
    """States of the dense optimizer, created where no step was taken yet.

    Args:
        optimizer: of `parameters`, which must be all that it updates.
        parameters: by name.
    """
    if not optimizer.state:
        _create_state(optimizer)
    return {
        f"dense_optimizer.{name}.{key}": tensor
        for name, parameter in parameters.items()
        for key, tensor in optimizer.state[parameter].items()
    }


def _create_state(optimizer: torch.optim.Optimizer) -> None:
    """Let the optimizer allocate its state by a step that changes no parameter."""
    groups = optimizer.param_groups
    rates = [group["lr"] for group in groups]
    for group in groups:
        group["lr"] = 0.0
        for parameter in group["params"]:
            parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    optimizer.zero_grad()
    for group, rate in zip(groups, rates, strict=True):
        group["lr"] = rate
    for state in optimizer.state.values():
        state["step"].zero_()


def random_tensors(process: Process) -> dict[str, Tensor]:
    """States of this process's random generators, named by its rank: uint8 each."""
    states = {f"random.{process.rank}.cpu": torch.get_rng_state()}
    if process.device.type == "cuda":
        states[f"random.{process.rank}.cuda"] = torch.cuda.get_rng_state(process.device)
    return states


def restore_random(states: dict[str, Tensor], process: Process) -> None:
    """Set the random generators that are among `states` to what `random_tensors` returned."""
    for name, state in states.items():
        if name == f"random.{process.rank}.cpu":
            torch.set_rng_state(state)
        elif name == f"random.{process.rank}.cuda":
            torch.cuda.set_rng_state(state, process.device)
