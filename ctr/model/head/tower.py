"""Tower of linear layers with an activation between them.

Shape legend: B samples of this process, W width of a layer.
"""

from __future__ import annotations

from torch import Tensor, nn

from ctr.model.head.dice import Dice


def _activation(name: str, width: int) -> nn.Module:
    if name == "dice":
        return Dice(width)
    return nn.PReLU(width) if name == "prelu" else nn.ReLU()


def hidden_layers(width: int, hidden: list[int], activation: str) -> list[nn.Module]:
    """Linear layers, each with its activation after it.

    Args:
        width: of the input; hidden: of the layers; activation: dice, prelu or relu.
    """
    layers: list[nn.Module] = []
    for out in hidden:
        layers += [nn.Linear(width, out), _activation(activation, out)]
        width = out
    return layers


class Tower(nn.Module):
    """Linear layers with an activation between them and one logit at the end.

    One logit under binary cross-entropy is the same model as the reference code's two-class
    softmax: softmax of two logits is the sigmoid of their difference. No activation touches the
    logit.

    Args:
        width: of the input; hidden: of the layers; activation: dice, prelu or relu.
    """

    def __init__(self, width: int, hidden: list[int], activation: str) -> None:
        super().__init__()
        self.input_width = width
        layers = hidden_layers(width, hidden, activation)
        self.layers = nn.Sequential(*layers, nn.Linear([width, *hidden][-1], 1))

    def forward(self, x_BW: Tensor) -> Tensor:
        """Logit float [B] of float [B, W]."""
        return self.layers(x_BW).squeeze(1)
