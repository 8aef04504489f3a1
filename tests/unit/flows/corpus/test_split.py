"""The split of clusters into training, validation and test text."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flows.corpus.split import SplitRow, split_clusters
from flows.errors import PocError

SHARES = {"validation_share": 0.2, "test_share": 0.2}


@settings(max_examples=50)
@given(
    st.lists(
        st.tuples(st.integers(1, 5000), st.sampled_from(["ja", "en"]), st.integers(0, 9)), min_size=4, max_size=40
    ),
    st.integers(0, 1000),
)
def test_split_covers_every_cluster_and_leaves_none_empty(rows: list[tuple[int, str, int]], seed: int) -> None:
    """Every cluster has one split, and with three clusters or more no split is empty."""
    documents = [SplitRow(f"{i}.txt", size, language) for i, (size, language, _) in enumerate(rows)]
    clusters = [f"cluster{cluster}" for _, _, cluster in rows]
    if len(set(clusters)) < 3:
        with pytest.raises(PocError, match="at least 3 different documents"):
            split_clusters(documents, clusters, seed=seed, **SHARES)
        return
    split = split_clusters(documents, clusters, seed=seed, **SHARES)
    assert set(split) == set(clusters)
    assert set(split.values()) == {"train", "validation", "test"}


def test_split_shares_are_kept_and_depend_on_the_seed() -> None:
    """Of 200 equal documents 20 % and 10 % are held out, and another seed holds out others."""
    rows = [SplitRow(f"{i}.txt", 100, "en") for i in range(200)]
    sources = [row.source for row in rows]
    first, second = (split_clusters(rows, sources, validation_share=0.2, test_share=0.1, seed=s) for s in (1, 2))
    assert [list(first.values()).count(name) for name in ("train", "validation", "test")] == [140, 40, 20]
    assert first != second


def test_each_language_is_held_out_in_its_share() -> None:
    """Of 50 Japanese and 100 English documents a fifth of each is in the test split."""
    rows = [SplitRow(f"{i}.txt", 100, "ja" if i < 50 else "en") for i in range(150)]
    split = split_clusters(rows, [row.source for row in rows], seed=3, **SHARES)
    held_out = [row.language for row in rows if split[row.source] == "test"]
    assert (held_out.count("ja"), held_out.count("en")) == (10, 20)


def test_a_document_larger_than_a_share_stays_in_training() -> None:
    """One document that is half of the corpus is never held out."""
    rows = [SplitRow("large.txt", 5000, "en"), *(SplitRow(f"{i}.txt", 100, "en") for i in range(50))]
    for seed in range(20):
        assert split_clusters(rows, [row.source for row in rows], seed=seed, **SHARES)["large.txt"] == "train"


def test_without_shares_all_is_training() -> None:
    """Shares of 0 hold nothing out, even of one document."""
    split = split_clusters([SplitRow("a", 9, "en")], ["a"], validation_share=0, test_share=0, seed=1)
    assert split == {"a": "train"}
