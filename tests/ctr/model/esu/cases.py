"""Small sequences of both shapes, and the behaviours of each sample as numpy rows."""

from dataclasses import dataclass

import numpy as np
import torch

from ctr.model.sequences import Picks, Sequence, Stretches
from ctr.model.windows import recent_windows

B, K, V, E, I, D = 5, 7, 11, 6, 4, 8


@dataclass(frozen=True)
class Case:
    """A sequence, what each sample sees of it (row and similarity, in order), and targets."""

    sequence: Sequence
    seen: list[tuple[np.ndarray, np.ndarray]]
    target_B: torch.Tensor


def picks() -> Case:
    """Own behaviours of each sample; the fourth has none."""
    torch.manual_seed(1)
    mask = torch.arange(K) < torch.tensor([[7], [3], [1], [0], [5]])
    rows, index = torch.randn(V, E), torch.randint(0, V, (B, K))
    similarity = torch.rand(B, K) * 2 - 1
    seen = [(rows[index[b][mask[b]]].numpy(), similarity[b][mask[b]].numpy()) for b in range(B)]
    return Case(Picks(rows, index, mask, mask, similarity), seen, torch.randn(B, I))


def stretches() -> Case:
    """Overlapping stretches of three users' histories, one of them empty."""
    torch.manual_seed(2)
    user, end = torch.tensor([0, 0, 0, 1, 2]), torch.tensor([0, 4, 9, 3, 20])
    begin, offsets = torch.zeros_like(end), torch.tensor([0, 9, 12, 40])
    windows = recent_windows(user, begin, end, offsets, 5)
    behaviours = torch.randn(40, E)
    sequence = Stretches(
        behaviours[windows.position_R],
        windows,
        windows.mask_GnP,
        torch.rand(windows.mask_GnP.shape) * 2 - 1,
    )
    similarity, mask = (sequence.per_sample(x) for x in (sequence.similarity, windows.mask_GnP))
    seen = []
    for b in range(B):
        last = int(offsets[user[b]] + end[b])
        rows = behaviours[max(last - 5, int(offsets[user[b]])) : last].numpy()
        seen.append((rows, similarity[b][mask[b]].numpy()))
    return Case(sequence, seen, torch.randn(B, I))


def linear(layer: torch.nn.Linear, x: np.ndarray) -> np.ndarray:
    """The layer in numpy."""
    bias = 0 if layer.bias is None else layer.bias.detach().numpy()
    return x @ layer.weight.detach().numpy().T + bias


def attend(logits: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Softmax of one sample's logits over its values; zeros where it has none."""
    if not len(logits):
        return np.zeros(values.shape[1])
    weight = np.exp(logits - logits.max())
    return (weight / weight.sum()) @ values
