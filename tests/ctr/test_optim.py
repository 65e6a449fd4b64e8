"""What the optimizers do to a few weights, against the formulas and torch's own optimizers.

Shape legend: N rows of a table, D its width.
"""

import pytest
import torch
from torch import nn

from ctr.config import ClusterConfig, ConfigError, EmbeddingConfig, TrainerConfig
from ctr.model.embeddings import EmbeddingTables, TableShape
from ctr.optim import dense_optimizer, dense_parameters, fuse_sparse_optimizer
from ctr.sharding import shard

ROWS, DIM = 10, 8
SLOPE_D = torch.linspace(-1.0, 2.0, DIM)


class Scored(nn.Module):
    """Sums a linear function of the rows that are asked for, times a scale."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.tables = EmbeddingTables({"item": TableShape(ROWS, DIM)}, init_std=0.5)
        self.scale = nn.Parameter(torch.ones(1, 1))

    def forward(self, ids):
        return (self.tables({"item": ids["item"]})["item"] @ SLOPE_D * self.scale).sum()


def built(process, trainer, **settings):
    """A model as training has it, with its optimizer."""
    config = EmbeddingConfig(**settings)
    config.validate()
    network = Scored()
    fuse_sparse_optimizer(network.tables, config, process.device)
    model = shard(network, process, config, ClusterConfig())
    return model, dense_optimizer(model, network.tables.parameters(), trainer, config)


def step(model, optimizer, ids):
    model({"item": torch.tensor(ids)}).backward()
    optimizer.step()
    optimizer.zero_grad()


def table_of(model):
    (found,) = (t for n, t in model.state_dict().items() if n.endswith("item.weight"))
    return (found.local_shards()[0].tensor if hasattr(found, "local_shards") else found).clone()


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_rowwise_adagrad_adds_the_penalty_to_touched_rows_once(process, weight_decay):
    """Duchi et al.'s update with the mean square of a row; row 3 is asked for twice."""
    model, optimizer = built(process, TrainerConfig(), lr=0.1, weight_decay=weight_decay)
    before_ND = table_of(model)
    step(model, optimizer, [3, 7, 3])
    expected_ND = before_ND.clone()
    for row, times in ((3, 2), (7, 1)):
        grad_D = times * SLOPE_D + weight_decay * before_ND[row]
        expected_ND[row] -= 0.1 * grad_D / (grad_D.square().mean().sqrt() + 1e-8)
    torch.testing.assert_close(table_of(model), expected_ND, atol=1e-6, rtol=0)
    untouched = [row for row in range(ROWS) if row not in (3, 7)]
    assert torch.equal(table_of(model)[untouched], before_ND[untouched])


def test_dense_adam_is_torchs_adam_with_its_penalty_on_every_row(process):
    settings = {"optimizer": "dense_adam", "sharding": ["data_parallel"], "weight_decay": 0.1}
    trainer = TrainerConfig(lr=0.01, weight_decay=0.0)
    model, optimizer = built(process, trainer, lr=0.05, **settings)
    own = Scored()
    rates = [{"params": own.tables.parameters(), "lr": 0.05, "weight_decay": 0.1}]
    plain = torch.optim.Adam([*rates, {"params": [own.scale]}], lr=0.01)
    before_ND = table_of(model)
    assert torch.equal(table_of(own), before_ND)
    for ids in ([3, 7, 3], [2], [3, 2, 2]):
        step(model, optimizer, ids)
        step(own, plain, ids)
    torch.testing.assert_close(table_of(model), table_of(own), atol=1e-6, rtol=0)
    torch.testing.assert_close(dense_parameters(model)["scale"], own.scale, atol=1e-6, rtol=0)
    assert not (table_of(model) == before_ND).all(dim=1).any()


def test_without_decay_the_dense_part_is_updated_by_adam(process):
    model, optimizer = built(process, TrainerConfig(lr=0.01, weight_decay=0.0), lr=0.1)
    scale = dense_parameters(model)["scale"]
    own = nn.Parameter(scale.detach().clone())
    plain = torch.optim.Adam([own], lr=0.01)
    for slope in (1.0, -3.0, 0.2):
        for parameter, way in ((scale, optimizer), (own, plain)):
            parameter.grad = torch.full_like(parameter, slope)
            way.step()
    torch.testing.assert_close(scale, own)


def test_fused_adam_is_refused_on_a_cpu(process):
    config = EmbeddingConfig(optimizer="adam")
    with pytest.raises(ConfigError, match=r"no fused Adam for CPU; set .*dense_adam"):
        fuse_sparse_optimizer(nn.Module(), config, process.device)
