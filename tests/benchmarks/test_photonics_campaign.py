"""The campaign: pipelined groups, stops and resumes across calls, judgement, report, and what it may import."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch

from benchmarks import gpu_photonics_campaign as campaign
from benchmarks.photonics_campaign_cell import Cell, Group
from benchmarks.photonics_campaign_objective import Objective
from benchmarks.photonics_campaign_options import CELLS, cell_name, parse_cells, parser
from benchmarks.photonics_campaign_report import rows_of, table
from benchmarks.photonics_campaign_setup import Exteriors, problem_id
from problems.photonics import DOMAIN
from problems.photonics.methods import pass_through
from surco.counted import CountedProblem
from surco.errors import InvalidInputError
from surco.ledger import Budget, Ledger

SMALL = [
    "--cells",
    "bend:3",
    "--grid",
    "40",
    "--border",
    "free",
    "--wavelengths",
    "1270",
    "--seeds",
    "3",
    "--first-seed",
    "4",
    "--steps",
    "5",
    "--threads",
    "2",
    "--torch-device",
    "cpu",
    "--memory-gb",
    "1",
    "--seconds",
    "600",
    "--reserve",
    "0",
    "--setup-processes",
    "0",
]
NAME = "bend-40nm-3px-free"


def options(out, *more):
    return parser().parse_args([*SMALL, "--out", str(out), *more])


def test_resumed_across_calls_then_judged_and_reported(tmp_path, monkeypatch):
    assert campaign.main([*SMALL, "--out", str(tmp_path / "whole")]) == 0
    whole = rows_of(tmp_path / "whole" / "campaign.jsonl")[0]
    assert whole["generator_calls"] == 15
    assert whole["infeasible"] == 0
    calls = [0]
    run = Cell.run
    monkeypatch.setattr(Cell, "run", lambda self, *times: run(self, -np.inf))  # one step of each group a call
    while True:
        more = ["--from", str(tmp_path / f"call{calls[0]}")] if calls[0] else []
        calls[0] += 1
        here = tmp_path / f"call{calls[0]}"
        assert campaign.main([*SMALL, "--out", str(here), *more]) == 0
        assert len(list(here.iterdir())) <= 5
        if (here / "campaign.jsonl").is_file():
            break
        assert {path.name for path in here.iterdir()} == {f"{NAME}.group0.npz", f"{NAME}.group1.npz"}
    assert calls[0] == 5
    resumed = rows_of(here / "campaign.jsonl")[0]
    assert resumed["best_metric"] == whole["best_metric"]
    with np.load(here / "designs.npz") as one, np.load(tmp_path / "whole" / "designs.npz") as other:
        np.testing.assert_array_equal(one[f"{NAME}/designs"], other[f"{NAME}/designs"])
        np.testing.assert_array_equal(one[f"{NAME}/history"], other[f"{NAME}/history"])
    assert {path.name for path in here.iterdir()} == {"campaign.jsonl", "designs.npz"}

    judged = ["--judge", "2", "--judge-with", "direct"]
    assert campaign.main([*SMALL, "--out", str(here), *judged]) == 0
    verdicts = rows_of(here / "judged.jsonl")
    assert [verdict["is_confirmed"] for verdict in verdicts] == [True, True]
    assert verdicts[0]["metric"] == pytest.approx(max(whole["best_metric"]), abs=1e-9)
    assert campaign.main([*SMALL, "--out", str(here), *judged]) == 0
    assert len(rows_of(here / "judged.jsonl")) == 2  # nothing is judged twice
    assert f"| {NAME} | " in table(here)
    assert "2/2 confirmed" in table(here)


def test_a_design_unlike_its_line_is_not_confirmed(tmp_path):
    assert campaign.main([*SMALL, "--out", str(tmp_path)]) == 0
    with np.load(tmp_path / "designs.npz") as archive:
        kept = {key: archive[key] for key in archive.files}
    kept[f"{NAME}/designs"] = np.random.default_rng(0).integers(0, 256, kept[f"{NAME}/designs"].shape, np.uint8)
    np.savez_compressed(tmp_path / "designs.npz", **kept)
    assert campaign.main([*SMALL, "--out", str(tmp_path), "--judge", "1", "--judge-with", "direct"]) == 1


def test_state_of_other_seeds_and_a_missing_folder_are_refused(tmp_path):
    problem = DOMAIN.make("photonics/bend-40nm-v0", wavelengths_nm=[1270.0])
    with campaign.ThreadPoolExecutor(1) as pool:
        Cell("a", problem, options(tmp_path), pool).save()
        with pytest.raises(SystemExit, match="other --seeds"):
            Cell("a", problem, options(tmp_path, "--first-seed", "9"), pool)
    with pytest.raises(SystemExit, match="carried along"):
        campaign.prepare(options(tmp_path, "--from", str(tmp_path / "none")))


def test_states_of_a_finished_cell_are_cleared(tmp_path):
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "campaign.jsonl").write_text(json.dumps({"cell": NAME}) + "\n")
    (tmp_path / "old" / f"{NAME}.group0.npz").write_bytes(b"stale")
    campaign.prepare(options(tmp_path / "new", "--from", str(tmp_path / "old")))
    assert {path.name for path in (tmp_path / "new").iterdir()} == {"campaign.jsonl"}


def test_the_largest_state_fits_its_limit(tmp_path):
    latent = torch.rand(10, 320 * 320)  # half the seeds of the 3.2 um demultiplexer on the 10 nm grid
    group = Group(list(range(10)), latent, latent + 1, latent + 2, latent[:, 0].double(), latent > 0.5)
    group.history = np.random.default_rng(0).normal(size=(500, 10)).tolist()
    group.save(tmp_path / "group.npz")
    assert (tmp_path / "group.npz").stat().st_size < 16 * 2**20
    blank = torch.zeros_like(latent)
    back = Group(list(range(10)), blank, blank, blank, blank, blank)
    back.load(tmp_path / "group.npz")
    assert torch.equal(back.latent, group.latent)
    assert torch.equal(back.best_x, group.best_x)
    assert back.history == group.history


@pytest.mark.parametrize(
    ("more", "own"),
    [
        ([], {}),
        (
            ["--objective", "deep", "--step-size", "0.1", "--anneal", "0.05", "--sharpness", "3"],
            {"depth": 0.9, "step_size": 0.1, "anneal": 0.05, "sharpness": 3.0, "horizon": 5},
        ),
    ],
)
def test_the_loop_is_pass_through(tmp_path, more, own):
    assert campaign.main([*SMALL, "--out", str(tmp_path), *more]) == 0
    with np.load(tmp_path / "designs.npz", allow_pickle=False) as archive:
        (history,) = (archive[key] for key in archive.files if key.endswith("/history"))
    problem = DOMAIN.make("photonics/bend-40nm-v0", wavelengths_nm=[1270.0])
    for column, seed in enumerate(range(4, 7)):
        counted = CountedProblem(Ledger(problem, Budget(calls=5)))
        method = pass_through(stops_at_spec=False, **own)
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
        objective = Objective(spec, 2, device, kind)
        (slope,) = torch.autograd.grad(objective.loss(s)[0], s)
        slopes[kind] = slope[0, 0, :, 0].abs()
        assert objective.metric(s)[1] > objective.metric(s)[0] > 0
    assert slopes["margin"][1] / slopes["margin"][0] > 10 * slopes["spec"][1] / slopes["spec"][0]


def test_deep_and_square_losses_go_on_inside_the_windows():
    device = torch.device("cpu")
    for name, better in (("bend-40nm-v0", [1e-4, 0.995]), ("beam-splitter-40nm-v0", [1e-4, 0.5, 0.5, 1e-4])):
        spec = DOMAIN.make(f"photonics/{name}").target
        good = torch.tensor([better, [0.0001, 0.93] if len(better) == 2 else [0.0001, 0.46, 0.53, 0.0001]])
        s = good.double().sqrt().to(torch.complex128)[:, None, :, None].expand(-1, 2, -1, -1)
        loss = {kind: Objective(spec, 2, device, kind).loss(s) for kind in ("spec", "deep", "square")}
        assert Objective(spec, 2, device).metric(s)[0] > 0.9 * (1.0 if len(better) == 2 else 0.5)
        for kind in ("deep", "square"):
            assert loss[kind][1] / loss[kind][0] > 1.2 * loss["spec"][1] / loss["spec"][0] > 0, (name, kind)


def test_the_norm_is_led_by_the_worst_window():
    objective = Objective(DOMAIN.make("photonics/wdm-40nm-v0").target, 2, torch.device("cpu"), "norm")
    power = torch.tensor([[[0.002, 0.7, 0.03], [0.002, 0.004, 0.7]]], dtype=torch.float64, requires_grad=True)
    s = torch.complex(power.sqrt(), torch.zeros_like(power))[..., None]
    loss = objective.loss(s)
    assert loss.item() == pytest.approx(1.0 - objective.metric(s.detach()).item(), rel=1e-3)  # 3 for 0.03 against 0.01
    (slope,) = torch.autograd.grad(loss.sum(), power)
    assert slope[0, 0, 2] > 100 * slope.abs()[0, 1].max()


def test_the_tight_loss_presses_a_reflection_but_not_a_wide_window():
    objective = {
        kind: Objective(DOMAIN.make("photonics/wdm-40nm-v0").target, 2, torch.device("cpu"), kind)
        for kind in ("spec", "deep", "tight")
    }
    power = torch.tensor([[[0.009, 0.7, 0.009], [0.009, 0.009, 0.7]]], dtype=torch.float64, requires_grad=True)
    s = torch.complex(power.sqrt(), torch.zeros_like(power))[..., None]
    slope = {kind: torch.autograd.grad(o.loss(s).sum(), power, retain_graph=True)[0] for kind, o in objective.items()}
    assert slope["tight"][0, 0, 0] > 2 * slope["spec"][0, 0, 0] > 0
    assert slope["tight"][0, 0, 1].abs() < 1e-3 * slope["tight"][0, 0, 0]
    assert slope["deep"][0, 0, 1].abs() > 5 * slope["deep"][0, 0, 0]


def test_a_failing_cell_does_not_end_the_campaign(tmp_path, monkeypatch):
    run = Cell.run

    def fails_at_four(self, *times):
        if "-4px-" in self.name:
            raise RuntimeError("no luck")
        return run(self, *times)

    monkeypatch.setattr(Cell, "run", fails_at_four)
    cells = ["--cells", "bend:4,3", "--steps", "1", "--seeds", "1", "--objective", "deep"]
    assert campaign.main([*SMALL, *cells, "--out", str(tmp_path)]) == 1
    assert [row["cell"] for row in rows_of(tmp_path / "campaign.jsonl")] == [f"{NAME}-deep"]
    failed = json.loads((tmp_path / "failed.json").read_text())
    assert failed == [{"cell": NAME.replace("3px", "4px") + "-deep", "failed": "RuntimeError: no luck"}]


def test_a_cell_ends_after_its_own_seconds(tmp_path):
    assert campaign.main([*SMALL, "--cell-seconds", "0", "--out", str(tmp_path)]) == 0
    (row,) = rows_of(tmp_path / "campaign.jsonl")
    assert row["steps"] == 1
    with pytest.raises(SystemExit, match="one --cell-seconds or 1"):
        campaign.main([*SMALL, "--cell-seconds", "0", "1", "--out", str(tmp_path)])
    assert {path.name for path in tmp_path.iterdir()} == {"campaign.jsonl", "designs.npz"}


def test_polish_never_falls_stays_feasible_and_is_judged(tmp_path):
    learning = ["--steps", "4", "--objective", "deep", "--step-size", "0.1"]
    assert campaign.main([*SMALL, *learning, "--out", str(tmp_path)]) == 0
    climbing = ["--polish", "6", "--polish-seeds", "3", "--candidates", "5", "--out", str(tmp_path)]
    assert campaign.main([*SMALL, *climbing]) == 0
    learned, polished = rows_of(tmp_path / "campaign.jsonl")
    assert polished["cell"] == f"{NAME}-polished"
    assert polished["start_metric"] == sorted(learned["best_metric"], reverse=True)
    assert polished["rounds"] == 6
    assert polished["generator_calls"] == 3 * 5 * 7
    assert all(b >= a for a, b in zip(polished["start_metric"], polished["best_metric"], strict=True))
    assert polished["best"] > max(learned["best_metric"])
    assert polished["infeasible"] == 0
    assert campaign.main([*SMALL, *climbing]) == 0
    assert len(rows_of(tmp_path / "campaign.jsonl")) == 2  # nothing is polished twice
    judged = ["--judge", "3", "--judge-with", "direct", "--out", str(tmp_path)]
    assert campaign.main([*SMALL, *judged]) == 0
    assert all(verdict["is_confirmed"] for verdict in rows_of(tmp_path / "judged.jsonl"))
    assert f"{NAME}-polished" in table(tmp_path)


def test_a_second_objective_takes_over_at_its_step(tmp_path):
    ways = {"a": [], "b": ["--then", "norm", "--then-from", "0.6"], "c": ["--objective", "norm"]}
    history = {}
    for way, more in ways.items():
        assert campaign.main([*SMALL, "--step-size", "0.3", *more, "--out", str(tmp_path / way)]) == 0
        with np.load(tmp_path / way / "designs.npz", allow_pickle=False) as archive:
            history[way] = next(archive[key] for key in archive.files if key.endswith("/history"))
    np.testing.assert_array_equal(history["a"][:4], history["b"][:4])  # the fourth design is what step 3 led to
    assert (history["a"][4] != history["b"][4]).any()
    assert (history["b"][2] != history["c"][2]).any()
    (row,) = rows_of(tmp_path / "b" / "campaign.jsonl")
    assert row["cell"] == f"{NAME}-step0.3-norm-from0.6"
    assert (row["then"], row["then_from"]) == ("norm", 0.6)


def test_a_cell_is_named_by_what_differs_from_the_defaults(tmp_path):
    given = options(tmp_path, "--betas", "0.9", "0.99", "--anneal", "0.02", "--objective", "deep", "--damping", "0.1")
    assert cell_name(("bend", 8), given) == "bend-40nm-8px-free-deep-anneal0.02-betas0.9,0.99-damping0.1"


def test_cells_are_parsed_in_order():
    assert parse_cells(["wdm:8", "bend:6,10", "wdm:8"]) == [("wdm", 8), ("bend", 6), ("bend", 10)]
    for text in ("wdm", "wdm:", "wdm:a", "laser:8"):
        with pytest.raises(SystemExit, match="DEVICE:PX"):
            parse_cells([text])
    assert parse_cells(["wdm-6400nm:8"]) == [("wdm-6400nm", 8)]
    everything = parse_cells(list(CELLS))
    assert {px for device, px in everything if device == "mode-converter"} == {6, 8, 10, 12, 14, 16, 18, 20}


def test_exteriors_are_condensed_by_processes(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with Exteriors(["bend"], "40", [1270.0], 1) as exteriors:
        assert exteriors.wait("bend", 120.0)
    stored = list((tmp_path / "surco" / "photonics").glob("*.npz"))
    assert len(stored) == 1
    before = stored[0].stat().st_mtime_ns
    DOMAIN.make("photonics/bend-40nm-v0", wavelengths_nm=[1270.0])  # finds it: nothing new is stored
    assert [path.stat().st_mtime_ns for path in (tmp_path / "surco" / "photonics").glob("*.npz")] == [before]


def test_a_device_is_known_without_its_problem():
    spec = DOMAIN.spec_of(problem_id("wdm-6400nm", "10"), wavelengths_nm=[1265.0])
    device = DOMAIN.device_of(spec)
    assert device.design_shape == (640, 640)
    assert device.wavelengths_nm == (1265.0,)
    with pytest.raises(InvalidInputError, match="Unknown device option"):
        DOMAIN.device_of(spec | {"radius_nm": 3.0})


def test_it_needs_no_solver_and_no_trainer(tmp_path):
    hidden = (
        "ortools", "pyscipopt", "highspy", "ray", "gymnasium", "gdstk", "ceviche", "ceviche_challenges", "autograd",
        "torchrec", "fbgemm_gpu", "matplotlib", "rich", "networkx.drawing",
    )  # fmt: skip
    code = (
        f"import sys\nfor name in {hidden!r}: sys.modules[name] = None\n"
        "from benchmarks import gpu_photonics_campaign as campaign\n"
        f"arguments = {SMALL!r} + ['--steps', '1', '--seeds', '1', '--out', {str(tmp_path)!r}]\n"
        "assert campaign.main(arguments) == 0\n"
        "assert campaign.main([*arguments, '--judge', '1', '--judge-with', 'direct']) == 0\n"
        "assert campaign.main([*arguments, '--report']) == 0\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "1/1 confirmed" in done.stdout
