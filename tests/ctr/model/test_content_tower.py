"""MAKE's tower: its numbers against a slow loop, and what learns when."""

import dataclasses

import numpy as np
import pytest
import torch

from ctr.config import EmbeddingConfig
from ctr.data.loader import BatchBuilder
from ctr.model.build import build_network
from ctr.model.content_tower import ContentTower
from ctr.model.gsu import STRATEGIES, Search, SearchShape
from ctr.model.trace import Trace
from ctr.model.windows import recent_windows
from ctr.schema import StoreError

LENGTH, WIDTH, HIDDEN = 10, 6, [7, 5]


@pytest.fixture
def catalog(catalog):
    """As the store has it, but with a fifth of the items without a vector."""
    random = torch.Generator().manual_seed(0)
    lost = torch.rand(len(catalog.inv_norm), generator=random) < 0.2
    return dataclasses.replace(catalog, inv_norm=catalog.inv_norm.masked_fill(lost, 0.0))


def make(catalog, activation="relu", frozen=False, sequence="recent"):
    torch.manual_seed(0)
    width = catalog.vectors.shape[1]
    return ContentTower(width, WIDTH, HIDDEN, activation, sequence, frozen)


def look(tower, batch, catalog):
    """Of the latest behaviours, which stand for picks, too: that search finds all of them."""
    ends = (batch.history_begin_B, batch.history_end_B, batch.history_offsets_U)
    picks = STRATEGIES["recent"](SearchShape(LENGTH, 0, 0))(Search(batch, catalog, None, None, {}))
    return tower(batch, catalog, recent_windows(batch.user_B, *ends, LENGTH), picks)


def by_hand(tower, batch, catalog, unit, sample):
    """The three parts of one sample and its attention weights, with numpy."""
    weight = {name: tensor.detach().numpy() for name, tensor in tower.named_parameters()}
    end = int(batch.history_end_B[sample])
    begin = max(int(batch.history_begin_B[sample]), end - LENGTH)
    base = int(batch.history_offsets_U[batch.user_B[sample]])
    items = batch.history_item_T[base + begin : base + end].numpy()
    known = (catalog.inv_norm.numpy() > 0) & (np.arange(len(unit)) > 0)
    item = int(batch.target_item_B[sample])
    there = known[items] & known[item]
    target = unit[item] * known[item] @ weight["project.weight"].T
    behaviours = unit[items[there]] @ weight["project.weight"].T
    share = 1 / (1 + np.exp(weight["threshold"] - weight["sharpness"] * behaviours @ target))
    attended = share @ behaviours
    x = vector = np.concatenate([attended, target, attended * target])
    activations = []
    for i in range(len(HIDDEN)):
        x = np.maximum(weight[f"hidden.{i}.0.weight"] @ x + weight[f"hidden.{i}.0.bias"], 0.0)
        activations.append(x)
    logit = weight["logit.weight"] @ x + weight["logit.bias"]
    return vector, np.concatenate(activations), logit, share


@pytest.mark.parametrize("shape", ["shared", "own", "picked"])
def test_every_number_is_that_of_a_slow_loop(shape, batch, store, catalog):
    """Many samples of a user share what is gathered of the latest; few have their own, as picks."""
    if shape == "own":
        split = store.split("train")
        rows = np.unique(split.user[:], return_index=True)[1][:40]
        batch = BatchBuilder(store, split, 60).build(rows, 40)
    # Windows that begin late, end early, and some that hold nothing.
    half_B = batch.history_end_B // 2
    end_B = torch.where(batch.user_B % 5 == 0, batch.history_begin_B, batch.history_end_B)
    batch = dataclasses.replace(
        batch, history_begin_B=torch.minimum(half_B, end_B), history_end_B=end_B
    )
    tower = make(catalog, sequence="retrieved" if shape == "picked" else "recent")
    with torch.no_grad():
        for parameter in tower.parameters():
            parameter.normal_(std=0.7)
        parts, weights = look(tower, batch, catalog)
    unit = (catalog.vectors.float() * catalog.inv_norm[:, None]).numpy()
    shares = []
    for sample in range(len(batch)):
        *expected, share = by_hand(tower, batch, catalog, unit, sample)
        for name, values in zip(("vector", "activations", "logit"), expected, strict=True):
            found = parts[f"make.{name}"][sample].numpy()
            np.testing.assert_allclose(found, values, atol=2e-5, rtol=1e-4, err_msg=name)
        given = weights[f"{tower.sequence}.make"][sample].numpy()
        np.testing.assert_allclose(np.sort(given[given > 0]), np.sort(share), atol=2e-5)
        shares.append(len(share))
    unknown = (catalog.inv_norm[batch.target_item_B] == 0).sum()
    assert unknown > 0, "every target has a vector"
    assert 0 in shares
    assert max(shares) > 2


