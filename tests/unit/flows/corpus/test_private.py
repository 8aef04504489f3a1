"""Personal and secret data: what is found, what is left alone, and how the text looks after it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from flows.corpus.private import TYPES, find, mask
from flows.corpus.private_checks import is_card, is_iban, is_my_number, is_random, is_routing_number, luhn
from flows.corpus.private_report import private_report, score

CASES = Path(__file__).with_name("private_cases.jsonl")
ROWS = [json.loads(line) for line in CASES.read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("kind", TYPES)
def test_precision_and_recall_on_labelled_sentences(kind: str) -> None:
    """Each type has at least 20 private parts in the set; 95 % of them are found and 95 % of the spans are right."""
    result = score(ROWS)[kind]
    assert result.n_private >= 20
    assert result.recall is not None
    assert result.precision is not None
    assert (result.recall >= 0.95, result.precision >= 0.95) == (True, True)


def test_the_labelled_set_is_large_and_has_hard_negatives() -> None:
    """At least 400 different sentences, 150 of them without anything private."""
    assert len({row["text"] for row in ROWS}) == len(ROWS) >= 400
    assert sum(not row["private"] for row in ROWS) >= 150


def test_report_prints_a_row_per_type(tmp_path: Path) -> None:
    """The command line prints the table that the function returns; a miss and a false find are counted."""
    path = tmp_path / "cases.jsonl"
    rows = [
        {"text": "mail a@b-shop.jp", "private": [["EMAIL", "a@b-shop.jp"]]},
        {"text": "mail the owner", "private": [["EMAIL", "owner"]]},
        {"text": "mail c@d-shop.jp", "private": []},
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    report = private_report(path)
    assert next(line for line in report.splitlines() if line.startswith("EMAIL")).split() == [
        *("EMAIL", "2", "1", "0.500", "2", "1", "0.500")
    ]
    command = [sys.executable, "-m", "flows.corpus.private_report", str(path)]
    printed = subprocess.run(command, capture_output=True, text=True, check=True, encoding="utf-8")
    assert printed.stdout == report + "\n"


def test_mask_puts_types_in_place_and_counts_them() -> None:
    """The rest of the text stays as it is, full-width characters included."""
    text = "担当：山田 太郎様（ＴＥＬ：０３－５５４７－１２９６）\nyamada@kaede.jp と ito@kaede.jp\n"
    assert mask(text, ["山田 太郎"]) == (
        "担当：[NAME]様（ＴＥＬ：[PHONE]）\n[EMAIL] と [EMAIL]\n",
        {"NAME": 1, "PHONE": 1, "EMAIL": 2},
    )


def test_text_without_private_parts_is_returned_as_it_is() -> None:
    """No counts, no changes."""
    assert mask("Nothing here.\n") == ("Nothing here.\n", {})


def test_parts_in_a_long_text_are_found_at_any_place() -> None:
    """Masking in pieces finds the same as masking each paragraph alone."""
    texts = [row["text"] for row in ROWS if "個人番号" not in row["text"]]
    alone = [mask(text)[0] for text in texts]
    filler = "\n\n" + "No private word stands in this filler paragraph. " * 20 + "\n\n"
    together, _ = mask(filler.join(texts))
    is_my_number_known = [
        i for i, text in enumerate(texts) if mask(text + "\n\n個人番号")[0] != alone[i] + "\n\n個人番号"
    ]
    parts = together.split(filler)
    assert [i for i, part in enumerate(parts) if part != alone[i]] == is_my_number_known


def test_twelve_digits_are_a_my_number_only_where_the_document_speaks_of_it() -> None:
    """The header of a table counts for all of its rows."""
    rows = "\n".join(["氏名,番号", "A,123456789018", "B,100000000005"])
    assert mask(rows)[1] == {}
    assert mask(rows.replace("番号", "個人番号"))[1] == {"MY_NUMBER": 2}


def test_a_private_key_over_empty_lines_is_one_part() -> None:
    """The header of an encrypted key and its body go, as does a key whose end was cut off."""
    body = "\n".join(["MIIEowIBAAKCAQEAx0vN3hK2q8Jt5Zr1Lw9uYb7Qe4Xc"] * 5)
    head = "-----BEGIN " + "RSA PRIVATE KEY-----\n"
    whole = f"{head}Proc-Type: 4,ENCRYPTED\nDEK-Info: AES-128-CBC,AB12\n\n{body}\n-----END RSA PRIVATE KEY-----"
    assert mask(f"key:\n\n{whole}\n\nend")[0] == "key:\n\n[API_KEY]\n\nend"
    assert mask(head + body) == ("[API_KEY]", {"API_KEY": 1})
    assert mask(f"A file that begins with {head}is a key.")[1] == {}


def test_where_types_overlap_the_first_wins() -> None:
    """The password of an address with user and host is a password, not part of a mail address."""
    assert mask("amqp://svc:r4bbitMq@mq.kaede-denki.com/")[0] == "amqp://svc:[PASSWORD]@mq.kaede-denki.com/"


def test_placeholders_are_not_names() -> None:
    """A listed name that is also a word in a placeholder does not change it."""
    assert mask("[EMAIL] and EMAIL", ["EMAIL"]) == ("[EMAIL] and [NAME]", {"NAME": 1})


@pytest.mark.parametrize(
    ("digits", "expected"),
    [("123456789018", True), ("123456789012", False), ("000000000000", True), ("12345678901", False)],
)
def test_my_number_check_digit(digits: str, expected: bool) -> None:
    """1..1 weighted by 6 5 4 3 2 7 6 5 4 3 2: 12345678901 gives 267 = 3 mod 11, so the check digit is 8."""
    assert is_my_number(digits) is expected


@pytest.mark.parametrize(
    ("digits", "expected"),
    [("79927398713", True), ("79927398710", False), ("0", True), ("18", True), ("81", False)],
)
def test_luhn(digits: str, expected: bool) -> None:
    """The example of the standard, and a swap of two digits."""
    assert luhn(digits) is expected


@pytest.mark.parametrize(
    ("digits", "expected"),
    [
        ("4111111111111111", True),
        ("5555555555554444", True),
        ("378282246310005", True),
        ("3530111333300000", True),
        ("30569309025904", True),
        ("6011111111111117", True),
        ("4111111111111112", False),
        ("9111111111111111", False),
        ("49927398716", False),
    ],
)
def test_card(digits: str, expected: bool) -> None:
    """Published test numbers of the schemes; a wrong check digit, an unknown prefix and a wrong length are none."""
    assert is_card(digits) is expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("GB82WEST12345698765432", True),
        ("DE89370400440532013000", True),
        ("GB82WEST12345698765423", False),
        ("GB82WEST", False),
    ],
)
def test_iban(text: str, expected: bool) -> None:
    """The published examples pass; swapped digits and short ones do not."""
    assert is_iban(text) is expected


def test_routing_number() -> None:
    """The Federal Reserve Bank of Boston has 011000015."""
    assert is_routing_number("011000015")
    assert not is_routing_number("011000016")
    assert not is_routing_number("000000000")


@pytest.mark.parametrize(
    "value", ["user_profile_page_v2_final", "customerIdentifierNumber", "aaaaaaaaaaaaaaa1", "2024-01-15-001122"]
)
def test_words_and_dates_do_not_look_random(value: str) -> None:
    """Names of fields and dates are no keys."""
    assert not is_random(value)


N = 60_000
HOSTILE = [
    *(
        "1",
        "0",
        "12-",
        "03-1234-",
        "+1",
        "@",
        "a@",
        "@a.",
        "aB1",
        "pass",
        "password=",
        'password="',
        "key=a1",
        "token is ",
    ),
    *(
        "-----BEGIN PRIVATE KEY-----",
        "市",
        "市1",
        "東京都市",
        "一丁目",
        "1 Aa ",
        "12 Main ",
        "DE89 3704 ",
        "AA11 AAAA ",
    ),
    *(
        "普通",
        "普通 1",
        "account ",
        "eyJ",
        "eyJaaaaaaaaaa1.",
        "://a:",
        "mysql ",
        "curl -u ",
        " ",
        "(",
        "[",
        "[EMAIL]",
        "ghp_",
    ),
    *(
        "a@b-c.co ",
        "03-1234-5678 ",
        "４１１１",
        "P.O. Box ",
        "\n",
        "記号1",
        "sort code ",
        "住所",
        "sk-",
        "/",
        "-",
        "１丁目２",
    ),
]


@pytest.mark.timeout(120)
@pytest.mark.parametrize("piece", HOSTILE)
def test_hostile_text_takes_linear_time(piece: str) -> None:
    """A pattern that tries again and again would take hours for these; the limit of the test is generous."""
    text = piece * (N // len(piece))
    masked, counts = mask(text)
    assert mask(masked) == (masked, {})
    assert (masked == text) == (not counts)


def test_find_gives_places_in_the_text() -> None:
    """The words at the places are the private ones."""
    text = "Call 03-6812-4477 or write to info@kita-logistics.jp."
    assert [(text[start:end], kind) for start, end, kind in find(text)] == [
        ("03-6812-4477", "PHONE"),
        ("info@kita-logistics.jp", "EMAIL"),
    ]


def test_a_card_is_masked_whole_where_its_beginning_looks_like_a_my_number() -> None:
    """The first twelve digits have a right check digit and the document speaks of My Numbers; no digit stays."""
    masked, counts = mask("個人番号 1234-5678-9018、カード 4111 1111 1111 1111")
    assert masked == "個人番号 [MY_NUMBER]、カード [CARD]"
    assert counts == {"MY_NUMBER": 1, "CARD": 1}


@pytest.mark.parametrize("card", ["4111111111111111", "4111 1111 1111 1111", "378282246310005"])
@pytest.mark.parametrize("number", ["123456789018", "1234-5678-9018"])
def test_a_card_right_behind_a_my_number_is_told_from_it(number: str, card: str) -> None:
    """Columns without a gap are two numbers where the document speaks of My Numbers and both check digits are right."""
    text = f"個人番号とカード: {number}{card}\n"

    assert mask(text) == ("個人番号とカード: [MY_NUMBER][CARD]\n", {"MY_NUMBER": 1, "CARD": 1})
    for other in (
        text.replace("個人番号", "注文番号"),
        text.replace(number, number[:-1] + "9"),
        text.replace(card, card[:-1] + "9"),
    ):
        assert "[MY_NUMBER][CARD]" not in mask(other)[0]
