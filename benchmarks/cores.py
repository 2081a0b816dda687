"""The gain from another core, calculated from the CPU seconds that each process used during a run of question 3.

A run can't be shorter than all its CPU seconds shared evenly by the cores, nor than the CPU seconds of the busiest process:
each is one Python process, whose interpreter runs on one core at a time (threads of gRPC, Arrow and DuckDB run beside it, so this
is on the safe side). A run with another core is assumed to exceed that bound by the same factor as the measured one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple


class CoreUse(NamedTuple):
    """``shares``: cores that each process kept busy. ``critical``: what the bound is, all cores or a process's name, now and with
    one more core. ``gain``: the rate with one more core over that now; 1.0 where it brings nothing.
    """

    shares: dict[str, float]
    busy: float
    critical: str
    critical_then: str
    gain: float


def one_more(cpu: Mapping[str, float], seconds: float, cores: int, engines: int = 1) -> CoreUse:
    """From ``cpu`` (CPU seconds by process, the ``pipeline``'s of all its ``engines``) of a run of ``seconds`` on ``cores``."""
    alone = {name: used / engines if name == "pipeline" else used for name, used in cpu.items()}
    now, critical = _bound(cpu, alone, cores)
    then, critical_then = _bound(cpu, alone, cores + 1)
    shares = {name: used / seconds for name, used in cpu.items()}
    return CoreUse(shares, sum(shares.values()), critical, critical_then, now / then)


def _bound(cpu: Mapping[str, float], alone: Mapping[str, float], cores: int) -> tuple[float, str]:
    """The minimum of seconds, and what determines it."""
    shared, longest = sum(cpu.values()) / cores, max(alone, key=lambda name: alone[name])
    return (shared, f"{cores} cores") if shared >= alone[longest] else (alone[longest], longest)
