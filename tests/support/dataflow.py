"""What the tests of submitting share: a project of loopback services, and the staged pipeline, read and run."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import apache_beam as beam
import msgspec
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.portability.api import beam_runner_api_pb2 as beam_proto
from apache_beam.runners.portability.fn_api_runner.fn_runner import FnApiRunner
from apache_beam.runners.runner import PipelineState

from ecomflow.config import Endpoints, Settings
from ecomflow.gcp.target import Target
from ecomflow.pipeline.dataflow import submit
from ecomflow.pipeline.runtime import Runtime
from tests.support.dataflow_stub import DataflowStub, running_stub

PROJECT = "ecom-test"
READ = "beam:transform:pubsub_read:v1"


def in_project(settings: Settings, **job: object) -> Settings:
    """``settings`` in a project, as on Google Cloud; ``job`` are settings of the Dataflow job."""
    changed = msgspec.structs.replace(settings.dataflow, **job)
    return msgspec.structs.replace(settings, project=PROJECT, dataflow=changed)


@contextlib.contextmanager
def dataflow_beside(stack: Endpoints) -> Iterator[tuple[DataflowStub, Endpoints]]:
    """The stub of Dataflow's API, and the endpoints of ``stack`` with it."""
    with running_stub() as stub:
        yield stub, msgspec.structs.replace(stack, dataflow=stub.url)


def as_variables(endpoints: Endpoints) -> dict[str, str]:
    """``endpoints`` as the environment variables that a command reads."""
    return {
        "PUBSUB_EMULATOR_HOST": str(endpoints.pubsub),
        "STORAGE_EMULATOR_HOST": str(endpoints.storage),
        "BIGQUERY_EMULATOR_HOST": str(endpoints.bigquery),
        "BIGQUERY_STORAGE_EMULATOR_HOST": str(endpoints.bigquery_storage),
        "DATAFLOW_EMULATOR_HOST": str(endpoints.dataflow),
    }


def download(target: Target, path: str) -> bytes:
    """The object at ``path`` (gs://bucket/name)."""
    bucket, name = path.removeprefix("gs://").split("/", 1)
    content: bytes = target.storage.bucket(bucket).blob(name).download_as_bytes()
    return content


def staged_pipeline(target: Target, job: submit.SubmittedJob) -> beam_proto.Pipeline:
    return beam_proto.Pipeline.FromString(download(target, job.staged[0]))


def read_step(pipeline: beam_proto.Pipeline) -> beam_proto.PTransform:
    (found,) = [step for step in pipeline.components.transforms.values() if step.spec.urn == READ]
    return found


def execute(pipeline: beam_proto.Pipeline, messages: list[bytes], target: Target) -> None:
    """Run the staged ``pipeline`` to its end in this process, ``messages`` (serialized) in the place of its Pub/Sub read."""
    _feed(pipeline, messages)
    for environment in pipeline.components.environments.values():
        environment.CopyFrom(beam_proto.Environment(urn="beam:env:embedded_python:v1"))
    for collection in pipeline.components.pcollections.values():
        collection.is_bounded = beam_proto.IsBounded.BOUNDED
    with Runtime(submit.worker_config(target)):
        ended = FnApiRunner().run_via_runner_api(pipeline, PipelineOptions(["--no_auth"]))
        assert ended.wait_until_finish() in (None, PipelineState.DONE)
        assert ended.state == PipelineState.DONE


def _feed(pipeline: beam_proto.Pipeline, messages: list[bytes]) -> None:
    """Put a Create of ``messages`` into ``pipeline`` where it reads from Pub/Sub: the graph of a Create, under ids of its own."""
    fed = beam.Pipeline(runner=FnApiRunner())
    fed | "Feed" >> beam.Create(messages, reshuffle=False)  # type: ignore[operator]  # Beam is untyped
    source = fed.to_runner_api().components
    reading = read_step(pipeline)
    (output,) = reading.outputs.values()
    (create,) = [step for step in source.transforms.values() if step.unique_name == "Feed"]
    renamed = {next(iter(create.outputs.values())): output}

    def own(name: str) -> str:
        return renamed.get(name, f"feed-{name}") if name else ""

    for key, coder in source.coders.items():
        coder.component_coder_ids[:] = map(own, coder.component_coder_ids)
        pipeline.components.coders[own(key)].CopyFrom(coder)
    for key, strategy in source.windowing_strategies.items():
        strategy.window_coder_id, strategy.environment_id = own(strategy.window_coder_id), own(strategy.environment_id)
        pipeline.components.windowing_strategies[own(key)].CopyFrom(strategy)
    for key, environment in source.environments.items():
        pipeline.components.environments[own(key)].CopyFrom(environment)
    for key, collection in source.pcollections.items():
        if own(key) != output:
            collection.coder_id, collection.windowing_strategy_id = (
                own(collection.coder_id),
                own(collection.windowing_strategy_id),
            )
            pipeline.components.pcollections[own(key)].CopyFrom(collection)
    for key, step in source.transforms.items():
        _rename(step, own)
        pipeline.components.transforms[own(key)].CopyFrom(step)
    reading.spec.Clear()
    reading.subtransforms[:] = [own(key) for key, step in source.transforms.items() if step.unique_name.startswith("Feed/")]


def _rename(step: beam_proto.PTransform, own: Callable[[str], str]) -> None:
    for edges in (step.inputs, step.outputs):
        for tag, name in list(edges.items()):
            edges[tag] = own(name)
    step.subtransforms[:] = [own(name) for name in step.subtransforms]
    step.environment_id = own(step.environment_id)
