"""ESU parts against plain numpy of their formulas, masks included, and their gradients."""

import numpy as np
import pytest
import torch

from ctr.model.esu import (
    RecentAttention,
    SemanticAttention,
    SemanticAttentionPaper,
    SimTier,
    TargetAttention,
    masked_softmax,
)
from ctr.model.windows import recent_windows

B, K, V, E, D = 5, 7, 11, 6, 8


@pytest.fixture
def picked():
    torch.manual_seed(1)
    mask = torch.arange(K) < torch.tensor([[7], [3], [1], [0], [5]])
    return {
        "target_B": torch.randn(B, E),
        "behaviour_VE": torch.randn(V, E),
        "index_BK": torch.randint(0, V, (B, K)),
        "mask_BK": mask,
        "similarity_BK": torch.rand(B, K) * 2 - 1,
    }


def silu(x):
    return x / (1 + np.exp(-x))


def linear(layer, x):
    bias = 0 if layer.bias is None else layer.bias.detach().numpy()
    return x @ layer.weight.detach().numpy().T + bias


def attend(logits, mask, values):
    """One sample: softmax over what the mask keeps, zeros where it keeps nothing."""
    out = np.zeros(values.shape[1])
    if mask.any():
        weight = np.exp(logits[mask] - logits[mask].max())
        out = (weight / weight.sum()) @ values[mask]
    return out


def expected_interest(module, case):
    target = case["target_B"].numpy()
    rows = case["behaviour_VE"].numpy()[case["index_BK"].numpy()]
    similarity, mask = case["similarity_BK"].numpy(), case["mask_BK"].numpy()
    result = []
    for b in range(B):
        query = linear(module.query, target[b])
        if isinstance(module, TargetAttention):
            keys = values = linear(module.fact, rows[b])
            logits = keys @ query
        else:
            keys, values = linear(module.key, rows[b]), linear(module.value, rows[b])
            mix = module.mix.detach().numpy()
            if isinstance(module, SemanticAttention):
                dot = silu(keys) @ silu(query)
                m = similarity[b] / float(module.tau.detach())
                values = silu(values)
            else:
                dot = keys @ query / np.sqrt(D)
                m = similarity[b]
            logits = mix[0] * dot + mix[1] * m + mix[2] * dot * m
        result.append(attend(logits, mask[b], values))
    return np.stack(result)


@pytest.mark.parametrize("kind", [SemanticAttention, SemanticAttentionPaper, TargetAttention])
def test_attention_equals_its_formula(kind, picked):
    module = kind(E, E, D)
    actual = module(**picked).detach().numpy()
    np.testing.assert_allclose(actual, expected_interest(module, picked), atol=1e-5)
    assert (actual[3] == 0).all(), "a sample without picks must have no interest"


@pytest.mark.parametrize("kind", [SemanticAttention, SemanticAttentionPaper, TargetAttention])
def test_masked_picks_have_no_weight(kind, picked):
    module = kind(E, E, D)
    before = module(**picked)
    hidden = ~picked["mask_BK"]
    picked["index_BK"] = picked["index_BK"].masked_fill(hidden, V - 1)
    picked["similarity_BK"] = picked["similarity_BK"].masked_fill(hidden, 1.0)
    assert torch.equal(module(**picked), before)


@pytest.mark.parametrize("kind", [SemanticAttention, SemanticAttentionPaper, TargetAttention])
def test_attention_gradients(kind, picked):
    module = kind(E, E, D).double()
    case = {k: v.double() if v.is_floating_point() else v for k, v in picked.items()}
    names = list(dict(module.named_parameters()))

    def run(target, rows, *weights):
        given = {**case, "target_B": target, "behaviour_VE": rows}
        return torch.func.functional_call(module, dict(zip(names, weights, strict=True)), (), given)

    leaves = [case["target_B"], case["behaviour_VE"], *module.parameters()]
    leaves = [x.detach().clone().requires_grad_() for x in leaves]
    assert torch.autograd.gradcheck(run, leaves)


