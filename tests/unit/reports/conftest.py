"""Hand-made results, and each page rendered once per session."""

import importlib.util
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from lxml import html as lxml_html

from reports.messages import Catalog
from reports.render import render_with

PATH = Path(__file__).with_name("fixtures.py")


def _load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("report_fixtures", PATH)
    if spec is None or spec.loader is None:
        raise ImportError(f"expected report fixtures at {PATH}")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


FIXTURES = _load()


@cache
def _page(situation: str, language: str) -> tuple[str, frozenset[str]]:
    catalog = Catalog(language)
    return render_with(FIXTURES.BUILDERS[situation](), catalog), frozenset(catalog.used)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test for every situation and language it asks for."""
    if "situation" in metafunc.fixturenames:
        metafunc.parametrize("situation", sorted(FIXTURES.BUILDERS))
    if "language" in metafunc.fixturenames:
        metafunc.parametrize("language", ("ja", "en"))


@pytest.fixture(scope="session")
def fx() -> ModuleType:
    """The module of hand-made results."""
    return FIXTURES


@pytest.fixture(scope="session")
def page() -> Callable[[str, str], str]:
    """Page of a situation in a language, rendered once."""
    return lambda situation, language: _page(situation, language)[0]


@pytest.fixture(scope="session")
def used_messages() -> Callable[[str, str], frozenset[str]]:
    """Message keys that rendering a situation used."""
    return lambda situation, language: _page(situation, language)[1]


@pytest.fixture(scope="session")
def tree() -> Callable[[str], Any]:
    """Parsed HTML document."""
    return lxml_html.document_fromstring
