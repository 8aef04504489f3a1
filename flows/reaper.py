"""Ends what a killed run leaves behind: Prefect's temporary server, a process of its own.

Prefect stops it when a flow run ends, not when the run is killed; it would then live on, with its memory and with
the terminal or pipe that it inherited. This small process watches its parent and clears up after it.
"""

from __future__ import annotations

import contextlib
import functools
import os
import subprocess
import sys
import time

import psutil

_POLL_S = 1.0


@functools.cache
def watch_this_process() -> None:
    """Start the watcher of this process, once; it outlives a kill and ends a moment after its parent."""
    watcher = subprocess.Popen(
        [sys.executable, "-m", "flows.reaper", str(os.getpid())],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # Ctrl-C and a kill of the process group are for the run, not for its watcher
    )
    watcher.returncode = 0  # it is never waited for; Popen would complain of that at exit


def watch(parent: psutil.Process) -> None:
    """Remember the servers that the parent starts; when the parent is gone, end those that are not."""
    servers: set[psutil.Process] = set()
    while parent.is_running() and parent.status() != psutil.STATUS_ZOMBIE:
        with contextlib.suppress(psutil.Error):
            servers |= {child for child in parent.children() if _is_server(child)}
        time.sleep(_POLL_S)
    for server in servers:  # psutil compares start times: a process id that was given out again is not meant
        with contextlib.suppress(psutil.Error):
            if server.is_running():
                server.terminate()
    psutil.wait_procs(list(servers), timeout=5 * _POLL_S)
    for server in servers:
        with contextlib.suppress(psutil.Error):
            server.kill()


def _is_server(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.Error):
        return any("prefect.server" in part for part in process.cmdline())
    return False


if __name__ == "__main__":
    with contextlib.suppress(psutil.Error):
        watch(psutil.Process(int(sys.argv[1])))
