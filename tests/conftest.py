"""Every test: no network beyond loopback, no state outside a temporary folder, the same seeds."""

from __future__ import annotations

import ipaddress
import os
import shutil
import socket
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flows import runtime

# before anything imports prefect, mlflow or transformers
_STATE = Path(tempfile.mkdtemp(prefix="skip-poc-tests-"))
for _name in ("PREFECT_HOME", "PREFECT_API_URL", "MLFLOW_TRACKING_URI"):
    os.environ.pop(_name, None)
runtime.prepare(_STATE)


def pytest_unconfigure() -> None:
    """Remove the temporary state."""
    shutil.rmtree(_STATE, ignore_errors=True)


class NetworkError(AssertionError):
    """A test tried to leave this machine."""


def _is_loopback(host: object) -> bool:
    if host in (None, "", "localhost", b"localhost", socket.gethostname()):
        return True
    try:
        return ipaddress.ip_address(str(host)).is_loopback
    except ValueError:
        return False


@pytest.fixture(scope="session", autouse=True)
def _no_network() -> Iterator[None]:
    """Refuse connections and look-ups that leave the machine."""
    patch = pytest.MonkeyPatch()

    def guard(name: str) -> None:
        original = getattr(socket.socket, name)

        def guarded(self: socket.socket, address: Any, *rest: Any) -> Any:
            if self.family in (socket.AF_INET, socket.AF_INET6) and not _is_loopback(address[0]):
                raise NetworkError(f"a test tried to reach {address[0]}; tests use loopback only")
            return original(self, address, *rest)

        patch.setattr(socket.socket, name, guarded)

    guard("connect")
    guard("connect_ex")
    look_up = socket.getaddrinfo

    def guarded_look_up(host: Any, *rest: Any, **named: Any) -> Any:
        if not _is_loopback(host):
            raise NetworkError(f"a test tried to look up {host}; tests use loopback only")
        return look_up(host, *rest, **named)

    patch.setattr(socket, "getaddrinfo", guarded_look_up)
    yield
    patch.undo()


@pytest.fixture(autouse=True)
def _seeds() -> None:
    """Seed torch too; pytest-randomly does it for random and numpy."""
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.manual_seed(0)
