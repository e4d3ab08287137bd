"""The shipped checks pass what is right, and each of them fails on a class that breaks exactly its rule."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
import torch

import surco.registry
from solvers.oracle import OracleBatch, Status
from surco.checks import check_estimator, check_oracle, check_problem
from surco.errors import CheckFailed
from surco.estimators import ESTIMATORS, Identity, Interpolation, ScoreFunction, build_estimator
from surco.protocols import Estimate, Exact
from tests.surco.estimators.judge import Enumerated, subsets

N, K = 6, 3
VERTICES = subsets(N, K)
W = torch.tensor([[1.0, 2.0, 3.0, 1.0, 2.0, 3.0], [0.5, 0.1, 0.9, 0.3, 0.7, 0.2]], dtype=torch.float64)


class Good:
    """Choose 3 of 6; f(x) = g(W x), smooth and convex; with every talent."""

    id = "testing/good-v0"
    is_differentiable = True
    is_convex = True

    def __init__(self, oracle=None):
        self.oracle = oracle or Enumerated(VERTICES)

    def objective(self, x):
        y = x @ W.to(x).T
        return (y[..., 0] - 5.0) ** 2 + torch.exp(y[..., 1]) - 3.0

    def violation(self, x):
        off = torch.minimum(x.abs(), (x - 1).abs()).amax(-1)
        return torch.maximum(off, (x.sum(-1) - K).abs())

    def initial_costs(self):
        return torch.tensor([1.0, 0.9, 1.1, 0.8, 1.2, 1.05], dtype=torch.float64)

    @property
    def spec(self):
        return {"domain": "testing", "chosen": K, "weights": W.tolist()}

    def lower_bound(self):
        return -3.0

    def aggregates(self):
        return W

    def moves(self, x, *, count, generator):
        out = []
        for i, j in itertools.product(x.nonzero().flatten().tolist(), (x == 0).nonzero().flatten().tolist()):
            y = x.clone()
            y[i], y[j] = 0.0, 1.0
            out.append(y)
        order = torch.randperm(len(out), generator=generator)[:count]
        return torch.stack(out)[order]

    def heuristics(self):
        return {"cheapest": torch.from_numpy(self.oracle.solve(self.initial_costs()[None].numpy()).x[0])}

    def exact(self, *, seconds=None, start=None):
        x = torch.from_numpy(VERTICES)
        values = self.objective(x)
        best = int(values.argmin())
        return Exact(x[best], float(values[best]), is_optimal=True, work=len(x))

    def metrics(self, x):
        return {"first": float(x @ W[0])}

    def describe(self, x):
        return "chosen: " + " ".join(str(i) for i in x.nonzero().flatten().tolist())

    def figures(self, x):
        from matplotlib.figure import Figure

        return {"design": Figure()}


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    def from_spec(spec):
        problem = Good()
        w = torch.tensor(spec["weights"], dtype=torch.float64)
        problem.objective = lambda x: (x @ w[0] - 5.0) ** 2 + torch.exp(x @ w[1]) - 3.0
        return problem

    monkeypatch.setattr(surco.registry, "domain_names", lambda: ["testing"])
    monkeypatch.setattr(surco.registry, "from_spec", from_spec)


# ------------------------------------------------------------------ what is right passes


@pytest.mark.parametrize("seed", range(5))
def test_a_good_problem_passes_every_check(seed):
    report = check_problem(Good(), seed=seed)
    assert not [c for c in report.checks if c.is_skipped]
    lines = str(report).splitlines()
    assert lines[0] == f"Good: {len(report.checks)} checks passed, 0 skipped"
    assert len(lines) == len(report.checks) + 1
    assert "5 directional derivatives" in str(report)
    assert "of mixtures with equal W x" in str(report)


@pytest.mark.parametrize("seed", range(5))
def test_a_good_oracle_passes(seed):
    assert all(not c.is_skipped for c in check_oracle(Enumerated(VERTICES), seed=seed).checks)


def test_missing_talents_are_skipped_not_failed():
    class Bare:
        def __init__(self):
            self.oracle = Enumerated(VERTICES)

        objective, violation, initial_costs = Good.objective, Good.violation, Good.initial_costs

    skipped = [c.name for c in check_problem(Bare()).checks if c.is_skipped]
    assert skipped == [
        "convexity", "moves", "heuristics", "aggregates", "lower bound", "exact", "metrics", "description", "spec",
    ]  # fmt: skip


def test_a_black_box_skips_gradients():
    class BlackBox(Good):
        is_differentiable = False
        is_convex = False

        @property
        def spec(self):
            return {"kind": "black box"}

        def objective(self, x):
            return torch.as_tensor(np.round(super().objective(x.detach()).numpy(), 3))

    report = check_problem(BlackBox())
    assert [c.name for c in report.checks if c.is_skipped][:3] == ["gradient reaches x", "gradient", "convexity"]


def test_kinks_are_no_errors():
    class Kinked(Good):
        def objective(self, x):
            y = x @ W.to(x).T
            return (y[..., 0] - 5.0).abs() + torch.maximum(y[..., 1], 0.5 * y[..., 0])

        @property
        def spec(self):
            return {"kind": "kinked"}

        def lower_bound(self):
            return 0.0

    assert "names no domain" in str(check_problem(Kinked()))


@pytest.mark.parametrize("name", ESTIMATORS)
@pytest.mark.parametrize("seed", range(3))
def test_our_estimators_pass(name, seed):
    assert len(check_estimator(build_estimator(name), Good(), seed=seed).checks) == 10


def test_absolute_noise_is_told_not_refused():
    report = check_estimator(ScoreFunction(is_relative=False, sigma=0.5), Good())
    assert [c.name for c in report.checks if c.is_skipped] == ["units of costs"]


# ------------------------------------------------------------------ oracles that break one rule


class BrokenOracle(Enumerated):
    def __init__(self):
        super().__init__(VERTICES)

    def solve(self, costs):
        return self.spoil(super().solve(costs), costs)

    def spoil(self, batch, costs):
        return batch


def change(batch, **fields):
    names = ("x", "objective", "bound", "status", "seconds", "message")
    return OracleBatch(**{name: fields.get(name, getattr(batch, name)) for name in names})


class NoNumberOfVariables(BrokenOracle):
    n = 6.0  # type: ignore[assignment]


class ReturnsArray(BrokenOracle):
    def spoil(self, batch, costs):
        return batch.x


class SingleDtype(BrokenOracle):
    def spoil(self, batch, costs):
        return change(batch, x=batch.x.astype(np.float32))


class FlatObjective(BrokenOracle):
    def spoil(self, batch, costs):
        return change(batch, objective=batch.objective[:, None])


class TextStatus(BrokenOracle):
    def spoil(self, batch, costs):
        return change(batch, status=("fine",) * len(batch))


class FewStatuses(BrokenOracle):
    def spoil(self, batch, costs):
        return change(batch, status=batch.status[:-1])


class LeftoverPoint(BrokenOracle):
    def spoil(self, batch, costs):
        return change(batch, status=(Status.LIMIT, *batch.status[1:]))


class NaNPoint(BrokenOracle):
    def spoil(self, batch, costs):
        x = batch.x.copy()
        x[0] = np.nan
        return change(batch, x=x)


class NoPoints(BrokenOracle):
    def spoil(self, batch, costs):
        nan = np.full_like(batch.objective, np.nan)
        return change(batch, x=np.full_like(batch.x, np.nan), objective=nan, status=(Status.ERROR,) * len(batch))


class SpoilsCosts(BrokenOracle):
    def spoil(self, batch, costs):
        costs += 1.0
        return batch


class WrongObjective(BrokenOracle):
    def spoil(self, batch, costs):
        return change(batch, objective=batch.objective + 0.01, bound=batch.bound)


class FlatViolation(BrokenOracle):
    def violation(self, x):
        return np.atleast_1d(super().violation(x).max())


class InfeasiblePoint(BrokenOracle):
    def spoil(self, batch, costs):
        x = batch.x.copy()
        x[:, 0] = 1.0 - x[:, 0]
        return change(batch, x=x, objective=np.einsum("bn,bn->b", costs, x), bound=np.full(len(x), -np.inf))


class ViolationAcceptsAll(BrokenOracle):
    def violation(self, x):
        return np.zeros(x.shape[:-1])


class ViolationAcceptsNaN(BrokenOracle):
    def violation(self, x):
        return np.nan_to_num(super().violation(x))


class ViolationForgetsARule(BrokenOracle):
    """Binary, but any number of them."""

    def violation(self, x):
        return np.minimum(np.abs(x), np.abs(x - 1)).max(-1)


class BoundAbove(BrokenOracle):
    def spoil(self, batch, costs):
        return change(batch, bound=batch.bound + 0.1)


class BoundNaN(BrokenOracle):
    def spoil(self, batch, costs):
        return change(batch, bound=np.full_like(batch.bound, np.nan))


class NotOptimal(BrokenOracle):
    """Second best, called optimal; the bound is modest, so that it is not the one to fail."""

    def spoil(self, batch, costs):
        order = np.argsort(costs @ VERTICES.T, axis=1)[:, 1]
        x = np.where(np.isnan(costs).any(1)[:, None], np.nan, VERTICES[order])
        return change(batch, x=x, objective=np.einsum("bn,bn->b", costs, x), bound=np.full(len(x), -np.inf))


class DependsOnTheBatch(BrokenOracle):
    def spoil(self, batch, costs):
        if len(batch) > 1:
            return batch
        nan = np.full_like(batch.objective, np.nan)
        return change(batch, x=np.full_like(batch.x, np.nan), objective=nan, status=(Status.ERROR,))


class RoundsCosts(BrokenOracle):
    """Rounds to a grid that is too coarse for large costs: wrong for 1000 c only."""

    def solve(self, costs):
        batch = Enumerated(VERTICES).solve(np.clip(costs, -50, 50))
        return change(batch, objective=np.einsum("bn,bn->b", costs, batch.x), bound=np.full(len(costs), -np.inf))


class RaisesOnNaN(BrokenOracle):
    def solve(self, costs):
        if np.isnan(costs).any():
            raise FloatingPointError("NaN costs")
        return super().solve(costs)


class AnswersNaN(BrokenOracle):
    def spoil(self, batch, costs):
        x = np.nan_to_num(batch.x)
        return change(
            batch, x=x, objective=np.einsum("bn,bn->b", np.nan_to_num(costs), x), status=(Status.OPTIMAL,) * len(x)
        )


class NaNSpoilsOthers(BrokenOracle):
    def solve(self, costs):
        return super().solve(costs + 0.0 * costs.sum())


class TakesAnyShape(BrokenOracle):
    def solve(self, costs):
        return super().solve(costs[:, :N])


class RaisesAlways(BrokenOracle):
    def solve(self, costs):
        raise RuntimeError("license expired")


BROKEN_ORACLES = [
    (NoNumberOfVariables, "n", "an int >= 1, got 6.0"),
    (ReturnsArray, "batch", "got ndarray. Try `OracleBatch.exact"),
    (SingleDtype, "batch", "`x` of shape [8, 6] and float64, got [8, 6] float32"),
    (FlatObjective, "batch", "`objective` of shape [8]"),
    (TextStatus, "batch", "members of solvers.oracle.Status"),
    (FewStatuses, "batch", "expected 8 statuses, got 7"),
    (RaisesAlways, "batch", "raised RuntimeError: license expired"),
    (LeftoverPoint, "labels", "rows without a point to be all NaN"),
    (NaNPoint, "labels", "a finite x in a row of status"),
    (NoPoints, "labels", "a point in at least one row"),
    (SpoilsCosts, "costs unchanged", "changed them in place"),
    (WrongObjective, "objective", "off by 0.01"),
    (FlatViolation, "violation shape", "to [], got [1]"),
    (InfeasiblePoint, "feasible", "`violation` of an answer is 1"),
    (ViolationAcceptsAll, "violation judges", "cannot judge the oracle"),
    (ViolationAcceptsNaN, "violation judges", "a point of NaN to be rejected"),
    (ViolationForgetsARule, "violation against bounds", "misses a rule, or the bound is wrong"),
    (BoundAbove, "bound", "0.1 above"),
    (BoundNaN, "bound", "-inf where none is known, got NaN"),
    (NotOptimal, "optimal", "to be optimal, but a point that `violation` accepts costs"),
    (DependsOnTheBatch, "one by one", "same status alone and in a batch"),
    (RoundsCosts, "units", "for costs and for 1000 * costs"),
    (RaisesOnNaN, "NaN costs", "raised FloatingPointError: NaN costs"),
    (AnswersNaN, "NaN costs", "got optimal with a point"),
    (NaNSpoilsOthers, "NaN costs", "a row of NaN costs beside it"),
    (TakesAnyShape, "wrong shape", "a ValueError for costs of n + 1 columns"),
]


@pytest.mark.parametrize(("broken", "name", "words"), BROKEN_ORACLES, ids=lambda v: getattr(v, "__name__", None))
@pytest.mark.parametrize("seed", range(3))
def test_a_broken_oracle_fails_its_check(broken, name, words, seed):
    with pytest.raises(CheckFailed) as caught:
        check_oracle(broken(), seed=seed)
    assert caught.value.check == name
    assert words in str(caught.value)
    assert str(caught.value).startswith(f"{broken.__name__} fails `{name}`: ")


def test_an_invalid_bound_below_the_objective_is_found_by_other_points():
    """The point of the row is bad and its bound lies between it and the true optimum."""

    class Lies(NotOptimal):
        def spoil(self, batch, costs):
            batch = super().spoil(batch, costs)
            return change(
                batch,
                bound=batch.objective - 1e-3,
                status=tuple(Status.FEASIBLE if s.has_point else s for s in batch.status),
            )

    with pytest.raises(CheckFailed, match="expected a valid bound"):
        check_oracle(Lies())


# ------------------------------------------------------------------ problems that break one rule


def altered(**parts):
    return type("Altered", (Good,), parts)


def with_method(name, function):
    return altered(**{name: function})


def noisy(self, x):
    self.count = getattr(self, "count", 0) + 1
    return Good.objective(self, x) + 1e-3 * self.count


def in_place(self, x):
    value = Good.objective(self, x)
    if not x.requires_grad:
        x += 1.0
    return value


def batch_norm(self, x):
    return Good.objective(self, x) - 0.1 * Good.objective(self, x).mean()


class WrongSlope(torch.autograd.Function):
    @staticmethod
    def forward(context, y):
        context.save_for_backward(y)
        return y**2

    @staticmethod
    def backward(context, upstream):
        (y,) = context.saved_tensors
        return upstream * y  # the 2 is missing


def wrong_gradient(self, x):
    return WrongSlope.apply(x @ W.to(x)[0] - 5.0) + torch.exp(x @ W.to(x)[1]) - 3.0


def only_at_vertices(self, x):
    is_binary = ((x == 0) | (x == 1)).all(-1)
    return torch.where(is_binary, Good.objective(self, x), torch.nan)


def moves_that(change_neighbors):
    return lambda self, x, *, count, generator: change_neighbors(
        Good.moves(self, x, count=count, generator=generator), x, count
    )


def exact_that(**fields):
    def exact(self, *, seconds=None, start=None):
        found = Good.exact(self)
        values = {"x": found.x, "bound": found.bound, "is_optimal": found.is_optimal} | fields
        return Exact(**values)

    return exact


WORST = torch.from_numpy(VERTICES)[int(Good().objective(torch.from_numpy(VERTICES)).argmax())]

BROKEN_PROBLEMS = {
    "no objective": (altered(objective=property(lambda self: [].missing)), "parts", "objective is missing"),
    "no oracle": (lambda: Good("solver"), "parts", "got str. Try `solvers.function(call, n)`"),
    "costs of NumPy": (
        with_method("initial_costs", lambda self: np.ones(N)),
        "initial costs",
        "torch tensor, got ndarray",
    ),
    "costs too short": (
        with_method("initial_costs", lambda self: torch.ones(2)),
        "initial costs",
        "shape [6], got [2]",
    ),
    "integer costs": (with_method("initial_costs", lambda self: torch.ones(N).long()), "initial costs", "int64"),
    "NaN costs": (
        with_method("initial_costs", lambda self: torch.full((N,), torch.nan)),
        "initial costs",
        "6 that are NaN",
    ),
    "changing costs": (
        with_method("initial_costs", lambda self: torch.rand(N, generator=GENERATOR)),
        "initial costs",
        "same costs at every",
    ),
    "bad oracle": (lambda: Good(NotOptimal()), "oracle: optimal", "to be optimal"),
    "violation of one number": (
        with_method("violation", lambda self, x: Good.violation(self, x).max()),
        "violation shape",
        "got []",
    ),
    "violation of NumPy": (
        with_method("violation", lambda self, x: Good.violation(self, x).numpy()),
        "violation shape",
        "return a tensor",
    ),
    "other rules": (
        with_method(
            "violation", lambda self, x: Good.violation(self, x) + (x[..., 0] + x[..., 1] - 2).clamp(min=-1) + 1
        ),
        "violation",
        "Oracle and rules disagree",
    ),
    "violation accepts all": (
        with_method("violation", lambda self, x: torch.zeros_like(x[..., 0])),
        "violation judges",
        "accepts every point",
    ),
    "violation accepts NaN": (
        with_method("violation", lambda self, x: torch.nan_to_num(Good.violation(self, x))),
        "violation judges",
        "NaN to be rejected",
    ),
    "violation forgets the bounds": (
        with_method("violation", lambda self, x: (x.sum(-1) - K).abs() + (x - x.round()).abs().amax(-1)),
        "violation judges",
        "it misses a rule",
    ),
    "violation forgets a rule": (
        with_method("violation", lambda self, x: torch.minimum(x.abs(), (x - 1).abs()).amax(-1)),
        "violation judges",
        "it misses a rule",
    ),
    "objective of one number": (
        with_method("objective", lambda self, x: Good.objective(self, x).sum()),
        "objective shape",
        "Work on the last dimension",
    ),
    "objective of two dimensions": (
        with_method("objective", lambda self, x: torch.einsum("bn,n->b", x, W[0])),
        "objective shape",
        "raised RuntimeError",
    ),
    "integer objective": (
        with_method("objective", lambda self, x: Good.objective(self, x).long()),
        "objective shape",
        "floating point, got torch.int64",
    ),
    "objective changes x": (with_method("objective", in_place), "objective values", "changed x in place"),
    "noisy objective": (with_method("objective", noisy), "objective values", "differs from call to call"),
    "NaN objective": (
        with_method("objective", lambda self, x: x.sum(-1) * torch.nan),
        "objective values",
        "all are NaN or inf",
    ),
    "objective of the batch": (with_method("objective", batch_norm), "objective batch", "alone and in a batch"),
    "cut graph": (
        with_method("objective", lambda self, x: Good.objective(self, x.detach())),
        "gradient reaches x",
        "graph is cut",
    ),
    "rounded": (
        with_method("objective", lambda self, x: torch.round(Good.objective(self, x))),
        "gradient reaches x",
        "is zero at every vertex",
    ),
    "half a gradient": (with_method("objective", wrong_gradient), "gradient", "to fit finite differences"),
    "not between vertices": (with_method("objective", only_at_vertices), "gradient", "If f exists at vertices only"),
    "not convex": (
        with_method("objective", lambda self, x: -Good.objective(self, x)),
        "convexity",
        "set `is_convex = False`",
    ),
    "convex without gradient": (altered(is_differentiable=False), "convexity", "`is_differentiable` is False"),
    "infeasible moves": (
        with_method("moves", moves_that(lambda near, x, count: near * 0.5)),
        "moves",
        "feasible designs of `moves`",
    ),
    "moves to itself": (with_method("moves", moves_that(lambda near, x, count: x[None])), "moves", "got x itself"),
    "too many moves": (
        with_method(
            "moves", lambda self, x, *, count, generator: Good.moves(self, x, count=9, generator=generator).repeat(3, 1)
        ),
        "moves",
        "at most 16 neighbors",
    ),
    "moves without generator": (
        with_method("moves", lambda self, x, *, count, generator: Good.moves(self, x, count=4, generator=GENERATOR)),
        "moves",
        "equal moves for equal generators",
    ),
    "infeasible heuristic": (
        with_method("heuristics", lambda self: {"all": torch.ones(N).double()}),
        "heuristics",
        "heuristic `all`",
    ),
    "heuristic of NumPy": (with_method("heuristics", lambda self: {"one": VERTICES[0]}), "heuristics", "got ndarray"),
    "aggregates of another width": (
        with_method("aggregates", lambda self: W[:, :4]),
        "aggregates",
        "[k, 6], got [2, 4]",
    ),
    "aggregates miss a row": (with_method("aggregates", lambda self: W[:1]), "aggregates", "W misses a row"),
    "lower bound above": (with_method("lower_bound", lambda self: 1e3), "lower bound", "it is no lower bound"),
    "lower bound NaN": (with_method("lower_bound", lambda self: float("nan")), "lower bound", "not NaN"),
    "exact of a tuple": (with_method("exact", lambda self, **_: (None, 0.0)), "exact", "surco.Exact, got tuple"),
    "exact bound above": (with_method("exact", exact_that(bound=1e3)), "exact", "the bound of `exact` is 1000"),
    "exact infeasible": (
        with_method("exact", exact_that(x=torch.ones(N).double())),
        "exact",
        "feasible designs of `exact`",
    ),
    "exact not optimal": (
        with_method("exact", exact_that(x=WORST, bound=-3.0)),
        "exact",
        "optimal, but a design of value",
    ),
    "exact without a point": (with_method("exact", exact_that(x=None)), "exact", "a point where `is_optimal`"),
    "metrics of tensors": (with_method("metrics", lambda self, x: {"a": x.sum()}), "metrics", "Try `.item()`"),
    "nothing to say": (with_method("describe", lambda self, x: " "), "description", "a few lines of text"),
    "no figures": (with_method("figures", lambda self, x: {"a": "b.png"}), "description", "matplotlib Figure for `a`"),
    "spec of arrays": (altered(spec={"domain": "testing", "weights": np.ones(2)}), "spec", "not JSON serializable"),
    "spec of NaN": (altered(spec={"bound": float("nan")}), "spec", "a spec that JSON can hold"),
    "spec of tuples": (altered(spec={"shape": (1, 2)}), "spec", "gives back unchanged"),
    "spec of another domain": (altered(spec={"domain": "toys"}), "spec", "not registered: ['testing']"),
    "spec of other numbers": (
        altered(spec={"domain": "testing", "weights": (W + 0.01).tolist()}),
        "spec",
        "has other values of f",
    ),
}

GENERATOR = torch.Generator().manual_seed(0)


@pytest.mark.parametrize("case", BROKEN_PROBLEMS)
def test_a_broken_problem_fails_its_check(case):
    broken, name, words = BROKEN_PROBLEMS[case]
    for seed in range(2):
        with pytest.raises(CheckFailed) as caught:
            check_problem(broken(), seed=seed)
        assert caught.value.check == name, str(caught.value)
        assert words in str(caught.value)


def test_two_designs_of_equal_aggregates_tell_a_black_box_apart():
    """No gradient and no mixtures: only pairs of designs can tell that W misses a row."""

    class Pairs(Good):
        is_differentiable = False
        is_convex = False

        def objective(self, x):
            return torch.as_tensor(Good.objective(self, x.detach()).numpy())

        def aggregates(self):
            return W[:1]

    with pytest.raises(CheckFailed, match="two designs with equal W x differ"):
        check_problem(Pairs())


def test_every_check_of_a_problem_has_a_broken_class():
    names = {c.name for c in check_problem(Good()).checks if not c.name.startswith("oracle: ")}
    assert names - {name for _, name, _ in BROKEN_PROBLEMS.values()} == {"vertices"}  # gathers, cannot fail
    names = {c.name for c in check_oracle(Enumerated(VERTICES)).checks}
    assert names == {name for _, name, _ in BROKEN_ORACLES}
    names = {c.name for c in check_estimator(Interpolation(), Good()).checks}
    assert names - {name for _, name, _ in BROKEN_ESTIMATORS.values()} == {"units of costs"}  # told, not demanded


# ------------------------------------------------------------------ estimators that break one rule


class Wrapped:
    """An estimator whose result is changed."""

    def __init__(self, change, inner=None):
        self.change = change
        self.inner = inner or Interpolation()

    def __call__(self, problem, costs, *, generator):
        return self.change(self.inner(problem, costs, generator=generator), costs)


def replace(estimate, **fields):
    names = ("loss", "grad", "atoms", "values")
    return Estimate(**{name: fields.get(name, getattr(estimate, name)) for name in names})


def spoil_costs(estimate, costs):
    costs += 1.0
    return estimate


BROKEN_ESTIMATORS = {
    "tuple": (Wrapped(lambda e, c: (e.loss, e.grad)), "estimate", "got tuple"),
    "mean loss": (Wrapped(lambda e, c: replace(e, loss=e.loss.mean())), "estimate", "`loss` of shape [4]"),
    "single": (Wrapped(lambda e, c: replace(e, grad=e.grad.float())), "estimate", "[4, 6] torch.float32"),
    "attached": (Wrapped(lambda e, c: replace(e, loss=e.loss.clone().requires_grad_())), "estimate", "Try `.detach()`"),
    "no atoms": (
        Wrapped(lambda e, c: replace(e, atoms=e.atoms[:, :0], values=e.values[:, :0])),
        "estimate",
        "one atom",
    ),
    "costs changed": (Wrapped(spoil_costs), "estimate", "changed in place"),
    "NaN gradient": (Wrapped(lambda e, c: replace(e, grad=e.grad / 0)), "gradient", "a finite gradient"),
    "mean as atom": (Wrapped(lambda e, c: replace(e, atoms=e.atoms * 0.5)), "atoms", "expected vertices as atoms"),
    "half an atom": (
        Wrapped(lambda e, c: replace(e, atoms=torch.where(torch.arange(N) < 2, torch.nan, e.atoms))),
        "atoms",
        "a mixture",
    ),
    "other values": (Wrapped(lambda e, c: replace(e, values=e.values + 1)), "values", "they differ"),
    "global noise": (
        Wrapped(lambda e, c: replace(e, grad=e.grad + torch.rand(1))),
        "repeatable",
        "the global one of torch was used",
    ),
    "own noise": (
        Wrapped(lambda e, c: replace(e, grad=e.grad + torch.rand(1, generator=GENERATOR))),
        "repeatable",
        "the same `grad`",
    ),
    "NaN row": (
        Wrapped(lambda e, c: replace(e, grad=e.grad + 0 * c)),
        "bad rows",
        "gradient zero in a row of NaN costs",
    ),
    "finite loss": (Wrapped(lambda e, c: replace(e, loss=torch.nan_to_num(e.loss))), "bad rows", "loss inf"),
    "gradient of nothing": (
        Wrapped(lambda e, c: replace(e, grad=e.grad + 1 * torch.isfinite(c))),
        "bad values",
        "gradient zero where f is NaN",
    ),
    "normalized": (
        Wrapped(lambda e, c: replace(e, grad=e.grad / e.grad.norm().clamp(min=1e-300))),
        "units of f",
        "1000 times that of f",
    ),
    **{
        f"maximizing {name}": (
            Wrapped(lambda e, c: replace(e, grad=-e.grad), build_estimator(name)),
            "sign",
            "that of a maximizing paper",
        )
        for name in ESTIMATORS
    },
}


@pytest.mark.parametrize("case", BROKEN_ESTIMATORS)
def test_a_broken_estimator_fails_its_check(case):
    broken, name, words = BROKEN_ESTIMATORS[case]
    for seed in range(2):
        with pytest.raises(CheckFailed) as caught:
            check_estimator(broken, Good(), seed=seed)
        assert caught.value.check == name, str(caught.value)
        assert words in str(caught.value)


def test_an_absolute_lambda_is_found():
    class Absolute:
        def __call__(self, problem, costs, *, generator):
            found = Identity(projection="none")(problem, costs, generator=generator)
            pushed = problem.oracle.solve(torch.nan_to_num(costs - 0.02 * found.grad).numpy()).x
            atoms = torch.cat([found.atoms, torch.from_numpy(pushed)[:, None]], 1)
            atoms = torch.where(torch.isnan(costs)[:, None], torch.nan, atoms)
            return Estimate(found.loss, found.grad, atoms, problem.objective(atoms))

    with pytest.raises(CheckFailed, match=r"Make lambda relative to \|c\|"):
        check_estimator(Absolute(), Good())


def test_a_report_is_plain_data():
    report = check_oracle(Enumerated(VERTICES))
    assert json.loads(json.dumps([[c.name, c.detail, c.is_skipped] for c in report.checks]))
