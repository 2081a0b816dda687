"""What the page shows, read from the pipeline, the bucket and the warehouse."""
