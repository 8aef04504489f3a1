"""Skip statistics against masks made by hand, rank statistics against brute force, classes of a real tokenizer."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from skipmodel.data import Blocks
from skipmodel.errors import DataError
from skipmodel.token_stats import (
    TokenClasses,
    TokenStatistics,
    auroc,
    average_ranks,
    classify,
    frequency_classes,
    passage_map,
    router_agreement,
    spearman,
    token_classes,
    token_counts,
    token_statistics,
)
from tests.tiny import save_base_folder

KINDS = ("other", "glossary")
WORDS = "the server 2024 KeepAlive Timeout is http 設定 の を , . HTTP mod_ssl Apache not"


def make_blocks(ids: list[list[int]], kind: list[list[int]], n_real: list[int], names: tuple[str, ...]) -> Blocks:
    """Blocks from lists."""
    ids_NT = torch.tensor(ids)
    return Blocks(ids_NT, torch.tensor(n_real), torch.tensor(kind), torch.ones_like(ids_NT), names, KINDS)


def hand_made() -> tuple[Blocks, Tensor]:
    """Two blocks of two documents; unit 0 always runs, unit 1 is skipped by id 1 alone, unit 2 by everyone."""
    blocks = make_blocks([[1, 2, 1, 0], [2, 2, 1, 3]], [[0, 1, 0, 0], [1, 1, 0, 0]], [3, 4], ("a", "b"))
    mask = torch.ones(3, 2, 4, dtype=torch.bool)
    mask[1] = blocks.ids_NT != 1
    mask[2] = False
    return blocks, mask


def many_documents(seed: int, n_documents: int = 24, length: int = 40) -> Blocks:
    """Random text of many short documents in which a third of the tokens are glossary terms."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, 20, (n_documents, length), generator=generator)
    kind = (torch.rand(ids.shape, generator=generator) < 0.33).long()
    names = tuple(f"d{index}" for index in range(n_documents))
    return Blocks(ids, torch.full((n_documents,), length), kind, torch.ones_like(ids), names, KINDS)


def rates(found: TokenStatistics, axis: str) -> dict[str, float]:
    """Skip rates of one axis by class."""
    return {row.name: row.skip_rate for row in found.by_class if row.axis == axis}


def test_rates_by_hand() -> None:
    """Shares of all layer executions, over real tokens only, by class and unit."""
    blocks, mask = hand_made()
    found = token_statistics(blocks, mask)

    assert found.n_tokens == 7
    assert found.n_documents == 2
    assert found.skip_rate == pytest.approx((3 + 7) / (3 * 7))
    assert rates(found, "kind") == pytest.approx({"other": (3 + 4) / (3 * 4), "glossary": 1 / 3})
    assert [row["skip_rate"] for row in found.by_unit] == pytest.approx([0, 3 / 7, 1])
    assert [(row.n_tokens, row.n_documents) for row in found.by_class] == [(4, 2), (3, 2)]


def test_units_count_by_their_work() -> None:
    """A unit that is a tenth of a layer counts a tenth, and layers without units still count as executed."""
    blocks, mask = hand_made()
    found = token_statistics(blocks, mask, unit_work=[0.5, 0.1, 0.4], n_layers=2)

    assert found.skip_rate == pytest.approx((3 * 0.1 + 7 * 0.4) / (2 * 7))


def test_positions_by_hand() -> None:
    """Bins grow fourfold, end at the block and count real tokens."""
    blocks, mask = hand_made()
    found = token_statistics(blocks, mask)

    assert [(row["first"], row["last"], row["n_tokens"]) for row in found.by_position] == [(0, 0, 2), (1, 3, 5)]
    assert [row["skip_rate"] for row in found.by_position] == pytest.approx([1 / 2, (2 + 5) / 15])


