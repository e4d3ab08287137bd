"""The campaign: pipelined groups, a stop and a resume, and equality with the method of the package."""

import argparse
import json

import numpy as np
import pytest
import torch

from benchmarks import gpu_photonics_campaign as campaign
from problems.photonics import DOMAIN
from problems.photonics.methods import pass_through
from surco.counted import CountedProblem
from surco.ledger import Budget, Ledger


@pytest.fixture
def options(tmp_path):
    return argparse.Namespace(
        devices=["bend"], brushes=[3], grid="40", border="free", objective="spec", wavelengths=[1270.0], seeds=3,
        first_seed=4, steps=5, step_size=0.05, groups=2, threads=2, torch_device="cpu", memory_gb=1.0, no_graphs=False,
        seconds=600.0, reserve=0.0, judge=0, judge_with="direct", out=tmp_path / "whole",
    )  # fmt: skip


def test_stop_resume_and_judge(options, tmp_path):
    assert campaign.campaign(options) == 0
    whole = json.loads((options.out / "campaign.jsonl").read_text())
    assert whole["generator_calls"] == 15
    assert whole["infeasible"] == 0
    parts = argparse.Namespace(**vars(options) | {"out": tmp_path / "parts", "seconds": 1e-3})
    for _ in range(40):  # a step a call, at least
        parts.out.mkdir(exist_ok=True)
        problem = campaign.make_problem("bend", 3, parts, "cpu")
        with campaign.ThreadPoolExecutor(1) as pool:
            if campaign.Cell("bend-40nm-3px-free", problem, parts, pool).run(0.0):
                break
    assert campaign.campaign(argparse.Namespace(**vars(parts) | {"seconds": 600.0})) == 0
    resumed = json.loads((parts.out / "campaign.jsonl").read_text())
    assert resumed["best_metric"] == whole["best_metric"]
    options.judge = 2
    assert campaign.judge(options) == 0
    verdicts = [json.loads(line) for line in (options.out / "judged.jsonl").read_text().splitlines()]
    assert [v["is_confirmed"] for v in verdicts] == [True, True]
    assert verdicts[0]["metric"] == pytest.approx(max(whole["best_metric"]), abs=1e-9)


def test_the_loop_is_pass_through(options):
    assert campaign.campaign(options) == 0
    with np.load(options.out / "designs.npz", allow_pickle=False) as archive:
        history = archive["bend-40nm-3px-free/history"]
    problem = DOMAIN.make("photonics/bend-40nm-v0", wavelengths_nm=[1270.0])
    for column, seed in enumerate(range(4, 7)):
        counted = CountedProblem(Ledger(problem, Budget(calls=5)))
        method = pass_through(stops_at_spec=False)
        state = method.init(counted, generator=torch.Generator().manual_seed(seed))
        for row in range(5):
            state, estimate = method.step(counted, state, generator=torch.Generator())
            assert estimate is not None
            assert problem.metric(estimate.atoms[0, 0]) == pytest.approx(history[row, column], abs=1e-6)


def test_margin_loss_sees_a_wide_window():
    spec = DOMAIN.make("photonics/bend-40nm-v0").target
    device = torch.device("cpu")
    power = torch.tensor([[0.0005, 0.93], [0.0005, 0.98]], dtype=torch.float64)
    s = power.sqrt().to(torch.complex128)[:, None, :, None].expand(-1, 2, -1, -1).requires_grad_()
    slopes = {}
    for kind in ("spec", "margin"):
        objective = campaign.Objective(spec, 2, device, kind)
        (slope,) = torch.autograd.grad(objective.loss(s)[0], s)
        slopes[kind] = slope[0, 0, :, 0].abs()
        assert objective.metric(s)[1] > objective.metric(s)[0] > 0
    assert slopes["margin"][1] / slopes["margin"][0] > 10 * slopes["spec"][1] / slopes["spec"][0]
