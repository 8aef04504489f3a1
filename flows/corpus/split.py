"""The split of a corpus into training, validation and test text, by cluster.

A split never cuts a cluster, so held-out text has no near-duplicate in training. Only small rows are needed, never
the texts.
"""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import NamedTuple

from flows.errors import PocError

__all__ = ["SPLITS", "SplitRow", "split_clusters"]

SPLITS = ("train", "validation", "test")


class SplitRow(NamedTuple):
    """What the split needs to know about one document."""

    source: str
    n_characters: int
    language: str


def split_clusters(
    rows: Sequence[SplitRow],
    clusters: Sequence[str],
    *,
    validation_share: float,
    test_share: float,
    seed: int,
) -> dict[str, str]:
    """Split name of every cluster; shares are shares of the characters.

    Within each set of languages the clusters are taken in the order of their seeded hash, first for the test, then
    for the validation; one that would overfill the share stays in training. So every language is held out in its
    share, and one huge document does not swallow a held-out split.

    Args:
        rows: One row per document.
        clusters: Cluster name of every row.
        validation_share: Share of the characters held out to choose thresholds, within [0, 1).
        test_share: Share of the characters held out to confirm them once, within [0, 1).
        seed: Another seed gives another split.

    Raises:
        PocError: There are too few clusters for the splits that were asked for.
    """
    size: Counter[str] = Counter()
    languages: dict[str, set[str]] = defaultdict(set)
    for row, cluster in zip(rows, clusters, strict=True):
        size[cluster] += row.n_characters
        languages[cluster].add(row.language)
    order = sorted(size, key=lambda cluster: hashlib.sha256(f"{seed}\x1f{cluster}".encode()).digest())
    shares = {name: share for name, share in (("test", test_share), ("validation", validation_share)) if share > 0}
    if len(order) < len(shares) + 1:
        raise PocError(
            f"expected at least {len(shares) + 1} different documents to split, got {len(order)}",
            where="corpus",
            todo="add documents, or set the held-out shares to 0; copies and translations count once",
        )
    strata: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for cluster in order:
        strata[tuple(sorted(languages[cluster]))].append(cluster)
    split = dict.fromkeys(order, "train")
    for members in strata.values():
        total = sum(size[cluster] for cluster in members)
        for name, share in shares.items():
            room = share * total
            for cluster in members:
                if split[cluster] == "train" and size[cluster] <= room:
                    split[cluster] = name
                    room -= size[cluster]
    _fill_empty(split, size, shares)
    return split


def _fill_empty(split: dict[str, str], size: Counter[str], names: Sequence[str] | dict[str, float]) -> None:
    """Give every empty split one cluster: in a small corpus a share may be less than the smallest cluster."""
    n_members = Counter(split.values())
    for name in names:
        if n_members[name] == 0:
            # from a split that keeps another one, training first, and the smallest that there is
            spare = (cluster for cluster in split if n_members[split[cluster]] > 1)
            chosen = min(spare, key=lambda cluster: (split[cluster] != "train", size[cluster], cluster))
            n_members[split[chosen]] -= 1
            n_members[name] += 1
            split[chosen] = name
