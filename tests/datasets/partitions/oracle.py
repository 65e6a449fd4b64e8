"""What a store of a small Taobao-MM tree must hold, by loops over its rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from typing import Any

from datasets.taobao_mm import ITEM_FEATURES, PROFILE

Columns = dict[str, dict[str, list[Any]]]


def _rows(counts: Counter[int], always: Collection[int] = (), least: int = 1) -> list[int]:
    """Raw ids in row order."""
    kept = {*always, *(raw for raw in counts if counts[raw] >= least)} - {0}
    return sorted(kept, key=lambda raw: (-counts[raw], raw))


def expected_store(tree: Columns, min_frequency: int, user_min_frequency: int) -> dict[str, Any]:
    """Vocabularies, records and samples under raw ids; None is row 0."""
    users = {split: _users(tree, split) for split in ("train", "test")}
    shared = {
        user
        for user, (profile, history) in users["train"].items()
        if user in users["test"]
        and users["test"][user][0] == profile
        and users["test"][user][1][: len(history)] == history
    }
    owners = [("train", user) for user in users["train"] if user not in shared]
    owners += [("test", user) for user in users["test"]]
    events = Counter(
        item for split in users.values() for _, history in split.values() for item in history
    )
    samples = {split: tree[f"{split}_samples"] for split in users}
    targets = {item for table in samples.values() for item in table["item"]}
    items = _rows(events + Counter(samples["train"]["item"]), targets, min_frequency)
    known = Counter(user for user in samples["train"]["user_id"] if user in users["train"])
    vocabularies = {"item": items, "user_id": _rows(known, least=user_min_frequency)}
    for place, word in enumerate(PROFILE):
        values = Counter(profile[place] for profile, _ in users["train"].values())
        vocabularies[word] = _rows(values)
    features = {item: _features(tree, item) for item in items}
    for place, word in enumerate(ITEM_FEATURES):
        vocabularies[word] = _rows(Counter(values[place] for values in features.values()))

    def known_to(table: str, raw: int) -> int | None:
        return raw if raw in vocabularies[table] else None

    records = [
        (
            known_to("user_id", user),
            [known_to(word, users[split][user][0][place]) for place, word in enumerate(PROFILE)],
            [known_to("item", item) for item in users[split][user][1]],
        )
        for split, user in owners
    ]
    found: dict[str, Any] = {"vocabularies": vocabularies, "records": records}
    found["raw_users"] = [user for _, user in owners]
    found["features"] = [[raw or None for raw in features[item]] for item in items]
    for split, table in samples.items():
        rows = []
        for user, item, label in zip(table["user_id"], table["item"], table["label"], strict=True):
            record, seen = 0, 0
            if user in users[split]:
                owner = ("test" if user in shared else split, user)
                record, seen = 1 + owners.index(owner), len(users[split][user][1])
            rows.append((record, seen, known_to("item", item), label[1]))
        found[split] = sorted(rows, key=lambda row: row[0])
    return found


def _users(tree: Columns, split: str) -> dict[int, tuple[list[int], list[int]]]:
    """Profile and history of every user."""
    table = tree[f"{split}_user_features"]
    return {
        user: ([table[word][row] for word in PROFILE], table["history_item"][row])
        for row, user in enumerate(table["user_id"])
    }


def _features(tree: Columns, item: int) -> list[int]:
    """Category, brand and shop: of the first row that says something, else from histories."""
    table = tree["item_features"]
    rows = zip(table["item"], *(table[word] for word in ITEM_FEATURES), strict=True)
    told = [list(values) for raw, *values in rows if raw == item and any(values)]
    values = told[0] if told else [0, 0, 0]
    seen: Counter[int] = Counter()
    for split in ("train", "test"):
        histories = tree[f"{split}_user_features"]
        for items, categories in zip(
            histories["history_item"], histories["history_category"], strict=True
        ):
            pairs = zip(items, categories, strict=True)
            seen.update(category for one, category in pairs if one == item and category)
    if not values[0] and seen:
        values[0] = min(seen, key=lambda category: (-seen[category], category))
    return values


def random_tree(random: Any, *, users: int = 12, items: int = 9, samples: int = 40) -> Columns:
    """A tree with users of both splits, empty histories, unknown users and items, and repeats."""

    def ids(count: int, high: int) -> list[int]:
        return [int(value) for value in random.integers(-high // 2, high, count)]

    def histories(count: int) -> list[list[int]]:
        return [ids(int(random.integers(0, 7)), items) for _ in range(count)]

    train = [int(user) for user in random.permutation(2 * users)[:users]]
    test = [int(user) for user in random.permutation(2 * users)[:users]]
    profile = {user: [int(v) for v in random.integers(0, 3, len(PROFILE))] for user in train + test}
    lives = dict(zip(train, histories(users), strict=True))
    tree: Columns = {}
    for split, people in (("train", train), ("test", test)):
        theirs = [lives[user] if user in lives else ids(3, items) for user in people]
        if split == "test":
            # Half of the histories go on, the others are other ones; some profiles have changed.
            theirs = [
                life + ids(2, items) if user % 2 else ids(len(life), items)
                for user, life in zip(people, theirs, strict=True)
            ]
            for user in people[::5]:
                profile[user] = [int(v) for v in random.integers(0, 3, len(PROFILE))]
        tree[f"{split}_user_features"] = {
            "user_id": people,
            **{word: [profile[u][place] for u in people] for place, word in enumerate(PROFILE)},
            "history_item": theirs,
            "history_category": [[int(c) for c in random.integers(0, 4, len(h))] for h in theirs],
        }
        clicked = random.integers(0, 2, samples)
        tree[f"{split}_samples"] = {
            "label": [[1 - int(c), int(c)] for c in clicked],
            "user_id": [int(user) for user in random.integers(-2, 2 * users, samples)],
            "item": ids(samples, items + 4),
        }
    tree["item_features"] = {"item": ids(2 * items, items)} | {
        word: [int(value) for value in random.integers(0, 3, 2 * items)] for word in ITEM_FEATURES
    }
    tree["scl_embedding_int8_p90"] = {
        "item": (vector_items := ids(items, items)),
        "vector": [[place] * 128 for place in range(len(vector_items))],
    }
    return tree
