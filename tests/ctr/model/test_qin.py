"""The published sizes of QIN (arXiv 2504.17699, and its public logs)."""

import dataclasses

import pytest
import torch
import yaml

from ctr.config import EmbeddingConfig, ModelConfig
from ctr.model.build import build_network
from ctr.model.catalog import ItemCatalog
from ctr.schema import FeatureSpec, StoreSchema, VectorSpec


def microlens() -> StoreSchema:
    """The features and table sizes of MicroLens_1M_x1."""
    return StoreSchema(
        name="microlens",
        table_rows={"item": 91_718, "tag": 11_740, "likes_level": 11, "views_level": 11},
        user=(),
        item=(FeatureSpec("tags", "tag", 5),),
        event=(),
        sample=(
            FeatureSpec("likes_level", "likes_level"),
            FeatureSpec("views_level", "views_level"),
        ),
        max_history=64,
        vectors=VectorSpec(128, "float32", 91_717),
        splits={},
        digest="",
    )


@pytest.mark.parametrize(("rows", "published"), [(4, 31_244_293), (3, 27_045_893)])
def test_qin_has_the_published_number_of_parameters(rows, published, repository):
    group = repository / "conf" / "model"
    keys = yaml.safe_load((group / "muse.yaml").read_text())
    keys |= yaml.safe_load((group / "qin.yaml").read_text())
    keys.pop("defaults")
    model = dataclasses.replace(ModelConfig(**keys), head_rows=rows)
    model.validate()
    catalog = ItemCatalog({"tags": torch.zeros(91_718, 5, dtype=torch.int32)}, None, None)
    embedding = EmbeddingConfig(dim=128, narrow_below=0)
    costs = build_network(microlens(), catalog, model, embedding).costs()
    assert costs["parameters_embedding"] + costs["parameters_dense"] == published
