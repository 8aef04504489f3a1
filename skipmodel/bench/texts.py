"""The texts of a benchmark: random token ids, or real documents with the guards of the checkpoint.

Legend: B sequences, T tokens.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import torch

from skipmodel.bench.loads import Batch
from skipmodel.data import OTHER, Document, cut, sample, tokenize
from skipmodel.errors import DataError
from skipmodel.guards import TokenSequences


class Texts(Protocol):
    """Where a cell takes its texts from."""

    is_real: bool

    def batches(self, batch: int, n_tokens: int, n: int) -> list[Batch]:
        """Return `n` batches of texts of this length.

        Raises:
            DataError: No text is that long.
        """
        ...


class RandomTexts:
    """Token ids drawn at random: times depend on them only where learned routers decide."""

    is_real = False

    def __init__(self, vocabulary: int, seed: int = 0) -> None:
        self.vocabulary, self.seed = vocabulary, seed

    def batches(self, batch: int, n_tokens: int, n: int) -> list[Batch]:
        """Return `n` batches; the same for the same arguments."""
        generator = torch.Generator().manual_seed(self.seed)
        ids = torch.randint(0, self.vocabulary, (n, batch, n_tokens), generator=generator)
        return [Batch(ids_BT) for ids_BT in ids]


class DocumentTexts:
    """Blocks of documents, spread over as many as possible; guarded token sequences execute every layer."""

    is_real = True

    def __init__(
        self, documents: Sequence[Document], tokenizer: Any, finder: TokenSequences | None = None, seed: int = 0
    ) -> None:
        self.tokenizer, self.finder, self.seed = tokenizer, finder, seed
        self.tokenized = tokenize(documents, tokenizer, [OTHER])

    def batches(self, batch: int, n_tokens: int, n: int) -> list[Batch]:
        """Return `n` batches of full blocks; where there are fewer blocks than asked for, they are taken again."""
        blocks = sample(cut(self.tokenized, n_tokens, 0, [OTHER]), n_tokens * batch * n, self.seed, full_only=True)
        rows = [i % len(blocks) for i in range(batch * n)]
        ids = blocks.ids_NT[rows].split(batch)
        if self.finder is None:
            return [Batch(ids_BT) for ids_BT in ids]
        guarded = torch.tensor([self.finder.mark(row) for row in blocks.ids_NT.tolist()])[rows].split(batch)
        return [Batch(ids_BT, forced_BT) for ids_BT, forced_BT in zip(ids, guarded, strict=True)]


def read_documents(path: Path, split: str = "validation") -> list[Document]:
    """Read the documents of a split from the documents.jsonl of the ingest stage; spans are not needed here.

    Raises:
        DataError: The file is not there, is no such file, or has no document of the split.
    """
    try:
        rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
        found = [
            Document(row["document_id"], row["text"], (), row["language"]) for row in rows if row["split"] == split
        ]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"--documents {path.name}: expected the documents.jsonl of the ingest stage, it cannot be read ({error}); "
            "name that file, or leave --documents out to time random tokens"
        ) from error
    if not found:
        raise DataError(f"--documents {path.name}: expected documents of the split {split!r}, found none")
    return found
