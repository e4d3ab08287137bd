"""Rehearsal of a node failure: two Ray nodes on this machine, a training job, and ``kill -9`` for the worker node.

    python -m rl.cluster.two_nodes --case spare      # workers can restart on the head: all steps get done
    python -m rl.cluster.two_nodes --case pinned     # they cannot: a checkpoint, and an exit code that is not 0

A bystander, another Ray of the same user, runs meanwhile; it must be the same afterwards. Prints a JSON report; the
exit code is 0 if all checks hold.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rl.cluster.nodes import Cluster, ClusterError, Ports
from rl.journal import read
from rl.ray_processes import marked_processes
from rl.stall import EXIT_CODE

ROOT = Path(__file__).parents[2]
CONFIG = Path(__file__).with_name("two_nodes.toml")
JOB = "two-nodes"
WITHIN_SECONDS = 120.0
_BYSTANDER = (
    "import ray; ray.init(address='auto', logging_level='ERROR'); print(ray.get(ray.remote(lambda: 6 * 7).remote()))"
)


def rehearse(case: str, backend: str, steps: int, kill_at: float, folder: Path) -> dict[str, Any]:
    """Run the rehearsal and return what was seen."""
    cluster, bystander = Cluster(folder / "a", Ports(26400)), Cluster(folder / "b", Ports(27400))
    out, report = folder / "out", {"case": case, "backend": backend, "steps_wanted": steps, "kill_at": kill_at}
    try:
        other = bystander.start_head(1)
        before = _services(other.mark)
        begun = time.monotonic()
        cluster.start_head(2)
        worker = cluster.start_worker(1, 2, {"node": 2.0})
        report["cluster_up_seconds"] = round(time.monotonic() - begun, 1)
        pins = '{"node": 0.5}' if case == "pinned" else "{}"
        command = [sys.executable, "-m", "rl.train", str(CONFIG), "--out", str(out), f"--backend={backend}"]
        command += [f"--steps={steps}", "--set", f"trainer.resources_per_worker={pins}"]
        begun = time.monotonic()
        cluster.submit(JOB, command, {"PYTHONPATH": str(ROOT)})
        _until(lambda: _steps(out) >= kill_at * steps, 600.0, cluster)
        report["killed_at_step"] = _steps(out)
        report["players_on_killed_node"] = _players(worker.mark)
        os.kill(worker.raylet(), signal.SIGKILL)
        killed = time.monotonic()
        info = cluster.job(JOB)
        while info["status"] in ("PENDING", "RUNNING"):
            if time.monotonic() - killed > 900.0:
                raise ClusterError("The job did not end within 900 s of the failure.")
            time.sleep(1.0)
            info = cluster.job(JOB)
        report["seconds_from_kill_to_end"] = round(time.monotonic() - killed, 1)
        report["job_seconds"] = round(time.monotonic() - begun, 1)
        report |= {"status": info["status"], "exit_code": info.get("driver_exit_code"), "steps": _steps(out)}
        report["log_end"] = cluster.log(JOB).splitlines()[-4:]
        report["policy_parameters"] = _parameters(out)
        report["lines"] = _lines(out)
        cluster.stop()
        after = _services(other.mark)
        answer = _ask_bystander(bystander)
        report["bystander"] = {"processes": len(before), "lost": len(before - after), "answer": answer}
    finally:
        cluster.stop()
        bystander.stop()
    report["left_processes"] = sum(len(marked_processes(node.mark)) for c in (cluster, bystander) for node in c.nodes)
    report["is_passed"] = _is_passed(report, case, steps)
    return report


def main(argv: Sequence[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m rl.cluster.two_nodes", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--case", choices=("spare", "pinned"), default="spare")
    parser.add_argument("--backend", choices=("native", "rllib"), default="rllib")
    parser.add_argument("--steps", type=int, default=115_200)
    parser.add_argument("--kill-at", type=float, default=0.3, help="share of the steps after which the node dies")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="copy journal, checkpoint and logs there")
    arguments = parser.parse_args(argv)
    folder = Path(tempfile.mkdtemp(prefix="surco-two-", dir="/tmp"))
    try:
        report = rehearse(arguments.case, arguments.backend, arguments.steps, arguments.kill_at, folder)
        if arguments.keep is not None:
            shutil.copytree(folder / "out", arguments.keep, dirs_exist_ok=True)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    sys.stdout.write(json.dumps(report, indent=1) + "\n")
    return 0 if report["is_passed"] else 1


def _is_passed(report: dict[str, Any], case: str, steps: int) -> bool:
    """What was promised: all steps, or a loadable checkpoint and an exit code within two minutes; nobody else hurt."""
    unhurt = not report["bystander"]["lost"] and report["bystander"]["answer"] == "42" and not report["left_processes"]
    is_done = report["status"] == "SUCCEEDED" and report["steps"] == steps
    is_given_up = (
        report["exit_code"] == EXIT_CODE
        and report["policy_parameters"] > 0
        and report["seconds_from_kill_to_end"] <= WITHIN_SECONDS
    )
    return unhurt and report["players_on_killed_node"] > 0 and (is_given_up if case == "pinned" else is_done)


def _until(is_reached: Any, seconds: float, cluster: Cluster) -> None:
    deadline = time.monotonic() + seconds
    while not is_reached():
        info = cluster.job(JOB)
        if info["status"] not in ("PENDING", "RUNNING"):
            raise ClusterError(f"The job ended too early: {info['status']}. {cluster.log(JOB)[-2000:]}")
        if time.monotonic() > deadline:
            raise ClusterError(f"The job did not get on within {seconds:.0f} s. {cluster.log(JOB)[-2000:]}")
        time.sleep(0.5)


def _lines(out: Path) -> list[dict[str, Any]]:
    shown = ("steps", "seconds", "wall_s", "return", "workers", "restarts")
    return [{key: line[key] for key in shown if key in line} for line in read(out)]


def _steps(out: Path) -> int:
    lines = read(out)
    return int(lines[-1]["steps"]) if lines else 0


def _parameters(out: Path) -> int:
    """Number of parameters of the saved policy; 0 if it cannot be loaded."""
    from rl import policy as policies
    from surco.errors import InvalidInputError

    try:
        return sum(p.numel() for p in policies.load(out).parameters())
    except InvalidInputError:
        return 0


def _players(mark: str) -> int:
    """Rollout workers among the processes of a node."""
    return sum("Player" in command or "EnvRunner" in command for command in marked_processes(mark).values())


def _services(mark: str) -> set[int]:
    """Processes of a node that live as long as it; workers come and go."""
    return {pid for pid, command in marked_processes(mark).items() if _is_service(command)}


def _is_service(command: str) -> bool:
    """Whether a command line is a service's. A worker that is still starting names its raylet among its arguments."""
    names = ("gcs_server", "raylet", "dashboard", "DashboardAgent", "RuntimeEnvAgent")
    return "_worker.py" not in command and any(name in command for name in names)


def _ask_bystander(bystander: Cluster) -> str:
    """Let the other Ray compute something."""
    environment = {**bystander.environment(), "RAY_ADDRESS": bystander.address}
    done = subprocess.run(
        [sys.executable, "-c", _BYSTANDER], env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    return done.stdout.strip() or done.stderr[-300:]


if __name__ == "__main__":
    raise SystemExit(main())
