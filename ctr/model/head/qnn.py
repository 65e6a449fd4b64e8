"""QIN's quadratic neural network.

Shape legend: B samples of this process, W width of the input, R rows.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from ctr.model.head.dropout import dropped, keep_mask
from ctr.model.head.fold import Foldable
from ctr.model.head.normalisation import BatchNorm


class QuadraticLayer(Foldable):
    """x + Dropout(PReLU(BatchNorm(y))), y = sum_r x * Dropout(A_r x + a_r) (arXiv 2504.17699).

    Without dropout the rows are one, y = x * (A x + a) with A = sum_r A_r and a = sum_r a_r, which
    takes R times less work; in evaluation BatchNorm is a scale and a shift, and so part of them.

    Args:
        width: W; rows: R; dropout: probability, of rows and of the layer's output.
    """

    def __init__(self, width: int, rows: int, dropout: float) -> None:
        super().__init__()
        self.rows, self.dropout = rows, dropout
        self.linear = nn.Linear(width, rows * width)
        self.norm = BatchNorm(width)
        self.activation = nn.PReLU()

    def forward(self, x_BW: Tensor) -> Tensor:
        """The layer's float [B, W] of float [B, W]."""
        if not self.training:
            matrix, vector, shift = self.derived()
            return x_BW + self.activation(x_BW * F.linear(x_BW, matrix, vector) + shift)
        y_BW = self.activation(self.norm(x_BW * self._row_sum(x_BW)))
        return x_BW + dropped(y_BW, self.dropout)

    def derive(self) -> tuple[Tensor, ...]:
        """Matrix [W, W], vector [W] and shift [W] of evaluation, with BatchNorm in them."""
        matrix, vector = self._summed()
        scale, shift = self.norm.running_map()
        return scale[:, None] * matrix, scale * vector, shift

    def _row_sum(self, x_BW: Tensor) -> Tensor:
        if not self.dropout:
            return F.linear(x_BW, *self._summed())
        h_BRW = self.linear(x_BW).unflatten(1, (self.rows, -1))
        # Scaled after the sum, where there are R times fewer numbers.
        kept_BW = (h_BRW * keep_mask(h_BRW, self.dropout)).sum(1, dtype=x_BW.dtype)
        return kept_BW * (1.0 / (1.0 - self.dropout))

    def _summed(self) -> tuple[Tensor, Tensor]:
        rows = (self.rows, -1)
        weight, bias = self.linear.weight, self.linear.bias
        return weight.unflatten(0, rows).sum(0), bias.unflatten(0, rows).sum(0)


class QuadraticHead(nn.Module):
    """QIN's ranking head: quadratic layers, then one logit (arXiv 2504.17699).

    Args:
        width: W; layers: how many.
        rows: R, of each; dropout: probability, in each.
    """

    def __init__(self, width: int, layers: int, rows: int, dropout: float) -> None:
        super().__init__()
        self.input_width = width
        self.layers = nn.Sequential(*(QuadraticLayer(width, rows, dropout) for _ in range(layers)))
        self.logit = nn.Linear(width, 1)
        # As the published results were trained: FuxiCTR starts every linear layer so.
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_normal_(module.weight)
                nn.init.zeros_(module.bias)

    def forward(self, x_BW: Tensor) -> Tensor:
        """Logit float [B] of float [B, W]."""
        # The residual stream stays in the precision of the weights under autocast.
        x_BW = x_BW.to(self.logit.weight.dtype)
        return self.logit(self.layers(x_BW)).squeeze(1)
