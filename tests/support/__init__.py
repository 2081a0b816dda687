"""What the tests share, by the part of the package that it serves."""

from pathlib import Path

ROOT = Path(__file__).parents[2]
"""The checkout."""
