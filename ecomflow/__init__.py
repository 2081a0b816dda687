"""ecomflow: the life of a streaming pipeline, from one command line."""

__version__ = "0.1.0"
