"""Topic, subscription, bucket, dataset, tables and views: what exists, what should, and the steps between."""
