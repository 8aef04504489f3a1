"""Guards: margins per class, sequences found in a stream, and the band outside which a request goes on densely."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from skipmodel.data import Blocks
from skipmodel.engine.executor import Engine
from skipmodel.errors import CheckpointError, ConfigError, DataError
from skipmodel.evaluate import score_blocks
from skipmodel.guards import Fallback, ServingGuards, SkipBand, TokenSequences, class_margins
from skipmodel.thresholds import thresholds_for
from tests.tiny import VOCAB, make_skip

TOKENS = st.lists(st.integers(0, 4), max_size=30)
SEQUENCES = st.lists(st.lists(st.integers(0, 4), min_size=1, max_size=4), max_size=5)


def blocks(n: int = 8, length: int = 40) -> Blocks:
    generator = torch.Generator().manual_seed(3)
    ids = torch.randint(3, VOCAB, (n, length), generator=generator)
    kinds = (torch.rand(n, length, generator=generator) < 0.3).long()
    names = tuple(f"d{i % 4}" for i in range(n))
    return Blocks(ids, torch.full((n,), length), kinds, torch.ones(n, length).long(), names, ("other", "glossary"))


@given(text=TOKENS, sequences=SEQUENCES)
def test_sequences_are_found_as_by_comparing_every_suffix(text: list[int], sequences: list[list[int]]) -> None:
    """A token is held iff the text up to it ends in a listed sequence, or in a beginning of two tokens or more."""
    marks = TokenSequences(sequences, least_prefix=2).mark(text)
    listed = [tuple(sequence) for sequence in sequences]
    for end in range(1, len(text) + 1):
        suffixes = {tuple(text[start:end]) for start in range(end)}
        whole = any(sequence in suffixes for sequence in listed)
        begun = any(sequence[:n] in suffixes for sequence in listed for n in range(2, len(sequence) + 1))

        assert marks[end - 1] == (whole or begun)


def test_a_margin_is_a_threshold_of_its_own() -> None:
    """A large margin executes a class as forcing would; a negative one makes it skip more; others stay."""
    text, engine = blocks(), Engine(make_skip())
    routing = engine.routing(0.0)
    unit = engine.routed_units[0]

    def ran(**options: object) -> torch.Tensor:
        return score_blocks(engine, text, routing, **{"force_critical": False, **options}).execute_mask_LNT[unit]  # type: ignore[arg-type]

    critical = text.critical_NT
    plain, raised, lowered = ran(), ran(margins={"glossary": 1e6}), ran(margins={"glossary": -1.0})

    assert torch.equal(raised, ran(force_critical=True))
    assert int(lowered[critical].sum()) < int(plain[critical].sum())
    assert torch.equal(lowered[~critical], plain[~critical])


def test_thresholds_take_margins_into_account() -> None:
    """With margins the threshold still meets the skip rate asked for."""
    text, engine = blocks(n=32), Engine(make_skip())
    logit = thresholds_for(engine, text, [0.2], force_critical=False, margins={"glossary": 2.0})[0]
    scores = score_blocks(engine, text, engine.routing(logit), force_critical=False, margins={"glossary": 2.0})

    assert float((~scores.execute_mask_LNT).float().mean()) == pytest.approx(0.2, abs=0.06)


def test_a_margin_for_an_unknown_class_is_refused() -> None:
    """The message names the class and those that exist; all zeros are no margin at all."""
    with pytest.raises(ConfigError, match=r"nonsense.*other, glossary"):
        class_margins(blocks(), {"nonsense": 1.0})

    assert class_margins(blocks(), {"glossary": 0.0}) is None


def test_a_request_outside_the_band_goes_on_densely() -> None:
    """The fall-back starts once the window is full and its mean leaves the band, and never ends."""
    band = SkipBand(0.1, 0.3, window_tokens=4)
    watch = Fallback(band)

    assert [watch.update(share) for share in (0.2, 0.2, 0.2, 0.2)] == [False] * 4
    assert watch.update(0.9)
    assert watch.update(0.2)
    assert Fallback(band).run([0.2] * 10) is None
    assert Fallback(band).run([0.0] * 10) == 4


def test_the_band_holds_the_text_it_came_from() -> None:
    """All but the asked share of windows lie inside; of a text with other routing nearly every block falls back."""
    text, engine = blocks(n=32), Engine(make_skip())
    mask = score_blocks(engine, text, engine.routing(0.0), force_critical=False).execute_mask_LNT
    band = SkipBand.calibrate(mask, text, engine.routed_units, window_tokens=16, share_outside=0.02)

    assert 0 <= band.low < band.high <= 1
    assert band.outside(mask, text, engine.routed_units) < 0.5
    assert band.outside(torch.zeros_like(mask), text, engine.routed_units) == 1.0
    with pytest.raises(DataError, match="at least 64 tokens"):
        SkipBand.calibrate(mask, text, engine.routed_units, window_tokens=64)


def test_guards_are_kept_with_the_checkpoint(tmp_path: Path) -> None:
    """Saved guards load again; no file means no guards; a damaged or newer one is refused."""
    guards = ServingGuards(((5, 6), (7,)), SkipBand(0.1, 0.4, 32))
    path = guards.save(tmp_path)

    assert ServingGuards.load(tmp_path) == guards
    assert guards.finder.mark([5, 6, 1, 7]) == [False, True, False, True]
    assert ServingGuards.load(tmp_path / "nowhere") == ServingGuards()
    path.write_text('{"schema_version": 9}', "utf-8")
    with pytest.raises(CheckpointError, match="schema_version 9"):
        ServingGuards.load(tmp_path)
