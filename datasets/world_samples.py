"""Which items the users of the synthetic world are shown, and which they click."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from datasets.world_truth import Catalogue, People, WorldSize, style_match

SPLITS = ("train", "test")
OLD_SHARE = 0.6
_WARM_SHARE = 0.9
_NEW_TARGETS = 0.8
_POPULARITY = 2.5
# liked style, other style of a liked category, twin of a liked style, style of the moment, any
_KINDS = (0.22, 0.26, 0.14, 0.14, 0.24)
_LIFELONG_WEIGHT = 3.6
_RECENT_WEIGHT = 1.8
_QUALITY_WEIGHT = 0.9
_ACTIVITY_WEIGHT = 0.4


class Split(Protocol):
    """Users of the splits (`datasets.world.Population`)."""

    @property
    def train(self) -> NDArray[np.int64]:
        """Users of the training split."""

    @property
    def test(self) -> NDArray[np.int64]:
        """Users of the test split."""


@dataclass(frozen=True)
class Exposure:
    """Samples of a split and the truth behind them.

    Args:
        user: int64 [S].
        item: int64 [S].
        label: uint8 [S].
        probability: of a click, float32 [S].
        lifelong_match: closeness to the styles liked for life, float32 [S].
        recent_match: closeness to the styles of the moment, float32 [S].
    """

    user: NDArray[np.int64]
    item: NDArray[np.int64]
    label: NDArray[np.uint8]
    probability: NDArray[np.float32]
    lifelong_match: NDArray[np.float32]
    recent_match: NDArray[np.float32]


def _target_styles(
    catalogue: Catalogue, people: People, user: NDArray[np.int64], random: np.random.Generator
) -> NDArray[np.int64]:
    count = len(user)
    liked = people.liked[user].reshape(count, -1)
    choice = random.integers(0, liked.shape[1], count)
    # Among liked styles prefer one with a twin for the samples that show a twin.
    luck = random.random(liked.shape) + (catalogue.twin[liked] >= 0)
    twinned = liked[np.arange(count), luck.argmax(axis=1)]
    twin = catalogue.twin[twinned]
    slot = random.integers(0, people.category.shape[1], count)
    category = people.category[user, slot]
    other = category * catalogue.styles + random.integers(0, catalogue.styles, count)
    moment = people.recent[user, random.integers(0, people.recent.shape[1], count)]
    anything = random.integers(0, len(catalogue.twin), count)
    kinds = np.stack(
        [
            liked[np.arange(count), choice],
            other,
            np.where(twin >= 0, twin, other),
            moment,
            anything,
        ]
    )
    kind = random.choice(len(_KINDS), count, p=_KINDS)
    styles: NDArray[np.int64] = kinds[kind, np.arange(count)]
    return styles


def _target_items(
    catalogue: Catalogue, style: NDArray[np.int64], newest: float, random: np.random.Generator
) -> NDArray[np.int64]:
    """Mostly items too new for histories; `newest` bounds how new."""
    start = catalogue.style_start[style]
    counts = catalogue.style_start[style + 1] - start
    fresh = random.random(len(style)) < _NEW_TARGETS
    place = np.where(fresh, OLD_SHARE, 0.0)
    # A few items of a style are shown often, so that their ids can learn how good they are.
    place += (newest - place) * random.random(len(style)) ** _POPULARITY
    return start + np.minimum((place * counts).astype(np.int64), counts - 1)


def _bias_for(rate: float, logits: NDArray[np.float64]) -> float:
    """The constant that brings the mean probability to `rate`, by bisection."""
    low, high = -30.0, 30.0
    for _ in range(60):
        middle = (low + high) / 2
        if float(np.mean(1 / (1 + np.exp(-(logits + middle))))) < rate:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def make_exposure(
    size: WorldSize,
    catalogue: Catalogue,
    people: People,
    population: Split,
    random: np.random.Generator,
) -> Mapping[str, Exposure]:
    """Draw the samples of both splits.

    Args:
        size: of the world.
        catalogue: items and styles.
        people: what users like.
        population: users of the splits.
        random: source of randomness.

    Returns:
        Samples by split, grouped by user.
    """
    shown = {}
    for split, users in zip(SPLITS, (population.train, population.test), strict=True):
        times = np.maximum(1, random.poisson(size.samples_per_user, len(users)))
        user = np.repeat(users, times)
        style = _target_styles(catalogue, people, user, random)
        newest = _WARM_SHARE if split == "train" else 1.0
        item = _target_items(catalogue, style, newest, random)
        lifelong = style_match(catalogue, style, people.liked[user].reshape(len(user), -1))
        recent = style_match(catalogue, style, people.recent[user])
        shown[split] = (user, item, lifelong, recent)
    logits = {
        split: (
            _LIFELONG_WEIGHT * lifelong
            + _RECENT_WEIGHT * recent
            + _QUALITY_WEIGHT * catalogue.quality[item]
            + _ACTIVITY_WEIGHT * people.activity[user]
        ).astype(np.float64)
        for split, (user, item, lifelong, recent) in shown.items()
    }
    bias = _bias_for(size.click_rate, np.concatenate(list(logits.values())))
    result = {}
    for split, (user, item, lifelong, recent) in shown.items():
        probability = 1 / (1 + np.exp(-(logits[split] + bias)))
        label = (random.random(len(user)) < probability).astype(np.uint8)
        result[split] = Exposure(
            user, item, label, probability.astype(np.float32), lifelong, recent
        )
    return result
