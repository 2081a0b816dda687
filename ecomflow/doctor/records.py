"""The result of a check."""

from __future__ import annotations

import msgspec

from ecomflow.errors import EcomflowError


class Check(msgspec.Struct, frozen=True):
    """One line of ``ecomflow doctor``. ``remedy`` is the command or step that fixes the problem; ``exit_code`` is the error's.

    ``checked`` False (``ok`` is then True): the check is not possible from here, and ``message`` says why. ``seconds`` only for
    probes.
    """

    name: str
    ok: bool
    message: str
    remedy: str | None = None
    exit_code: int = 0
    checked: bool = True
    seconds: float | None = None


def passed(name: str, message: str) -> Check:
    return Check(name, True, message)


def failed(name: str, error: EcomflowError) -> Check:
    return Check(name, False, error.message, error.remedy, error.exit_code)


def not_checked(name: str, reason: str) -> Check:
    return Check(name, True, f"Not checked: {reason}.", checked=False)
