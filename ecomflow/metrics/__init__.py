"""The pipeline's metrics: at one moment, over time, and in Prometheus' format."""
