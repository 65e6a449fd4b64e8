"""Each strategy against its definition, sample by sample."""

import pytest
import torch

from ctr.model.build import build_network
from ctr.model.gsu import CategorySearch, CosineSearch, IdSearch, RecentSearch, Search

K = 12


@pytest.fixture
def tables(store, catalog, config):
    torch.manual_seed(0)
    return build_network(store.schema, catalog, config.model, config.embedding).tables


@pytest.fixture
def search(batch, catalog, tables):
    def embed():
        raise AssertionError("none of these strategies asks for embedded behaviours")

    return Search(batch, catalog, tables, embed, {})


def visible(batch, i):
    """Flat indices that sample i may see."""
    base = int(batch.history_offsets_U[batch.user_B[i]])
    return range(base + int(batch.history_begin_B[i]), base + int(batch.history_end_B[i]))


def picks(retrieved, i):
    return retrieved.index_BK[i][retrieved.mask_BK[i]].tolist()


def best(scored):
    """The K best (score, index), highest score and then latest first."""
    return [index for _, index in sorted(scored, reverse=True)[:K]]


def test_cosine(search, batch, catalog, tables):
    retrieved = CosineSearch(K)(search)
    known = catalog.inv_norm > 0
    for i in range(len(batch)):
        target = int(batch.target_item_B[i])
        scored = []
        for index in visible(batch, i):
            item = int(batch.history_item_T[index])
            if item and known[item] and target and known[target]:
                dot = (catalog.vectors[item].int() * catalog.vectors[target].int()).sum().float()
                scored.append(
                    (float(dot * catalog.inv_norm[item] * catalog.inv_norm[target]), index)
                )
        assert picks(retrieved, i) == best(scored)


def test_category(search, batch, catalog, tables):
    retrieved = CategorySearch(K)(search)
    category = catalog.features["category"]
    for i in range(len(batch)):
        wanted = category[batch.target_item_B[i]]
        scored = [
            (0, j)
            for j in visible(batch, i)
            if wanted and category[batch.history_item_T[j]] == wanted
        ]
        assert picks(retrieved, i) == best(scored)


def test_id_soft_follows_the_trained_tables(search, batch, catalog, tables):
    with torch.no_grad():
        for weight in tables.parameters():
            weight.normal_()
    retrieved = IdSearch(K)(search)
    weights = {
        config.name: collection.embeddings[config.name].weight.detach().double()
        for collection in tables.collections.values()
        for config in collection.embedding_configs()
    }
    items = torch.arange(weights["item"].shape[0])
    vectors = torch.cat(
        [weights["item"], weights["category"][catalog.feature_rows("category", items)]], dim=1
    )
    unit = vectors / vectors.norm(dim=1, keepdim=True)
    for i in range(len(batch)):
        seen = [j for j in visible(batch, i) if batch.history_item_T[j] != 0]
        if not seen:
            assert picks(retrieved, i) == []
            continue
        score = unit[batch.history_item_T[seen].long()] @ unit[batch.target_item_B[i]]
        found = picks(retrieved, i)
        assert len(found) == min(K, len(seen))
        where = {index: place for place, index in enumerate(seen)}
        chosen = torch.stack([score[where[j]] for j in found])
        expected = score.topk(len(found)).values
        torch.testing.assert_close(chosen, expected, atol=1e-6, rtol=0)


def test_recent(search, batch, catalog, tables):
    retrieved = RecentSearch(K)(search)
    for i in range(len(batch)):
        assert picks(retrieved, i) == list(visible(batch, i))[::-1][:K]


@pytest.mark.parametrize("strategy", [CosineSearch, CategorySearch, IdSearch, RecentSearch])
def test_more_picks_than_behaviours(strategy, search, batch, catalog, tables):
    retrieved = strategy(10_000)(search)
    length = batch.history_end_B - batch.history_begin_B
    assert (retrieved.mask_BK.sum(dim=1) <= length).all()
    assert retrieved.index_BK.shape == (len(batch), 10_000)
