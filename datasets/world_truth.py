"""The planted truth of the synthetic world: items, users and what makes them click.

Styles are sub-clusters of categories. A user likes a few styles of a few categories for life, each
mostly in one stretch of the history, and two styles of the moment. Some styles have a twin of
nearly the same vector in another category.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from datasets.hashing import splitmix64

WIDTH = 128
STRETCHES = 3
RECENT_STYLES = 2
_CATEGORY_SHARE, _STYLE_SHARE, _NOISE_SHARE = 0.30, 0.45, 0.25
_TWIN_SHARE = 0.35
_TWIN_COSINE = 0.9


@dataclass(frozen=True)
class WorldSize:
    """How large the world is and which random seed makes it.

    Args:
        users: users of the training split.
        samples_per_user: mean samples of a user.
        history_length: events of the longest history.
        items: items of the catalogue.
        categories: categories of the catalogue.
        styles: styles of a category.
        test_share: users of the test split as a share of `users`.
        click_rate: mean label.
        seed: random seed.
    """

    users: int = 8000
    samples_per_user: int = 12
    history_length: int = 1000
    items: int = 60000
    categories: int = 200
    styles: int = 10
    test_share: float = 0.25
    click_rate: float = 0.14
    seed: int = 0


def raw_ids(kind: int, count: int) -> NDArray[np.int64]:
    """Distinct made-up ids over the whole int64 range, never 0.

    Args:
        kind: keeps ids of different kinds apart.
        count: how many.
    """
    base = np.uint64(kind) << np.uint64(40)
    ids = splitmix64(base + np.arange(count, dtype=np.uint64)).view(np.int64)
    return np.where(ids == 0, np.int64(1), ids)


def _unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    norms = np.linalg.norm(vectors, axis=-1, keepdims=True)
    unit: NDArray[np.float32] = (vectors / norms).astype(np.float32)
    return unit


def _directions(random: np.random.Generator, count: int) -> NDArray[np.float32]:
    return _unit(random.standard_normal((count, WIDTH), dtype=np.float32))


@dataclass(frozen=True)
class Catalogue:
    """Items and styles; a style's items are consecutive, older ones first.

    Args:
        style_centre: unit vectors, float32 [styles, WIDTH].
        twin: the style's near copy in another category, -1 where it has none, int64 [styles].
        style_start: first item of each style and the total, int64 [styles + 1].
        item_style: int64 [items].
        item_vector: int8 [items, WIDTH], zeros for items without a vector.
        quality: what item ids can tell, standard normal, float32 [items].
        styles: styles of a category.
    """

    style_centre: NDArray[np.float32]
    twin: NDArray[np.int64]
    style_start: NDArray[np.int64]
    item_style: NDArray[np.int64]
    item_vector: NDArray[np.int8]
    quality: NDArray[np.float32]
    styles: int


def make_catalogue(size: WorldSize, random: np.random.Generator) -> Catalogue:
    """Draw categories, styles and items.

    Args:
        size: of the world.
        random: source of randomness.
    """
    total = size.categories * size.styles
    category_of_style = np.repeat(np.arange(size.categories), size.styles)
    centre = _unit(
        np.sqrt(_CATEGORY_SHARE) * _directions(random, size.categories)[category_of_style]
        + np.sqrt(_STYLE_SHARE) * _directions(random, total)
    )
    twin = np.full(total, -1, np.int64)
    if size.categories > 1:
        pairs = random.permutation(total)[: int(_TWIN_SHARE * total) // 2 * 2].reshape(-1, 2)
        pairs = pairs[category_of_style[pairs[:, 0]] != category_of_style[pairs[:, 1]]]
        left, right = pairs.T
        twin[left], twin[right] = right, left
        own = np.sqrt(1 - _TWIN_COSINE**2) * _directions(random, len(right))
        centre[right] = _unit(_TWIN_COSINE * centre[left] + own)
    least = min(5, size.items // total)
    shares = random.dirichlet(np.full(total, 5.0))
    counts = least + random.multinomial(size.items - least * total, shares)
    start = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    item_style = np.repeat(np.arange(total), counts)
    vectors = np.zeros((size.items, WIDTH), np.int8)
    for first in range(0, size.items, 1 << 16):
        style = item_style[first : first + (1 << 16)]
        noise = _directions(random, len(style))
        unit = _unit(np.sqrt(1 - _NOISE_SHARE) * centre[style] + np.sqrt(_NOISE_SHARE) * noise)
        vectors[first : first + len(style)] = np.trunc(127 * np.clip(unit, -1, 1)).astype(np.int8)
    quality = random.standard_normal(size.items, dtype=np.float32)
    return Catalogue(centre, twin, start, item_style, vectors, quality, size.styles)


@dataclass(frozen=True)
class People:
    """What users like.

    Args:
        category: categories of lifelong interest, int64 [users, C].
        liked: liked styles of each, one for each stretch of life, int64 [users, C, STRETCHES].
        recent: styles of the moment, int64 [users, RECENT_STYLES].
        activity: inclination to click, standard normal, float32 [users].
        length: events of the history, int64 [users].
    """

    category: NDArray[np.int64]
    liked: NDArray[np.int64]
    recent: NDArray[np.int64]
    activity: NDArray[np.float32]
    length: NDArray[np.int64]


def make_people(
    size: WorldSize, catalogue: Catalogue, count: int, random: np.random.Generator
) -> People:
    """Draw users.

    Args:
        size: of the world.
        catalogue: what there is to like.
        count: users to draw.
        random: source of randomness.
    """
    # Few enough categories that each has far more events than a search keeps (50).
    several = int(np.clip(size.history_length // 160, 1, min(8, size.categories)))
    keys = random.random((count, size.categories), dtype=np.float32)
    category = np.argpartition(keys, several - 1, axis=1)[:, :several].astype(np.int64)
    order = np.argsort(random.random((count, several, catalogue.styles)), axis=2)
    stretches = np.resize(np.arange(catalogue.styles), STRETCHES)
    liked = category[:, :, None] * catalogue.styles + order[:, :, stretches]
    recent = random.integers(0, len(catalogue.twin), (count, RECENT_STYLES))
    longest = size.history_length
    length = random.integers(max(1, longest // 2), longest + 1, count)
    short = random.random(count)
    length = np.where(short < 0.15, np.exp(random.uniform(0, np.log(longest), count)), length)
    length = np.where(short < 0.005, 0, length).astype(np.int64)
    length[:1] = longest
    activity = random.standard_normal(count, dtype=np.float32)
    return People(category, liked, recent, activity, length)


def style_match(
    catalogue: Catalogue, style: NDArray[np.int64], liked: NDArray[np.int64]
) -> NDArray[np.float32]:
    """How close a style is to the nearest liked one: 1 the same, about 0.8 a twin, 0 a stranger.

    Args:
        catalogue: the styles.
        style: of each target, int64 [S].
        liked: styles liked by the user of each target, int64 [S, n].

    Returns:
        float32 [S].
    """
    match = np.empty(len(style), np.float32)
    for first in range(0, len(style), 1 << 13):
        part = slice(first, first + (1 << 13))
        centres = catalogue.style_centre[liked[part]]
        cosine = np.einsum("snm,sm->sn", centres, catalogue.style_centre[style[part]])
        # Styles of one category have a cosine of about 0.4: that much closeness means nothing.
        match[part] = np.clip((cosine.max(axis=1) - 0.5) / 0.5, 0, 1)
    return match
