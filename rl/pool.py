"""A pool over a Ray cluster, with the interface of a `concurrent.futures` executor.

Whatever takes a pool takes this one: batches of the oracles (``solvers.parallel(oracle, pool=pool)``), training of
priors (``surco.train(..., pool=pool)``), benchmark cells, judging and separation of planning, a user's own function.
"""

from __future__ import annotations

import contextlib
import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import CancelledError, Executor, Future
from typing import Any, TypeVar

from rl.ray_session import import_ray, session
from surco.errors import InvalidInputError, SurcoError

_Result = TypeVar("_Result")
_AHEAD = 4  # tasks under way for each CPU of the cluster: enough to hide the way back, few enough to cancel
_POLL_SECONDS = 0.5


class LostWorkerError(SurcoError, RuntimeError):
    """A task lost its worker (crash, node failure, memory) on every attempt."""


class RayPool(Executor):
    """Runs functions as tasks of a Ray cluster.

    Results come in the order of the arguments and equal those of a loop, whatever the number of workers. A task whose
    worker or node dies runs again, so a function must not mind to be called twice. What a function raises is raised
    here as it was. Ctrl-C, or leaving `map` early, cancels what is under way.

    Args:
        address: ``"local"`` starts a Ray on this machine (``cpus``), which ends with the pool; ``"auto"`` or
            ``"host:port"`` joins a running one. A process that is connected already uses its connection.
        cpus: of a local Ray.
        cpus_per_task: what a task books; fractions let several tasks share a CPU.
        retries: attempts after the first one, where a worker is lost.
        auth: see `rl.ray_session.session`.
        runtime_env: see Ray; such as ``{"working_dir": "."}`` where workers of other nodes must import local modules.

    Raises:
        MissingExtraError: Ray is not installed.
        InvalidInputError: no Ray answers at the address.

    Example:
        with RayPool("local", cpus=2) as pool:
            oracle = solvers.parallel(oracle, pool=pool)
    """

    def __init__(
        self,
        address: str,
        *,
        cpus: int | None = None,
        cpus_per_task: float = 1.0,
        retries: int = 3,
        auth: str | None = None,
        runtime_env: Mapping[str, Any] | None = None,
    ) -> None:
        if not 0.0 < cpus_per_task < math.inf:
            raise InvalidInputError(f"Expected `cpus_per_task` > 0, got {cpus_per_task}.")
        if retries < 0:
            raise InvalidInputError(f"Expected `retries` >= 0, got {retries}.")
        self.retries = retries
        self._ray = import_ray()
        self._stack = contextlib.ExitStack()
        self._stack.enter_context(session(address, cpus=cpus, auth=auth, runtime_env=runtime_env))
        self._task = self._ray.remote(num_cpus=cpus_per_task, max_retries=retries, retry_exceptions=False)(_call)
        self._cpus_per_task = cpus_per_task
        self._waiting: dict[Future[Any], Any] = {}
        self._is_open = True

    def submit(self, fn: Callable[..., _Result], /, *args: Any, **kwargs: Any) -> Future[_Result]:
        """Run ``fn(*args, **kwargs)`` as a task; its future has the result, or what was raised."""
        self._check_open()
        reference = self._task.remote(fn, args, kwargs)
        future: Future[Any] = Future()
        future.set_running_or_notify_cancel()
        self._waiting[future] = reference

        def finish(done: Future[Any]) -> None:
            self._waiting.pop(future, None)
            error = done.exception()
            if error is not None:
                future.set_exception(self._meaning(error))
            else:
                future.set_result(done.result())

        reference.future().add_done_callback(finish)
        return future

    def map(
        self,
        fn: Callable[..., _Result],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int = 1,
    ) -> Iterator[_Result]:
        """Results of ``fn`` in the order of the arguments, which are taken as tasks finish.

        The function travels once, not with every task.

        Args:
            fn: what to call.
            iterables: of arguments, as for the builtin ``map``.
            timeout: wall seconds without any finished task after which ``TimeoutError`` is raised.
            chunksize: calls that travel as one task.
        """
        self._check_open()
        if chunksize < 1:
            raise InvalidInputError(f"Expected `chunksize` >= 1, got {chunksize}.")
        groups = _grouped(zip(*iterables, strict=False), chunksize)
        return self._run(self._ray.put(fn), groups, timeout)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Finish (or cancel) what is under way, and leave the cluster; a local Ray ends."""
        if not self._is_open:
            return
        self._is_open = False
        waiting = dict(self._waiting)
        try:
            if cancel_futures or not wait:
                self._cancel(waiting.values())
            elif waiting:
                references = list(waiting.values())
                while self._ray.wait(references, num_returns=len(references), timeout=_POLL_SECONDS)[1]:
                    pass
                for future in waiting:
                    future.exception()  # its callback has run then
        finally:
            self._stack.close()

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        self.shutdown(cancel_futures=kind is not None)

    def _run(self, function: Any, groups: Iterator[list[Any]], timeout: float | None) -> Iterator[Any]:
        order: deque[Any] = deque()
        unfinished: set[Any] = set()
        quiet = 0.0
        try:
            while True:
                limit = self._limit()
                while len(unfinished) < limit and len(order) < 4 * limit and (group := next(groups, None)) is not None:
                    order.append(self._task.options(name="surco").remote(_call_each, (function, group), {}))
                    unfinished.add(order[-1])
                if not order:
                    return
                if order[0] in unfinished:
                    done, _ = self._ray.wait(list(unfinished), num_returns=1, timeout=_POLL_SECONDS, fetch_local=False)
                    unfinished.difference_update(done)
                    quiet = 0.0 if done else quiet + _POLL_SECONDS
                    if timeout is not None and quiet >= timeout:
                        raise TimeoutError(f"No task finished within {timeout:g} s.")
                    continue
                yield from self._value(order.popleft())
        finally:
            self._cancel(unfinished)

    def _value(self, reference: Any) -> Any:
        try:
            return self._ray.get(reference)
        except self._ray.exceptions.RayError as error:
            raise self._meaning(error) from error

    def _meaning(self, error: BaseException) -> BaseException:
        """What the function raised, or which infrastructure failed, in our words."""
        exceptions = self._ray.exceptions
        if isinstance(error, exceptions.RayTaskError):
            cause = getattr(error, "cause", None)
            return cause if isinstance(cause, BaseException) else error
        if isinstance(error, exceptions.TaskCancelledError):
            return CancelledError(str(error))
        if isinstance(error, exceptions.RayError):
            what = " ".join(str(error).split())[:300]
            return LostWorkerError(
                f"A task lost its worker on all of {self.retries + 1} attempts: {what} "
                "The function may crash its process or exhaust its memory; try it alone with the same arguments."
            )
        return error

    def _limit(self) -> int:
        """Tasks under way; the cluster may have grown or shrunk."""
        cpus = self._ray.cluster_resources().get("CPU", 0.0)
        return max(2, math.ceil(_AHEAD * cpus / self._cpus_per_task))

    def _cancel(self, references: Iterable[Any]) -> None:
        for reference in list(references):
            with contextlib.suppress(self._ray.exceptions.RayError, ValueError):
                self._ray.cancel(reference, force=True)

    def _check_open(self) -> None:
        if not self._is_open:
            raise RuntimeError("The pool is closed; make another one.")


def _call(function: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """Body of a task."""
    return function(*args, **kwargs)


def _call_each(function: Any, group: list[tuple[Any, ...]]) -> list[Any]:
    """Body of a task of `RayPool.map`: the function is a reference into the store."""
    ray = import_ray()
    found = ray.get(function) if isinstance(function, ray.ObjectRef) else function
    return [found(*args) for args in group]


def _grouped(items: Iterator[Any], size: int) -> Iterator[list[Any]]:
    group: list[Any] = []
    for item in items:
        group.append(item)
        if len(group) == size:
            yield group
            group = []
    if group:
        yield group
