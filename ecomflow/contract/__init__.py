"""The contract for events: what producers may publish, and everything that follows from it.

Two generations exist side by side for now. ``events``, ``rules``, ``facts`` and ``decode`` are the shop's contract written by
hand, which the pipeline runs. ``language``, ``loading`` and ``compiling`` read the same contract, or anyone's, from TOML files
(``shop/``) and compile decoder, rules, columns, DDL and JSON Schema from them; tests hold both equal.

The ``<type>.v<version>.json`` files beside this module are the published schemas; a test compares them with the types.
"""
