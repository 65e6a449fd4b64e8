"""How many ids a step sends, and how many it would if every sample brought its own."""

from __future__ import annotations

from ctr.model.prepared import Prepared


def ids_sent(ready: Prepared) -> int:
    """Ids that this process sends: each distinct one of a table once."""
    return 0 if ready.wanted is None else sum(ready.wanted.lookup.distinct().values())


def ids_per_sample(ready: Prepared) -> int:
    """Ids of a batch in which every sample has its user's features and behaviours to itself."""
    if ready.wanted is None:
        return 0
    asked = {name: n for sizes in ready.wanted.sizes.values() for name, n in sizes.items()}
    of_behaviours = sum(n for name, n in asked.items() if name.startswith("behaviour."))
    of_users = sum(n for name, n in asked.items() if name.startswith("user."))
    users, samples = ready.batch.history_offsets_U.numel() - 1, len(ready)
    behaviours = int(ready.windows.mask_GnP.sum())
    if ready.retrieved is not None:
        behaviours += int(ready.retrieved.mask_BK.sum())
    each = of_behaviours // max(ready.key_V.numel(), 1)
    rest = sum(asked.values()) - of_behaviours - of_users
    return rest + of_users // max(users, 1) * samples + each * behaviours
