"""The error family of the engine. Every message says what was expected, what came, and what to try."""

from __future__ import annotations


class SurcoError(Exception):
    """Base of every error that surco raises on purpose."""


class InvalidInputError(SurcoError, ValueError):
    """An argument, a spec or a file is not what the function expects (exit code 2 of the command)."""


class UnknownIdError(InvalidInputError, KeyError):
    """No problem, method or estimator of that name; the message names the closest one."""

    def __str__(self) -> str:
        return str(self.args[0])  # KeyError would show the repr


class InfeasibleError(SurcoError):
    """The rules leave no design (exit code 3). The message names the conflicting rules where the problem can."""


class NoDesignError(SurcoError):
    """The budget ended before any feasible design was seen (exit code 4)."""


class MissingExtraError(SurcoError, ImportError):
    """An optional package is needed; the message holds the install command."""


class ResumeError(InvalidInputError):
    """A checkpoint belongs to another problem, method or seed."""


class CutGradientError(InvalidInputError):
    """An objective that calls itself differentiable hides its gradient from autograd; score functions still work."""


class CheckFailed(SurcoError, AssertionError):  # noqa: N818 - reads as the finding it is
    """A user's oracle, problem or estimator breaks its contract; the message names the check and the remedy."""

    check: str = ""  # name of the check that failed
