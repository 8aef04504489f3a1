"""The checkpoint as an MLflow model: logged once, loaded and served elsewhere, a candidate only when allowed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from flows.tracking import Tracker
from flows.tracking_model import CANDIDATE
from tests.e2e.conftest import Finished
from tests.services import HOST, answers, free_port, process, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

LOAD = """
import json, sys
import mlflow
import pandas
import skipmodel
model = mlflow.pyfunc.load_model(sys.argv[1])
table = pandas.DataFrame({"prompt": ["The KeepAlive directive", "Order"]})
texts = model.predict(table, params={"max_new_tokens": 4})
again = model.predict(table, params={"max_new_tokens": 4, "threshold": 0.0})
print(json.dumps([texts, again]))
"""


def _environment(tmp_path: Path, uri: str) -> dict[str, str]:
    return {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "MLFLOW_TRACKING_URI": uri, "OMP_NUM_THREADS": "1",
            "MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "1"}  # fmt: skip


def _model(finished: Finished) -> tuple[str, str]:
    uri = f"sqlite:///{finished.runs / 'mlflow.db'}"
    client = MlflowClient(uri)
    parent = client.get_run(finished.result["run"]["mlflow"]["run_id"])
    return uri, str(parent.data.tags["skip_poc.model_id"])


def test_the_model_is_logged_once_with_its_signature(finished: Finished) -> None:
    """One model of the experiment, tied to the parent run, at the chosen threshold; not registered without a Go."""
    uri, model_id = _model(finished)
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name(finished.result["run"]["mlflow"]["experiment"])
    models = client.search_logged_models([experiment.experiment_id])

    assert [model.model_id for model in models] == [model_id]
    assert float(models[0].params["threshold"]) == pytest.approx(finished.result["choice"]["threshold"], abs=1e-6)
    assert finished.result["verdict"]["code"].startswith("no_go")
    assert client.search_registered_models() == []


def test_it_loads_by_pyfunc_outside_the_checkout(finished: Finished, tmp_path: Path) -> None:
    """Two prompts, two texts; the code that answers is the one that the model brought along."""
    uri, model_id = _model(finished)
    done = subprocess.run([sys.executable, "-P", "-c", LOAD, f"models:/{model_id}"], cwd=tmp_path, capture_output=True,
                          text=True, check=False, env=_environment(tmp_path, uri), timeout=600)  # fmt: skip

    assert done.returncode == 0, done.stderr[-2000:]
    texts, dense = json.loads(done.stdout.strip().splitlines()[-1])
    assert [type(text) for text in texts + dense] == [str] * 4


def test_it_is_served(finished: Finished, tmp_path: Path) -> None:
    """`mlflow models serve` answers a request with one text per prompt."""
    uri, model_id = _model(finished)
    port = free_port()
    command = [
        sys.executable, "-P", "-m", "mlflow", "models", "serve", "-m", f"models:/{model_id}", "--env-manager", "local",
        "--host", HOST, "--port", str(port), "--workers", "1",
    ]  # fmt: skip
    with process(command, tmp_path / "serve.log", env=_environment(tmp_path, uri), cwd=tmp_path) as child:
        wait_until(lambda: answers(f"http://{HOST}:{port}/ping") or child.poll() is not None, "the model server")
        body = {
            "dataframe_split": {"columns": ["prompt"], "data": [["Order"], ["Allow"]]},
            "params": {"max_new_tokens": 3},
        }
        request = urllib.request.Request(
            f"http://{HOST}:{port}/invocations", json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=120) as answer:
            predictions = json.loads(answer.read())["predictions"]

    assert len(predictions) == 2


def test_only_what_is_allowed_becomes_the_candidate(finished: Finished, tmp_path: Path) -> None:
    """The same weights twice are one model; registering gives the alias, once; not asked, there is none."""
    (checkpoint,) = (finished.runs / "store").glob("skip-tune-*[0-9a-f]/skiplayer")
    code = tmp_path / "loader.py"
    code.write_text("def _load_pyfunc(path):\n    return None\n", "ascii")
    tracker = Tracker(None, "registry", tmp_path)
    tracker.start("one")
    first = tracker.log_model(checkpoint, "a" * 64, 0.25, [code])
    client = MlflowClient(tracker.uri)
    with pytest.raises(MlflowException):
        client.get_model_version_by_alias("poc", CANDIDATE)

    again = [tracker.log_model(checkpoint, "a" * 64, 0.25, [code], register_as="poc") for _ in range(2)]
    other = tracker.log_model(checkpoint, "b" * 64, 0.25, [code], register_as="poc")

    assert again == [first, first]
    assert other != first
    assert len(client.search_model_versions("name = 'poc'")) == 2
    assert client.get_model_version_by_alias("poc", CANDIDATE).model_id == other