@given(st.integers(1, 70))
def test_position_bins_cover_every_token_once(length: int) -> None:
    """Neighbouring bins touch, the first starts at 0, the last ends with the block, and counts add up."""
    blocks = make_blocks([[1] * length], [[0] * length], [length], ("a",))
    rows = token_statistics(blocks, torch.ones(1, 1, length, dtype=torch.bool), n_resamples=1).by_position

    assert rows[0]["first"] == 0
    assert rows[-1]["last"] == length - 1
    assert all(b["first"] == a["last"] + 1 for a, b in itertools.pairwise(rows))
    assert sum(row["n_tokens"] for row in rows) == length


def test_most_and_least_skipped_tokens() -> None:
    """Ids in order of their rate, frequent ones first at equal rates, rare and guarded ones left out."""
    ids = [[5, 5, 5, 7, 7, 7, 7, 9, 9, 2]]
    blocks = make_blocks(ids, [[0] * 10], [10], ("a",))
    mask = torch.ones(1, 1, 10, dtype=torch.bool)
    mask[0, 0, [0, 7, 8, 9]] = False  # id 5 once of 3, id 9 twice of 2, id 2 always
    guarded = blocks.ids_NT == 2
    found = token_statistics(blocks, mask, n_listed=2, min_count=2, guarded_NT=guarded)

    assert [(row["token_id"], row["n"]) for row in found.most_skipped] == [(9, 2), (5, 3)]
    assert [(row["token_id"], row["skip_rate"]) for row in found.least_skipped] == [(7, 0.0), (5, pytest.approx(1 / 3))]
    assert [row["token_id"] for row in token_statistics(blocks, mask, min_count=4).most_skipped] == [7]


def test_equal_rates_list_the_more_frequent_token_first() -> None:
    """Both lists prefer the token there is more evidence for."""
    blocks = make_blocks([[1, 1, 2, 2, 2]], [[0] * 5], [5], ("a",))
    found = token_statistics(blocks, torch.zeros(1, 1, 5, dtype=torch.bool), min_count=1)

    assert [row["token_id"] for row in found.most_skipped] == [2, 1]
    assert [row["token_id"] for row in found.least_skipped] == [2, 1]


def test_strings_come_only_with_a_decode_function() -> None:
    """By default neither the lists nor the map of a passage hold text, and the map holds no ids either."""
    blocks, mask = hand_made()
    quiet, open_ = (token_statistics(blocks, mask, min_count=1, decode=d).to_json() for d in (None, lambda t: f"w{t}"))
    passage = passage_map(blocks, mask, 1)

    assert all("token" not in row for row in quiet["most_skipped"] + quiet["least_skipped"])
    assert open_["most_skipped"][0]["token"] == f"w{open_['most_skipped'][0]['token_id']}"
    assert set(passage) == {"block", "execute", "classes"}
    assert passage_map(blocks, mask, 1, decode=lambda t: f"w{t}")["tokens"] == ["w2", "w2", "w1", "w3"]
    json.dumps([quiet, open_, passage], allow_nan=False)


def test_passage_map_by_hand() -> None:
    """One row of zeros and ones per unit over real tokens, and a class name per token on every axis."""
    blocks, mask = hand_made()
    odd = classify("parity", ("even", "odd"), lambda token: ("even", "odd")[token % 2], 4)
    passage = passage_map(blocks, mask, 0, classes=[odd])

    assert passage["execute"] == [[1, 1, 1], [0, 1, 0], [0, 0, 0]]
    assert passage["classes"] == {"kind": ["other", "glossary", "other"], "parity": ["odd", "even", "odd"]}


def test_own_axes_are_counted_too() -> None:
    """A callable from token id to name makes an axis."""
    blocks, mask = hand_made()
    one = classify("one", ("no", "yes"), lambda token: "yes" if token == 1 else "no", 4)

    assert rates(token_statistics(blocks, mask, classes=[one]), "one") == pytest.approx({"no": 1 / 3, "yes": 2 / 3})


