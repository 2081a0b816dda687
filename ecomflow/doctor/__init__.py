"""Settings and endpoints flow in; checks flow out: what a pipeline needs, whether it is there, and what mends it.

``preflight`` changes nothing and takes seconds. ``probe`` goes further: it writes into temporary resources of its own and reads
them back.
"""

from __future__ import annotations

from ecomflow.doctor.checks import preflight, require
from ecomflow.doctor.records import Check

__all__ = ["Check", "preflight", "require"]
