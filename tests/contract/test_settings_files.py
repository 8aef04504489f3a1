"""The committed settings files fit the code: schema, profiles, sample, deployment."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import jsonschema
import pytest
import yaml

from flows import settings as module
from flows.settings import PROFILES_PATH, SCHEMA_PATH, load_settings, read_profiles, schema_text
from flows.starter import SAMPLE
from skipmodel.config_json import from_json

ROOT = Path(__file__).resolve().parents[2]
SAMPLE_SETTINGS = SAMPLE / "poc.yaml"


@pytest.fixture(autouse=True)
def _no_gpu(monkeypatch):
    monkeypatch.setattr(module, "has_cuda", lambda: False)


def test_committed_schema_is_fresh():
    """`make schema` writes it; editors and reviewers read it."""
    assert SCHEMA_PATH.read_text("utf-8") == schema_text()


def test_every_setting_is_documented():
    """Each setting has its sentence in the schema, groups included."""
    schema = json.loads(SCHEMA_PATH.read_text("utf-8"))
    groups = {"": schema, **schema["$defs"]}

    undocumented = [
        f"{group}.{name}"
        for group, definition in groups.items()
        for name, field in definition.get("properties", {}).items()
        if not field.get("description")
    ]
    assert undocumented == []


def test_profiles_are_the_registered_names_and_valid():
    """Every profile of the settings has budgets that the model accepts."""
    profiles = read_profiles()

    assert list(profiles) == ["quick", "standard", "full"]
    for budgets in profiles.values():
        from_json(budgets)
    assert "quick" in yaml.safe_load(PROFILES_PATH.read_text("utf-8"))


@pytest.mark.parametrize("profile", ["quick", "standard", "full"])
def test_sample_settings_are_valid_in_every_profile(profile):
    """The file that users copy loads, and also satisfies the schema their editor checks it with."""
    settings = load_settings(SAMPLE_SETTINGS, profile)

    assert settings.profile == profile
    values = json.loads(json.dumps(yaml.safe_load(SAMPLE_SETTINGS.read_text("utf-8")), default=str))
    jsonschema.Draft202012Validator(json.loads(SCHEMA_PATH.read_text("utf-8"))).validate(values)


def test_sample_settings_name_their_schema():
    """Editors complete and check the file; `skip-poc init` rewrites this line."""
    first_line = SAMPLE_SETTINGS.read_text("utf-8").splitlines()[0]

    assert first_line == f"# yaml-language-server: $schema=../{SCHEMA_PATH.name}"


def test_deployment_names_a_flow_that_exists():
    """The deployment's entrypoint is a flow of this package and takes the registered parameters."""
    deployments = yaml.safe_load((ROOT / "prefect.yaml").read_text("utf-8"))["deployments"]
    for deployment in deployments:
        module_name, _, flow_name = deployment["entrypoint"].rpartition(".")
        tree = ast.parse((ROOT / f"{module_name.replace('.', '/')}.py").read_text("utf-8"))
        (flow,) = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == flow_name]
        decorators = [ast.unparse(decorator) for decorator in flow.decorator_list]
        parameters = {argument.arg for argument in (*flow.args.args, *flow.args.kwonlyargs)}

        assert any(text.startswith("flow") for text in decorators)
        assert set(deployment["parameters"]) <= parameters
        # a status costs nothing; everything else starts only once a person switches it on
        active = [schedule["slug"] for schedule in deployment.get("schedules", []) if schedule["active"]]
        assert active == (["every-monday"] if deployment["name"] == "weekly-status" else [])


def test_deployment_is_portable():
    """Nothing is pulled and no folder of the deploying machine is stored."""
    values = yaml.safe_load((ROOT / "prefect.yaml").read_text("utf-8"))

    assert values["pull"] == []
    assert all(":" not in deployment["entrypoint"] for deployment in values["deployments"])
