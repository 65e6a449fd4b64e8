"""Histories of the synthetic world."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from datasets.world_samples import OLD_SHARE
from datasets.world_truth import STRETCHES, Catalogue, People, WorldSize

RECENT_EVENTS = 50
_LIFELONG_EVENTS = 0.65
_BROWSING_EVENTS = 0.17
_RECENT_EVENTS_SHARE = 0.7
_MISSING_EVENTS = 0.001
_WRONG_CATEGORIES = 0.0001
_EVENTS_OF_NEWER_ITEMS = 0.1


@dataclass(frozen=True)
class Histories:
    """Events of some users, one user after another, oldest first.

    Args:
        item: -1 = missing, int64 [T].
        category: int64 [T].
        length: events of each user, int64 [U].
    """

    item: NDArray[np.int64]
    category: NDArray[np.int64]
    length: NDArray[np.int64]


def make_histories(
    size: WorldSize,
    catalogue: Catalogue,
    people: People,
    users: NDArray[np.int64],
    later: NDArray[np.int64],
    seed: int,
) -> Histories:
    """Draw histories; the same user and seed give the same life whoever else is in the call.

    Args:
        size: of the world.
        catalogue: items and styles.
        people: what users like.
        users: int64 [U].
        later: events that happened after the history of the training split, int64 [U]; where
            they do not fit into `size.history_length` the oldest events fall out.
        seed: of the histories.
    """
    items, categories, lengths = [], [], []
    for user, extra in zip(users.tolist(), later.tolist(), strict=True):
        random = np.random.default_rng((seed, user))
        known = int(people.length[user])
        item, category = _life(size, catalogue, people, user, known, random)
        if extra:
            more_item, more_category = _life(size, catalogue, people, user, extra, random)
            item = np.concatenate([item, more_item])[-size.history_length :]
            category = np.concatenate([category, more_category])[-size.history_length :]
        items.append(item)
        categories.append(category)
        lengths.append(len(item))
    return Histories(np.concatenate(items), np.concatenate(categories), np.array(lengths, np.int64))


def _life(
    size: WorldSize,
    catalogue: Catalogue,
    people: People,
    user: int,
    length: int,
    random: np.random.Generator,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Items and categories of one user's events."""
    style = _styles(catalogue, people, user, length, random)
    start = catalogue.style_start[style]
    counts = catalogue.style_start[style + 1] - start
    newer = random.random(length) < _EVENTS_OF_NEWER_ITEMS
    # Squaring makes the first items of a style the popular ones; the newest tenth stays unseen.
    share = np.where(newer, 0.9, OLD_SHARE) * random.random(length) ** 2
    item = start + (share * counts).astype(np.int64)
    category = style // catalogue.styles
    wrong = random.random(length) < _WRONG_CATEGORIES
    category = np.where(wrong, random.integers(0, size.categories, length), category)
    item = np.where(random.random(length) < _MISSING_EVENTS, -1, item)
    return item, category


def _styles(
    catalogue: Catalogue, people: People, user: int, length: int, random: np.random.Generator
) -> NDArray[np.int64]:
    """Style of each event: liked for life, browsing in liked categories, popular, or recent."""
    several = people.category.shape[1]
    slot = random.integers(0, several, length)
    when = (np.arange(length) + random.normal(0, 0.03 * length + 1e-9, length)) / max(1, length)
    stretch = np.clip((when * STRETCHES).astype(np.int64), 0, STRETCHES - 1)
    liked = people.liked[user][slot, stretch]
    browsing = people.category[user][slot] * catalogue.styles + random.integers(
        0, catalogue.styles, length
    )
    popular = (len(catalogue.twin) * random.random(length) ** 3).astype(np.int64)
    kind = random.random(length)
    style = np.where(
        kind < _LIFELONG_EVENTS,
        liked,
        np.where(kind < _LIFELONG_EVENTS + _BROWSING_EVENTS, browsing, popular),
    )
    recent = people.recent[user][random.integers(0, people.recent.shape[1], length)]
    lately = np.arange(length) >= length - RECENT_EVENTS
    return np.where(lately & (random.random(length) < _RECENT_EVENTS_SHARE), recent, style)
