"""What an exact run keeps on disk, and what a pool of workers may not change."""

import multiprocessing
import os
import signal
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

import numpy as np
import pytest

from problems.planning import Decomposition, compile_instance, from_topohub, judge, plan_of
from surco.errors import InvalidInputError
from tests.problems.planning.small import drawn


def engine_of(name="nobel-germany", **options):
    return Decomposition(compile_instance(from_topohub(name)), tolerance=1e-9, **options)


def killed_run(path):
    """Run until the relaxation is done and some cuts are on disk, then die without a word."""

    def die(bounds):
        if engine.is_root_done and path.is_file():
            os.kill(os.getpid(), signal.SIGKILL)

    engine = engine_of()
    engine.run(120, callback=die, checkpoint=path, checkpoint_seconds=0.0)


def test_a_killed_run_goes_on_where_it_was(tmp_path):
    path = tmp_path / "engine.npz"
    process = multiprocessing.get_context("spawn").Process(target=killed_run, args=(path,))
    process.start()
    process.join(240)
    assert process.exitcode == -signal.SIGKILL
    resumed = engine_of()
    bounds = resumed.run(1e-9, checkpoint=path)  # no time to work: what it knows is from the file
    assert bounds.lower > 0.98 * 29_233
    assert 29_232.5 < bounds.upper < 1.2 * 29_233
    assert resumed.is_root_done
    assert len(resumed.master.rhs) > 100
    assert (resumed.master.rows @ resumed.best >= resumed.master.rhs - 1e-6).all()
    assert resumed.run(120, checkpoint=path).upper == pytest.approx(29_233)
    assert judge(resumed.network.instance, plan_of(resumed.network, resumed.best)).is_feasible
    again = engine_of()
    assert again.run(0.01, checkpoint=path).gap <= 1e-9  # proven once, proven for good


def test_foreign_checkpoints_are_refused(tmp_path):
    path = tmp_path / "engine.npz"
    engine_of("polska").run(0.2, checkpoint=path)
    with pytest.raises(InvalidInputError, match="another network"):
        engine_of("nobel-us").run(1, checkpoint=path)
    path.write_bytes(b"nothing of ours")
    with pytest.raises(InvalidInputError, match="checkpoint"):
        engine_of("polska").run(1, checkpoint=path)


@pytest.mark.parametrize("kind", ["threads", "processes"])
def test_a_pool_proves_the_same_optimum(kind):
    context = multiprocessing.get_context("spawn")
    executor = ThreadPoolExecutor(2) if kind == "threads" else ProcessPoolExecutor(1, mp_context=context)
    with executor as pool:
        for instance in (from_topohub("polska"), drawn(5, nodes=6, extra=3, two_way=False)):
            serial = Decomposition(compile_instance(instance), tolerance=1e-9)
            parallel = Decomposition(compile_instance(instance), tolerance=1e-9, pool=pool)
            assert parallel.run(120).upper == pytest.approx(serial.run(120).upper)
            assert parallel.bounds.gap <= 1e-9
            assert parallel.survival.n_lps > 0
            point = parallel.network.capacities(np.floor(0.8 * parallel.best))
            said = {s for s, _ in parallel.survival.failures(point)[0]}
            assert said == {s for s, _ in serial.survival.failures(point)[0]}
