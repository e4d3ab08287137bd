"""Records, additive models, cost networks and the gap between them, on campaigns with a known truth."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch

from problems.sharding.measured import additive, gap
from problems.sharding.measured.features import quantities, sums
from problems.sharding.measured.network import CostNetworks, Head
from problems.sharding.measured.records import Campaign, parse_lines, read_lines
from problems.sharding.measured.training import fit_comms, fit_compute, readings_of
from problems.sharding.spec import table_to_json
from surco.errors import InvalidInputError
from tests.problems.sharding_measured.synthetic import campaign, truth_ms


def test_campaign_survives_its_file(synthetic: Campaign, tmp_path: Path) -> None:
    path = tmp_path / "campaign.npz"
    synthetic.save(path)
    again = Campaign.load(path)
    assert again.tables == synthetic.tables
    assert again.provenance == synthetic.provenance
    assert all((a == b).all() for a, b in zip(again.members, synthetic.members, strict=True))
    for item in fields(Campaign):
        if item.name not in ("tables", "provenance", "members"):
            np.testing.assert_allclose(getattr(again, item.name), getattr(synthetic, item.name), rtol=1e-6)
    assert path.stat().st_size < 40_000


def test_lines_become_a_campaign_and_a_cut_line_is_left_out(synthetic: Campaign, tmp_path: Path) -> None:
    path = tmp_path / "compute.jsonl"
    head = {"kind": "head", "tables": [table_to_json(t) for t in synthetic.tables], "provenance": {"device": "d"}}
    line = {
        "kind": "compute", "tables": [3, 1], "batch": 64, "is_held_out": True, "device_ms": [1.0, 3.0],
        "end_to_end_ms": [2.0, 4.0], "spread_ms": [[0.1, 0.2], [0.3, 0.4]], "is_ahead": False,
    }  # fmt: skip
    path.write_text("\n".join([json.dumps(head), json.dumps(line), json.dumps(line)[:40]]), encoding="utf-8")
    found = read_lines(path)
    assert found.tables == synthetic.tables
    assert [m.tolist() for m in found.members] == [[3, 1]]
    assert found.device_ms.tolist() == [[1.0, 3.0]]
    assert found.spread_ms.tolist() == [[[0.1, 0.2], [0.3, 0.4]]]
    assert found.is_held_out.tolist() == [True]
    assert found.is_ahead.tolist() == [False]
    assert found.world == 0
    path.write_text("{broken}\n{}\n", encoding="utf-8")
    with pytest.raises(InvalidInputError, match="line 1"):
        parse_lines(path)
    with pytest.raises(InvalidInputError, match="header"):
        read_lines(tmp_path / "missing.jsonl")


def test_broken_files_are_input_errors(tmp_path: Path) -> None:
    path = tmp_path / "broken.npz"
    path.write_bytes(b"nothing")
    with pytest.raises(InvalidInputError, match="campaign"):
        Campaign.load(path)
    with pytest.raises(InvalidInputError, match="cost networks"):
        CostNetworks.load(path)


def test_additive_models_are_exact_on_an_additive_truth() -> None:
    data = campaign(noise=0.0)
    weights = np.array([0.3, 0.01, 0.0, 2e-10, 0.0, 1e-9])
    times = np.zeros(len(data.batch))
    for n, (members, batch) in enumerate(zip(data.members, data.batch, strict=True)):
        numbers = sums(quantities([data.tables[t] for t in members], int(batch))).sum(0)
        times[n] = weights[0] + numbers @ np.array([weights[1], 0.0, 0.0, weights[3], 0.0, weights[5]])
    held = data.is_held_out
    np.testing.assert_allclose(additive.linear_in_features(data, times)[held], times[held], rtol=1e-6)
    per_table = gap.score("", "", "", additive.value_per_table(data, times)[held], times[held])
    assert per_table.mape < 3.0  # a small ridge holds it back
    singles = additive.sum_of_singles(data, times)[held]
    count = np.array([len(m) for m in data.members])[held]
    np.testing.assert_allclose(singles, times[held] + 0.3 * (count - 1), rtol=1e-9)  # an intercept too many each
    np.testing.assert_allclose(additive.affine_in_singles(data, times)[held], times[held], rtol=1e-6)


def test_networks_learn_the_floor_that_additive_models_miss(synthetic: Campaign) -> None:
    readings = readings_of(synthetic)
    networks = gap.networks(readings, steps=400)
    rows = {(r.model, r.quantity, r.regime): r for r in gap.compute_gap(synthetic, trained=networks)}
    key = ("forward + backward", "all")
    convex = rows["convex network", *key]
    assert convex.mape < 6.0  # the noise is 2 %
    assert convex.r2 > 0.97
    assert convex.mape < 0.7 * min(rows[model, *key].mape for model in ("linear in features", "value per table"))
    assert rows["sum of singles", *key].mape > 50.0
    assert {r.regime for r in rows.values()} == {"all", "launch-bound", "bandwidth-bound"}
    counts = {regime: rows["convex network", "forward", regime].readings for regime in ("all", "launch-bound")}
    assert 0 < counts["launch-bound"] < counts["all"] == int(synthetic.is_held_out.sum())
    text = gap.markdown(list(rows.values()))
    assert text.count("\n") == 1 + 3 * 7


def test_exchange_network_learns_the_slowest_rank(synthetic: Campaign) -> None:
    network = fit_comms(synthetic)
    rows = {(r.model, r.quantity): r for r in gap.comms_gap(synthetic, trained=network) if r.regime == "all"}
    assert rows["convex network", "forward exchange"].mape < 5.0
    assert rows["affine in bytes of largest rank", "forward exchange"].mape < 5.0
    assert rows["affine in bytes of total", "forward exchange"].mape > 8.0
    sent = torch.tensor([[1e6, 2e7], [2e7, 1e6]])
    assert torch.equal(*network.times_ms(sent))


def test_training_repeats_and_needs_readings(synthetic: Campaign) -> None:
    readings = readings_of(synthetic)
    first, second = (fit_compute(readings, steps=20, seed=3).state_dict() for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)
    with pytest.raises(InvalidInputError, match="clock"):
        readings_of(synthetic, "wall")
    with pytest.raises(InvalidInputError, match="at least 20"):
        readings_of(campaign(count=10, tables=10))


def test_held_out_readings_are_never_trained_on(synthetic: Campaign) -> None:
    readings = readings_of(synthetic)
    spoiled = readings.times_ms.clone()
    spoiled[torch.from_numpy(synthetic.is_held_out)] = 1e6
    other = type(readings)(readings.features, readings.numbers, readings.counts, spoiled, readings.is_held_out)
    a, b = (fit_compute(r, steps=20).state_dict() for r in (readings, other))
    assert all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("head", [Head.CONVEX, Head.ADDITIVE])
def test_heads_are_convex_and_non_decreasing(synthetic: Campaign, head: Head) -> None:
    network = fit_compute(readings_of(synthetic), head=head, steps=60).double()
    generator = torch.Generator().manual_seed(0)
    low, step = (3.0 * torch.rand(200, network.channels, generator=generator, dtype=torch.float64) for _ in range(2))
    ends = network.times_ms(torch.stack([low, low + step]))
    assert (ends[1] >= ends[0]).all()
    assert (network.times_ms(low + 0.5 * step) <= ends.mean(0) + 1e-9).all()


def test_networks_survive_their_file(trained: CostNetworks, network_file: Path) -> None:
    again = CostNetworks.load(network_file)
    summed = torch.rand(5, trained.compute.channels)
    assert torch.equal(again.compute.times_ms(summed), trained.compute.times_ms(summed))
    assert again.comms is not None
    assert trained.comms is not None
    sent = torch.rand(5, 2) * 1e7
    assert torch.equal(again.comms.times_ms(sent), trained.comms.times_ms(sent))
    assert (again.world, again.provenance) == (2, trained.provenance)
    assert again.provenance["clock"] == "device"


def test_truth_has_a_floor_and_a_slope() -> None:
    assert truth_ms(np.zeros(6)) == pytest.approx([0.2, 0.5])
