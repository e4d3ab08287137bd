"""Ray nodes as processes of this machine, with explicit ports, token and folder; ended by number, never by name."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rl.ray_processes import END_SECONDS, MARK, end_processes, guardian, marked_processes
from surco.errors import SurcoError

START_SECONDS = 180.0


class ClusterError(SurcoError, RuntimeError):
    """A node, job or check of a cluster failed; the message says which."""


@dataclass(frozen=True, slots=True)
class Ports:
    """Fixed ports of a node; all above 20000, as Ray gives 10002 to 19999 to its workers.

    Attributes:
        base: the first of ten.
    """

    base: int

    @property
    def gcs(self) -> int:
        """Where nodes join."""
        return self.base

    @property
    def dashboard(self) -> int:
        """Where jobs are submitted."""
        return self.base + 1

    @property
    def client(self) -> int:
        """Of Ray Client, which is not used."""
        return self.base + 2

    @property
    def agent(self) -> int:
        """Of the dashboard's agent."""
        return self.base + 3

    @property
    def metrics(self) -> int:
        """Of the metrics."""
        return self.base + 4


@dataclass
class Node:
    """A running ``ray start --block``.

    Attributes:
        process: of the command.
        mark: value of `MARK` in the environment of all its processes.
        guard: ends the node should this process be killed.
    """

    process: subprocess.Popen[bytes]
    mark: str
    guard: contextlib.ExitStack

    def raylet(self) -> int:
        """Process number of the node's raylet.

        Raises:
            ClusterError: it has none.
        """
        for pid, command in marked_processes(self.mark).items():
            if command.split(" ", 1)[0].endswith("raylet"):
                return pid
        raise ClusterError("The node has no raylet any more.")

    def stop(self) -> None:
        """Ask it to end, then end what is left of it."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(timeout=20.0)
        end_processes(self.mark, seconds=10.0)
        self.guard.close()


@dataclass
class Cluster:
    """A head and any number of further nodes on the loopback of this machine.

    Args:
        folder: for Ray's files (a short name: sockets lie in it), logs and the token.
        ports: of the head.
        grace_s: seconds that the nodes get to end by themselves where this process was killed.
    """

    folder: Path
    ports: Ports
    grace_s: float = END_SECONDS
    nodes: list[Node] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.token = secrets.token_hex(32)
        self.token_path = self.folder / "token"
        self.token_path.touch(mode=0o600)
        self.token_path.write_text(self.token, encoding="utf-8")

    @property
    def address(self) -> str:
        """Where nodes and drivers join."""
        return f"127.0.0.1:{self.ports.gcs}"

    @property
    def dashboard(self) -> str:
        """Where jobs are submitted."""
        return f"http://127.0.0.1:{self.ports.dashboard}"

    def environment(self) -> dict[str, str]:
        """Of every process that has to do with the cluster."""
        kept = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
        return kept | {
            "OMP_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1",
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(self.token_path),
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
            "RAY_raylet_start_wait_time_s": "150",
            "RAY_memory_usage_threshold": "0.98",
        }

    def start_head(self, cpus: int) -> Node:
        """Start the head and wait until jobs can be submitted."""
        p = self.ports
        node = self._start(
            "head",
            "--head",
            f"--port={p.gcs}",
            "--include-dashboard=true",
            "--dashboard-host=127.0.0.1",
            f"--dashboard-port={p.dashboard}",
            f"--ray-client-server-port={p.client}",
            f"--dashboard-agent-listen-port={p.agent}",
            f"--metrics-export-port={p.metrics}",
            f"--num-cpus={cpus}",
            f"--temp-dir={self.folder}",
        )
        _wait("the dashboard", lambda: self._answers("/api/version"), node)
        return node

    def start_worker(self, number: int, cpus: int, resources: Mapping[str, float]) -> Node:
        """Start another node and wait until the head knows it."""
        known = self._alive()
        node = self._start(
            f"worker{number}",
            f"--address={self.address}",
            f"--dashboard-agent-listen-port={self.ports.agent + 10 * number}",
            f"--metrics-export-port={self.ports.metrics + 10 * number}",
            f"--num-cpus={cpus}",
            f"--resources={json.dumps(dict(resources))}",
        )
        _wait("the node", lambda: self._alive() > known, node)
        return node

    def submit(self, id: str, command: list[str], environment: Mapping[str, str]) -> None:
        """``ray job submit``, without waiting for the end.

        Raises:
            ClusterError: the job was not taken.
        """
        environ = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", **environment}
        arguments = ["job", "submit", "--no-wait", f"--address={self.dashboard}", f"--submission-id={id}"]
        arguments += [f"--runtime-env-json={json.dumps({'env_vars': environ})}", "--", *command]
        done = subprocess.run([_ray(), *arguments], env=self.environment(), capture_output=True, text=True, timeout=300)
        if done.returncode:
            raise ClusterError(f"The job was not taken: {done.stderr[-500:]}")

    def job(self, id: str) -> dict[str, Any]:
        """What the head knows of a job: ``status``, ``message``, ``driver_exit_code``."""
        return self._ask(f"/api/jobs/{id}")

    def log(self, id: str) -> str:
        """Output of a job."""
        return str(self._ask(f"/api/jobs/{id}/logs").get("logs", ""))

    def stop(self) -> None:
        """End all nodes, the head last."""
        for node in reversed(self.nodes):
            node.stop()

    def _start(self, name: str, *arguments: str) -> Node:
        mark = secrets.token_hex(8)
        command = [
            _ray(),
            "start",
            *arguments,
            "--node-ip-address=127.0.0.1",
            "--object-store-memory=150000000",
            "--block",
        ]
        guard = contextlib.ExitStack()
        guard.enter_context(guardian(mark, self.folder.resolve(), keeps_folder=True, seconds=self.grace_s))
        with (self.folder / f"{name}.log").open("wb") as log:
            process = subprocess.Popen(
                command,
                env={**self.environment(), MARK: mark},
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        node = Node(process, mark, guard)
        self.nodes.append(node)
        return node

    def _alive(self) -> int:
        """Number of living nodes."""
        found = self._ask("/nodes?view=summary").get("data", {}).get("summary", [])
        return sum(node.get("raylet", {}).get("state") == "ALIVE" for node in found)

    def _answers(self, path: str) -> bool:
        try:
            self._ask(path)
        except (urllib.error.URLError, OSError, ValueError):
            return False
        return True

    def _ask(self, path: str) -> dict[str, Any]:
        request = urllib.request.Request(self.dashboard + path, headers={"Authorization": f"Bearer {self.token}"})
        with urllib.request.urlopen(request, timeout=20.0) as answer:
            return json.loads(answer.read())


def _ray() -> str:
    """The command of this interpreter's Ray."""
    return str(Path(sys.executable).with_name("ray"))


def _wait(what: str, is_up: Callable[[], bool], node: Node) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not is_up():
        if node.process.poll() is not None:
            raise ClusterError(f"Waiting for {what}, but its command ended with code {node.process.returncode}.")
        if time.monotonic() >= deadline:
            raise ClusterError(f"Waited {START_SECONDS:.0f} s for {what}.")
        time.sleep(0.5)
