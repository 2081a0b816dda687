"""``python -m ecomflow.local.bigquery``: the local BigQuery as a process of its own."""

import sys

from ecomflow.local.bigquery.server import main

sys.exit(main())
