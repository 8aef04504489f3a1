"""`skip-poc serve`, `skip-poc demo` and `skip-poc bench --serve`: the model of a finished run, over HTTP.

What is served is what the run decided on: its checkpoint, its guards, and the threshold that it chose. The server
itself is `skipmodel.serve`; it runs without this file where there is no Prefect.
"""

from __future__ import annotations

import argparse
import threading
import time
from collections.abc import Callable
from pathlib import Path

from flows.bench import Target, find_target
from flows.errors import PocError
from skipmodel.memory import keep_freed_memory
from skipmodel.serve.config import ServeConfig, api_key

STARTED_WITHIN_S = 60.0


def serve(
    folder: Path, runs_dir: Path, config: ServeConfig, *, threshold: float | None, level: float | None,
    say: Callable[[str], None], is_demo: bool = False,
) -> int:  # fmt: skip
    """Serve a run or a checkpoint until Ctrl-C; running answers may end. Returns the exit code.

    Args:
        folder: Run folder or checkpoint folder.
        runs_dir: Folder of all runs.
        config: Of the server.
        threshold: Instead of the chosen one.
        level: A level instead of a threshold.
        say: Told the address.
        is_demo: Tell the address of the page.

    Raises:
        PocError: The folder is neither a run nor a checkpoint.
        ConfigError: The host needs a key, or the port is taken.
    """
    from skipmodel.serve.command import run

    api_key(config)
    target = find_target(folder, runs_dir, threshold=threshold, level=level)
    keep_freed_memory()
    say(f"loading {target.checkpoint.name} of {target.name} ...")
    run(target.checkpoint, config, threshold=target.threshold, level=target.level, say=say)
    return 0


def load_test(target: Target, arguments: argparse.Namespace, out: Path) -> Path:
    """Serve a model on a free port, drive it at rising rates, and write the records that `cost.load_test` takes.

    Returns:
        The file of the records; rows of all rates lie beside it.

    Raises:
        PocError: The server did not start.
        MeasurementError: No request was answered.
    """
    from skipmodel.serve.command import listen, make_server
    from skipmodel.serve.loadtest_command import run
    from skipmodel.serve.served import open_rows, open_served

    keep_freed_memory()
    out.parent.mkdir(parents=True, exist_ok=True)
    config = ServeConfig(port=0, use_rule=not arguments.no_rule)
    served = open_served(target.checkpoint, config, threshold=target.threshold, level=target.level)
    listener = listen(config)
    server, _ = make_server(served, config, None, open_rows(served.engine, config))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    try:
        until = time.monotonic() + STARTED_WITHIN_S
        while not server.started:
            if time.monotonic() > until or not thread.is_alive():
                raise PocError("the server did not start", where=str(target.checkpoint),
                               todo="start it with skip-poc serve and read what it says")  # fmt: skip
            time.sleep(0.05)
        sent = argparse.Namespace(**vars(arguments))
        sent.url, sent.model, sent.out = f"http://127.0.0.1:{listener.getsockname()[1]}", config.name, out
        run(sent)
    finally:
        server.should_exit = True
        thread.join()
        listener.close()
    return out
