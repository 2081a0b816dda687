"""Questions to BigQuery: their rows, and charts of them."""
