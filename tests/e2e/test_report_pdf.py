"""The printed report: page 1 decides, every page is marked, the same bytes each time, by either program."""

import importlib.util
import shutil
from pathlib import Path

import pypdf
import pytest

from flows.report_command import write_all
from reports import pdf
from tests.e2e.report_pages import result

pytestmark = pytest.mark.browser
_NEEDS_CHROMIUM = pytest.mark.skipif(pdf.find_browser() is None, reason="Chromium not found; apt-get install chromium")
_NEEDS_WEASYPRINT = pytest.mark.skipif(
    importlib.util.find_spec("weasyprint") is None, reason="WeasyPrint not found; run: pip install weasyprint"
)
_A4_PT = (595, 842)


def _texts(path: Path) -> list[str]:
    reader = pypdf.PdfReader(path)
    assert all(abs(float(page.mediabox.width) - _A4_PT[0]) < 2 for page in reader.pages)
    assert all(abs(float(page.mediabox.height) - _A4_PT[1]) < 2 for page in reader.pages)
    # printing maps some characters to look-alikes of the same meaning; spaces depend on the font
    import unicodedata

    return [
        unicodedata.normalize("NFKC", page.extract_text()).replace(" ", "").replace("\n", "") for page in reader.pages
    ]


def _holds_the_decision(first: str) -> bool:
    needed = ("No-Go", "層を省略しても", "証拠", "当面は密モデル", "Q1", "Q4", "S1", "C3", "D1", "機能確認用")
    return all(word in first for word in needed)


@_NEEDS_CHROMIUM
def test_chromium_prints_the_decision_on_page_one_and_the_same_bytes_twice(tmp_path: Path) -> None:
    """Verdict, reason, evidence, next action and five tiles on A4 page 1; the marker on every page; same bytes."""
    built = result("functional_check_no_go")
    written = write_all(built, tmp_path / "report.html", "ja", with_pdf=True)
    assert written.pdf is not None
    texts = _texts(written.pdf)
    assert _holds_the_decision(texts[0])
    assert [page for page in texts if "社内文書の本文:含まない" not in page] == []
    assert f"1/{len(texts)}" in texts[0]
    assert any("トークンの種類ごとのスキップ率" in page for page in texts)
    first = written.pdf.read_bytes()
    assert pdf.write_pdf(written.html, written.pdf, built["run"]["created_at"]) == "chromium"
    assert written.pdf.read_bytes() == first
    assert [path.name for path in written.files] == ["report.html", "summary.md", "report.pdf"]


@_NEEDS_WEASYPRINT
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_weasyprint_prints_the_decision_on_page_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a browser the same page 1 comes from WeasyPrint, charts in colour, nothing fetched."""
    monkeypatch.setattr(shutil, "which", lambda name: None)
    built = result("functional_check_no_go")
    built["token_map"], built["passages"] = None, []
    written = write_all(built, tmp_path / "report.html", "ja", with_pdf=True)
    assert written.pdf is not None
    texts = _texts(written.pdf)
    assert _holds_the_decision(texts[0])
    assert [page for page in texts if "社内文書の本文:含まない" not in page] == []
