"""What trainers ask of environments. Everything else is plain Gymnasium."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

from gymnasium.vector import VectorEnv


@runtime_checkable
class Resumable(Protocol):
    """A vector environment whose whole state is plain data, so that training resumes exactly.

    Beyond Gymnasium's ``VectorEnv`` with ``Dict`` observations, which hold ``action_mask`` [B, A] float32 (1 = legal,
    at least one a row), ``Discrete`` actions and ``AutoresetMode.NEXT_STEP``.
    """

    def checkpoint(self) -> dict[str, Any]:
        """State as nested plain data and tensors (what ``surco.checkpoint`` holds).

        An environment that keeps hidden state outside of it (warm linear programs, caches) must drop that state here,
        in the running environment too: the run that goes on and the run that is resumed then continue alike.
        """
        ...

    def restore(self, state: dict[str, Any]) -> None:
        """Take over what ``checkpoint`` returned."""
        ...


MakeVectorEnv = Callable[[int], VectorEnv]
"""Makes a vector environment from a seed. For worker processes it must be importable (a function of a module or a
``functools.partial`` of one), not a lambda.

The trainer of both kinds of policy is ``rl.native.train(make_vector_env, policy, *, steps, seed, out, resume=False,
workers=0, ...)``; ``policy`` is a module built by ``rl.policy.build``. Episode figures travel in ``infos`` of the step
that ends an episode, in the vector form ``infos["episode"] = {"r": [B], "l": [B], ...}`` with ``infos["_episode"]`` [B]
bool; every further key of that dict is averaged and logged (``cost_over_bound``, ``is_feasible``, ...).
"""
