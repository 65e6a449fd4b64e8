"""Embedding tables as TorchRec collections, looked up once per distinct id.

Shape legend: n ids of one table in a step, V distinct ones, D width of the table.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torchrec import EmbeddingCollection, EmbeddingConfig, KeyedJaggedTensor


@dataclass(frozen=True)
class TableShape:
    """Rows (row 0 is padding and unknown) and width of an embedding table."""

    rows: int
    dim: int


class EmbeddingTables(nn.Module):
    """All embedding tables, shared by whatever refers to them.

    An EmbeddingCollection holds tables of one width, so there is one collection a width. Each
    table is one feature of a KeyedJaggedTensor of batch size 1: its ids in this step, whatever
    their number, which lets every table have its own count of distinct ids.

    Args:
        tables: shape of each table.
        init_std: of the truncated normal that the weights start from.

    Attributes:
        drop_nonfinite: leave a row as it is where its gradient is not finite. The update is part
            of the backward pass, so that nobody after it could.
    """

    def __init__(self, tables: dict[str, TableShape], init_std: float) -> None:
        super().__init__()
        self.dims = {name: shape.dim for name, shape in tables.items()}
        self.drop_nonfinite = False

        def initialise(weight: Tensor) -> Tensor:
            return nn.init.trunc_normal_(weight, std=init_std, a=-2 * init_std, b=2 * init_std)

        self.collections = nn.ModuleDict()
        for dim in sorted(set(self.dims.values())):
            configs = [
                EmbeddingConfig(
                    name=name,
                    embedding_dim=dim,
                    num_embeddings=shape.rows,
                    feature_names=[name],
                    init_fn=initialise,
                )
                for name, shape in sorted(tables.items())
                if shape.dim == dim
            ]
            self.collections[f"dim_{dim}"] = EmbeddingCollection(
                tables=configs, device=torch.device("cpu")
            )

    def forward(self, ids: dict[str, Tensor]) -> dict[str, Tensor]:
        """Embeddings of ids, table by table; each distinct id travels once.

        Args:
            ids: int64 [n] for any of the tables.

        Returns:
            float32 [n, D] for the same tables, in the order of the ids.
        """
        unknown = ids.keys() - self.dims.keys()
        if unknown:
            raise KeyError(f"no embedding table {', '.join(sorted(unknown))}")
        found: dict[str, Tensor] = {}
        for key, collection in self.collections.items():
            names = [n for n in sorted(self.dims) if f"dim_{self.dims[n]}" == key]
            some = next(iter(ids.values()))
            distinct, inverse = {}, {}
            for name in names:
                wanted = ids.get(name)
                # A table that this step does not use still takes part in the collective.
                wanted = some.new_zeros(0) if wanted is None else wanted
                distinct[name], inverse[name] = torch.unique(wanted, return_inverse=True)
            lengths = torch.tensor([distinct[n].numel() for n in names], device=some.device)
            jagged = KeyedJaggedTensor(
                keys=names, values=torch.cat([distinct[n] for n in names]), lengths=lengths.int()
            )
            rows = collection(jagged)
            for name in names:
                if name in ids:
                    values_VD = rows[name].values()
                    if self.drop_nonfinite and values_VD.requires_grad:
                        values_VD.register_hook(_finite_rows)
                    found[name] = values_VD.index_select(0, inverse[name])
        return found


def _finite_rows(grad_VD: Tensor) -> Tensor:
    return torch.where(grad_VD.isfinite().all(dim=1, keepdim=True), grad_VD, 0.0)
