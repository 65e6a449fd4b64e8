"""Names and values of the tensors that a checkpoint holds."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from ctr.state import dense_optimizer_tensors, model_tensors, sparse_optimizer_tensors


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Linear(3, 1))


def optimizer_of(model):
    return torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.5)


def step(model, optimizer):
    model(torch.arange(20.0).view(5, 4)).sin().sum().backward()
    optimizer.step()
    optimizer.zero_grad()


def test_weights_and_running_statistics_are_the_live_ones():
    model = network()
    found = model_tensors(model)
    assert {"model.0.weight", "model.1.running_mean", "model.1.num_batches_tracked"} <= set(found)
    assert len(found) == len(model.state_dict())
    found["model.0.weight"].zero_()
    assert model[0].weight.eq(0).all()


def test_states_of_every_dense_parameter_are_the_live_ones():
    model = network()
    optimizer = optimizer_of(model)
    step(model, optimizer)
    parameters = dict(model.named_parameters())
    found = dense_optimizer_tensors(optimizer, parameters)
    assert set(found) == {
        f"dense_optimizer.{name}.{key}"
        for name in parameters
        for key in ("step", "exp_avg", "exp_avg_sq")
    }
    assert found["dense_optimizer.0.weight.step"] == 1
    found["dense_optimizer.0.weight.exp_avg"].fill_(9)
    assert optimizer.state[model[0].weight]["exp_avg"].eq(9).all()


def test_a_table_has_one_name_sharded_or_not_and_no_other_table_has_it():
    model = nn.ModuleDict({"collections": nn.ModuleDict()})
    for collection, table in (
        ("dim_8", "city"),
        ("dim_8_replicated", "city_replicated"),
        ("dim_4_replicated", "age"),
    ):
        held = nn.ModuleDict({table: nn.Embedding(3, 2)})
        model["collections"][collection] = nn.ModuleDict({"embeddings": held})
    assert set(model_tensors(model)) == {
        "model.collections.dim_8.embeddings.city.weight",
        "model.collections.dim_8.embeddings.city_replicated.weight",
        "model.collections.dim_4.embeddings.age.weight",
    }


def test_asking_before_the_first_step_changes_nothing():
    asked, untouched = network(), network()
    optimizer, expected = optimizer_of(asked), optimizer_of(untouched)
    found = dense_optimizer_tensors(optimizer, dict(asked.named_parameters()))
    assert all(tensor.eq(0).all() for tensor in found.values())
    assert all(p.grad is None for p in asked.parameters())
    for _ in range(3):
        step(asked, optimizer)
        step(untouched, expected)
        for mine, other in zip(asked.parameters(), untouched.parameters(), strict=True):
            assert torch.equal(mine, other)


@pytest.mark.parametrize("scalars", [{}, {"iteration": 3, "rate": 0.5}])
def test_sparse_states_without_what_is_no_tensor(scalars):
    momentum = torch.ones(2)
    state = {"tables.item.weight": {"item.momentum1": momentum, **scalars}}
    model = SimpleNamespace(fused_optimizer=SimpleNamespace(state_dict=lambda: {"state": state}))
    assert sparse_optimizer_tensors(model) == {
        "sparse_optimizer.tables.item.weight.item.momentum1": momentum
    }
