"""Proposed terms: candidates, keyness, and the CSV that a domain expert edits."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flows.corpus import japanese, propose
from flows.corpus.japanese import NounRuns, script_runs
from flows.corpus.keyness import Counts, log_odds_z, residual_idf
from flows.corpus.propose import EnglishPhrases, Proposal, propose_terms, write_csv
from flows.terms import Term, TermMatcher, find_spans, load_glossary

OWN_JA = "検査成績書を提出する場合は、トルクレンチの校正証明書を添付します。\n" * 4
OWN_EN = "The torque wrench must be calibrated. A torque wrench without calibration certificates can fail.\n" * 4
GENERAL = [
    ("書類を提出する場合は、窓口で申し込みます。資料を添付することもできます。\n" * 30, "ja"),
    ("The letter must be sent. A document without a date can be lost in the office.\n" * 30, "en"),
]


def _terms(proposals: list[Proposal], language: str) -> list[str]:
    return [proposal.term for proposal in proposals if proposal.language == language]


def test_terms_of_the_company_are_proposed_and_general_words_are_not() -> None:
    """Compound nouns and phrases that the background lacks come out; words common to both do not."""
    proposals = propose_terms([(OWN_JA, "ja"), (OWN_EN, "en")], GENERAL, 50)

    assert {"検査成績書", "トルクレンチ", "校正証明書"} <= set(_terms(proposals, "ja"))
    assert "torque wrench" in _terms(proposals, "en")
    assert not {"場合", "提出", "添付"} & set(_terms(proposals, "ja"))
    assert not {"calibrated", "must", "fail", "document"} & set(_terms(proposals, "en"))


def test_pieces_of_a_longer_phrase_are_left_out() -> None:
    """`torque` and `wrench` never stand alone, so only the phrase is proposed."""
    terms = _terms(propose_terms([(OWN_EN, "en")], GENERAL, 50), "en")

    assert "torque wrench" in terms
    assert not {"torque", "wrench"} & set(terms)


def test_plural_spellings_become_aliases() -> None:
    """The spellings of one term are one proposal, whose aliases the matcher needs."""
    text = "Check the flow valve.\n" * 4 + "Check both flow valves.\n" * 2
    (proposal,) = [p for p in propose_terms([(text, "en")], GENERAL, 50) if p.term == "flow valve"]

    assert proposal.aliases == ("flow valves",)
    assert (proposal.count, proposal.documents) == (6, 1)


def test_aliases_keep_inner_capitals() -> None:
    """`OCSP responses` is an alias as it is written: in lower case the matcher would never find it."""
    text = "Read the OCSP response.\n" * 4 + "Read the OCSP responses.\n" * 2
    (proposal,) = [p for p in propose_terms([(text, "en")], GENERAL, 50) if p.term == "OCSP response"]

    assert proposal.aliases == ("OCSP responses",)


def test_known_terms_are_not_proposed_again() -> None:
    """A glossary term and its aliases stay out of the proposals."""
    known = [Term("Torque Wrench", "en", "", (), 1.0, False, "", "glossary")]

    assert "torque wrench" not in _terms(propose_terms([(OWN_EN, "en")], GENERAL, 50, known), "en")


def test_without_background_terms_of_few_documents_come_first() -> None:
    """Residual IDF puts a term that clusters in one document above a word that all documents share."""
    texts = [
        ("検査成績書を確認します。" * 6 + "確認します。", "ja"),
        *[(f"書類{i}を確認します。" * 3, "ja") for i in range(9)],
    ]
    terms = _terms(propose_terms(texts, [], 50), "ja")

    assert terms[0] == "検査成績書"
    assert "確認" not in terms[:1]


def test_placeholders_of_masked_data_are_no_terms() -> None:
    """What stands for personal data is never proposed."""
    text = ("Send it to [MY_NUMBER] or [EMAIL] now.\n" * 5, "en")
    japanese_text = ("[MY_NUMBER] と [EMAIL] を送ります。\n" * 5, "ja")
    proposals = propose_terms([text, japanese_text], GENERAL, 50)

    assert not [p.term for p in proposals if "EMAIL" in p.term.upper() or "NUMBER" in p.term.upper()]


def test_readings_are_given_in_hiragana() -> None:
    """A Japanese proposal has the reading that a glossary wants."""
    (proposal,) = [p for p in propose_terms([(OWN_JA, "ja")], GENERAL, 50) if p.term == "検査成績書"]

    assert proposal.reading == "けんさせいせきしょ"


def test_without_sudachi_runs_of_one_script_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """The extra is optional: terms are still found, without readings."""
    monkeypatch.setattr(propose, "has_sudachi", lambda: False)
    proposals = propose_terms([(OWN_JA, "ja")], GENERAL, 50)

    assert {"検査成績書", "トルクレンチ", "校正証明書"} <= set(_terms(proposals, "ja"))
    assert {proposal.reading for proposal in proposals} == {""}


def test_noun_runs_join_compounds_and_stop_at_particles_numbers_and_spaces() -> None:
    """Prefixes, nouns and nominal suffixes make one candidate."""
    runs = NounRuns()("第1工場の検査成績書とSSLサーバ証明書を、3回以上 確認する場合。再起動 時間")

    assert {"検査成績書", "SSLサーバ証明書", "再起動"} <= set(runs)
    assert not {"場合", "以上", "再起動時間"} & set(runs)


def test_lines_above_the_limit_of_sudachi_are_read() -> None:
    """A line of half a million characters gives its candidates (SudachiPy itself refuses 49,150 bytes)."""
    runs = NounRuns()("校正証明書を出す。" * 60_000)

    assert runs.count("校正証明書") >= 59_000


@given(st.text(alphabet="校正証明書トルクのをA1- ・\n。", max_size=60))
def test_candidates_stand_in_their_text(text: str) -> None:
    """Whatever the text, a candidate by script is a piece of it of permitted length."""
    for run in script_runs(text):
        assert run in text
        assert japanese.MIN_LENGTH <= len(run) <= japanese.MAX_LENGTH


def test_english_phrases_stay_within_a_clause() -> None:
    """A comma, a stop word and a possessive end a phrase."""
    phrases = EnglishPhrases()("flow valve, pump of the server's log file")

    assert {"flow valve", "log file", "server"} <= set(phrases)
    assert not {"valve pump", "pump server", "server log"} & set(phrases)


# --- keyness -----------------------------------------------------------------------------------------------


def _floats(*values: float) -> np.ndarray:
    return np.array(values, dtype=np.float64)


def test_keyness_follows_the_formula() -> None:
    """One term worked by hand: 30 of 1,000 against 10 of 2,000 with a prior of a tenth, 4 of 300."""
    prior = 4
    d = np.log((30 + prior) / (1000 + 300 - 30 - prior)) - np.log((10 + prior) / (2000 + 300 - 10 - prior))
    expected = d / np.sqrt(1 / (30 + prior) + 1 / (10 + prior))

    assert log_odds_z(_floats(30), 1000, _floats(10), 2000, 0.1) == pytest.approx([expected])


counts = st.integers(0, 500)


@given(counts, counts, st.floats(0.01, 10))
def test_keyness_is_antisymmetric(own: int, other: int, prior: float) -> None:
    """Exchanging the two corpora turns the sign, and equal shares give 0."""
    here = log_odds_z(_floats(own), 5000, _floats(other), 5000, prior)[0]
    there = log_odds_z(_floats(other), 5000, _floats(own), 5000, prior)[0]

    assert here == pytest.approx(-there, abs=1e-9)
    assert (here > 0) == (own > other)


def test_residual_idf_is_zero_for_words_spread_by_chance() -> None:
    """As many documents as a Poisson process gives: 0; all occurrences in one document: high."""
    expected_documents = 1000 * -np.expm1(-0.2)
    spread, clustered = residual_idf(_floats(200, 200), _floats(expected_documents, 1), 1000)

    assert spread == pytest.approx(0, abs=1e-9)
    assert clustered == pytest.approx(np.log2(expected_documents))


def test_counting_forgets_the_rare_and_keeps_the_frequent() -> None:
    """The table stays within its limit whatever streams past; the total counts everything."""
    counts = Counts(max_candidates=50)
    for document in range(200):
        counts.add(["torque", "torque", f"word{document}"])
    counts.flush()

    assert len(counts.occurrences) <= 50
    assert (counts.occurrences["torque"], counts.documents["torque"]) == (400, 200)
    assert (counts.total, counts.n_documents) == (600, 200)


# --- the CSV -----------------------------------------------------------------------------------------------


def test_the_written_file_is_a_glossary(tmp_path: Path) -> None:
    """It holds the old rows unchanged and the proposals, loads as it is, and its terms are found in text."""
    old = Term("認証局", "ja", "にんしょうきょく", ("CA",), 2.0, True, 'a, "b"', "glossary")
    proposals = propose_terms([(OWN_JA, "ja"), (OWN_EN, "en")], GENERAL, 50, [old])
    path = tmp_path / "new" / "proposed.csv"
    write_csv(proposals, path, [old])
    loaded = load_glossary(path)

    assert loaded[0] == old
    assert [(t.term, t.language, t.reading, t.aliases) for t in loaded[1:]] == [
        (p.term, p.language, p.reading, p.aliases) for p in proposals
    ]
    spans = find_spans("Use the torque wrench.", TermMatcher.from_glossary(loaded))
    assert [span.term for span in spans] == ["torque wrench"]
    assert path.read_bytes().startswith(b"\xef\xbb\xbf")
