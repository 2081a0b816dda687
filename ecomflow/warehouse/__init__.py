"""Queries on BigQuery, and charts of their results."""
