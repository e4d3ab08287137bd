from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import as_completed
from pathlib import Path

import numpy as np
import pytest

import solvers
from benchmarks import cell as cells
from benchmarks.pool import run_on
from benchmarks.suite import Cell, Instance, MethodRow
from rl.pool import LostWorkerError, RayPool
from rl.ray_processes import MARK, end_processes, marked_processes
from rl.ray_session import session
from surco.errors import InvalidInputError, MissingExtraError

ROOT = Path(__file__).parents[2]
TAG = "SURCO_TEST_TAG"


@pytest.fixture(scope="module")
def pool() -> Iterator[RayPool]:
    """One Ray with one CPU for all tests of this file; nothing of it may be left."""
    tag = secrets.token_hex(8)
    os.environ[TAG] = tag  # the processes of this Ray inherit it
    try:
        with RayPool("local", cpus=1, retries=1) as pool:
            assert marked_processes(tag, name=TAG)
            yield pool
    finally:
        del os.environ[TAG]
    assert marked_processes(tag, name=TAG) == {}
    assert "RAY_AUTH_TOKEN_PATH" not in os.environ


def square(x: int) -> int:
    return x * x


def sleep_and_tell(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


def die_at_first(path: str) -> str:
    if not os.path.exists(path):
        Path(path).touch()
        os._exit(1)
    return "second attempt"


def die(code: int) -> None:
    os._exit(code)


def refuse(key: str) -> None:
    raise LookupError(key)


def test_results_come_in_the_order_of_the_arguments(pool: RayPool) -> None:
    assert list(pool.map(sleep_and_tell, [0.2, 0.0, 0.1])) == [0.2, 0.0, 0.1]
    assert list(pool.map(square, range(50), chunksize=7)) == [k * k for k in range(50)]
    assert list(pool.map(pow, [2, 3], [5, 2])) == [32, 9]
    assert list(pool.map(square, [])) == []


def test_arguments_are_taken_as_tasks_finish(pool: RayPool) -> None:
    taken: list[int] = []

    def endless() -> Iterator[int]:
        for k in range(10**9):
            taken.append(k)
            yield k

    results = pool.map(square, endless())
    assert [next(results) for _ in range(3)] == [0, 1, 4]
    results.close()  # type: ignore[attr-defined]
    assert len(taken) < 200


def test_futures_have_values_and_errors(pool: RayPool) -> None:
    futures = {pool.submit(square, k): k for k in range(5)}
    assert {futures[f]: f.result() for f in as_completed(futures, timeout=60)} == {k: k * k for k in range(5)}
    with pytest.raises(LookupError, match="nowhere"):
        pool.submit(refuse, "nowhere").result(timeout=60)
    with pytest.raises(LookupError, match="here"):
        list(pool.map(refuse, ["here"]))


def test_a_lost_worker_is_replaced(pool: RayPool, tmp_path: Path) -> None:
    assert list(pool.map(die_at_first, [str(tmp_path / "a")])) == ["second attempt"]


def test_a_task_that_always_kills_its_worker_is_named(pool: RayPool) -> None:
    with pytest.raises(LostWorkerError, match="all of 2 attempts"):
        list(pool.map(die, [3]))
    assert list(pool.map(square, [3])) == [9]  # the pool goes on


def test_silence_is_a_timeout(pool: RayPool) -> None:
    with pytest.raises(TimeoutError):
        list(pool.map(sleep_and_tell, [600.0], timeout=0.5))
    assert list(pool.map(square, [3])) == [9]  # the sleeper was ended


def test_batches_of_an_oracle_equal_those_of_a_loop(pool: RayPool) -> None:
    oracle = solvers.cardinality(20, 6)
    costs = np.random.default_rng(0).normal(size=(37, 20))
    serial = oracle.solve(costs)
    with solvers.parallel(oracle, pool=pool, chunk=5) as fanned:
        batch = fanned.solve(costs)
    np.testing.assert_array_equal(batch.x, serial.x)
    np.testing.assert_array_equal(batch.objective, serial.objective)
    assert batch.status == serial.status


def test_benchmark_cells_equal_those_of_a_loop(pool: RayPool) -> None:
    instance = Instance("g", "paths/grid-5-code-v0", {"seed": 1}, {"calls": 6})
    todo = [Cell(instance, MethodRow(name, name), seed) for name in ("linear", "zero") for seed in (0, 1)]

    def told(row: dict[str, object]) -> dict[str, object]:
        return {key: row[key] for key in ("cell", "status", "value", "seed", "method", "is_feasible")}

    fanned = [told(row) for row in pool.map(cells.run, todo)]
    assert fanned == [told(cells.run(cell)) for cell in todo]
    assert {row["status"] for row in fanned} == {"ok"}


def test_the_benchmark_runner_takes_the_pool(pool: RayPool) -> None:
    instance = Instance("g", "paths/grid-5-code-v0", {"seed": 1}, {"calls": 6})
    todo = [Cell(instance, MethodRow("linear", "linear"), seed) for seed in (0, 1, 2)]
    rows = {row["cell"]: row["value"] for row in run_on(pool, todo)}
    assert rows == {cell.key: cells.run(cell)["value"] for cell in todo}


def test_a_session_inside_a_session_is_the_same(pool: RayPool) -> None:
    with session("local") as ray:
        assert ray.is_initialized()
    assert ray.is_initialized()


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGKILL])
@pytest.mark.slow
def test_nothing_survives_an_interrupt_or_a_kill(ending: signal.Signals, tmp_path: Path) -> None:
    tag = secrets.token_hex(8)
    code = f"""
import time, pathlib
from rl.pool import RayPool
def sleeper(seconds):
    pathlib.Path({str(tmp_path / "up")!r}).touch()
    time.sleep(seconds)
with RayPool("local", cpus=1) as pool:
    list(pool.map(sleeper, [600.0] * 5))
"""
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**os.environ, TAG: tag},
        start_new_session=True,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        deadline = time.monotonic() + 180
        while not (tmp_path / "up").exists() and time.monotonic() < deadline:
            time.sleep(0.1)
        assert (tmp_path / "up").exists()
        if ending is signal.SIGINT:
            os.killpg(process.pid, ending)  # as a terminal does: to the whole group
        else:
            process.kill()
        _, errors = process.communicate(timeout=120)
    finally:
        process.kill()
    if ending is signal.SIGINT:
        assert "KeyboardInterrupt" in errors
    deadline = time.monotonic() + 60
    while marked_processes(tag, name=TAG) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert marked_processes(tag, name=TAG) == {}


