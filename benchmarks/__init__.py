"""How fast, against every other way: ``python -m benchmarks``. Each subject runs in a process of its own, on the same events."""
