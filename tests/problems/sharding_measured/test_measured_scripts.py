"""Measuring: inputs, operators, clocks, collectives and the scripts around them, on a CPU."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import gpu_sharding_costs, gpu_sharding_plans, sharding_measured
from problems.sharding import ReuseHistogram, Table, Uniform, ZipfMandelbrot
from problems.sharding.measured import Campaign, read_lines
from problems.sharding.measured.clocks import Clock, profiled_ms
from problems.sharding.measured.inputs import draw_inputs, draw_pool, draw_rows
from problems.sharding.measured.instances import numbered
from problems.sharding.measured.operators import Operator, make_tables
from problems.sharding.measured.reference import TOLERANCE, largest_difference
from surco.errors import InvalidInputError, MissingExtraError

CPU = torch.device("cpu")
HAS_FBGEMM = importlib.util.find_spec("fbgemm_gpu") is not None
needs_fbgemm = pytest.mark.skipif(not HAS_FBGEMM, reason="fbgemm is not installed")


@pytest.mark.parametrize(
    "access", [Uniform(), ZipfMandelbrot(500, 1.1, 2.0), ZipfMandelbrot(2000, 1.0, 0.5), ZipfMandelbrot(1, 1.2)]
)
def test_drawn_rows_follow_the_access_law(access: Uniform | ZipfMandelbrot) -> None:
    table = Table("t", 1000, 8, 4.0, access=access)
    rows = draw_rows(table, 3000, torch.Generator().manual_seed(0))
    assert 0 <= int(rows.min()) <= int(rows.max()) < 1000
    expected = access.distinct_rows(1000, 3000)
    assert len(rows.unique()) == pytest.approx(expected, rel=0.06, abs=1)
    if isinstance(access, ZipfMandelbrot) and access.touched_rows == 500:
        share = rows.bincount().max() / 3000
        weights = (np.arange(1, 501) + 2.0) ** -1.1
        assert float(share) == pytest.approx(weights[0] / weights.sum(), rel=0.2)


def test_inputs_of_a_table_do_not_depend_on_its_neighbors() -> None:
    pool = draw_pool(3, rng=np.random.default_rng(0), rows=(100, 1000), pooling=(0.5, 5.0))
    indices, offsets, counts = draw_inputs(pool, 50, CPU, seed=4)
    assert len(offsets) == 151
    assert int(offsets[-1]) == len(indices) == sum(counts)
    alone, bags, _ = draw_inputs(pool[1:2], 50, CPU, seed=4)
    assert torch.equal(indices[counts[0] : counts[0] + counts[1]], alone)
    assert torch.equal(offsets[50:101] - offsets[50], bags)
    assert counts[1] == pytest.approx(50 * pool[1].pooling_factor, rel=0.2)
    with pytest.raises(InvalidInputError, match="uniform"):
        draw_inputs([Table("h", 10, 4, 1.0, access=ReuseHistogram((1.0, *[0.0] * 16)))], 4, CPU, seed=0)


@needs_fbgemm
@pytest.mark.filterwarnings("ignore")
def test_both_operators_pool_the_same_rows() -> None:
    pool = draw_pool(4, rng=np.random.default_rng(1), rows=(50, 500), dims=(4, 16), pooling=(0.5, 6.0))
    indices, offsets, _ = draw_inputs(pool, 20, CPU, seed=0)
    rows, dims = [t.rows for t in pool], [t.dim for t in pool]
    fused = make_tables(Operator.FBGEMM, rows, dims, CPU)
    loop = make_tables(Operator.EMBEDDING_BAG, rows, dims, CPU)
    lengths = offsets.diff().reshape(4, 20)
    pooled = fused.forward(indices, offsets)
    expected = torch.cat(
        [0.01 * length[:, None].float().expand(20, d) for length, d in zip(lengths, dims, strict=True)], 1
    )
    torch.testing.assert_close(pooled, expected)  # all weights are 0.01
    assert loop.forward(indices, offsets).shape == pooled.shape
    for tables in (fused, loop):
        before = tables.forward(indices, offsets).detach().clone()
        tables.backward(tables.forward(indices, offsets), torch.ones_like(pooled))
        after = tables.forward(indices, offsets).detach()
        touched = (lengths > 0).T.repeat_interleave(torch.tensor(dims), dim=1)
        assert (after < before)[touched].all()  # the update has been made, against the gradient
        assert torch.equal(after[~touched], before[~touched])


@needs_fbgemm
@pytest.mark.filterwarnings("ignore")
def test_the_check_before_measuring_knows_the_optimizer() -> None:
    assert largest_difference(Operator.FBGEMM, CPU) < TOLERANCE
    assert largest_difference(Operator.EMBEDDING_BAG, CPU, steps=1) < TOLERANCE
    assert largest_difference(Operator.EMBEDDING_BAG, CPU, steps=2) > TOLERANCE  # Adagrad with a sum for each number


def test_a_missing_fbgemm_is_an_error_not_a_fallback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fbgemm_gpu.split_embedding_configs", None)
    with pytest.raises(MissingExtraError, match="embedding_bag"):
        make_tables(Operator.FBGEMM, [10], [4], CPU)
    with pytest.raises(InvalidInputError, match="same tables"):
        make_tables(Operator.EMBEDDING_BAG, [10], [], CPU)


def test_clock_counts_calls_and_sees_work() -> None:
    seen: list[int] = []
    matrix = torch.rand(300, 300)

    def work(k: int) -> None:
        seen.append(k)
        torch.mm(matrix, matrix)

    reading = Clock(CPU, calls=2, repeats=3, warm_up=1).read(work)
    assert len(seen) == 1 + 3 * (2 + 2)
    assert reading.is_ahead
    assert reading.device_ms > 0
    assert reading.end_to_end_ms > 0
    idle = Clock(CPU, calls=2, repeats=3, warm_up=1).read(lambda k: None)
    assert idle.device_ms < reading.device_ms
    assert profiled_ms(work, CPU, calls=1) > 0


def test_measuring_starts_where_only_torch_numpy_and_scipy_are(tmp_path: Path) -> None:
    """A machine lent for measuring has no solver, no reinforcement learning, no reports."""
    missing = ("ortools", "pyscipopt", "ray", "gymnasium", "numba", "rich", "matplotlib", "networkx", "safetensors")
    code = f"""
