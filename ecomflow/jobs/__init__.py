"""Inspecting, stopping and replacing a running pipeline: on Dataflow (``service``, ``update``) or on this machine (``local``)."""