def test_interval_is_that_of_documents() -> None:
    """Tokens of one document count as one piece of evidence: equal documents give no width, unlike ones a wide one."""
    blocks = make_blocks([[1] * 50] * 8, [[0] * 50] * 8, [50] * 8, tuple("abcdefgh"))
    same = torch.arange(50).expand(1, 8, 50) % 2 == 0
    unlike = (torch.arange(8)[:, None] % 2 == 0).expand(1, 8, 50)

    narrow, wide = (token_statistics(blocks, mask).by_class[0] for mask in (same, unlike))
    assert narrow.skip_rate == wide.skip_rate == 0.5
    assert (narrow.low, narrow.high) == (0.5, 0.5)
    assert wide.low is not None
    assert wide.high is not None
    assert wide.low <= 0.25
    assert wide.high >= 0.75


def test_a_single_document_has_no_interval() -> None:
    """One document says nothing about other documents: no interval and no answer, with the reason."""
    blocks, mask = hand_made()
    found = token_statistics(blocks.take([0]), mask[:, :1])

    assert (found.by_class[0].low, found.by_class[0].high) == (None, None)
    assert found.adaptivity.is_content_adaptive is None
    assert found.adaptivity.reason == "too_few_documents"


def test_one_class_alone_is_no_answer() -> None:
    """With a single class there is nothing to compare."""
    blocks = make_blocks([[1] * 4] * 6, [[0] * 4] * 6, [4] * 6, tuple("abcdef"))
    found = token_statistics(blocks, torch.ones(1, 6, 4, dtype=torch.bool))

    assert found.adaptivity.reason == "too_few_classes"


def test_a_router_by_class_is_adaptive() -> None:
    """Glossary terms skipped less than the rest by far more than noise: adaptive, with the difference."""
    blocks = many_documents(0)
    chance = torch.rand(4, *blocks.ids_NT.shape, generator=torch.Generator().manual_seed(1))
    mask = chance < torch.where(blocks.critical_NT, 0.9, 0.7)
    found = token_statistics(blocks, mask).adaptivity

    assert found.is_content_adaptive is True
    assert (found.axis, found.name) in {("kind", "glossary"), ("kind", "other")}
    assert found.difference is not None
    assert found.noise is not None
    assert abs(found.difference) == pytest.approx(0.2, abs=0.05)
    assert 0 < found.noise < abs(found.difference)


def test_dropping_the_same_layers_for_all_is_not_adaptive() -> None:
    """Static layer drop has equal rates in all classes, without any noise at all."""
    blocks = many_documents(0)
    mask = torch.ones(30, *blocks.ids_NT.shape, dtype=torch.bool)
    mask[[3, 7, 11]] = False
    found = token_statistics(blocks, mask, unit_work=[1 / 3] * 30, n_layers=7)

    assert found.skip_rate == pytest.approx(1 / 7)
    assert found.adaptivity.is_content_adaptive is False


def test_chance_is_rarely_called_adaptive() -> None:
    """Random masks over many classes pass as not adaptive in about 95 of 100 samples."""
    called = 0
    for seed in range(40):
        blocks = many_documents(seed)
        mask = torch.rand(4, *blocks.ids_NT.shape, generator=torch.Generator().manual_seed(seed + 1000)) < 0.8
        axis = classify("id", tuple("0123456789"), lambda token: str(token % 10), 20)
        answer = token_statistics(blocks, mask, classes=[axis], n_resamples=300).adaptivity
        called += bool(answer.is_content_adaptive)

    assert called <= 6


def test_documents_that_differ_do_not_make_a_router_adaptive() -> None:
    """Whole documents that skip more, with classes spread unevenly over documents by chance, are noise."""
    called = 0
    for seed in range(20):
        blocks = many_documents(seed)
        generator = torch.Generator().manual_seed(seed + 500)
        level = torch.rand(len(blocks), 1, generator=generator)
        mask = torch.rand(4, *blocks.ids_NT.shape, generator=generator) < level
        called += bool(token_statistics(blocks, mask, n_resamples=300).adaptivity.is_content_adaptive)

    assert called <= 4


