"""The checkpoint as an MLflow model: logged once, registered only when a verdict allows it."""

from __future__ import annotations

import contextlib
import json
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path

from mlflow.entities import LoggedModelOutput
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from flows.served_model import SERVING

CHECKPOINT_TAG = "skip_poc.checkpoint"
CANDIDATE = "candidate"
"""Alias of the registered model that a verdict allows."""


def log_once(
    client: MlflowClient, experiment_id: str, run_id: str, checkpoint: Path, sha256: str, threshold: float,
    code: Sequence[Path], requirements: Sequence[str], scratch_dir: Path,
) -> str:  # fmt: skip
    """Return the id of the model with these weights and this threshold, uploading it when it is not there.

    One that a kill left half-uploaded is removed. For the arguments see `Tracker.log_model`.
    """
    identity = f"{sha256[:16]}-{threshold:.6f}"
    found = list(client.search_logged_models([experiment_id], f"tags.`{CHECKPOINT_TAG}` = '{identity}'"))
    ready = [model for model in found if str(model.status) == "READY"]
    for model in (*(model for model in found if model not in ready), *ready[1:]):
        client.delete_logged_model(model.model_id)
    if ready:
        return str(ready[0].model_id)
    model = client.create_logged_model(experiment_id, "skiplayer", run_id, {CHECKPOINT_TAG: identity},
                                       {"threshold": f"{threshold:.6f}"})  # fmt: skip
    model_id = str(model.model_id)
    with tempfile.TemporaryDirectory(dir=scratch_dir, prefix=".model-") as scratch:
        saved = Path(scratch) / "model"
        _save(saved, Path(scratch) / "checkpoint", checkpoint, model_id, threshold, code, requirements)
        for path in saved.rglob("*"):  # copies keep the modes of what they were made from
            path.chmod(0o700 if path.is_dir() else 0o600)
        client.log_model_artifacts(model_id, str(saved))
    client.finalize_logged_model(model_id, "READY")
    client.log_outputs(run_id, [LoggedModelOutput(model_id, 0)])
    return model_id


def register(client: MlflowClient, run_id: str, name: str, model_id: str) -> None:
    """Give a logged model a version in the registry, once, and let the alias `candidate` name it."""
    with contextlib.suppress(MlflowException):  # it is there; anything else is told by the next call
        client.create_registered_model(name)
    of_model = [version for version in client.search_model_versions(f"name = '{name}'")
                if str(version.model_id) == model_id]  # fmt: skip
    version = of_model[0] if of_model else client.create_model_version(
        name, f"models:/{model_id}", run_id, model_id=model_id)  # fmt: skip
    client.set_registered_model_alias(name, CANDIDATE, version.version)


def _save(
    target: Path, data: Path, checkpoint: Path, model_id: str, threshold: float, code: Sequence[Path],
    requirements: Sequence[str],
) -> None:  # fmt: skip
    import mlflow
    from mlflow.models import Model, ModelSignature
    from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema

    options = [ParamSpec("max_new_tokens", DataType.long, 64), ParamSpec("threshold", DataType.double, -1.0)]
    signature = ModelSignature(Schema([ColSpec("string", "prompt")]), Schema([ColSpec("string")]), ParamSchema(options))
    data.mkdir()
    for file in checkpoint.iterdir():
        (data / file.name).symlink_to(file.resolve())
    (data / SERVING).write_text(json.dumps({"threshold": threshold}) + "\n", "ascii")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it would like an example input; the signature says what goes in
        mlflow.pyfunc.save_model(
            target, loader_module=code[0].stem, data_path=str(data), code_paths=[str(path) for path in code],
            signature=signature, pip_requirements=list(requirements), mlflow_model=Model(model_id=model_id),
        )  # fmt: skip
