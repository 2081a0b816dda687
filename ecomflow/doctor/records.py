"""What a look at one thing found."""

from __future__ import annotations

import msgspec

from ecomflow.errors import EcomflowError


class Check(msgspec.Struct, frozen=True):
    """One line of the doctor's. ``remedy`` is the command or step that mends what is wrong; ``exit_code`` is that of the error.

    ``checked`` False, and then ``ok``: it can't be told from here, and ``message`` says why. ``seconds`` only where something was
    tried, not just looked at.
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
