"""A killed parent must not leave its server behind; a child that is no server is left alone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil

PARENT = """
import subprocess, sys, time
from flows import reaper
reaper.watch_this_process()
wait = "import time; time.sleep(60)"
server = subprocess.Popen([sys.executable, "-c", wait, "prefect.server"])
other = subprocess.Popen([sys.executable, "-c", wait])
print(server.pid, other.pid, flush=True)
time.sleep(60)
"""


def test_the_server_of_a_killed_run_is_ended() -> None:
    """After SIGKILL of the run its server ends within seconds, and nothing else does."""
    root = Path(__file__).resolve().parents[3]
    parent = subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True, cwd=root)
    try:
        assert parent.stdout is not None
        server, other = (psutil.Process(int(pid)) for pid in parent.stdout.readline().split())
        time.sleep(3)  # the watcher looks once a second
        os.kill(parent.pid, signal.SIGKILL)
        parent.wait()
        psutil.wait_procs([server], timeout=30)

        assert not server.is_running() or server.status() == psutil.STATUS_ZOMBIE
        assert other.is_running()
    finally:
        parent.kill()
        parent.stdout.close()
        for process in (server, other):
            if process.is_running():
                process.kill()
