from __future__ import annotations

import errno
import socket
import sys
import types
from pathlib import Path

import pytest

from flows import check, cli, servers, settings, starter
from flows.cli import main
from flows.errors import PocError
from flows.servers import is_taken, mlflow_command, prefect_command, server_environment
from kpis.errors import KpiError
from reports.errors import ReportError
from skipmodel.errors import SkipModelError

SETTINGS = """# yaml-language-server: $schema=../settings.schema.json
poc: {title: Manual, owner: ops, organisation: Example}
corpus: {folder: corpus, glossary: glossary.csv}
model: {base: {source: weights}}
cost: {price: sakura-dok-h100, api: groq-llama-3.1-8b, requests_per_month: 1000, input_tokens: 300, output_tokens: 100,
       peak_requests_per_s: 2}
"""


@pytest.fixture
def poc(tmp_path, monkeypatch):
    """Return the settings file of a small complete PoC folder."""
    monkeypatch.setattr(settings, "has_cuda", lambda: False)
    folder = tmp_path / "poc"
    (folder / "corpus").mkdir(parents=True)
    (folder / "corpus" / "a.txt").write_text("The server answers. " * 20)
    header = "term,language,reading,aliases,weight,must_not_skip,note,kind"
    (folder / "glossary.csv").write_text(f"{header}\nserver,en,,,1.0,false,,glossary\n")
    (folder / "weights").mkdir()
    (folder / "weights" / "config.json").write_text("{}")
    path = folder / "poc.yaml"
    path.write_text(SETTINGS)
    return path


def _with_run_poc(monkeypatch, run_poc):
    """Stand in for the flow: these tests are about the command line."""
    module = types.ModuleType("flows.poc")
    module.run_poc = run_poc
    monkeypatch.setitem(sys.modules, "flows.poc", module)


def test_check_reports_a_usable_poc(poc, capsys):
    """`check` ends with 0 and tells profile, corpus size and plan."""
    assert main(["check", "-c", str(poc)]) == 0

    captured = capsys.readouterr()
    assert "corpus: 1 documents, 0 files left out" in captured.out
    assert "glossary: 1 terms, questions: 0" in captured.out
    assert "test questions: 0 of 819" in captured.out
    assert "profile: quick" in captured.out
    assert "the registered margin takes 819" in captured.err


def test_check_tells_everything_that_is_wrong_at_once(poc, capsys):
    """What can be read is shown, each fault has its message, and nothing is left beside the settings."""
    (poc.parent / "glossary.csv").write_text("term\n")
    (poc.parent / "corpus" / "b.pdf").write_bytes(b"%PDF-1.7 cut off")
    poc.write_text(SETTINGS.replace("sakura-dok-h100", "sakura").replace("weights", "no/such/folder"))
    before = sorted(poc.parent.rglob("*"))

    assert main(["check", "-c", str(poc), "--quiet"]) == 2

    captured = capsys.readouterr()
    assert "4 problems" in captured.out
    assert captured.err.count("error: ") == 4
    for part in ("1 of 2 texts cannot be read", "glossary row 1", "sakura-dok-h100", "there is no folder"):
        assert part in captured.err
    assert sorted(poc.parent.rglob("*")) == before


def test_check_reads_a_sample_of_a_large_folder(poc, capsys, monkeypatch):
    """A dry run takes moments whatever the folder holds, and says that it looked at a part."""
    monkeypatch.setattr(check, "SAMPLE_BYTES", 6000)
    for number in range(40):
        (poc.parent / "corpus" / f"{number}.txt").write_text(f"{number} The server answers. " * 30)

    assert main(["check", "-c", str(poc), "--quiet"]) == 0

    (line,) = [line for line in capsys.readouterr().out.splitlines() if "corpus: " in line]
    assert 0 < int(line.split()[1]) < 30
    assert "of a sample" in line


def test_run_does_not_read_the_documents_twice(poc, tmp_path, monkeypatch):
    """Before the flow begins only names of files are listed: the ingest reads them."""
    (poc.parent / "corpus" / "b.pdf").write_bytes(b"%PDF-1.7 cut off")
    (poc.parent / "corpus" / "c.pdf").write_bytes(b"%PDF-1.7 cut off")
    _with_run_poc(monkeypatch, lambda *arguments: None)

    assert main(["run", "-c", str(poc), "--runs-dir", str(tmp_path / "runs")]) == 0


