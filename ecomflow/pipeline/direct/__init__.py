"""The pipeline on this machine: its source, the engine on Beam's FnApiRunner, and the processes that it runs in."""