def test_what_joins_has_the_width_that_is_told(batch, catalog):
    tower = make(catalog)
    parts, _ = look(tower, batch, catalog)
    assert tower.width == sum(part.shape[1] for part in parts.values()) == 18 + 12 + 1


def test_a_frozen_tower_changes_in_no_way(batch, catalog):
    """Nor do Dice's running statistics, and it takes the step's samples by them."""
    open_tower, frozen = (make(catalog, "dice", frozen).train() for frozen in (False, True))
    before = {name: tensor.clone() for name, tensor in open_tower.state_dict().items()}
    parts, _ = look(frozen, batch, catalog)
    assert not any(part.requires_grad for part in parts.values())
    assert all(torch.equal(before[n], tensor) for n, tensor in frozen.state_dict().items())
    as_evaluated, _ = look(open_tower.eval(), batch, catalog)
    assert torch.equal(parts["make.logit"], as_evaluated["make.logit"])
    learning, _ = look(open_tower.train(), batch, catalog)
    assert learning["make.logit"].requires_grad
    after = open_tower.state_dict()
    changed = [name for name in after if not torch.equal(before[name], after[name])]
    assert changed == [f"hidden.{i}.1.running_{what}" for i in (0, 1) for what in ("mean", "var")]


@pytest.mark.parametrize(("sequence", "gsu"), [("recent", "none"), ("retrieved", "cosine")])
def test_pre_training_has_the_tower_and_nothing_else(sequence, gsu, batch, store, catalog, config):
    model = dataclasses.replace(
        config.model,
        **{"recent_attention": [], "retrieved_attention": [], "means": [], "simtier": "none"},
        **{"content_tower": HIDDEN, "content_tower_on": sequence, "gsu": gsu, "head": "content"},
    )
    network = build_network(store.schema, catalog, model, EmbeddingConfig()).train()
    trace = Trace()
    logit_B = network(batch, trace)
    torch.nn.functional.binary_cross_entropy_with_logits(logit_B, batch.label_B).backward()
    assert all(name.startswith("content.") for name, _ in network.named_parameters())
    assert all(p.grad is not None and p.grad.any() for p in network.parameters())
    mask = trace.recent_mask_BP if gsu == "none" else trace.retrieved.mask_BK
    (weight,) = trace.weights.values()
    assert weight.shape == mask.shape
    assert weight[mask].any()
    assert not weight[~mask].any()


@pytest.mark.parametrize("frozen", [False, True])
def test_in_the_id_model_its_parts_are_inputs_of_the_head(frozen, batch, store, catalog, config):
    def built(**changes):
        model = dataclasses.replace(config.model, **changes)
        return build_network(store.schema, catalog, model, EmbeddingConfig()).train()

    with_tower = {"content_tower": HIDDEN, "content_tower_dim": WIDTH}
    network = built(**with_tower, content_tower_frozen=frozen)
    width = network.content.width
    assert network.head.input_width == built().head.input_width + width
    trace = Trace()
    network(batch, trace).sum().backward()
    joined = [part for name, part in trace.parts.items() if name.startswith("make.")]
    assert sum(part.shape[1] for part in joined) == width
    assert len(joined) == 3
    assert all((p.grad is None) == frozen for p in network.content.parameters())


def test_a_store_without_vectors_is_refused(store, catalog, config):
    schema = dataclasses.replace(store.schema, vectors=None)
    plain = {"gsu": "none", "simtier": "none", "content_tower": HIDDEN}
    model = dataclasses.replace(config.model, **plain)
    with pytest.raises(StoreError, match=r"model\.content_tower=\[7, 5\] needs item vectors"):
        build_network(schema, catalog, model, EmbeddingConfig())
