"""Properties of cleaning, masking and clusters that hold for every text."""

import json
import random
from itertools import pairwise
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from flows.corpus.clean import CleanConfig, LineCounts, clean, drop_lines
from flows.corpus.duplicates import cluster, page_key, signature
from flows.corpus.places import Plain
from flows.corpus.private import TYPES, find, mask
from flows.corpus.split import SplitRow, split_clusters
from flows.corpus.squeezed import exact_hash, squeezed

CASES = Path(__file__).parents[1] / "unit" / "flows" / "corpus" / "private_cases.jsonl"
SENTENCES = [json.loads(line)["text"] for line in CASES.read_text(encoding="utf-8").splitlines()]
NAMES = ("山田 太郎", "森", "John Smith", "EMAIL")

CONFIGS = st.builds(CleanConfig, st.booleans(), st.booleans(), st.booleans(), st.booleans())
PROSE = st.lists(
    st.sampled_from(
        ["the", "server", "multi-", "layer.", "and", "設定を", "変更する。", "- item", "1.", "a|b", "key: x", "　字"]
    )
    | st.just("\n"),
    max_size=120,
).map(" ".join)
SPACES = st.sampled_from(["\n", "\n\n", "\n\n\n", "\f", "\r\n", " \n", "\u3000", "  "])
LINES = st.text(alphabet="ab c-.,;:|{}()12一あア、。」\t", max_size=90)
MESSY = st.lists(st.one_of(LINES, SPACES, PROSE, st.text(max_size=20)), max_size=24).map("".join)
PIECES = st.one_of(
    st.sampled_from(SENTENCES),
    st.sampled_from(
        [" ", "\n", "\n\n", "[EMAIL]", "[PASSWORD]", "password=", "TEL ", "-", "口座番号", "@", "〒", "key="]
    ),
    st.text(alphabet="0123456789-+() @.ABab号市町丁目1一", max_size=40),
)


@settings(max_examples=250, deadline=None)
@given(MESSY, CONFIGS)
def test_cleaning_is_idempotent(text: str, config: CleanConfig) -> None:
    """Clean text stays as it is, and has no carriage return, form feed, or blank at a line end."""
    cleaned = clean(text, config)
    assert clean(cleaned, config) == cleaned
    assert not {"\r", "\f", "\ufeff"}.intersection(cleaned)
    assert cleaned.endswith("\n")
    assert "\n\n\n" not in cleaned


@settings(max_examples=200, deadline=None)
@given(MESSY)
def test_unwrapping_changes_white_space_and_hyphens_only(text: str) -> None:
    """No letter is lost or moved when lines are joined."""
    whole = clean(text, CleanConfig(unwrap_lines=True))
    apart = clean(text, CleanConfig(unwrap_lines=False))
    assert "".join(whole.split()).replace("-", "") == "".join(apart.split()).replace("-", "")


@settings(max_examples=300, deadline=None)
@given(st.lists(PIECES, max_size=8).map("".join))
def test_masking_masked_text_changes_nothing(text: str) -> None:
    """One pass finds all there is, and the counts are those of the placeholders that came in."""
    masked, counts = mask(text, NAMES)
    assert mask(masked, NAMES) == (masked, {})
    assert set(counts) <= set(TYPES)
    for name in TYPES:
        assert masked.count(f"[{name}]") <= text.count(f"[{name}]") + counts.get(name, 0)


@settings(max_examples=200, deadline=None)
@given(st.lists(PIECES, max_size=8).map("".join))
def test_found_parts_are_masked_and_in_order(text: str) -> None:
    """Spans do not overlap, lie within the text, and what is outside of them stays when it is masked."""
    spans = find(text, NAMES)
    assert all(0 <= start < end <= len(text) for start, end, _ in spans)
    assert all(a[1] <= b[0] for a, b in pairwise(spans))
    masked, counts = mask(text, NAMES)
    assert sum(counts.values()) >= len(spans) > 0 or not spans
    assert (masked == text) == (not counts)


@settings(max_examples=200, deadline=None)
@given(st.text())
def test_plain_text_has_the_same_length(text: str) -> None:
    """Half-width text lines up with the original, character by character, also beyond the basic plane."""
    assert len(Plain(text).text) == len(text)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.sampled_from(["a line that comes back often", "another line of the text", "short", ""]), max_size=12)
)
def test_dropping_lines_is_idempotent(lines: list[str]) -> None:
    """Nothing is left to drop, and only the lines that were counted often go."""
    counts = LineCounts()
    for _ in range(5):
        counts.add("a line that comes back often")
    counts.add("another line of the text")
    once = drop_lines("\n".join(lines) + "\n", counts.boilerplate())
    assert drop_lines(once, counts.boilerplate()) == once
    assert "a line that comes back often" not in once
    assert once.count("another line of the text") == lines.count("another line of the text")


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 8), st.floats(0.0, 0.05))
def test_no_near_duplicate_crosses_splits(seed: int, n_copies: int, changed: float) -> None:
    """Copies with up to 5 % changed words are all in the split of their original."""
    random_ = random.Random(seed)
    texts = {}
    for page in range(8):
        words = [f"w{random_.randrange(10**6)}" for _ in range(150)]
        texts[f"{page}/0"] = " ".join(words)
        for copy in range(1, n_copies):
            edited = [w if random_.random() > changed / 3 else "new" for w in words]
            texts[f"{page}/{copy}"] = " ".join(edited)
    sources = list(texts)
    clusters = cluster(
        sources,
        [signature(squeezed(text)) for text in texts.values()],
        [exact_hash(squeezed(text)) for text in texts.values()],
        [page_key(source.replace("/", "-")) for source in sources],
    )
    rows = [SplitRow(source, len(text), "en") for source, text in texts.items()]
    split = split_clusters(rows, clusters, validation_share=0.2, test_share=0.2, seed=seed)
    splits = {source: split[name] for source, name in zip(sources, clusters, strict=True)}
    assert all(splits[source] == splits[f"{source.split('/')[0]}/0"] for source in sources)