@pytest.mark.parametrize(
    ("remove", "expected"),
    [("corpus/a.txt", "corpus"), ("glossary.csv", "glossary.csv"), ("weights/config.json", "no config.json")],
)  # fmt: skip
def test_check_names_what_is_missing(poc, capsys, remove, expected):
    """Missing inputs end in one message on stderr and exit code 2."""
    (poc.parent / remove).unlink()

    assert main(["check", "-c", str(poc)]) == 2

    captured = capsys.readouterr()
    assert expected in captured.err
    assert captured.err.count("error: ") == captured.err.count("  do: ") == 1


def test_check_lists_the_known_prices(poc, capsys):
    """A price id that is not in the file is told together with those that are."""
    poc.write_text(SETTINGS.replace("sakura-dok-h100", "sakura"))

    assert main(["check", "-c", str(poc)]) == 2
    assert "sakura-dok-h100" in capsys.readouterr().err


def test_run_hands_everything_to_the_flow(poc, tmp_path, monkeypatch):
    """The flow gets the paths and the profile as they were given."""
    seen = []
    _with_run_poc(monkeypatch, lambda *arguments: seen.append(arguments))

    assert main(["run", "-c", str(poc), "--profile", "full", "--runs-dir", str(tmp_path / "runs")]) == 0

    (path, profile, runs_dir, progress) = seen[0]
    assert (path, profile, runs_dir) == (poc, "full", tmp_path / "runs")
    assert progress.elapsed_s >= 0


@pytest.mark.parametrize(
    ("error", "code", "expected"),
    [
        (PocError("no text", where="corpus", todo="add some"), 2, "error: no text\n  where: corpus\n  do: add some"),
        (SkipModelError("bad checkpoint"), 2, "error: bad checkpoint"),
        (KpiError("bad record"), 2, "error: bad record"),
        (ReportError("bad result"), 2, "error: bad result"),
        (OSError(errno.ENOSPC, "No space left on device"), 2, "error: the disk is full"),
        (KeyboardInterrupt(), 130, "finished stages are kept"),
    ],
)  # fmt: skip
def test_foreseen_errors_end_in_one_message(poc, tmp_path, monkeypatch, capsys, error, code, expected):
    """No traceback for what a person can put right; exit code 2, or 130 for Ctrl-C."""

    def fail(*arguments):
        raise error

    _with_run_poc(monkeypatch, fail)

    assert main(["run", "-c", str(poc), "--runs-dir", str(tmp_path / "runs")]) == code

    captured = capsys.readouterr()
    assert expected in captured.err
    assert "Traceback" not in captured.err


def test_defect_keeps_its_traceback(poc, tmp_path, monkeypatch):
    """What nobody foresaw must stay visible."""

    def fail(*arguments):
        raise ZeroDivisionError

    _with_run_poc(monkeypatch, fail)

    with pytest.raises(ZeroDivisionError):
        main(["run", "-c", str(poc), "--runs-dir", str(tmp_path / "runs")])


def test_bad_settings_stop_before_anything_heavy(poc, capsys):
    """A typo costs a second, not the import of the model stack."""
    poc.write_text(SETTINGS + "profil: quick\n")

    assert main(["run", "-c", str(poc)]) == 2
    assert "did you mean profile?" in capsys.readouterr().err


def test_init_copies_a_sample_that_editors_understand(tmp_path, monkeypatch, capsys):
    """The copy has its own schema and none of the scripts that made the sample."""
    sample = tmp_path / "sample"
    (sample / "corpus").mkdir(parents=True)
    (sample / "poc.yaml").write_text(SETTINGS)
    (sample / "build.py").write_text("")
    (sample / "corpus" / "a.txt").write_text("text")
    monkeypatch.setattr(starter, "SAMPLE", sample)
    target = tmp_path / "mine"

    assert main(["init", str(target)]) == 0

    names = sorted(str(p.relative_to(target)) for p in target.rglob("*") if p.is_file())
    assert names == ["corpus/a.txt", "poc.yaml", "settings.schema.json"]
    assert (target / "poc.yaml").read_text().startswith("# yaml-language-server: $schema=settings.schema.json\n")
    assert str(target / "poc.yaml") in capsys.readouterr().out


