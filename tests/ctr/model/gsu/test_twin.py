"""TWIN's picks against the logits of its attention, in numpy and in the network.

Shape legend: V distinct behaviours, I width of an item.
"""

import dataclasses

import numpy as np
import pytest
import torch

from ctr.model.build import build_network
from ctr.model.esu import TwinAttention, UnitShape
from ctr.model.gsu import RecentSearch, TwinSearch
from ctr.model.gsu.twin import in_turn
from ctr.model.trace import Trace
from ctr.schema import FeatureSpec
from tests.ctr.model.histories import WINDOWS, I, histories, picks

K = 6


def logits(unit, given, head, sample):
    """(K_h W^h)(q W^q)^T / sqrt(d) + (K_c W^c) beta of one head, for each distinct behaviour."""
    rows_VE, target_I = given.rows_VE.numpy(), given.target_BI[sample].numpy()
    d = unit.width // unit.heads
    own = slice(head * d, head * d + d)
    query, key = (layer.weight.detach().numpy()[own] for layer in (unit.query, unit.key))
    found_V = (rows_VE[:, :I] @ key.T) @ (query @ target_I) / np.sqrt(d)
    start = 0
    for j, width in enumerate(unit.sides):
        column = rows_VE[:, I + start : I + start + width]
        w = unit.cross[head, start : start + width].detach().numpy()
        found_V = found_V + column @ w * unit.beta[head, j].detach().numpy()
        start += width
    return found_V


def in_turn_of(rankings):
    """The first K different of all first, then of all second entries and so on."""
    found = []
    for place in range(max(map(len, rankings), default=0)):
        for ranking in rankings:
            if place < len(ranking) and ranking[place] not in found:
                found.append(ranking[place])
    return found[:K]


@pytest.mark.parametrize("heads", [1, 4])
@pytest.mark.parametrize("sides", [(2, 1), ()])
def test_the_picks_are_the_highest_logits_of_the_unit_as_it_is_now(heads, sides):
    """Small whole numbers, so that products are exact and ties are ties: the later event first."""
    given = histories()
    rows_VE = given.rows_VE[:, : I + sum(sides)].round()
    given = dataclasses.replace(given, rows_VE=rows_VE, target_BI=given.target_BI.round())
    unit = TwinAttention(UnitShape(I, sides, 16, heads))
    torch.manual_seed(heads)
    for _ in range(2):
        with torch.no_grad():
            for parameter in unit.parameters():
                parameter.normal_().round_()
        found = TwinSearch(K)(given.search(twin=unit))
        for sample in range(len(WINDOWS)):
            events = given.seen(sample)
            rankings = []
            for head in range(heads):
                logit_V = logits(unit, given, head, sample)
                order = sorted(events, key=lambda j: (logit_V[given.index_T[j]], j), reverse=True)
                rankings.append([int(event) for event in order])
            assert picks(found, sample) == in_turn_of(rankings)


def test_heads_in_turn():
    heads = [torch.tensor([[5, 3, 1, 0], [7, -1, -1, -1], [-1] * 4]).int()]
    heads.append(torch.tensor([[5, 9, 3, 2], [7, -1, -1, -1], [-1] * 4]).int())
    assert in_turn(heads, 4).tolist() == [[5, 3, 9, 1], [7, -1, -1, -1], [-1] * 4]
    assert in_turn(heads[:1], 4).tolist() == heads[0].tolist()
    assert in_turn([heads[0][:0], heads[1][:0]], 4).shape == (0, 4)


@pytest.mark.parametrize("sides", [0, 1])
def test_the_picks_get_the_highest_weights_of_attention_over_everything(
    sides, batch, store, catalog, config
):
    """The two stages agree: the network attends most to what its search would have picked."""
    longest = config.data.history_length
    schema = dataclasses.replace(store.schema, event=(FeatureSpec("liked", "category"),) * sides)
    torch.manual_seed(1)
    liked_T = torch.randint(0, 3, batch.history_item_T.shape).int()
    batch = dataclasses.replace(batch, history_events_T={"liked": liked_T})
    model = dataclasses.replace(
        config.model, gsu="twin", retrieved_attention=["twin"], simtier="none", heads=1
    )
    network = build_network(schema, catalog, model, config.embedding).eval()
    assert len(network.retrieved.units["twin"].sides) == sides
    with torch.no_grad():
        for weight in network.tables.parameters():
            weight.normal_()
        picked = network.search(batch)
        network.gsu = RecentSearch(longest)
        trace = Trace()
        network(batch, trace)
    weight_BL, every = trace.weights["retrieved.twin"], trace.retrieved
    weight_BL = weight_BL.masked_fill(batch.history_item_T[every.index_BK] == 0, -1.0)
    chosen = (every.index_BK[:, :, None] == picked.index_BK[:, None, :]) & picked.mask_BK[:, None]
    chosen_BL = chosen.any(dim=2) & every.mask_BK
    assert torch.equal(chosen_BL.sum(dim=1), picked.mask_BK.sum(dim=1))
    assert picked.mask_BK.all(dim=1).any()
    assert not picked.mask_BK.all()
    for chosen_L, weight_L in zip(chosen_BL, weight_BL, strict=True):
        count = int(chosen_L.sum())
        expected = weight_L.topk(count).values
        torch.testing.assert_close(
            weight_L[chosen_L].sort(descending=True).values, expected, atol=1e-6, rtol=1e-4
        )


def test_the_search_is_in_float32_and_every_parameter_learns(batch, store, catalog, config):
    model = dataclasses.replace(
        config.model, gsu="twin", retrieved_attention=["twin"], simtier="none"
    )
    torch.manual_seed(0)
    network = build_network(store.schema, catalog, model, config.embedding)
    expected = network.search(batch)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(network.search(batch).index_BK, expected.index_BK)
        network(batch).float().square().sum().backward()
    unit = network.retrieved.units["twin"]
    assert all(p.grad is not None and p.grad.any() for p in unit.parameters())
