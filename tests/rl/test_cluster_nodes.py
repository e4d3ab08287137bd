"""Nodes of the cluster rehearsal end with the process that started them, even when that is killed."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rl.cluster.two_nodes import _is_service
from rl.ray_processes import marked_processes

DRIVER = """
import os, signal, sys
from pathlib import Path
from rl.cluster import nodes

nodes._ray = lambda: sys.argv[2]
cluster = nodes.Cluster(Path(sys.argv[1]), nodes.Ports(26400), grace_s=0.2)
node = cluster._start("head", "--head")
if sys.argv[3] == "stop":
    cluster.stop()
print(node.mark, flush=True)
if sys.argv[3] == "kill":
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.skipif(not Path("/proc/self/environ").is_file(), reason="needs /proc")
@pytest.mark.parametrize("end", ["kill", "stop"])
def test_a_killed_driver_leaves_no_node(tmp_path: Path, end: str) -> None:
    stand_in = tmp_path / "ray"  # sleeps as `ray start --block` does
    stand_in.write_text("#!/bin/sh\nexec sleep 600\n", encoding="utf-8")
    stand_in.chmod(0o755)
    folder = tmp_path / "cluster"
    done = subprocess.run(
        [sys.executable, "-c", DRIVER, str(folder), str(stand_in), end], stdout=subprocess.PIPE, text=True, timeout=120
    )
    assert done.returncode == (-signal.SIGKILL if end == "kill" else 0)
    mark = done.stdout.strip()
    assert mark
    deadline = time.monotonic() + 60.0
    while marked_processes(mark) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not marked_processes(mark)
    assert (folder / "head.log").is_file()  # logs stay, to be read afterwards


@pytest.mark.parametrize(
    ("command", "is_service"),
    [
        ("/x/ray/core/src/ray/raylet/raylet --raylet_socket_name=/t/raylet", True),
        ("/x/ray/core/src/ray/gcs/gcs_server --log_dir=/t", True),
        ("ray::DashboardAgent", True),
        ("python /x/ray/_private/workers/default_worker.py --raylet-name=/t/sockets/raylet", False),
        ("python /x/ray/_private/workers/setup_worker.py /x/default_worker.py --raylet-name=/t/raylet", False),
        ("ray::IDLE", False),
    ],
)
def test_starting_workers_are_no_services_of_a_node(command: str, is_service: bool) -> None:
    assert _is_service(command) is is_service