def test_the_guardian_ends_what_a_killed_process_leaves(tmp_path: Path) -> None:
    mark, folder = secrets.token_hex(8), tmp_path / "session"
    folder.mkdir()
    code = f"""
import os, pathlib, subprocess, sys, time
from rl.ray_processes import MARK, guardian
with guardian({mark!r}, pathlib.Path({str(folder)!r}), seconds=0.5):
    command = [sys.executable, "-c", "import time; time.sleep(600)"]
    subprocess.Popen(command, env={{**os.environ, MARK: {mark!r}}}, start_new_session=True)
    time.sleep(600)
"""
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT)
    deadline = time.monotonic() + 60
    while not marked_processes(mark) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert marked_processes(mark)
    assert folder.exists()
    process.kill()
    process.wait()
    while (marked_processes(mark) or folder.exists()) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert marked_processes(mark) == {}
    assert not folder.exists()


def test_a_titled_process_without_mark_is_known_by_the_logs_that_it_writes(tmp_path: Path) -> None:
    """Ray's titles are written over the environment, the mark included."""
    mark, folder, other = secrets.token_hex(8), tmp_path / "session", tmp_path / "other"
    folder.mkdir()
    other.mkdir()
    sleeper = shutil.which("sleep")
    assert sleeper is not None
    (folder / "read.log").touch()
    with (folder / "agent.log").open("w") as mine, (other / "agent.log").open("w") as theirs:
        agent, stranger, untitled = (
            subprocess.Popen([title, "600"], executable=sleeper, stdout=file)
            for title, file in (("ray::Agent", mine), ("ray::Agent", theirs), ("tee", mine))
        )
        with (folder / "read.log").open() as log:
            reader = subprocess.Popen(["ray::Reader", "600"], executable=sleeper, stdin=log)
    try:
        assert marked_processes(mark) == {}
        assert marked_processes(mark, folder=folder) == {agent.pid: "ray::Agent 600"}
        end_processes(mark, folder=folder, seconds=0.0)
        assert agent.wait(timeout=60) == -signal.SIGKILL
        assert [process.poll() for process in (stranger, untitled, reader)] == [None, None, None]
    finally:
        for process in (agent, stranger, untitled, reader):
            process.kill()
            process.wait()


def test_only_marked_processes_are_ended() -> None:
    mine, other = secrets.token_hex(8), secrets.token_hex(8)
    command = [sys.executable, "-c", "import time; time.sleep(600)"]
    processes = [subprocess.Popen(command, env={**os.environ, MARK: mark}) for mark in (mine, other)]
    try:
        deadline = time.monotonic() + 60
        while not (marked_processes(mine) and marked_processes(other)) and time.monotonic() < deadline:
            time.sleep(0.05)
        end_processes(mine, seconds=0.0)
        assert processes[0].wait(timeout=60) == -signal.SIGKILL
        assert processes[1].poll() is None
    finally:
        for process in processes:
            process.kill()
            process.wait()


@pytest.mark.parametrize(
    ("address", "options"),
    [("", {}), ("auto", {"cpus": 2}), ("local", {"cpus": 0}), ("local", {"auth": "perhaps"})],
)
def test_settings_are_checked(address: str, options: dict[str, object]) -> None:
    with pytest.raises(InvalidInputError), session(address, **options):  # type: ignore[arg-type]
        pass
    with pytest.raises(InvalidInputError):
        RayPool("local", retries=-1)
    with pytest.raises(InvalidInputError):
        RayPool("local", cpus_per_task=0.0)


def test_without_ray_the_install_command_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtraError, match=r"surco\[rl\]"):
        RayPool("local")


def test_the_module_does_not_import_ray() -> None:
    code = "import sys, rl.pool, rl.ray_session; print('ray' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "False"
