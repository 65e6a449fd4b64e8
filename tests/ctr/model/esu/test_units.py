"""Attention units against plain numpy of their formulas, on both shapes of sequences.

Shape legend: N behaviours that a sample sees, E width of a behaviour, D of an interest.
"""

import dataclasses

import numpy as np
import pytest
import torch

from ctr.model.esu import UNITS, UnitShape, masked_softmax
from tests.ctr.model.esu.cases import D, E, I, attend, linear, picks, stretches


def silu(x):
    return x / (1 + np.exp(-x))


def target_attention(unit, target, rows_NE, similarity_N):
    fact = linear(unit.fact, rows_NE)
    return attend(fact @ linear(unit.query, target), fact)


def sa_ta(unit, target, rows_NE, similarity_N):
    dot = silu(linear(unit.key, rows_NE)) @ silu(linear(unit.query, target))
    m = similarity_N / float(unit.tau.detach())
    b = unit.mix.detach().numpy()
    return attend(b[0] * dot + b[1] * m + b[2] * dot * m, silu(linear(unit.value, rows_NE)))


def sa_ta_paper(unit, target, rows_NE, similarity_N):
    a = linear(unit.key, rows_NE) @ linear(unit.query, target) / np.sqrt(D)
    g = unit.mix.detach().numpy()
    logits = g[0] * a + g[1] * similarity_N + g[2] * a * similarity_N
    return attend(logits, linear(unit.value, rows_NE))


def asta(unit, target, rows_NE, similarity_N):
    keys, values = linear(unit.key, rows_NE), linear(unit.value, rows_NE)
    weight = np.maximum(keys @ linear(unit.query, target) / np.sqrt(2 * I), 0)
    return linear(unit.out, weight @ values) + target


def multi_head(unit, target, rows_NE, similarity_N):
    d, found = D // HEADS, []
    for h in range(HEADS):
        own = slice(h * d, h * d + d)
        query, keys = linear(unit.query, target)[own], linear(unit.key, rows_NE)[:, own]
        values = linear(unit.value, rows_NE)[:, own]
        found.append(attend(keys @ query / np.sqrt(d), values))
    return linear(unit.out, np.concatenate(found))


def twin(unit, target, rows_NE, similarity_N):
    d, found = D // HEADS, []
    for h in range(HEADS):
        own = slice(h * d, h * d + d)
        query, keys = linear(unit.query, target)[own], linear(unit.key, rows_NE[:, :I])[:, own]
        logits = keys @ query / np.sqrt(d)
        for j, column in enumerate(range(I, E)):
            compressed = rows_NE[:, column] * float(unit.cross[h, j].detach())
            logits = logits + compressed * float(unit.beta[h, j].detach())
        found.append(attend(logits, linear(unit.value, rows_NE)[:, own]))
    return linear(unit.out, np.concatenate(found))


HEADS = 2
FORMULAS = {
    **{"target": target_attention, "multi_head": multi_head, "twin": twin},
    **{"sa_ta": sa_ta, "sa_ta_paper": sa_ta_paper, "asta": asta},
}


def make(name):
    torch.manual_seed(7)
    unit = UNITS[name](UnitShape(I, (1,) * (E - I), D, HEADS))
    with torch.no_grad():
        for parameter in unit.parameters():
            # Away from where several factors are 1 and a missing one would not show.
            parameter.add_(torch.rand_like(parameter) * 0.3)
    return unit


@pytest.mark.parametrize("case", [picks(), stretches()], ids=["picks", "stretches"])
@pytest.mark.parametrize("name", UNITS)
def test_a_unit_equals_its_formula(name, case):
    unit = make(name)
    interest, weights = unit(case.target_B, case.sequence)
    assert interest.shape == (len(case.seen), unit.width)
    assert weights.shape == case.sequence.mask.shape
    assert not weights[~case.sequence.mask].any()
    for b, (rows, similarity) in enumerate(case.seen):
        expected = FORMULAS[name](unit, case.target_B[b].numpy(), rows, similarity)
        np.testing.assert_allclose(interest[b].detach().numpy(), expected, atol=2e-5)


@pytest.mark.parametrize("name", UNITS)
def test_masked_picks_have_no_weight(name):
    unit, case = make(name), picks()
    before, _ = unit(case.target_B, case.sequence)
    hidden = ~case.sequence.mask
    other = dataclasses.replace(
        case.sequence,
        index_BK=case.sequence.index_BK.masked_fill(hidden, 10),
        similarity=case.sequence.similarity.masked_fill(hidden, 1.0),
    )
    assert not torch.equal(other.index_BK, case.sequence.index_BK)
    assert torch.equal(unit(case.target_B, other)[0], before)


@pytest.mark.parametrize("name", UNITS)
def test_gradients(name):
    unit, case = make(name).double(), picks()
    similarity = case.sequence.similarity.double()
    names = list(dict(unit.named_parameters()))

    def run(target, rows, *weights):
        sequence = dataclasses.replace(case.sequence, rows=rows, similarity=similarity)
        given = dict(zip(names, weights, strict=True))
        return torch.func.functional_call(unit, given, (target, sequence))[0]

    leaves = [case.target_B.double(), case.sequence.rows.double(), *unit.parameters()]
    leaves = [x.detach().clone().requires_grad_() for x in leaves]
    assert torch.autograd.gradcheck(run, leaves)


def test_asta_in_the_order_of_its_formula_has_the_same_gradients():
    """Reordering the products must not change what the four matrices learn."""
    unit, case = make("asta"), picks()
    unit(case.target_B, case.sequence)[0].square().sum().backward()
    found = {name: p.grad.clone() for name, p in unit.named_parameters()}
    unit.zero_grad()
    picked_BKE = case.sequence.rows[case.sequence.index_BK]
    query = unit.query(case.target_B)
    scores = torch.einsum("ba,bka->bk", query, unit.key(picked_BKE)) / np.sqrt(2 * I)
    weight = torch.relu(scores) * case.sequence.mask
    pooled = torch.einsum("bk,bka->ba", weight, unit.value(picked_BKE))
    (unit.out(pooled) + case.target_B).square().sum().backward()
    for name, parameter in unit.named_parameters():
        torch.testing.assert_close(found[name], parameter.grad, atol=1e-4, rtol=1e-4)


def test_masked_softmax_keeps_nothing_of_nothing():
    weight = masked_softmax(torch.randn(2, 3), torch.tensor([[True, False, True], [False] * 3]))
    assert weight[0, 1] == 0
    assert weight[1].tolist() == [0, 0, 0]
    assert float(weight[0].sum()) == pytest.approx(1.0)
