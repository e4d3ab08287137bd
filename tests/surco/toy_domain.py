"""A domain as a stranger's distribution would add it: small problems that are quick, slow, empty or broken."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from solvers.oracle import Array, OracleBatch, Status
from surco.atomic import write_text
from surco.errors import InvalidInputError, UnknownIdError
from surco.registry import closest
from tests.surco.toys import ChooseK

ROOT = Path(__file__).parent.parent.parent
METADATA = "Metadata-Version: 2.1\nName: toydomain\nVersion: 1.0\n"
ENTRY_POINTS = """\
[surco.problems]
toy = tests.surco.toy_domain:DOMAIN

[surco.commands]
toycount = tests.surco.toy_domain:COMMAND
"""


class _Empty(ChooseK):
    """Proves that the rules leave nothing."""

    status = Status.INFEASIBLE

    def solve(self, costs: Array) -> OracleBatch:
        rows = len(costs)
        nan = np.full(rows, np.nan)
        return OracleBatch(
            np.full((rows, self.n), np.nan), nan, nan, (self.status,) * rows, np.zeros(rows), ("toy",) * rows
        )


class _Mute(_Empty):
    """Never has an answer."""

    status = Status.ERROR


class _Crash(ChooseK):
    """Takes the process with it, as a bug in compiled code would."""

    def solve(self, costs: Array) -> OracleBatch:
        os._exit(41)


class _Hang(ChooseK):
    """Never returns."""

    def solve(self, costs: Array) -> OracleBatch:
        time.sleep(1000.0)
        return super().solve(costs)


ORACLES = {"empty": _Empty, "mute": _Mute, "crash": _Crash, "hang": _Hang}


class Choice:
    """min of a rugged black box over k of n; ``pause_seconds`` makes every value slow."""

    is_differentiable = False
    is_rowwise = True

    def __init__(self, id: str, kind: str = "choose", seed: int = 0, pause_seconds: float = 0.0) -> None:
        self.id, self.kind, self.seed, self.pause_seconds = id, kind, seed, pause_seconds
        rng = np.random.default_rng(seed)
        self.n, self.k = 14, 5
        self.weights = torch.from_numpy(rng.normal(size=(self.n, self.n)))
        self.oracle = ORACLES.get(kind, ChooseK)(self.n, self.k)

    @property
    def spec(self) -> Mapping[str, Any]:
        return {"domain": "toy", "id": self.id, "kind": self.kind, "seed": self.seed, "pause": self.pause_seconds}

    def objective(self, x: Tensor) -> Tensor:
        time.sleep(self.pause_seconds * x[..., 0].numel())
        return torch.sin(3.0 * x @ self.weights).sum(-1) + (x @ self.weights).abs().amax(-1)

    def violation(self, x: Tensor) -> Tensor:
        return (x.sum(-1) - self.k).abs() + (x * (1 - x)).abs().amax(-1)

    def initial_costs(self) -> Tensor:
        return self.weights.sum(0)

    def metrics(self, x: Tensor) -> Mapping[str, float]:
        return {"chosen": float(x.sum()), "undefined": float("nan")}

    def describe(self, x: Tensor) -> str:
        return f"chosen: {x.nonzero().flatten().tolist()}"

    def exports(self) -> Mapping[str, Callable[[Tensor, Path], None]]:
        return {"list": lambda x, path: write_text(path, json.dumps(x.nonzero().flatten().tolist()))}

    def figures(self, x: Tensor) -> Mapping[str, Any]:
        from matplotlib.figure import Figure

        figure = Figure(figsize=(3, 1))
        figure.subplots().bar(range(len(x)), x.numpy())
        return {"choice": figure}


class _Domain:
    name = "toy"
    kinds = ("choose", "slow", *ORACLES)

    def ids(self) -> Mapping[str, str]:
        return {f"toy/{kind}-v0": f"a toy problem that is {kind}" for kind in self.kinds}

    def make(self, id: str, **overrides: Any) -> Choice:
        kind = id.removeprefix("toy/").removesuffix("-v0")
        if kind not in self.kinds:
            raise UnknownIdError(f"No problem `{id}`.{closest(id, self.ids())}")
        unknown = set(overrides) - {"seed"}
        if unknown:
            raise InvalidInputError(f"Expected only `seed` as override, got {sorted(unknown)}.")
        return Choice(id, kind, int(overrides.get("seed", 0)), 0.003 if kind == "slow" else 0.0)

    def from_spec(self, spec: Mapping[str, Any]) -> Choice:
        return Choice(spec["id"], spec["kind"], spec["seed"], spec["pause"])


class _Command:
    def configure(self, parser: Any) -> None:
        parser.add_argument("count", type=int)

    def run(self, arguments: Any) -> int:
        return arguments.count


DOMAIN = _Domain()
COMMAND = _Command()


def publish(folder: Path) -> dict[str, str]:
    """Lay down the distribution's metadata in ``folder``; returns the environment in which a process sees it."""
    info = folder / "toydomain-1.0.dist-info"
    info.mkdir(parents=True, exist_ok=True)
    (info / "METADATA").write_text(METADATA)
    (info / "entry_points.txt").write_text(ENTRY_POINTS)
    return {"PYTHONPATH": f"{folder}:{ROOT}", "OMP_NUM_THREADS": "1"}


@contextmanager
def published(folder: Path, monkeypatch: Any) -> Iterator[None]:
    """The same for this process."""
    publish(folder)
    with monkeypatch.context() as patch:
        patch.syspath_prepend(str(folder))
        yield