def test_init_leaves_a_used_folder_alone(tmp_path, capsys):
    """Somebody's files are never mixed with the sample's."""
    (tmp_path / "mine.txt").write_text("x")

    assert main(["init", str(tmp_path)]) == 2
    assert "not empty" in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]


def test_report_of_a_run_without_result_says_so(tmp_path, capsys):
    """A run that has not ended has no report yet."""
    assert main(["report", str(tmp_path)]) == 2
    assert "result.json is missing" in capsys.readouterr().err


def test_schema_writes_the_committed_file(tmp_path, monkeypatch, capsys):
    """`schema` prints the path that it wrote."""
    monkeypatch.setattr(cli, "write_schema", lambda: settings.write_schema(tmp_path / "s.json"))

    assert main(["schema"]) == 0
    assert Path(capsys.readouterr().out.strip()).read_text() == settings.schema_text()


def test_ui_refuses_a_port_in_use(tmp_path, capsys):
    """Two pages on one port would show the wrong one."""
    with socket.socket() as owner:
        owner.bind(("127.0.0.1", 0))
        owner.listen()
        port = owner.getsockname()[1]
        assert is_taken(port)

        assert main(["ui", "--runs-dir", str(tmp_path), "--mlflow-port", str(port)]) == 2

    assert f"port {port} is in use" in capsys.readouterr().err


def test_ui_tells_of_a_server_that_ends(tmp_path, monkeypatch, capsys):
    """A server that cannot start ends the command with the place of its messages, and stops the other one."""
    quits = [sys.executable, "-c", "print('no database'); raise SystemExit(3)"]
    waits = [sys.executable, "-c", "import time; time.sleep(60)"]
    monkeypatch.setattr(servers, "mlflow_command", lambda runs_dir, port: quits)
    monkeypatch.setattr(servers, "prefect_command", lambda port: waits)

    assert main(["ui", "--runs-dir", str(tmp_path), "--mlflow-port", "1", "--prefect-port", "2"]) == 2

    assert "the MLflow server ended with exit code 3" in capsys.readouterr().err
    assert (tmp_path / "ui-mlflow.log").read_text() == "no database\n"


def test_servers_listen_on_loopback_only(tmp_path):
    """Nothing of a PoC is served to the network."""
    for command in (mlflow_command(tmp_path, 5000), prefect_command(4200)):
        assert command[command.index("--host") + 1] == "127.0.0.1"
    assert server_environment()["PREFECT_SERVER_UI_API_URL"] == "/api"


def test_usage_errors_end_with_code_2(capsys):
    """Usage messages of argparse have the same exit code as ours."""
    with pytest.raises(SystemExit) as caught:
        main(["run"])
    assert caught.value.code == 2


@pytest.mark.parametrize(
    ("command", "name", "expected"),
    [("terms", "proposed.csv", "proposals"), ("questions", "generated.jsonl", "for the test")],
)
def test_drafts_are_written_once(poc, tmp_path, capsys, command, name, expected):
    """Terms and questions are drafted from the documents; a file that is there is never overwritten."""
    for number in range(12):
        facts = range(1000 * number, 1000 * number + 12)
        lines = [f"KeepAlive{k} holds {k} for mod_proxy{k}. Then E{k} is raised in x_{k} by Host{k}.\n" for k in facts]
        (poc.parent / "corpus" / f"p{number}.txt").write_text("".join(lines))
    out = tmp_path / name
    arguments = [command, "-c", str(poc), "--out", str(out), "--runs-dir", str(tmp_path / "runs"), "--quiet"]

    assert main(arguments) == 0
    assert expected in capsys.readouterr().out
    draft = out.read_bytes()
    assert draft
    assert main(arguments) == 2
    assert "there already" in capsys.readouterr().err
    assert out.read_bytes() == draft
