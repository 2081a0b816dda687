"""The local BigQuery: bqemulator behind guards, with the repairs and the append service that a streaming pipeline needs."""
