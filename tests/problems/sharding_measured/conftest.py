from __future__ import annotations

from pathlib import Path

import pytest

from problems.sharding.measured.network import CostNetworks
from problems.sharding.measured.records import Campaign
from problems.sharding.measured.training import fit
from tests.problems.sharding_measured.synthetic import campaign


@pytest.fixture(scope="session")
def synthetic() -> Campaign:
    return campaign()


@pytest.fixture(scope="session")
def trained(synthetic: Campaign) -> CostNetworks:
    return fit(synthetic, steps=400)


@pytest.fixture(scope="session")
def network_file(trained: CostNetworks, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("networks") / "synthetic.safetensors"
    trained.save(path)
    return path
