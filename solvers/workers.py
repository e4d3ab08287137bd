"""One helper process that runs a callable, and is killed where it hangs. Safe with the spawn start method."""

from __future__ import annotations

import contextlib
import math
import multiprocessing
import pickle
import time
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from typing import Any

_START_SECONDS = 120.0
"""A process that cannot import its callable within this time counts as hung."""


class HungError(RuntimeError):
    """The process gave no answer in time, or died; it has been killed."""


class Worker:
    """A spawned process that answers one question after the other.

    The callable is pickled once (between processes of this machine, never from a file).
    """

    def __init__(self, call: Callable[[Any], Any]) -> None:
        self._payload = pickle.dumps(call)
        context = multiprocessing.get_context("spawn")
        self._pipe, remote = context.Pipe()
        self._process = context.Process(target=_serve, args=(remote, self._payload), daemon=True, name="surco-worker")
        self._process.start()
        remote.close()
        self._receive(_START_SECONDS, "did not start")

    def ask(self, question: Any, seconds: float | None = None) -> Any:
        """Answer of the callable to ``question``.

        Raises:
            HungError: no answer within ``seconds``, or the process died. It is gone then.
            Exception: what the callable raised.
        """
        self.send(question)
        return self._receive(seconds, f"took longer than {seconds:g} s" if seconds is not None else "")

    def _receive(self, seconds: float | None, reason: str) -> Any:
        try:
            if not self._pipe.poll(seconds):
                self.stop()
                raise HungError(f"{reason}; its process was killed")
            succeeded, value = self._pipe.recv()
        except (EOFError, ConnectionError) as error:
            self._process.join(1.0)  # the pipe closes a little before the process ends
            code = self._process.exitcode
            self.stop()
            raise HungError(f"lost its process (exit code {code})") from error
        except KeyboardInterrupt:
            self.stop()
            raise
        if not succeeded:
            raise value
        return value

    @property
    def pipe(self) -> Connection:
        """This side of the pipe, to wait on several workers at once."""
        return self._pipe

    def send(self, question: Any) -> None:
        """Hand over a question without waiting for its answer; `receive` fetches it.

        Raises:
            HungError: the process is gone.
        """
        try:
            self._pipe.send(question)
        except (BrokenPipeError, ConnectionError) as error:
            self.stop()
            raise HungError("lost its process") from error

    def receive(self) -> Any:
        """Answer to the last question; waits for it."""
        return self._receive(None, "")

    def stop(self) -> None:
        """Kill the process and wait for its end."""
        with contextlib.suppress(OSError):
            self._pipe.close()
        if self._process.is_alive():
            self._process.kill()
        self._process.join()


def ask_all(
    workers: list[Worker | None], start: Callable[[], Worker], questions: list[Any], limits: list[float] | None
) -> list[Any]:
    """Spread questions over workers; answers in order, a `HungError` or another exception where there is none.

    Args:
        workers: processes, or None for one that must be started; lost ones become None.
        start: makes a worker.
        questions: what to ask.
        limits: wall seconds for each question, or None.
    """
    answers: list[Any] = [None] * len(questions)
    waiting = list(range(len(questions)))[::-1]
    busy: dict[int, tuple[int, float]] = {}  # worker -> its question, and when it must have answered
    while waiting or busy:
        for slot in range(len(workers)):
            if slot in busy or not waiting:
                continue
            worker = workers[slot]
            if worker is None:
                worker = workers[slot] = start()
            question = waiting.pop()
            try:
                worker.send(questions[question])
            except HungError:  # it died between two questions: ask another process
                workers[slot] = None
                waiting.append(question)
                continue
            busy[slot] = (question, math.inf if limits is None else time.monotonic() + limits[question])
        now = time.monotonic()
        pipes = {slot: worker.pipe for slot, worker in enumerate(workers) if slot in busy and worker is not None}
        nearest = min((deadline for _, deadline in busy.values()), default=math.inf)
        ready = wait(list(pipes.values()), None if math.isinf(nearest) else max(nearest - now, 0.0))
        for slot, pipe in pipes.items():
            question, deadline = busy[slot]
            worker = workers[slot]
            assert worker is not None
            if pipe in ready:
                try:
                    answers[question] = worker.receive()
                except HungError as error:
                    answers[question], workers[slot] = error, None
                except Exception as error:  # what the callable raised belongs to its question
                    answers[question] = error
                del busy[slot]
            elif time.monotonic() >= deadline:
                worker.stop()
                answers[question], workers[slot] = HungError("took too long; its process was killed"), None
                del busy[slot]
    return answers


def _serve(pipe: Connection, payload: bytes) -> None:
    """Body of the process: load the callable, then answer until the other side is gone."""
    import signal

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which stops this process
    try:
        call = pickle.loads(payload)
    except Exception as error:  # told to the parent, which raises it
        pipe.send((False, RuntimeError(f"the process cannot load the callable: {type(error).__name__}: {error}")))
        return
    pipe.send((True, None))
    while True:
        try:
            question = pipe.recv()
        except EOFError:
            return
        try:
            reply = (True, call(question))
        except Exception as error:  # told to the parent, which raises it
            reply = (False, error)
        try:
            pipe.send(reply)
        except (pickle.PicklingError, TypeError, AttributeError) as error:
            pipe.send((False, RuntimeError(f"an answer that cannot be sent: {error}; it was {reply[1]!r}")))
        except BrokenPipeError:
            return
