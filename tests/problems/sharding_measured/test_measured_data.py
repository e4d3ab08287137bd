"""What the package ships of an H100: the campaign, the networks trained on it, and the instances made of them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import surco
from problems.sharding import ShardingProblem
from problems.sharding.domain import MEASURED_SIZES, measured_id
from problems.sharding.measured import Campaign, CostNetworks
from problems.sharding.measured.additive import sum_of_singles
from problems.sharding.measured.cost import DATA
from problems.sharding.measured.records import BOTH
from problems.sharding.measured.training import readings_of


@pytest.fixture(scope="module")
def campaign() -> Campaign:
    return Campaign.load(DATA / "h100.npz")


def test_campaign_says_where_it_comes_from_and_is_sound(campaign: Campaign) -> None:
    for key in ("device", "operator", "fbgemm", "date", "command", "commit", "versions"):
        assert campaign.provenance[key], key
    assert "H100" in campaign.provenance["device"]
    assert campaign.provenance["operator"] == "fbgemm"
    assert campaign.world == 2
    assert campaign.is_ahead.all()
    assert (campaign.device_ms[:, 1] > campaign.device_ms[:, 0]).all()  # backward takes time
    assert (
        campaign.end_to_end_ms > 0.9 * campaign.device_ms
    ).all()  # a caller does not wait less than the device works
    assert np.median(campaign.spread_ms[:, 1, 0] / campaign.device_ms[:, 1]) < 0.1


@pytest.mark.parametrize("name", ["h100", "h100-additive"])
def test_networks_predict_combinations_that_they_have_not_seen(campaign: Campaign, name: str) -> None:
    networks = CostNetworks.load(DATA / f"{name}.safetensors")
    assert networks.provenance["date"] == campaign.provenance["date"]
    readings, held = readings_of(campaign), campaign.is_held_out
    with torch.no_grad():
        summed = readings.counts @ networks.compute.embed(readings.features, readings.numbers)
        predicted = networks.compute.times_ms(summed).sum(1).double().numpy()
    measured = campaign.device_ms[:, BOTH]
    error = np.abs(predicted / measured - 1.0)[held]
    singles = np.abs(sum_of_singles(campaign, measured) / measured - 1.0)[held]
    assert np.mean(error) < 0.2
    assert np.mean(error) < np.nanmean(singles)


@pytest.mark.parametrize("size", MEASURED_SIZES)
def test_registered_instances_have_plans_above_their_bound(size: tuple[int, int]) -> None:
    problem = surco.make(measured_id(*size), seed=1)
    assert isinstance(problem, ShardingProblem)
    assert (len(problem.tables), len(problem.devices)) == size
    rules = [float(problem.objective(x)) for x in problem.heuristics().values()]
    assert 0 < problem.lower_bound() <= min(rules)


def test_family_of_a_registered_size_describes_the_instance() -> None:
    id = measured_id(20, 2)
    family = surco.family(id)
    features = family.features(surco.make(id, seed=2))
    assert features["start"].shape == (20, 2)
