"""``python -m ecomflow``: the same as the ``ecomflow`` command."""

from ecomflow.cli import main

main()
