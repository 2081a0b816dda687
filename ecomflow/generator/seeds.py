"""What decides the bytes of generated events beside their contracts: a seed, and where their times end."""

from __future__ import annotations

import secrets
from datetime import UTC, datetime

# A seed stands in JSON as a number, which every reader takes for exact up to here.
MAX_SEED = 2**53 - 1
# Where the times of events end whose seed is given: always the same, so that the seed alone decides every byte.
SEEDED_UNTIL = datetime(2025, 12, 2, tzinfo=UTC)


def fresh_seed() -> int:
    """A random seed, at most ``MAX_SEED``."""
    return secrets.randbelow(MAX_SEED + 1)
