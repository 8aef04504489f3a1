"""What a manager sees, held against pictures that were reviewed by eye.

`SKIP_POC_WRITE_GOLD=1 pytest tests/e2e/test_report_gold.py` writes the pictures anew; look at them before keeping them.
"""

import io
import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.e2e.report_pages import opened, write

pytestmark = pytest.mark.browser

_GOLD = Path(__file__).with_name("gold")
_MADE_WITH = _GOLD / "made_with.json"
_FONTS = ("IPAexGothic", "DejaVu Sans")
_PICTURES = {
    # name: situation, language, colour scheme, medium, width, height, element or whole view
    "desktop.ja.light": ("functional_check_no_go", "ja", "light", "screen", 1440, 900, None),
    "desktop.en.dark": ("go", "en", "dark", "screen", 1440, 900, None),
    "tablet.ja.dark": ("insufficient_evidence", "ja", "dark", "screen", 768, 1024, None),
    "phone.ja.light": ("functional_check_no_go", "ja", "light", "screen", 390, 844, None),
    "paper.ja": ("functional_check_no_go", "ja", "light", "print", 711, 1032, None),
    "settings.ja.light": ("functional_check_no_go", "ja", "light", "screen", 1440, 1100, "#settings"),
    "tokens.ja.light": ("no_go", "ja", "light", "screen", 1440, 1100, "#token-map"),
    "how.en.light": ("go", "en", "light", "screen", 1440, 1300, "#how"),
}
_CELL = 4
_MAX_SHARE = 0.01
_MAX_STEP = 26


def _fonts() -> list[str]:
    tool = shutil.which("fc-match")
    if tool is None:
        return []
    answers = [subprocess.run([tool, "-f", "%{family}", name], capture_output=True, check=False) for name in _FONTS]
    found = [answer.stdout.decode("utf-8", "replace") for answer in answers]
    return [name for name, family in zip(_FONTS, found, strict=True) if name in family]


def _here(browser: Any) -> dict[str, Any]:
    return {"chromium": browser.version.partition(".")[0], "fonts": _fonts()}


def _picture(browser: Any, folder: Path, name: str) -> Image.Image:
    situation, language, scheme, medium, width, height, element = _PICTURES[name]
    with opened(browser, write(folder, situation, language), width, height, scheme=scheme) as (page, _):
        page.emulate_media(media=medium, color_scheme=scheme)
        if element is None:
            shot = page.screenshot()
        else:
            # the bar that stays on top would cover a part of a long element
            page.evaluate("document.querySelector('nav.contents').style.position = 'static'")
            shot = page.locator(element).screenshot()
    return Image.open(io.BytesIO(shot)).convert("RGB")


def _cells(picture: Image.Image) -> Any:
    """Means of 4 x 4 pixels: what an eye sees, without the edges of letters."""
    width, height = (size // _CELL * _CELL for size in picture.size)
    pixels = np.asarray(picture.crop((0, 0, width, height)), dtype=np.float64)
    return pixels.reshape(height // _CELL, _CELL, width // _CELL, _CELL, 3).mean((1, 3))


def _share_of_difference(one: Image.Image, other: Image.Image) -> float:
    if one.size != other.size:
        return 1.0
    return float((np.abs(_cells(one) - _cells(other)).max(-1) > _MAX_STEP).mean())


@pytest.mark.parametrize("name", sorted(_PICTURES))
def test_the_page_looks_as_it_did_when_it_was_reviewed(browser: Any, folder: Path, name: str) -> None:
    """Screens of three sizes, paper, slider, token map and the pictures of how it works: at most 1 % differs."""
    path = _GOLD / f"{name}.png"
    if os.environ.get("SKIP_POC_WRITE_GOLD") == "1":
        _GOLD.mkdir(exist_ok=True)
        _picture(browser, folder, name).quantize(128, dither=Image.Dither.NONE).save(path, optimize=True)
        _MADE_WITH.write_text(json.dumps(_here(browser), indent=1) + "\n", "utf-8")
    made_with = json.loads(_MADE_WITH.read_text("utf-8"))
    here = _here(browser)
    if here != made_with:
        pytest.skip(f"the pictures were made with {made_with}, here is {here}")
    gold = Image.open(path).convert("RGB")
    assert _share_of_difference(gold, _picture(browser, folder, name)) <= _MAX_SHARE


def test_a_changed_verdict_does_not_pass_for_the_reviewed_one(browser: Any, folder: Path) -> None:
    """The tolerance is no hole: another verdict, or one tile less, is seen."""
    with opened(browser, write(folder, "functional_check_no_go", "ja")) as (page, _):
        before = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
        page.evaluate("document.querySelector('.tile').remove()")
        fewer = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    with opened(browser, write(folder, "go", "ja")) as (page, _):
        other = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    assert _share_of_difference(before, before) == 0
    assert _share_of_difference(before, fewer) > _MAX_SHARE
    assert _share_of_difference(before, other) > _MAX_SHARE