import sys
sys.modules |= dict.fromkeys({missing!r})
from benchmarks import gpu_sharding_costs, gpu_sharding_plans
arguments = gpu_sharding_costs.parse(["--out", {str(tmp_path)!r}, "--device", "cpu", "--small"])
_, members, batch, _ = next(gpu_sharding_costs.combinations(arguments, gpu_sharding_costs.pool_of(arguments)))
print(len(members), batch, gpu_sharding_plans.MODULE)
"""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], timeout=240, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.split()[0] == "1"
    assert "benchmarks.gpu_sharding_plans" in done.stdout


def run(module: str, *words: str) -> None:
    command = [sys.executable, "-W", "ignore", "-m", module, *words]
    done = subprocess.run(command, timeout=240, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_measure_pack_train_plan_and_run_end_to_end(tmp_path: Path, synthetic: Campaign) -> None:
    """The whole chain on a CPU, small: only the lookups and exchanges of the networks are synthetic."""
    operator = "fbgemm" if HAS_FBGEMM else "embedding_bag"
    common = ["--out", str(tmp_path), "--device", "cpu", "--small", "--repeats", "1", "--operator", operator]
    assert gpu_sharding_costs.main([*common, "--seconds", "0.3"]) == 0
    first = len(read_lines(tmp_path / "compute.jsonl").batch)
    assert gpu_sharding_costs.main([*common, "--seconds", "0.3"]) == 0  # goes on
    run("benchmarks.gpu_sharding_costs", *common, "--seconds", "0.5", "--two-gpus")
    assert sharding_measured.main(["pack", str(tmp_path), "--out", str(tmp_path / "campaign.npz")]) == 0
    campaign = Campaign.load(tmp_path / "campaign.npz")
    assert len(campaign.batch) > first >= 1
    assert campaign.world == 2
    assert (campaign.device_ms[:, 1] > 0).all()
    assert campaign.provenance["operator"] == operator

    synthetic.save(tmp_path / "synthetic.npz")
    networks = tmp_path / "networks"
    networks.mkdir()
    from problems.sharding.measured.network import Head
    from problems.sharding.measured.training import fit

    fit(synthetic, steps=60).save(networks / sharding_measured.CONVEX)
    fit(synthetic, steps=60, head=Head.ADDITIVE).save(networks / sharding_measured.ADDITIVE)
    problem = numbered(sharding_measured.networks_file(networks), 6, 2, 0)
    plan = [0, 1, 0, 1, 0, 1]
    x = torch.eye(2, dtype=torch.float64)[plan].reshape(-1)
    prediction = sharding_measured.prediction(problem, x)
    spec = {**problem.spec, "workload": {**problem.spec["workload"], "batch_size": 8}}
    item = {
        "spec": spec,
        "plans": {"auto": plan, "one sided": [1] * 6},
        "predicted_ms": {"auto": prediction, "one sided": 2 * prediction},
    }
    (tmp_path / "plans.json").write_text(json.dumps({"instances": [item]}), encoding="utf-8")
    words = [str(tmp_path / "plans.json"), "--out", str(tmp_path), "--device", "cpu", "--visits", "1", "--steps", "2"]
    run("benchmarks.gpu_sharding_plans", *words, "--operator", "embedding_bag")
    text = (tmp_path / "plans.md").read_text(encoding="utf-8")
    assert "one sided" in text
    assert "1 instances" in text


def test_report_of_plans_counts_and_averages() -> None:
    lines = [
        {
            "world": 2, "samples": 8 + 8 * (k // 2), "device": "d", "operator": "o", "id": f"i{k}",
            "measured_ms": {"auto": 1.0, "slow": 2.0, "even": 1.0 + 0.2 * (-1) ** k},
            "predicted_ms": {"auto": 1.0, "slow": 2.0, "even": 1.0},
        }
        for k in range(4)
    ]  # fmt: skip
    text = gpu_sharding_plans.report(lines)
    assert "| slow | 2.0000 | 2.0000 to 2.0000 | 2.0000 | 0/4 | slower |" in text
    assert "| even | 0.9798 |" in text
    assert "2/4 | a tie |" in text
    assert "8 samples a step (2 instances, median step 1.000 ms)" in text
    assert "1/2 | a tie |" in text


def test_losses_and_table_of_the_comparison() -> None:
    rows = [
        sharding_measured.Row(10, 4, 0, "auto", 1.0, 0.9, True, 5, 0.1),
        sharding_measured.Row(10, 4, 0, "better", 0.95, None, True, 5, 0.1),
        sharding_measured.Row(10, 4, 0, "not feasible", 0.5, None, False, 5, 0.1),
    ]
    assert sharding_measured.losses(rows) == ["10 x 4, draw 0: better 0.950000, auto 1.0 ms"]
    assert "| 10 x 4 | better | 0.9500 (0.9500) | 5.56 |" in sharding_measured.table(rows)
