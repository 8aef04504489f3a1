"""`python -m skipmodel serve`: the arguments, and the server run until it is told to stop. Loads without torch."""

from __future__ import annotations

import argparse
import contextlib
import logging
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from skipmodel.errors import ConfigError
from skipmodel.serve.config import KEY_VARIABLE, Batching, ServeConfig, api_key

if TYPE_CHECKING:
    import uvicorn

    from skipmodel.serve.scheduler import Scheduler
    from skipmodel.serve.served import Served


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what a server can be told; `config_of` reads it back."""
    default = ServeConfig()
    parser.add_argument("--threshold", type=float, help="execute at this probability; default: the checkpoint's")
    parser.add_argument("--level", type=float, help="0 dense ... 1 all that may skip; instead of --threshold")
    parser.add_argument("--host", default=default.host,
                        help=f"address to listen on; others than loopback need {KEY_VARIABLE}")  # fmt: skip
    parser.add_argument("--port", type=int, default=default.port, help="0 takes a free one")
    parser.add_argument("--name", default=default.name, help="of the model in requests")
    parser.add_argument("--slots", type=int, default=default.slots, help="answers written at once")
    parser.add_argument("--context", type=int, default=default.context, help="longest prompt and answer, in tokens")
    parser.add_argument("--batching", choices=get_args(Batching), default=default.batching,
                        help="lanes: best up to four slots on a CPU; rows: beyond, and on a GPU")  # fmt: skip
    parser.add_argument("--max-queue", type=int, default=default.max_queue, help="requests that may wait")
    parser.add_argument("--drain-s", type=float, default=default.drain_s, help="for running answers when stopped")
    parser.add_argument("--no-rule", action="store_true", help="always skip as asked, without the engagement rule")


def config_of(arguments: argparse.Namespace, *, has_demo: bool = False) -> ServeConfig:
    """Return the settings that the arguments ask for."""
    if arguments.threshold is not None and arguments.level is not None:
        raise ConfigError("serve: expected --threshold or --level, got both; leave one out")
    return ServeConfig(
        host=arguments.host, port=arguments.port, name=arguments.name, slots=arguments.slots,
        context=arguments.context, batching=arguments.batching, max_queue=arguments.max_queue,
        drain_s=arguments.drain_s, use_rule=not arguments.no_rule, has_demo=has_demo,
    )  # fmt: skip


def run(
    folder: Path, config: ServeConfig, *, threshold: float | None = None, level: float | None = None,
    say: Callable[[str], None] | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Serve a checkpoint until SIGINT or SIGTERM; running answers may end.

    Args:
        folder: SkipLayer checkpoint.
        config: Of the server.
        threshold: Of requests that name none.
        level: The same as a level.
        say: Told the address; default: standard error.

    Raises:
        ConfigError: The host needs a key and has none, or its port is taken.
    """
    key = api_key(config)
    listener = listen(config)
    try:
        from skipmodel.serve.served import open_rows, open_served

        logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
        served = open_served(folder, config, threshold=threshold, level=level)
        server, scheduler = make_server(served, config, key, open_rows(served.engine, config))
        listener.listen(128)  # whoever reads the address may connect at once
        host, port = listener.getsockname()[:2]
        address = f"http://{f'[{host}]' if ':' in host else host}:{port}"
        (say or _say)(f"{address}{'/demo' if config.has_demo else '/v1'}  (Ctrl-C stops)")
        with _taken_signals():
            server.run(sockets=[listener])
        return {"requests": scheduler.metrics.value("requests_total", outcome="ok")}
    finally:
        listener.close()


@contextlib.contextmanager
def _taken_signals() -> Iterator[None]:
    """Let a signal that stopped the server be done with: uvicorn raises it again when it has shut down."""
    before = {number: signal.signal(number, lambda *_: None) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def listen(config: ServeConfig) -> socket.socket:
    """Return a listening socket, before the model is loaded: a taken port is told at once.

    Raises:
        ConfigError: The address cannot be listened on.
    """
    family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((config.host, config.port))
    except OSError as error:
        listener.close()
        raise ConfigError(
            f"serve: expected to listen on {config.host} port {config.port}, the system refuses it ({error.strerror}); "
            "stop what uses the port, or name another one with --port"
        ) from error
    return listener


def make_server(
    served: Served, config: ServeConfig, key: str | None, rows: Any
) -> tuple[uvicorn.Server, Scheduler]:  # fmt: skip
    """Return a server, not yet running, and its scheduler."""
    import uvicorn

    from skipmodel.serve.app import make_app
    from skipmodel.serve.protocol import limited_protocol
    from skipmodel.serve.scheduler import Scheduler

    scheduler = Scheduler(served.engine, served.tokenizer, served.guards, config, rows)
    app = make_app(served, config, scheduler, key)
    settings = uvicorn.Config(
        app, http=limited_protocol(config.read_timeout_s, config.write_timeout_s), ws="none", loop="asyncio",
        lifespan="on", log_level="warning", access_log=False, server_header=False,
        limit_concurrency=config.max_connections, timeout_keep_alive=30,
        timeout_graceful_shutdown=max(1, round(config.drain_s)),
    )  # fmt: skip
    return uvicorn.Server(settings), scheduler


def _say(text: str) -> None:
    sys.stderr.write(text + "\n")
    sys.stderr.flush()
