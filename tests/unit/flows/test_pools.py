"""Job templates of the work pools, rendered by Prefect itself, and the bill of materials."""

from __future__ import annotations

import asyncio
import importlib.metadata
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from prefect.utilities.templating import apply_values, find_placeholders

ROOT = Path(__file__).resolve().parents[3]
POOLS = ROOT / "flows" / "pools"
NEEDED = {"kubernetes": {"image": "registry/poc:1", "volume_claim": "poc"}, "docker": {"image": "registry/poc:1"}}


def _template(name: str) -> dict[str, Any]:
    template: dict[str, Any] = json.loads((POOLS / f"{name}.json").read_text("utf-8"))
    return template


def _render(name: str, **chosen: Any) -> dict[str, Any]:
    """Fill in defaults and values as a worker does."""
    template = _template(name)
    properties = template["variables"]["properties"]
    values = {key: field["default"] for key, field in properties.items() if "default" in field}
    values |= (
        {"command": "prefect flow-run execute", "env": {"DO_NOT_TRACK": "1"}, "labels": {}} | NEEDED[name] | chosen
    )
    jsonschema.validate(values, template["variables"])
    rendered: dict[str, Any] = apply_values(template["job_configuration"], values)
    return rendered


@pytest.mark.parametrize("name", NEEDED)
def test_every_placeholder_is_a_variable(name):
    """Nothing is left to be filled in, and no variable is without effect."""
    template = _template(name)
    jsonschema.Draft202012Validator.check_schema(template["variables"])
    used = {placeholder.name for placeholder in find_placeholders(template["job_configuration"])}

    assert used == set(template["variables"]["properties"])
    assert find_placeholders(_render(name)) == set()


@pytest.mark.parametrize("name", NEEDED)
def test_prefect_takes_the_template(name):
    """The job configuration of Prefect's workers is made from it, with the values of a deployment."""
    from prefect.workers.base import BaseJobConfiguration

    made = asyncio.run(BaseJobConfiguration.from_template_and_values(_template(name), NEEDED[name] | {
        "env": {"DO_NOT_TRACK": "1"}}))  # fmt: skip

    assert made.env["DO_NOT_TRACK"] == "1"


def test_the_kubernetes_job_is_closed_and_has_its_gpu():
    """One container, no root, no token, no privilege; a GPU, the shared volume, passwords from a secret only."""
    manifest = _render("kubernetes", gpus=2)["job_manifest"]
    pod = manifest["spec"]["template"]["spec"]
    (container,) = pod["containers"]

    assert (manifest["apiVersion"], manifest["kind"]) == ("batch/v1", "Job")
    assert container["resources"]["limits"]["nvidia.com/gpu"] == 2
    assert container["image"] == "registry/poc:1"
    assert container["args"] == "prefect flow-run execute"
    assert pod["securityContext"]["runAsNonRoot"]
    assert not pod["automountServiceAccountToken"]
    assert not container["securityContext"]["allowPrivilegeEscalation"]
    assert [mount["name"] for mount in container["volumeMounts"]] == [volume["name"] for volume in pod["volumes"]]
    assert container["envFrom"] == [{"secretRef": {"name": "skip-poc", "optional": True}}]
    assert yaml.safe_load(yaml.safe_dump(manifest)) == manifest


def test_a_container_of_docker_has_no_more_rights_than_it_needs():
    """Not privileged, another user than root, volumes by a pattern."""
    made = _render("docker")

    assert not made["privileged"]
    assert made["container_create_kwargs"]["user"] == "1000:1000"
    with pytest.raises(jsonschema.ValidationError):
        _render("docker", volumes=["/etc"])


def test_the_bill_of_materials_lists_what_runs(tmp_path):
    """Every installed package once, with version and package URL; references resolve; twice the same bytes."""
    for name in ("a.json", "b.json"):
        subprocess.run([sys.executable, "-m", "flows.sbom", str(tmp_path / name)], cwd=ROOT, check=True)
    document = json.loads((tmp_path / "a.json").read_text("utf-8"))
    found = {part["name"]: part for part in document["components"]}
    refs = {part["bom-ref"] for part in document["components"]} | {document["metadata"]["component"]["bom-ref"]}

    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    assert (document["bomFormat"], document["specVersion"]) == ("CycloneDX", "1.5")
    assert found["prefect"]["version"] == importlib.metadata.version("prefect")
    assert found["mlflow"]["purl"].startswith("pkg:pypi/mlflow@")
    assert len(found) == len(document["components"]) > 50
    assert {ref for row in document["dependencies"] for ref in (row["ref"], *row["dependsOn"])} <= refs
