"""Read by every Python below a guarded run (it lies on PYTHONPATH): watches the network, and may kill the run.

SKIP_POC_TEST_NETWORK_LOG   file that gets a line per attempt to leave this machine; the attempt itself fails
SKIP_POC_TEST_KILL_AT       pattern of a path; the process is killed, as by `kill -9`, before that file appears
SKIP_POC_TEST_FILL_AT       pattern of a path; the disk is filled up when that folder is made
SKIP_POC_TEST_BALLAST       file that fills it
"""

from __future__ import annotations

import contextlib
import fnmatch
import ipaddress
import os
import signal
import sys
from typing import Any

_LOG = os.environ.get("SKIP_POC_TEST_NETWORK_LOG", "")
_KILL_AT = os.environ.get("SKIP_POC_TEST_KILL_AT", "")
_FILL_AT = os.environ.get("SKIP_POC_TEST_FILL_AT", "")
_HOST_OF = {  # which argument of an audit event names the other side
    "socket.connect": lambda arguments: arguments[1],
    "socket.sendto": lambda arguments: arguments[1],
    "socket.sendmsg": lambda arguments: arguments[1],
    "socket.getaddrinfo": lambda arguments: (arguments[0],),
    "socket.gethostbyname": lambda arguments: (arguments[0],),
}


def is_here(address: Any) -> bool:
    """Tell whether an address stays on this machine: a Unix socket, no host at all, or loopback."""
    if not isinstance(address, tuple):
        return True
    host = address[0].decode() if isinstance(address[0], bytes) else address[0]
    if host in (None, "", "localhost"):
        return True
    try:
        return ipaddress.ip_address(host.partition("%")[0]).is_loopback
    except ValueError:
        return False


def _fill(path: str) -> None:
    with contextlib.suppress(OSError), open(path, "wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))


def _watch(event: str, arguments: tuple[Any, ...]) -> None:
    if _KILL_AT and event == "os.rename" and fnmatch.fnmatch(os.fsdecode(arguments[1]), _KILL_AT):
        os.kill(os.getpid(), signal.SIGKILL)
    if _FILL_AT and event == "os.mkdir" and fnmatch.fnmatch(os.fsdecode(arguments[0]), _FILL_AT):
        _fill(os.environ["SKIP_POC_TEST_BALLAST"])
    if _LOG and event in _HOST_OF:
        address = _HOST_OF[event](arguments)
        if not is_here(address):
            with open(_LOG, "a", encoding="utf-8") as file:
                file.write(f"{event} {address}\n")
            raise ConnectionRefusedError(f"the network is cut off: {event} {address}")


if _LOG or _KILL_AT or _FILL_AT:
    sys.addaudithook(_watch)
