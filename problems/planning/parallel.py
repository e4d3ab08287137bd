"""Scenarios separated by the workers of any pool with ``map``; each worker keeps its own warm programs.

A worker gets the instance as JSON, compiles it once, and answers questions about link capacities. Whatever warm starts
a worker has, its cuts are valid and its yes or no is exact, so the proven optimum is that of a serial run; the cuts on
the way, and with them the count of programs, may differ.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

from problems.planning.instance import PlanningInstance
from problems.planning.network import Array, compile_instance
from problems.planning.separation import Answer
from problems.planning.survival import Survival

_MOST_NETWORKS = 2
_local = threading.local()  # of a worker: token -> warm programs, the latest networks only


class MapPool(Protocol):
    """A ``concurrent.futures`` executor, Ray's pool, or anything else with an ordered ``map``; never closed here."""

    def map(self, function: Callable[[Any], Any], iterable: Iterable[Any], /) -> Iterable[Any]:
        """Results in the order of the arguments."""
        ...


Task = tuple[str, str, str, Array, tuple[int, ...], float]
"""Token and JSON of the instance, backend, capacities [m], scenarios, share."""


def separate_chunk(task: Task) -> tuple[list[Answer], int]:
    """Answers for the scenarios of a task, and how many programs they took. Runs on a worker."""
    token, text, backend, capacities, scenarios, share = task
    known: dict[str, Survival] = _local.__dict__.setdefault("known", {})
    if token not in known:
        while len(known) >= _MOST_NETWORKS:
            known.pop(next(iter(known)))
        instance = PlanningInstance.from_spec(json.loads(text))
        known[token] = Survival(compile_instance(instance), backend=backend)
    survival = known[token]
    before = survival.n_lps
    answers = [survival.separate(capacities, scenario, share=share) for scenario in scenarios]
    return answers, survival.n_lps - before


class PooledSurvival(Survival):
    """``Survival`` whose scans of many scenarios run on a pool.

    Args:
        network: compiled instance; workers compile the same instance.
        pool: with ``map``.
        backend: of the linear programs.
        workers: chunks that are handed out at a time.
        chunk: scenarios a chunk.
    """

    def __init__(self, network: Any, pool: MapPool, *, backend: str = "auto", workers: int = 4, chunk: int = 4) -> None:
        super().__init__(network, backend=backend)
        self._pool, self._workers, self._chunk = pool, workers, chunk
        self._text = json.dumps(network.instance.to_spec())
        self._token = hashlib.sha256(self._text.encode()).hexdigest()
        self._n_remote = 0

    @property
    def n_lps(self) -> int:
        """LPs solved so far, workers' included."""
        return super().n_lps + self._n_remote

    def failures(
        self,
        capacities: Array,
        scenarios: Iterable[int] | None = None,
        *,
        share: float = 0.9,
        until: Callable[[], bool] | None = None,
        most: int | None = None,
        patience: int | None = None,
    ) -> tuple[list[tuple[int, Answer]], bool]:
        """As of ``Survival``; asks in waves of ``workers`` times ``chunk`` scenarios, and counts patience by waves."""
        todo = list(self.order if scenarios is None else scenarios)
        found: list[tuple[int, Answer]] = []
        wave = self._workers * self._chunk
        for start in range(0, len(todo), wave):
            if until is not None and until():
                return found, False
            part, before = todo[start : start + wave], len(found)
            for scenario, answer in zip(part, self._ask(capacities, part, share), strict=True):
                if not answer.is_survived:
                    self.failed(scenario)
                    found.append((scenario, answer))
            is_enough = most is not None and len(found) >= most
            if is_enough or (patience is not None and before and len(found) == before and len(part) >= patience):
                return found, start + wave >= len(todo)
        return found, True

    def _ask(self, capacities: Array, scenarios: Sequence[int], share: float) -> list[Answer]:
        tasks = [
            (self._token, self._text, self._backend, capacities, tuple(scenarios[i : i + self._chunk]), share)
            for i in range(0, len(scenarios), self._chunk)
        ]
        answers: list[Answer] = []
        for some, count in self._pool.map(separate_chunk, tasks):
            answers += some
            self._n_remote += count
        return answers
