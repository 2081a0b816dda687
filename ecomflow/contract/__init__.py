"""The contract for those who publish: as JSON Schema, Markdown and example (``schema``, ``page``), as a check of JSON lines
(``check``), and as a comparison of two versions (``diff``).

The ``<type>.v<version>.json`` files beside this module are the published schemas; a test holds them equal to what the types say.
"""
