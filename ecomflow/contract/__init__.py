"""The contracts for events: what producers may publish, and everything that follows from it.

A contract is one TOML file (``shop/`` has the built-in ones). ``loading`` reads it in the language of ``language`` and ``keys``;
``compiling`` makes of it what ``codec`` decodes messages with and ``modelling`` makes rows with; ``ddl``, ``json_schema`` and
``markdown`` describe it.
"""
