from pathlib import Path
from typing import Any

import pytest
import torch

from skipmodel.data import Blocks, Document, Span, cut, prefix_of, sample, tokenize
from skipmodel.errors import DataError
from tests.tiny import save_base_folder, with_prefix

KINDS = ("other", "glossary", "number")
TEXTS = ["KeepAlive は接続を維持します。値は 15 秒です。" * 6, "The server keeps a connection for 15 seconds. " * 8]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A byte-level BPE, in which several tokens can share one Japanese character."""
    from transformers import AutoTokenizer

    folder = save_base_folder(tmp_path_factory.mktemp("base"), TEXTS[:1], vocab=280)
    return AutoTokenizer.from_pretrained(Path(folder))


def test_every_token_of_a_span_is_marked(tokenizer: Any) -> None:
    """A term is critical as a whole, in all of its tokens, and nothing else is."""
    text = TEXTS[0]
    start = text.index("接続")
    document = Document("d", text, (Span(start, start + 2, "glossary"),))
    (tokens,) = tokenize([document], tokenizer, KINDS)
    offsets = tokenizer(text, return_offsets_mapping=True, add_special_tokens=False)["offset_mapping"]
    touching = [begin < start + 2 and end > start for begin, end in offsets]

    assert [kind == 1 for kind in tokens.kind_ids] == touching
    assert sum(touching) >= 2


@pytest.mark.parametrize("text", TEXTS)
def test_bytes_add_up_to_the_text(tokenizer: Any, text: str) -> None:
    """Bytes per token sum to the UTF-8 length, also where tokens share a character."""
    (tokens,) = tokenize([Document("d", text)], tokenizer, KINDS)

    assert sum(tokens.n_bytes) == len(text.encode())
    assert len(tokens.n_bytes) == len(tokens.ids)


def test_blocks_cover_documents_and_never_mix_them(tokenizer: Any) -> None:
    """Blocks are consecutive pieces of one document; padding is not real."""
    documents = tokenize([Document("a", TEXTS[0]), Document("b", TEXTS[1])], tokenizer, KINDS)
    blocks = cut(documents, 32, 0, KINDS)
    joined = [t for row, n in zip(blocks.ids_NT, blocks.n_real_N, strict=True) for t in row[:n].tolist()]
    kept = [len(d.ids) - (len(d.ids) % 32 if len(d.ids) % 32 < 4 else 0) for d in documents]

    assert joined == [t for d, n in zip(documents, kept, strict=True) for t in d.ids[:n]]
    assert int(blocks.real_NT.sum()) == sum(kept)


def test_every_block_begins_with_the_prefix_of_the_tokenizer(tokenizer: Any) -> None:
    """A begin-of-sequence token stands in front of each block; text, spans and bytes are those without it."""
    document = Document("a", TEXTS[0], (Span(0, 20, "glossary"),))
    plain = cut(tokenize([document], tokenizer, KINDS), 31, 0, KINDS)
    blocks = cut(tokenize([document], with_prefix(tokenizer), KINDS), 32, 0, KINDS)

    assert prefix_of(tokenizer) == ()
    assert blocks.ids_NT[:, 0].tolist() == [tokenizer.bos_token_id] * len(blocks)
    assert torch.equal(blocks.ids_NT[:, 1:], plain.ids_NT)
    assert torch.equal(blocks.n_real_N, plain.n_real_N + 1)
    for with_it, without in ((blocks.kind_NT, plain.kind_NT), (blocks.bytes_NT, plain.bytes_NT)):
        assert torch.equal(with_it[:, 1:], without)
        assert int(with_it[:, 0].abs().sum()) == 0


def test_a_corpus_shorter_than_a_block_is_refused(tokenizer: Any) -> None:
    """Too little text ends in one clear message."""
    with pytest.raises(DataError, match="at least one document of 32 tokens"):
        cut(tokenize([Document("a", "short")], tokenizer, KINDS), 256, 0, KINDS)


def many_blocks(n_documents: int, per_document: int) -> Blocks:
    n = n_documents * per_document
    names = tuple(f"d{i // per_document}" for i in range(n))
    ids = torch.arange(n)[:, None].expand(n, 8)
    return Blocks(ids, torch.full((n,), 8), torch.zeros(n, 8, dtype=torch.long), torch.ones(n, 8).long(), names, KINDS)


def test_a_sample_spreads_over_documents() -> None:
    """No document gives a second block before every other gave its first."""
    taken = sample(many_blocks(6, 5), 8 * 9, seed=1).document_ids

    assert len(taken) == 9
    assert len(set(taken[:6])) == 6


def test_a_smaller_budget_is_a_prefix() -> None:
    """Budgets are nested: fewer tokens are the first part of more tokens."""
    blocks = many_blocks(6, 5)

    assert sample(blocks, 8 * 20, seed=1).ids_NT[:7].equal(sample(blocks, 8 * 7, seed=1).ids_NT)
