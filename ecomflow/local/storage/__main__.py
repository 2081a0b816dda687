"""``python -m ecomflow.local.storage``: the local Cloud Storage as a process of its own."""

import sys

from ecomflow.local.storage.server import main

sys.exit(main())
