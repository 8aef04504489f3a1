"""Guards keep critical tokens from skipping, from soft to hard.

    margin    a class of tokens gets a threshold of its own: a value added to its router logits
    force     critical spans, listed token sequences and first positions execute every unit
    fall-back a request whose skip rate leaves the band seen on held-out text goes on densely

Loss weights and the hinge of the fine-tune (`skipmodel.losses`) come before all of these. Always-run layers are
guards too; they are part of the model.

Legend: B sequences, T tokens, N blocks, U units, W window.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from skipmodel.data import Blocks
from skipmodel.errors import CheckpointError, ConfigError, DataError

FILE_NAME = "guards.json"
SCHEMA_VERSION = 1
WINDOW_TOKENS = 32
"""Over which the fall-back watches the skip rate."""


def class_margins(blocks: Blocks, margins: Mapping[str, float]) -> Tensor | None:
    """Return what is added to the router logits of each token, (N, T); None when no class has a margin.

    A margin of m lets a token of that class execute as if its threshold logit were m lower.

    Raises:
        ConfigError: A class is not among those of the text.
    """
    unknown = sorted(set(margins) - set(blocks.kinds))
    if unknown:
        raise ConfigError(
            f"model.skip.class_margins: no such class {', '.join(unknown)}; classes are {', '.join(blocks.kinds)}"
        )
    if not any(margins.values()):
        return None
    by_kind = torch.tensor([float(margins.get(kind, 0.0)) for kind in blocks.kinds])
    return by_kind[blocks.kind_NT]


def free_tokens(blocks: Blocks, force_first_positions: int, *, force_critical: bool) -> Tensor:
    """Return which tokens no guard forces, so that the routers decide on them, (N, T); padding is not among them."""
    free_NT = blocks.real_NT & ~blocks.critical_NT if force_critical else blocks.real_NT.clone()
    free_NT[:, :force_first_positions] = False
    return free_NT


@dataclass(frozen=True)
class SkipBand:
    """Where the skip rate of a stretch of text lies on held-out text; outside it a request falls back to dense.

    Attributes:
        low, high: Bounds of the share of routed units skipped within a window.
        window_tokens: Length of the window.
    """

    low: float
    high: float
    window_tokens: int

    @classmethod
    def calibrate(
        cls, execute_mask_UNT: Tensor, blocks: Blocks, routed_units: Sequence[int], *,
        window_tokens: int = WINDOW_TOKENS, share_outside: float = 0.01,
    ) -> SkipBand:  # fmt: skip
        """Read the band off decisions on held-out text.

        Args:
            execute_mask_UNT: Decisions at the threshold to be served, guards included.
            blocks: The text.
            routed_units: Units that may skip.
            window_tokens: Length of the window.
            share_outside: So many windows of the held-out text lie outside, half on each side.

        Raises:
            DataError: No block is as long as the window.
        """
        skipped_NT = (~execute_mask_UNT[list(routed_units)]).float().mean(0)
        windows = [
            row[: int(n)].unfold(0, window_tokens, 1).mean(1)
            for row, n in zip(skipped_NT, blocks.n_real_N, strict=True) if int(n) >= window_tokens
        ]  # fmt: skip
        if not windows:
            raise DataError(
                f"skip band: expected blocks of at least {window_tokens} tokens, the longest has "
                f"{int(blocks.n_real_N.max())}; calibrate on longer text or shorten the window"
            )
        rates = torch.cat(windows).double()
        low, high = torch.quantile(rates, torch.tensor([share_outside / 2, 1 - share_outside / 2]).double()).tolist()
        return cls(low, high, window_tokens)

    def outside(self, execute_mask_UNT: Tensor, blocks: Blocks, routed_units: Sequence[int]) -> float:
        """Return the share of blocks in which some window leaves the band: requests that would fall back."""
        falls = [
            Fallback(self).run((~mask_UT[list(routed_units), : int(n)]).float().mean(0).tolist())
            for mask_UT, n in zip(execute_mask_UNT.unbind(1), blocks.n_real_N, strict=True)
        ]
        return sum(at is not None for at in falls) / len(falls)


class Fallback:
    """Watches one request: once its recent skip rate leaves the band, the rest of it runs densely."""

    def __init__(self, band: SkipBand) -> None:
        self.band = band
        self.recent: deque[float] = deque(maxlen=band.window_tokens)
        self.is_dense = False

    def update(self, skipped_share: float) -> bool:
        """Take in the share of routed units that the last token skipped; return whether to run densely from now on."""
        self.recent.append(skipped_share)
        if not self.is_dense and len(self.recent) == self.band.window_tokens:
            rate = sum(self.recent) / len(self.recent)
            self.is_dense = not self.band.low <= rate <= self.band.high
        return self.is_dense

    def run(self, skipped_shares: Iterable[float]) -> int | None:
        """Return after how many tokens a whole request falls back; None if it never does."""
        for position, share in enumerate(skipped_shares):
            if self.update(share):
                return position + 1
        return None


class TokenSequences:
    """Finds listed token sequences in a stream, one token at a time (Aho-Corasick over token ids).

    A token is held when the text so far ends in a listed sequence, or in the beginning of one that is at least
    `least_prefix` tokens long: a long term is guarded before it is complete.
    """

    def __init__(self, sequences: Iterable[Sequence[int]], least_prefix: int = 2) -> None:
        self.sequences = sorted({tuple(sequence) for sequence in sequences if len(sequence)})
        self._next: list[dict[int, int]] = [{}]
        self._fail, self._depth, self._is_end = [0], [0], [False]
        for sequence in self.sequences:
            self._insert(sequence)
        self._link()
        self.least_prefix = least_prefix

    def _insert(self, sequence: Sequence[int]) -> None:
        node = 0
        for token in sequence:
            if token not in self._next[node]:
                self._next[node][token] = len(self._next)
                self._next.append({})
                self._fail.append(0)
                self._depth.append(self._depth[node] + 1)
                self._is_end.append(False)
            node = self._next[node][token]
        self._is_end[node] = True

    def _link(self) -> None:
        queue = deque(self._next[0].values())
        while queue:
            node = queue.popleft()
            for token, child in self._next[node].items():
                self._fail[child] = self.step(self._fail[node], token)
                self._is_end[child] = self._is_end[child] or self._is_end[self._fail[child]]
                queue.append(child)

    def step(self, node: int, token: int) -> int:
        """Return the state after one more token; 0 is the start."""
        while node and token not in self._next[node]:
            node = self._fail[node]
        return self._next[node].get(token, 0)

    def holds(self, node: int) -> bool:
        """Tell whether the last token is guarded in this state."""
        return self._is_end[node] or self._depth[node] >= self.least_prefix

    def mark(self, ids: Sequence[int]) -> list[bool]:
        """Return which tokens of a text are guarded, as a stream would see them."""
        node, marks = 0, []
        for token in ids:
            node = self.step(node, token)
            marks.append(self.holds(node))
        return marks


@dataclass(frozen=True)
class ServingGuards:
    """Guards of a checkpoint while it generates, kept beside it in `guards.json`.

    Attributes:
        sequences: Token sequences, such as glossary terms, that execute every unit.
        band: Band of the fall-back; None never falls back.
    """

    sequences: tuple[tuple[int, ...], ...] = ()
    band: SkipBand | None = None
    _finder: list[TokenSequences] = field(default_factory=list, repr=False, compare=False)

    @property
    def finder(self) -> TokenSequences:
        """Finds the sequences; made once."""
        if not self._finder:
            self._finder.append(TokenSequences(self.sequences))
        return self._finder[0]

    def save(self, folder: Path) -> Path:
        """Write `guards.json` into a checkpoint folder."""
        band = None if self.band is None else [self.band.low, self.band.high, self.band.window_tokens]
        document = {"schema_version": SCHEMA_VERSION, "sequences": self.sequences, "band": band}
        path = folder / FILE_NAME
        path.write_text(json.dumps(document) + "\n", "utf-8")
        return path

    @classmethod
    def load(cls, folder: Path) -> ServingGuards:
        """Read what `save` wrote; a folder without the file has no guards.

        Raises:
            CheckpointError: The file is damaged or of a newer version.
        """
        path = folder / FILE_NAME
        if not path.exists():
            return cls()
        try:
            document: dict[str, Any] = json.loads(path.read_text("utf-8"))
            if document["schema_version"] != SCHEMA_VERSION:
                raise ValueError(f"schema_version {document['schema_version']}, this version reads {SCHEMA_VERSION}")
            sequences = tuple(tuple(int(token) for token in sequence) for sequence in document["sequences"])
            band = None if document["band"] is None else SkipBand(*document["band"])
        except (ValueError, KeyError, TypeError) as error:
            raise CheckpointError(
                f"{FILE_NAME} of the checkpoint cannot be used: {error}; run the fine-tune again, or remove the file "
                "to generate without guards"
            ) from error
        return cls(sequences, band)


def term_sequences(terms: Iterable[str], tokenizer: Any) -> tuple[tuple[int, ...], ...]:
    """Return the token sequences of terms, at the start of a text and after a space."""
    found = set()
    for term in terms:
        for text in (term, " " + term):
            ids = tokenizer(text, add_special_tokens=False)["input_ids"]
            if ids:
                found.add(tuple(ids))
    return tuple(sorted(found))
