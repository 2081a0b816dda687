"""Pub/Sub, GCS and BigQuery on one machine, without an account."""
