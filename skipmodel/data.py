"""Token blocks: documents and their critical spans, tokenised and cut for training and scoring.

Legend: N blocks, T tokens in a block.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from skipmodel.errors import DataError

OTHER = "other"


@dataclass(frozen=True)
class Span:
    """Characters [start, end) of a text that belong to a critical class such as `glossary` or `number`."""

    start: int
    end: int
    kind: str


@dataclass(frozen=True)
class Document:
    """One text with its critical spans."""

    document_id: str
    text: str
    spans: tuple[Span, ...] = ()
    language: str = ""


@dataclass(frozen=True)
class TokenizedDocument:
    """Token ids, the critical class of each token (index into `kinds`, 0 = other) and its bytes."""

    document_id: str
    ids: list[int]
    kind_ids: list[int]
    n_bytes: list[int]
    """Bytes of text that each token completes; their sum over a document is its UTF-8 length, less gaps."""
    language: str = ""
    prefix_ids: tuple[int, ...] = ()
    """What the tokenizer puts in front of every sequence, such as a begin-of-sequence token; not among `ids`."""


@dataclass(frozen=True)
class Blocks:
    """Equally long token blocks, right-padded; every block comes from one document.

    Attributes:
        ids_NT: Token ids.
        n_real_N: Real tokens per block; the rest is padding.
        kind_NT: Critical class per token, an index into `kinds`; 0 is not critical.
        bytes_NT: Bytes completed by each token.
        document_ids: Document of each block.
        kinds: Names of the classes; kinds[0] is `other`.
    """

    ids_NT: Tensor
    n_real_N: Tensor
    kind_NT: Tensor
    bytes_NT: Tensor
    document_ids: tuple[str, ...]
    kinds: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.document_ids)

    @property
    def real_NT(self) -> Tensor:
        """True at real tokens."""
        return torch.arange(self.ids_NT.shape[1])[None] < self.n_real_N[:, None]

    @property
    def critical_NT(self) -> Tensor:
        """True at critical tokens."""
        return self.kind_NT > 0

    def take(self, indices: Sequence[int]) -> Blocks:
        """Return these blocks, in this order."""
        at = torch.tensor(list(indices), dtype=torch.long)
        return Blocks(
            self.ids_NT[at], self.n_real_N[at], self.kind_NT[at], self.bytes_NT[at],
            tuple(self.document_ids[i] for i in indices), self.kinds,
        )  # fmt: skip


def tokenize(documents: Sequence[Document], tokenizer: Any, kinds: Sequence[str]) -> list[TokenizedDocument]:
    """Tokenise documents and carry their spans over to tokens.

    A token is critical when any of its characters lies in a span, so whole words are marked under any
    tokenizer, byte-level BPE included, where several tokens can share one character.

    Raises:
        DataError: The tokenizer cannot say where its tokens stand in the text.
    """
    if not getattr(tokenizer, "is_fast", False):
        raise DataError("the tokenizer must be a fast one (tokenizer.json): spans need character offsets")
    number = {kind: index for index, kind in enumerate(kinds)}
    prefix_ids = prefix_of(tokenizer)
    out = []
    for document in documents:
        encoded = tokenizer(
            document.text, add_special_tokens=False, return_offsets_mapping=True, verbose=False, truncation=False
        )
        kind_of_character = np.zeros(len(document.text) + 1, dtype=np.int64)
        for span in document.spans:
            kind_of_character[span.start : span.end] = number[span.kind]
        byte_at = np.concatenate([[0], np.cumsum([len(c.encode()) for c in document.text])])
        kind_ids, n_bytes, done = [], [], 0
        for start, end in _spread(encoded["offset_mapping"], byte_at):
            kind_ids.append(int(kind_of_character[start : max(end, start + 1)].max()))
            n_bytes.append(int(max(byte_at[end] - byte_at[max(start, done)], 0)))
            done = max(done, end)
        out.append(
            TokenizedDocument(
                document.document_id, encoded["input_ids"], kind_ids, n_bytes, document.language, prefix_ids
            )
        )
    return out


def prefix_of(tokenizer: Any) -> tuple[int, ...]:
    """Return the tokens that stand in front of every sequence; without its own some models (Gemma) know no language."""
    plain, whole = (tokenizer("a", add_special_tokens=special)["input_ids"] for special in (False, True))
    return tuple(whole[: whole.index(plain[0])]) if plain and plain[0] in whole else ()


def _spread(offsets: Sequence[tuple[int, int]], byte_at: Any) -> list[tuple[int, int]]:
    """Give each byte token of a run of unknown characters the character that it is a part of.

    SentencePiece unigram tokenizers with byte fallback report the whole run for every byte of it.
    """
    out: list[tuple[int, int]] = []
    for (start, end), group in itertools.groupby(offsets):
        n_tokens = sum(1 for _ in group)
        if n_tokens > 1 and n_tokens == byte_at[end] - byte_at[start]:
            at = np.repeat(np.arange(start, end), np.diff(byte_at[start : end + 1])).tolist()
            out.extend((character, character + 1) for character in at)
        else:
            out.extend([(start, end)] * n_tokens)
    return out


def cut(documents: Sequence[TokenizedDocument], block_tokens: int, pad_id: int, kinds: Sequence[str]) -> Blocks:
    """Cut documents into consecutive blocks; a last piece shorter than an eighth of a block is left out.

    Every block begins with the tokenizer's prefix, which is no text: it completes no bytes and is not critical.

    Raises:
        DataError: No document is long enough for a single block.
    """
    rows: list[tuple[list[int], list[int], list[int], int, str]] = []
    for document in documents:
        prefix, none = list(document.prefix_ids), [0] * len(document.prefix_ids)
        room = block_tokens - len(prefix)
        for start in range(0, len(document.ids), room):
            ids = document.ids[start : start + room]
            if len(ids) < max(block_tokens // 8, 2):
                continue
            fill = room - len(ids)
            rows.append(
                (
                    prefix + ids + [pad_id] * fill,
                    none + document.kind_ids[start : start + room] + [0] * fill,
                    none + document.n_bytes[start : start + room] + [0] * fill,
                    len(prefix) + len(ids),
                    document.document_id,
                )
            )
    if not rows:
        longest = max((len(document.ids) for document in documents), default=0)
        raise DataError(
            f"corpus: expected at least one document of {max(block_tokens // 8, 2)} tokens, found none in "
            f"{len(documents)} documents, the longest has {longest}; add text or lower model.block_tokens"
        )
    all_ids, all_kinds, all_bytes, lengths, names = zip(*rows, strict=True)
    return Blocks(
        torch.tensor(all_ids), torch.tensor(lengths), torch.tensor(all_kinds), torch.tensor(all_bytes), tuple(names),
        tuple(kinds),
    )  # fmt: skip


def sample(blocks: Blocks, n_tokens: int, seed: int, *, full_only: bool = False) -> Blocks:
    """Draw blocks up to a token budget, spread over as many documents as possible.

    Documents are shuffled, then one random block is taken from each in turn, so that few documents never
    dominate and a smaller budget is a prefix of a larger one.

    Args:
        blocks: Where to draw from.
        n_tokens: Budget of real tokens; at least one block is taken.
        seed: Seed of the order.
        full_only: Leave out blocks with padding.

    Raises:
        DataError: No block is left to draw.
    """
    rng = np.random.default_rng(seed)
    by_document: dict[str, list[int]] = {}
    for index, name in enumerate(blocks.document_ids):
        if not full_only or int(blocks.n_real_N[index]) == blocks.ids_NT.shape[1]:
            by_document.setdefault(name, []).append(index)
    if not by_document:
        longest = int(blocks.n_real_N.max()) if len(blocks) else 0
        raise DataError(
            f"corpus: expected at least one full block of {blocks.ids_NT.shape[1]} tokens, the longest of "
            f"{len(blocks)} has {longest}; lower model.block_tokens or add longer documents"
        )
    names = sorted(by_document)
    queues = [list(rng.permutation(by_document[names[i]])) for i in rng.permutation(len(names))]
    chosen: list[int] = []
    total = 0
    while queues and total < max(n_tokens, 1):
        for queue in queues:
            chosen.append(int(queue.pop()))
            total += int(blocks.n_real_N[chosen[-1]])
            if total >= n_tokens:
                break
        queues = [queue for queue in queues if queue]
    return blocks.take(chosen)


def check_vocabulary(blocks: Blocks, n_embeddings: int) -> None:
    """Refuse token ids that a model has no embedding for, before a device does it without saying which.

    Args:
        blocks: What the model is about to read.
        n_embeddings: Rows of its input embedding; more than the tokenizer has entries is fine.

    Raises:
        DataError: An id is negative or not below `n_embeddings`.
    """
    lowest, highest = (int(value) for value in blocks.ids_NT.aminmax())
    if lowest < 0 or highest >= n_embeddings:
        wrong_N = ((blocks.ids_NT < 0) | (blocks.ids_NT >= n_embeddings)).any(1)
        first = blocks.document_ids[int(wrong_N.nonzero()[0])]
        raise DataError(
            f"token ids must lie within 0..{n_embeddings - 1}, the rows of the model's embedding, got "
            f"{lowest}..{highest}, first in document {first!r}; tokenise with the tokenizer of this model"
        )
