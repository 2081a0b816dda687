"""The steps of the pipeline's graph, from Beam's own proto.

Importing Beam takes seconds and 200 MB, so a separate process builds the graph and then ends: it gets the settings on standard
input, and prints the tree as JSON.
"""

from __future__ import annotations

import subprocess
import sys

import msgspec

from ecomflow.config import Settings
from ecomflow.errors import EcomflowError
from ecomflow.pipeline.tree import Step, graph_tree

_SECONDS = 120


def read_steps(settings: Settings) -> tuple[Step, ...]:
    """The steps of the graph that ``settings`` would run. Takes seconds. Raises EcomflowError."""
    # -P: a file in the working folder must not shadow one of ecomflow's modules.
    command = [sys.executable, "-P", "-m", __name__]
    given = msgspec.json.encode(settings)
    made = subprocess.run(command, input=given, capture_output=True, timeout=_SECONDS, check=False)
    try:
        return msgspec.json.decode(made.stdout, type=tuple[Step, ...])
    except msgspec.MsgspecError as error:
        said = made.stderr.decode("utf-8", "replace").strip().splitlines() or ["nothing"]
        raise EcomflowError(
            f"The pipeline's graph can't be built: {said[-1]}", "See: ecomflow --debug deploy --dry-run"
        ) from error


def _print_steps(settings: Settings) -> None:
    import apache_beam as beam
    from apache_beam.options.pipeline_options import PipelineOptions

    from ecomflow.pipeline.config import pipeline_config
    from ecomflow.pipeline.dataflow.source import ReadMessages
    from ecomflow.pipeline.direct.source import PullMessages
    from ecomflow.pipeline.graph import build_graph

    config = pipeline_config(settings)
    source = PullMessages(config) if settings.is_local else ReadMessages(config, None, None)
    pipeline = beam.Pipeline(options=PipelineOptions(["--no_auth", "--streaming"]))
    build_graph(pipeline, source, config)
    sys.stdout.buffer.write(msgspec.json.encode(graph_tree(pipeline.to_runner_api())))


if __name__ == "__main__":
    _print_steps(msgspec.json.decode(sys.stdin.buffer.read(), type=Settings))
