"""From Pub/Sub messages to BigQuery facts and dead letters: pure transforms, sources, sinks and the graph that joins them."""
