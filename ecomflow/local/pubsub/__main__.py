"""``python -m ecomflow.local.pubsub``: the local Pub/Sub as a process of its own."""

import sys

from ecomflow.local.pubsub.server import main

sys.exit(main())
