"""Settings and endpoints in; checks out: what a pipeline needs, whether it is in place, and how to fix it.

``preflight`` changes nothing and takes seconds. ``probe`` goes further: it writes to temporary resources and reads them back.
"""

from __future__ import annotations

from ecomflow.doctor.checks import preflight, require
from ecomflow.doctor.records import Check

__all__ = ["Check", "preflight", "require"]
