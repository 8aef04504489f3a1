import json
import shutil

import pytest

from flows import cli, token_map
from flows.report_command import write_all
from reports import paper, pdf
from reports.errors import ReportError


@pytest.fixture
def runs(fx, tmp_path):
    """Two finished runs."""
    for name, result in (("one", fx.go()), ("two", fx.no_go())):
        folder = tmp_path / "runs" / name
        folder.mkdir(parents=True)
        result["run"] |= {"id": name, "created_at": f"2026-11-{10 + len(name)}T09:00:00+09:00"}
        (folder / "result.json").write_text(json.dumps(result), "utf-8")
    return tmp_path / "runs"


def test_report_and_summary_are_written_in_the_language_asked_for(runs, capsys):
    """`report RUN --lang en` writes report.en.html and summary.en.md and says where."""
    assert cli.main(["report", str(runs / "one"), "--lang", "en"]) == 0
    written = {path.name for path in (runs / "one").iterdir()} - {"result.json"}
    assert written == {"report.en.html", "summary.en.md"}
    assert capsys.readouterr().out.split() == [str(runs / "one" / name) for name in ("report.en.html", "summary.en.md")]
    assert 'lang="en"' in (runs / "one" / "report.en.html").read_text("utf-8")


def test_redact_leaves_the_words_out(runs):
    """The same run with and without --redact: only one holds the words of a passage."""
    for flags in ([], ["--redact", "--out", str(runs / "outside.html")]):
        assert cli.main(["report", str(runs / "one"), *flags]) == 0
    assert "秒数" in (runs / "one" / "report.ja.html").read_text("utf-8")
    outside = (runs / "outside.html").read_text("utf-8")
    assert "秒数" not in outside
    assert "社内文書の本文: 含まない" in outside
    assert (runs / "outside.md").is_file()


def test_compare_writes_one_page_of_all_runs_beside_them(runs, capsys):
    """A run named twice, also through a link, counts once."""
    (runs / "latest").symlink_to(runs / "two")
    assert cli.main(["report", "--compare", str(runs / "one"), str(runs / "two"), str(runs / "latest")]) == 0
    assert capsys.readouterr().out.strip() == str(runs / "history.ja.html")
    assert "2回の実行" in (runs / "history.ja.html").read_text("utf-8")
    assert cli.main(["report", str(runs / "one"), "--compare", str(runs / "two"), "--out", str(runs / "h.html")]) == 0
    assert "2回の実行" in (runs / "h.html").read_text("utf-8")


@pytest.mark.parametrize("arguments", [["report"], ["report", "nowhere"], ["report", "--compare", "nowhere"]])
def test_a_missing_run_ends_in_one_message(arguments, capsys):
    """No run, or none at that place: exit code 2 and what to do, no traceback."""
    assert cli.main(arguments) == 2
    assert capsys.readouterr().err.startswith("error: ")


def test_without_a_program_for_pdf_the_message_names_two(fx, tmp_path, monkeypatch):
    """Neither Chromium nor WeasyPrint: the report is there, and the error says what to install."""
    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.setattr(paper.importlib, "import_module", _not_installed)
    with pytest.raises(ReportError, match="chromium, or run pip install"):
        write_all(fx.go(), tmp_path / "report.html", "ja", with_pdf=True)
    assert (tmp_path / "report.html").is_file()
    assert not (tmp_path / "report.pdf").exists()


def _not_installed(name):
    raise ImportError(name)


def test_a_browser_that_fails_gives_a_message_and_no_file(fx, tmp_path, monkeypatch):
    """A program that ends with an error, or prints nothing, leaves no half PDF."""
    for program in ("false", "true"):
        monkeypatch.setattr(pdf, "find_browser", lambda program=program: shutil.which(program))
        with pytest.raises(ReportError, match="expected a PDF"):
            write_all(fx.go(), tmp_path / "report.html", "ja", with_pdf=True)
    assert not (tmp_path / "report.pdf").exists()


def test_the_dates_of_printing_become_the_time_of_the_result():
    """Two prints at different times are the same file; everything else stays."""
    prints = [
        f"<</CreationDate (D:2026{day}120000+00'00')\n/ModDate (D:2026{day}120001+00'00')>>" for day in (1124, 1231)
    ]
    dated = {pdf.dated(text.encode(), "2026-11-23T09:15:00+09:00") for text in prints}
    assert dated == {b"<</CreationDate (D:20261123091500+00'00')\n/ModDate (D:20261123091500+00'00')>>"}


def test_weasyprint_gets_the_colours_of_drawings_as_attributes(page):
    """Classes inside SVG become fill and stroke; classes outside stay."""
    html = paper.coloured(page("go", "ja"))
    assert 'stroke="#0b5fa5"' in html
    assert 'class="f-muted' not in html
    assert 'class="verdict v-go"' in html


def test_pieces_give_a_character_to_the_token_that_completes_it():
    """Byte tokens of one character: the last carries it, those before are empty, nothing is lost or doubled."""
    text = "値は 300 秒です。ab"
    ids = list(text.encode("utf-8"))
    found = token_map.pieces(ids, lambda part: bytes(part).decode("utf-8", "replace"))
    assert "".join(found) == text
    assert found[:3] == ["", "", "値"]
    assert found[-1] == "b"


def test_private_parts_are_blacked_out_across_tokens():
    """An address split over tokens loses every letter; the text around it stays."""
    tokens = ["連絡先は", " taro", ".yamada", "@acme", "-corp.co", ".jp", " です"]
    shown = token_map.masked(tokens)
    assert shown[0] == tokens[0]
    assert shown[-1] == tokens[-1]
    assert not any(letter.isalpha() for token in shown[1:-1] for letter in token)
    assert [len(token) for token in shown] == [len(token) for token in tokens]


def test_a_mask_has_one_bit_per_unit():
    """Bit k stands for unit k."""
    assert [token_map.bit_mask(units) for units in ([], [False] * 3, [True, False, True], [False] * 8 + [True])] == [
        "0", "0", "5", "100",
    ]  # fmt: skip
