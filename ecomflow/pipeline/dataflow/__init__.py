"""The pipeline on Dataflow: its source, and how a job is built and submitted."""
