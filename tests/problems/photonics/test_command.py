"""The command on a photonic id: changes of the instance as options, and the layout."""

import json

import pytest

from problems.photonics import DOMAIN, gds
from surco.cli import main


def test_options_of_the_instance_and_layout(tmp_path, capsys):
    layout = tmp_path / "bend.gds"
    arguments = ["solve", "photonics/bend-40nm-v0", "--brush", "circle-120nm", "--robust=1", "--calls", "1"]
    assert main([*arguments, "--out", str(tmp_path / "run"), "--export", "gds", str(layout), "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["is_feasible"] is True
    spec = json.loads((tmp_path / "run" / "result.json").read_text())["spec"]
    assert (spec["brush"], spec["robust"]) == ("circle-120nm", 1)
    problem = DOMAIN.from_spec(spec)
    assert problem.etch_px == 1
    assert gds.read_gds(layout, problem.device).shape == (40, 40)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--brsh", "cross"], "has no override `brsh`. Did you mean `brush`?"),
        (["--robust"], "Unrecognized argument `--robust`"),
        (["--robust", "--json"], "Unrecognized argument `--robust`"),
        (["cross"], "Unrecognized argument `cross`"),
        (["--brush", "circle-15nm"], "whole number of 40 nm pixels"),
    ],
)
def test_options_that_do_not_fit_are_bad_input(more, said, capsys):
    assert main(["solve", "photonics/bend-40nm-v0", *more, "--calls", "1"]) == 2
    assert said in capsys.readouterr().err
