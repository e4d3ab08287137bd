"""One helper process that runs a callable, and is killed where it hangs. Safe with the spawn start method."""

from __future__ import annotations

import contextlib
import multiprocessing
import pickle
from collections.abc import Callable
from multiprocessing.connection import Connection
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
        self._pipe.send(question)
        return self._receive(seconds, f"took longer than {seconds:g} s" if seconds is not None else "")

    def _receive(self, seconds: float | None, reason: str) -> Any:
        try:
            if not self._pipe.poll(seconds):
                self.stop()
                raise HungError(f"{reason}; its process was killed")
            succeeded, value = self._pipe.recv()
        except (EOFError, ConnectionError) as error:
            code = self._process.exitcode
            self.stop()
            raise HungError(f"lost its process (exit code {code})") from error
        except KeyboardInterrupt:
            self.stop()
            raise
        if not succeeded:
            raise value
        return value

    def stop(self) -> None:
        """Kill the process and wait for its end."""
        with contextlib.suppress(OSError):
            self._pipe.close()
        if self._process.is_alive():
            self._process.kill()
        self._process.join()


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
