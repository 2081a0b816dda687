"""Reads what the page shows from the pipeline, the bucket and the warehouse."""