def test_simtier_code_form():
    tier = SimTier("code", 22)
    similarity = torch.tensor([[-1.0, -0.95, 0.0, 0.05, 0.1, 1.0, 0.3]])
    mask = torch.tensor([[True, True, True, True, True, True, False]])
    counts = np.zeros(22)
    for r in similarity[0, :6].tolist():
        counts[int(np.ceil(np.float32(10.0) * np.float32(r))) + 10] += 1
    expected = np.log(counts + 1) * tier.scale.detach().numpy()
    np.testing.assert_allclose(tier(similarity, mask)[0].detach().numpy(), expected, rtol=1e-6)
    tier(similarity, mask).sum().backward()
    np.testing.assert_allclose(tier.scale.grad.numpy(), np.log(counts + 1), rtol=1e-6)


@pytest.mark.parametrize("bins", [1, 4, 20])
def test_simtier_paper_form(bins):
    torch.manual_seed(0)
    similarity = torch.rand(3, 2, 40) * 2 - 1
    similarity[0, 0, :2] = torch.tensor([-1.0, 1.0])
    mask = torch.rand(3, 2, 40) < 0.7
    actual = SimTier("paper", bins)(similarity, mask)
    edges = np.linspace(-1, 1, bins + 1)
    for i in range(3):
        for j in range(2):
            kept = similarity[i, j][mask[i, j]].numpy()
            assert actual[i, j].tolist() == np.histogram(kept, edges)[0].tolist()
    assert actual.sum() == mask.sum()


@pytest.mark.parametrize("form", ["code", "paper"])
@pytest.mark.parametrize("lead", [(6,), (3, 4)])
def test_simtier_equals_plain_torch_bit_for_bit(form, lead):
    """Under autocast too: tiers and their gradient must not depend on the precision."""
    torch.manual_seed(4)
    tier = SimTier(form, 22)
    similarity, mask = torch.rand(*lead, 50) * 2 - 1, torch.rand(*lead, 50) < 0.8
    if form == "code":
        number = torch.ceil(similarity * 10.0) + 10.0
    else:
        number = torch.floor((similarity + 1.0) * 11.0)
    one_hot = torch.nn.functional.one_hot(number.clamp(0, 21).long(), 22)
    expected = (one_hot * mask[..., None]).sum(dim=-2).float()
    if tier.scale is not None:
        expected = torch.log1p(expected) * tier.scale
    for enabled in (False, True):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            actual = tier(similarity, mask)
        assert actual.dtype == torch.float32
        assert torch.equal(actual, expected)
        if tier.scale is not None:
            grad = torch.randn_like(expected)
            (actual_grad,) = torch.autograd.grad(actual, tier.scale, grad)
            (expected_grad,) = torch.autograd.grad(expected, tier.scale, grad, retain_graph=True)
            assert torch.equal(actual_grad, expected_grad)


def test_masked_softmax_keeps_nothing_of_nothing():
    weight = masked_softmax(torch.randn(2, 3), torch.tensor([[True, False, True], [False] * 3]))
    assert weight[0, 1] == 0
    assert weight[1].tolist() == [0, 0, 0]
    assert float(weight[0].sum()) == pytest.approx(1.0)


def test_recent_attention_is_target_attention_over_each_window():
    torch.manual_seed(2)
    user = torch.tensor([0, 0, 0, 1, 2])
    end = torch.tensor([0, 4, 9, 3, 20])
    begin = torch.zeros_like(end)
    windows = recent_windows(user, begin, end, torch.tensor([0, 9, 12, 40]), 5)
    behaviours, targets = torch.randn(40, E), torch.randn(5, E)
    module = RecentAttention(E, E, D)
    interest, mean = module(targets, behaviours[windows.position_R], windows)
    base = [0, 0, 0, 9, 12]
    for i in range(5):
        rows = behaviours[base[i] + max(int(end[i]) - 5, 0) : base[i] + int(end[i])].numpy()
        fact = linear(module.fact, rows)
        logits = fact @ linear(module.query, targets[i].numpy())
        expected = attend(logits, np.ones(len(rows), dtype=bool), fact)
        np.testing.assert_allclose(interest[i].detach().numpy(), expected, atol=1e-5)
        wanted = rows.mean(axis=0) if len(rows) else np.zeros(E)
        np.testing.assert_allclose(mean[i].detach().numpy(), wanted, atol=1e-6)
