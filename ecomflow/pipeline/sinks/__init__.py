"""Where the graph ends: BigQuery's Storage Write API and the dead letters' bucket."""
