"""SDIM against numpy of its equation, sample by sample.

Shape legend: B samples, V distinct behaviours, I width of an item, E width of a behaviour.
"""

import dataclasses

import numpy as np
import pytest
import torch

from ctr.model.esu import HashedInterest, sdim
from tests.ctr.model.histories import WINDOWS, E, I, histories


def interest(unit, given, sample):
    """1 / (m / tau) sum over groups of l2(sum of behaviours with the target's signature)."""
    directions = unit.hash.directions.numpy()
    rows_VE, events = given.rows_VE.numpy().astype(np.float64), given.seen(sample)
    bits_V = given.rows_VE[:, :I].numpy() @ directions > 0
    own = given.target_BI[sample].numpy() @ directions > 0
    found = np.zeros(rows_VE.shape[1])
    groups = directions.shape[1] // unit.group
    for g in range(groups):
        bits = slice(g * unit.group, (g + 1) * unit.group)
        same = [row for row in given.index_T[events] if (bits_V[row, bits] == own[bits]).all()]
        total = rows_VE[same].sum(axis=0)
        found += total / max(np.linalg.norm(total), 1e-12) / groups
    return found


def run(unit, given, rows_VE=None):
    rows_VE = given.rows_VE if rows_VE is None else rows_VE
    return unit(given.target_BI, rows_VE, given.index_T, given.batch)


def many_windows():
    """One user whose samples have all different windows, among two others."""
    torch.manual_seed(8)
    bounds = torch.randint(0, 151, (2, 37)).sort(dim=1).values
    begin, end = bounds.min(dim=0).values, bounds.max(dim=0).values
    own = [(1, int(a), int(b)) for a, b in zip(begin, end.sort().values, strict=True)]
    return histories([(0, 2, 5), *own, (2, 0, 4)], [5, 150, 9], items=60, seed=9)


@pytest.mark.parametrize(("hashes", "group"), [(48, 3), (6, 1), (8, 8)])
@pytest.mark.parametrize("make", [histories, many_windows])
def test_the_interest_equals_its_formula(make, hashes, group):
    given, unit = make(), HashedInterest(I, E, hashes, group)
    found = run(unit, given)
    assert found.shape == (len(given.batch), unit.width)
    for sample in range(len(given.batch)):
        np.testing.assert_allclose(found[sample], interest(unit, given, sample), atol=1e-5)
        if not len(given.seen(sample)):
            assert not found[sample].any()


def test_gradients():
    given, unit = histories(), HashedInterest(I, E, 6, 2)
    rows_VE = given.rows_VE.double().requires_grad_()
    assert torch.autograd.gradcheck(lambda rows: run(unit, given, rows), rows_VE, fast_mode=True)


def test_every_behaviour_that_is_seen_and_collides_learns_and_no_other():
    given, unit = histories(), HashedInterest(I, E, 48, 1)
    rows_VE = given.rows_VE.clone().requires_grad_()
    run(unit, given, rows_VE).square().sum().backward()
    events = np.concatenate([given.seen(sample) for sample in range(len(WINDOWS))])
    seen_V = torch.zeros(len(rows_VE), dtype=torch.bool)
    seen_V[given.index_T[events]] = True
    assert torch.equal(rows_VE.grad.any(dim=1), seen_V)
    assert not seen_V.all()


@pytest.mark.parametrize("piece", [1, 7])
def test_pieces_change_nothing(piece, monkeypatch):
    given, unit = histories(), HashedInterest(I, E, 12, 3)

    def value_and_gradient():
        rows_VE = given.rows_VE.clone().requires_grad_()
        found = run(unit, given, rows_VE)
        found.sum().backward()
        return found.detach(), rows_VE.grad

    expected = value_and_gradient()
    monkeypatch.setattr(sdim, "_PIECE", piece)
    found = value_and_gradient()
    assert torch.equal(found[0], expected[0])
    torch.testing.assert_close(found[1], expected[1])


def test_what_a_sample_may_not_see_leaves_no_trace():
    """Not even in the last bit, and however large it is."""
    given, unit = many_windows(), HashedInterest(I, E, 48, 3)
    expected = run(unit, given)
    for sample in range(len(given.batch)):
        base = int(given.batch.history_offsets_U[given.batch.user_B[sample]])
        inside_T = torch.zeros(len(given.index_T), dtype=torch.bool)
        begin, end = given.batch.history_begin_B[sample], given.batch.history_end_B[sample]
        inside_T[base + begin : base + end] = True
        rows_VE = torch.cat([given.rows_VE, given.rows_VE * 1e6 + 1])
        index_T = torch.where(inside_T, given.index_T, given.index_T + len(given.rows_VE))
        found = run(unit, dataclasses.replace(given, rows_VE=rows_VE, index_T=index_T))
        assert torch.equal(found[sample], expected[sample])


def test_the_precision_of_training_changes_nothing():
    given, unit = histories(), HashedInterest(I, E, 48, 3)
    expected = run(unit, given)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(run(unit, given), expected)
    half = dataclasses.replace(given, rows_VE=given.rows_VE.bfloat16())
    assert run(unit, half).dtype == torch.float32
    whole = dataclasses.replace(given, rows_VE=half.rows_VE.float())
    assert torch.equal(run(unit, half), run(unit, whole))


def test_an_empty_batch():
    unit = HashedInterest(I, E, 48, 3)
    assert run(unit, histories([], [])).shape == (0, E)
    assert not run(unit, histories([(0, 0, 0)], [0])).any()
