"""What a check run found: one line a check, or the first failure with its remedy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from surco.errors import CheckFailed


@dataclass(frozen=True, slots=True)
class Check:
    """One check that passed or did not apply.

    Attributes:
        name: what was checked, for example ``"oracle: optimal"``.
        detail: what was measured, or why it was skipped.
        is_skipped: whether it did not apply.
    """

    name: str
    detail: str = ""
    is_skipped: bool = False


@dataclass(frozen=True, slots=True)
class Report:
    """All checks of one run; a failed check raises instead.

    Attributes:
        subject: what was checked.
        checks: in the order in which they ran.
    """

    subject: str
    checks: tuple[Check, ...]

    def __str__(self) -> str:
        width = max((len(check.name) for check in self.checks), default=0)
        lines = [f"  {'skip' if c.is_skipped else 'ok  '} {c.name:<{width}}  {c.detail}".rstrip() for c in self.checks]
        passed = sum(not c.is_skipped for c in self.checks)
        head = f"{self.subject}: {passed} checks passed, {len(self.checks) - passed} skipped"
        return "\n".join([head, *lines])


class Skipped(Exception):  # noqa: N818 - control flow of a check, not an error
    """Raised inside a check that does not apply; the message says why."""


class Finding(AssertionError):  # noqa: N818 - becomes a CheckFailed
    """Raised inside a check that failed; becomes a :class:`~surco.errors.CheckFailed` with the name of the check."""


def expect(condition: object, message: str) -> None:
    """Raise a :class:`Finding` unless ``condition`` holds. The message: expected, got, try."""
    if not condition:
        raise Finding(message)


@dataclass(slots=True)
class Checker:
    """Runs checks one after the other and collects what they report."""

    subject: str
    checks: list[Check] = field(default_factory=list)

    def run(self, name: str, check: Callable[[], str]) -> None:
        """Run one check, which returns its detail.

        Raises:
            CheckFailed: the check failed, or the code under test raised.
        """
        try:
            self.checks.append(Check(name, check()))
        except Skipped as reason:
            self.checks.append(Check(name, str(reason), is_skipped=True))
        except Finding as finding:
            raise self._failed(name, str(finding)) from None
        except CheckFailed:
            raise
        except Exception as error:  # the code under test may raise anything
            raise self._failed(name, f"it raised {type(error).__name__}: {error}") from error

    def report(self) -> Report:
        """What was found."""
        return Report(self.subject, tuple(self.checks))

    def _failed(self, name: str, message: str) -> CheckFailed:
        failure = CheckFailed(f"{self.subject} fails `{name}`: {message}")
        failure.check = name
        return failure
