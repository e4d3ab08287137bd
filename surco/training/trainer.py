"""The training loop: sample, forward, perturb, solve, differentiate, step; validate, save, resume exactly."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from solvers.fanout import MapPool
from surco import checkpoint as checkpoints
from surco.errors import InvalidInputError, ResumeError
from surco.instance_family import Family, Instance, Split, family
from surco.result import Result
from surco.training.adam import Adam
from surco.training.captured import CapturedSteps
from surco.training.config import TrainConfig
from surco.training.gradients import GRADIENTS, RELAXABLE
from surco.training.journal import Journal
from surco.training.logged import logged_instances
from surco.training.prior import Prior
from surco.training.steps import LANDSCAPE, EagerSteps, Learner, Steps
from surco.training.validation import Validation

LEAST_SHARE = 0.05  # of the step size at the end
DEFAULT_STEPS = 1000
DRAWING_SHARE = 0.25  # of the seconds

Progress = Callable[[dict[str, Any]], None]


def train(
    family_or_id: Family | str,
    *,
    steps: int | None = None,
    seconds: float | None = None,
    seed: int = 0,
    out: str | Path | None = None,
    resume: bool = False,
    start: Prior | str | Path | None = None,
    runs: Iterable[Result | str | Path] | None = None,
    pool: MapPool | None = None,
    progress: Progress | None = None,
    **config: Any,
) -> Prior:
    """Train a surrogate network on a family; the weights of the best validation are kept.

    Every random choice follows from ``seed`` and the step's number. So a run that was killed goes on from its
    checkpoint to bit-equal weights on one CPU (a limit in ``seconds`` alone depends on the clock), and the answers do
    not depend on the number of workers of ``pool``.

    Args:
        family_or_id: a family or the id of one, see ``surco families``.
        steps: steps at most; 1000 where neither is given.
        seconds: wall seconds at most, of which a quarter at most goes to drawing training instances (then there may be
            fewer of them than ``instances``).
        seed: of weights, instances, noise.
        out: folder for checkpoint, log (``log.jsonl``) and the prior.
        resume: go on from the checkpoint in ``out``, if there is one.
        start: a prior whose weights to start from.
        runs: results, or folders or files of saved ones, whose problems are the training instances and whose designs
            are imitated (gradient ``imitation``): a start for SurCo training from logged runs.
        pool: an object with ``map`` (processes, Ray) over which the oracle calls of a batch fan out.
        progress: called with each line of the log.
        config: see :class:`TrainConfig`.

    Raises:
        InvalidInputError: an unknown option or a value out of range.
        ResumeError: the checkpoint is of another run.
    """
    source = family(family_or_id) if isinstance(family_or_id, str) else family_or_id
    is_own = config.get("gradient") in (None, "", source.gradient) and runs is None
    settings = TrainConfig.of({**(source.training if is_own else {}), **config})
    for name, value in (("steps", steps), ("seconds", seconds)):
        if value is not None and not value > 0:
            raise InvalidInputError(f"Expected `{name}` > 0, got {value!r}.")
    if steps is None and seconds is None:
        steps = DEFAULT_STEPS
    chosen = settings.gradient or ("imitation" if runs is not None else source.gradient)
    if (runs is not None) != (chosen == "imitation"):
        raise InvalidInputError(f"Expected `runs` together with the gradient `imitation`, got gradient `{chosen}`.")
    if chosen not in (*GRADIENTS, LANDSCAPE):
        known = ", ".join((*GRADIENTS, LANDSCAPE))
        raise InvalidInputError(f"Expected `gradient` to be one of {known}, got {chosen!r}.")
    if settings.is_relaxed and chosen not in RELAXABLE:
        raise InvalidInputError(
            f"Expected `is_relaxed` with one of the gradients {', '.join(RELAXABLE)}, got {chosen!r}."
        )
    folder = Path(out) if out is not None else None
    if resume and folder is None:
        raise ResumeError("Expected `out`, the folder to resume from, together with `resume=True`.")
    before = torch.get_num_threads()
    torch.set_num_threads(settings.threads)
    try:
        run = _Run(source, settings, chosen, steps, seconds, seed, folder, pool, progress)
        if runs is not None:
            run.logged = logged_instances(source, runs)
        if start is not None:
            from surco.training.prior import as_prior

            run.adopt(as_prior(start))
        if resume:
            run.load()
        return run.go()
    finally:
        torch.set_num_threads(before)


class _Run:
    def __init__(
        self,
        source: Family,
        settings: TrainConfig,
        gradient: str,
        steps: int | None,
        seconds: float | None,
        seed: int,
        folder: Path | None,
        pool: MapPool | None,
        progress: Progress | None,
    ) -> None:
        self.family, self.settings, self.gradient = source, settings, gradient
        self.steps, self.seconds, self.seed, self.folder = steps, seconds, seed, folder
        self.pool = pool
        self.device = _device(settings.device)
        self.parts = settings.parts or (2 if self.device.type != "cpu" and gradient in RELAXABLE else 1)
        if gradient == LANDSCAPE:
            self.parts = 1  # it asks no oracle
        if settings.is_captured:
            if self.device.type != "cuda":
                raise InvalidInputError(
                    f"Expected `device` to be a CUDA device to capture on, got {settings.device!r}."
                )
            self.parts = 1
        with torch.random.fork_rng(devices=[]):  # the layers draw their first weights from the global generator
            torch.manual_seed(seed)
            self.network = source.network(**settings.network)
        self.network.to(self.device)
        self.optimizer = Adam(self.network.parameters(), clip=settings.clip)
        self.learner = Learner(source, settings, gradient, self.parts, self.device, self.network, self.optimizer)
        self.step = 0
        self.elapsed = 0.0
        self.best = math.inf
        self.best_step = 0
        self.stale = 0
        self.best_weights = self._weights()
        self.logged: list[Instance] = []
        self.is_finished = False
        self.spent = self.learner.spent
        self.spent["validation"] = 0.0
        self.journal = Journal(folder, progress, has_tensorboard=settings.tensorboard)

    # ------------------------------------------------------------------ loop

    def go(self) -> Prior:
        begun = time.perf_counter()
        clock = begun
        check = Validation(self.family, self.settings.validation)
        train_set = self.logged or self._drawn(begun)
        drawing = time.perf_counter() - begun
        if self.seconds is not None:
            self.elapsed += drawing
        if self.step == 0:
            self._validate(check)
        saved = clock = time.perf_counter()
        kind = CapturedSteps if self.settings.is_captured else EagerSteps
        # A worker draws its instance again, and those of logged runs were not drawn.
        with kind(self.learner, train_set, None if self.logged else self.pool) as steps:
            while not self.is_finished and not self._is_over():
                self._one(steps, len(train_set))
                self.step += 1
                now = time.perf_counter()
                self.elapsed += now - clock
                clock = now
                if self.step % self.settings.validate_every == 0 or self._is_over():
                    self._validate(check, steps.loss())
                if self.folder is not None and now - saved >= self.settings.save_seconds:
                    self._save()
                    saved = time.perf_counter()
        self.is_finished = True
        if self.folder is not None:
            self._save()
        self.network.load_state_dict(self.best_weights)
        training = {
            "family": self.family.id,
            "config": self.settings.to_json(),
            "gradient": self.gradient,
            "seed": self.seed,
            "steps": self.step,
            "seconds": self.elapsed,
            "drawing_seconds": drawing,
            "instances": len(train_set),
            "seconds_of": dict(self.spent),
            "best_step": self.best_step,
            "validation_regret": self.best,
        }
        prior = Prior(self.family, self.network.cpu().float().eval(), dict(self.settings.network), training)
        if self.folder is not None:
            prior.save(self.folder)
        self.journal.close()
        return prior

    def _drawn(self, begun: float) -> list[Instance]:
        """Training instances: all of them, or as many as a quarter of the seconds gives, at least a batch."""
        drawn: list[Instance] = []
        for k in range(self.settings.instances):
            is_late = self.seconds is not None and time.perf_counter() - begun > DRAWING_SHARE * self.seconds
            if is_late and k >= self.settings.batch:
                break
            drawn.append(self.family.sample(Split.TRAIN, seed=k))
        return drawn

    def _is_over(self) -> bool:
        return (self.steps is not None and self.step >= self.steps) or (
            self.seconds is not None and self.elapsed >= self.seconds
        )

    def _one(self, steps: Steps, size: int) -> None:
        """One step on a batch of a training set of ``size``; all its random choices follow from seed and step."""
        sequence = np.random.SeedSequence([self.seed, self.step])
        rng = np.random.default_rng(sequence)
        chosen = rng.permutation(size)[: self.settings.batch]
        states = sequence.generate_state(min(self.parts, len(chosen)), np.uint64)
        self.network.train()
        steps.one(chosen, [int(state >> np.uint64(1)) for state in states], self.settings.step_size * self._share())

    def _share(self) -> float:
        """Of the step size: warm-up, then half a cosine along what is left of steps or seconds."""
        done = max(
            self.step / self.steps if self.steps is not None else 0.0,
            self.elapsed / self.seconds if self.seconds is not None else 0.0,
        )
        cosine = 0.5 * (1.0 + math.cos(math.pi * min(done, 1.0)))
        return min(1.0, (self.step + 1) / self.settings.warmup) * (LEAST_SHARE + (1 - LEAST_SHARE) * cosine)

    # ------------------------------------------------------------------ validation

    def _validate(self, check: Validation, loss: float | None = None) -> None:
        """Keep the weights of the best regret; count the validations without a better one."""
        begun = time.perf_counter()
        regret = check.regret(self.learner, self.pool)
        if regret < self.best:
            self.best, self.best_step, self.stale = regret, self.step, 0
            self.best_weights = self._weights()
        else:
            self.stale += 1
            self.is_finished = self.stale >= self.settings.patience
        self.spent["validation"] += time.perf_counter() - begun
        self.journal.write(step=self.step, seconds=round(self.elapsed, 3), loss=loss, regret=regret, best=self.best)

    # ------------------------------------------------------------------ checkpoint

    def _weights(self) -> dict[str, Tensor]:
        return {name: value.detach().cpu().clone() for name, value in self.network.state_dict().items()}

    def _identity(self) -> dict[str, Any]:
        settings = self.settings.to_json()
        for name in ("save_seconds", "tensorboard", "patience"):
            settings.pop(name)
        settings["parts"] = self.parts
        return {"family": self.family.id, "seed": self.seed, "gradient": self.gradient, "settings": settings}

    def _save(self) -> None:
        assert self.folder is not None
        self.folder.mkdir(parents=True, exist_ok=True)
        state = {
            "identity": self._identity(),
            "step": self.step,
            "elapsed": self.elapsed,
            "best": self.best,
            "best_step": self.best_step,
            "stale": self.stale,
            "is_finished": self.is_finished and self.stale >= self.settings.patience,
            "spent": self.spent,
            "weights": self._weights(),
            "best_weights": self.best_weights,
            "adam": self.optimizer.state(),
        }
        checkpoints.save(self.folder / checkpoints.FILE, state)

    def load(self) -> None:
        """Take over the folder's checkpoint; without one the run starts afresh."""
        assert self.folder is not None
        file = self.folder / checkpoints.FILE
        if not file.is_file():
            return
        state = checkpoints.load(file)
        if state["identity"] != self._identity():
            differences = _differences(state["identity"], self._identity())
            raise ResumeError(
                f"The checkpoint in `{self.folder}` is of another run: {differences}. "
                "Resume with the same family, seed and settings, or choose another folder."
            )
        for name in ("step", "elapsed", "best", "best_step", "stale", "is_finished", "best_weights"):
            setattr(self, name, state[name])
        self.spent.update(state["spent"])
        self.network.load_state_dict(state["weights"])
        self.optimizer.restore(state["adam"])
        self.journal.rewind(self.step)

    def adopt(self, prior: Prior) -> None:
        """Start from the weights of a prior.

        Raises:
            InvalidInputError: another schema or another network.
        """
        self.family.schema.check(prior.family.schema.to_json(), "a prior to start from")
        if dict(prior.config) != dict(self.settings.network):
            raise InvalidInputError(
                f"Expected `network={dict(prior.config)}` of the prior, got {self.settings.network}."
            )
        self.network.load_state_dict(prior.network.state_dict())
        self.best_weights = self._weights()


def _differences(old: dict[str, Any], new: dict[str, Any]) -> str:
    """What differs between two identities, in words."""
    sides = [{**{k: v for k, v in side.items() if k != "settings"}, **side["settings"]} for side in (old, new)]
    names = [name for name in {**sides[0], **sides[1]} if sides[0].get(name) != sides[1].get(name)]
    return "; ".join(f"its `{name}` is {sides[0].get(name)!r}, here {sides[1].get(name)!r}" for name in names)


def _device(name: str) -> torch.device:
    """A device of this machine.

    Raises:
        InvalidInputError: torch knows none of that name, or this machine has none.
    """
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, TypeError) as error:
        reason = str(error).partition("\n")[0]
        raise InvalidInputError(f"Expected `device` to be one of this machine, got {name!r}: {reason}.") from error
    return device