def test_guards_do_not_make_a_router_adaptive() -> None:
    """Critical tokens that a guard forced say nothing about the router: left out, the answer turns."""
    blocks = many_documents(0)
    surface = classify("parity", ("even", "odd"), lambda token: ("even", "odd")[token % 2], 20)
    mask = torch.rand(4, *blocks.ids_NT.shape, generator=torch.Generator().manual_seed(1)) < 0.7
    mask |= blocks.critical_NT
    with_guard = token_statistics(blocks, mask, classes=[surface])
    without = token_statistics(blocks, mask, classes=[surface], guarded_NT=blocks.critical_NT)

    assert with_guard.adaptivity.is_content_adaptive is True
    assert without.adaptivity.is_content_adaptive is False
    assert rates(without, "kind")["glossary"] == 0.0


def test_masks_and_classes_that_do_not_fit_are_refused() -> None:
    """Other blocks, a vocabulary that is too small, or nothing left by the guards: one clear error each."""
    blocks, mask = hand_made()
    with pytest.raises(DataError, match="score the same blocks"):
        token_statistics(blocks, mask[:, :1])
    with pytest.raises(DataError, match="at least 4 token ids, got 2"):
        token_statistics(blocks, mask, classes=[TokenClasses("x", ("y",), torch.zeros(2, dtype=torch.long))])
    with pytest.raises(DataError, match="no guard decides"):
        token_statistics(blocks, mask, guarded_NT=torch.ones_like(blocks.real_NT))


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A byte-level BPE tokenizer trained on a few words."""
    from transformers import AutoTokenizer

    folder = save_base_folder(tmp_path_factory.mktemp("base"), [(WORDS + " ") * 30], vocab=420)
    return AutoTokenizer.from_pretrained(Path(folder))


def test_surface_classes_of_a_tokenizer(tokenizer: Any) -> None:
    """Words, numbers, punctuation, particles, identifiers and byte fragments are told apart."""
    found = token_classes(tokenizer, len(tokenizer) + 3)
    expected = {
        " the": "function word", " is": "function word", " not": "function word", " server": "other", " 2024": "number",
        " KeepAlive": "identifier", " HTTP": "identifier", " Apache": "name", " ,": "punctuation", " の": "particle",
        " を": "particle", " 設定": "other", " http": "other",
    }  # fmt: skip
    got = {}
    for text in expected:
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert len(ids) == 1
        got[text] = found.names[int(found.class_V[ids[0]])]

    assert got == expected
    assert [found.names[i] for i in found.class_V[-3:].tolist()] == ["special"] * 3
    assert found.names[int(found.class_V[tokenizer.pad_token_id])] == "special"
    part = tokenizer("鬱", add_special_tokens=False)["input_ids"]
    assert len(part) > 1
    assert {found.names[int(found.class_V[token])] for token in part} == {"byte fragment"}


def test_pieces_inside_words_are_not_function_words() -> None:
    """`is` within a word is no verb; at the start of a word or capitalised it is."""

    class Pieces:
        all_special_ids = (0,)
        pieces = ("<s>", "▁is", "is", "Is", "<0xE3>", "<0x41>", "▁", "mod_a", "x86", "3.5", "▁+=")

        def __len__(self) -> int:
            return len(self.pieces)

        def convert_ids_to_tokens(self, token: int) -> str:
            return self.pieces[token]

        def decode(self, ids: list[int], **options: Any) -> str:
            return {4: "\ufffd", 5: "A"}.get(ids[0], self.pieces[ids[0]].replace("▁", " "))

    found = token_classes(Pieces(), len(Pieces()))
    assert [found.names[i] for i in found.class_V.tolist()] == [
        "special", "function word", "other", "function word", "byte fragment", "function word", "space",
        "identifier", "identifier", "number", "punctuation",
    ]  # fmt: skip


def test_frequency_classes_by_hand() -> None:
    """Half of all tokens are frequent, the last tenth and the unseen are rare."""
    found = frequency_classes(torch.tensor([2, 50, 0, 30, 10, 8]))

    assert [found.names[i] for i in found.class_V.tolist()] == ["rare", "frequent", "rare", "middle", "middle", "rare"]


def test_padding_is_not_counted() -> None:
    """Token counts are those of real tokens."""
    assert token_counts(hand_made()[0], 5).tolist() == [0, 3, 3, 1, 0]


def test_ranks_and_spearman_by_hand() -> None:
    """Ties share the mean rank; the correlation is that of textbook examples."""
    assert average_ranks(torch.tensor([3.0, 1.0, 3.0, 7.0])).tolist() == [2.5, 1.0, 2.5, 4.0]
    iq = torch.tensor([106.0, 100, 86, 101, 99, 103, 97, 113, 112, 110])
    hours = torch.tensor([7.0, 27, 2, 50, 28, 29, 20, 12, 6, 17])
    assert spearman(iq, hours) == pytest.approx(-29 / 165)
    assert spearman(torch.tensor([1.0, 2, 2, 3]), torch.tensor([1.0, 2, 3, 4])) == pytest.approx(4.5 / 22.5**0.5)


def test_rank_statistics_that_are_undefined() -> None:
    """A constant sample, an empty one, or one class alone gives None."""
    empty = torch.tensor([])
    assert spearman(torch.ones(4), torch.arange(4.0)) is None
    assert spearman(empty, empty) is None
    assert auroc(torch.ones(3), torch.ones(3, dtype=torch.bool)) is None
    assert auroc(empty, empty.bool()) is None


@given(st.lists(st.tuples(st.integers(-4, 4), st.booleans()), min_size=1, max_size=40))
def test_auroc_is_the_share_of_pairs_in_order(pairs: list[tuple[int, bool]]) -> None:
    """Ranks give what comparing every positive with every negative gives, ties counted half."""
    score = torch.tensor([float(value) for value, _ in pairs])
    positive = torch.tensor([flag for _, flag in pairs])
    order = [(p > n) + (p == n) / 2 for p in score[positive].tolist() for n in score[~positive].tolist()]

    assert auroc(score, positive) == (pytest.approx(sum(order) / len(order)) if order else None)


@given(st.lists(st.tuples(st.integers(-5, 5), st.integers(-5, 5)), min_size=2, max_size=40))
@settings(deadline=None)
def test_spearman_properties(pairs: list[tuple[int, int]]) -> None:
    """Symmetric, bounded, blind to monotone changes, and of opposite sign when one sample is turned round."""
    x, y = (torch.tensor([float(pair[i]) for pair in pairs]) for i in (0, 1))
    found = spearman(x, y)

    assert (found is None) == (len(set(x.tolist())) == 1 or len(set(y.tolist())) == 1)
    if found is not None:
        assert -1.0 <= found <= 1.0
        assert spearman(y, x) == pytest.approx(found)
        assert spearman(x.exp(), y**3) == pytest.approx(found)
        assert spearman(-x, y) == pytest.approx(-found)


def test_router_agreement_by_hand() -> None:
    """Unit 0 knows its damage, unit 1 has it the wrong way round; positions without damage do not count."""
    damage = torch.tensor([[[torch.nan, 1.0, 2.0, 3.0, 4.0]], [[torch.nan, 5.0, 6.0, 7.0, 8.0]]])
    logit = torch.tensor([[[9.0, -3.0, -1.0, 0.0, 2.0]], [[9.0, 4.0, 3.0, 2.5, 1.0]]])
    found = router_agreement(logit, damage, share=0.25)

    assert [row["spearman"] for row in found["units"]] == pytest.approx([1.0, -1.0])
    assert [row["auroc"] for row in found["units"]] == [1.0, 0.0]
    assert found["n"] == 8
    assert found["auroc"] == pytest.approx(7 / 12)  # logits 2.5 and 1 against the six others
    assert found["spearman"] == pytest.approx(spearman(logit[..., 1:].flatten(), damage[..., 1:].flatten()))
