"""A pipeline's proto in; its steps as a tree out: each with the steps that read its output."""

from __future__ import annotations

from typing import Any

import msgspec


class Step(msgspec.Struct, frozen=True):
    """A step of the graph, by its label. ``parts`` are the labels of its inner steps, ``then`` the steps that follow it."""

    name: str
    parts: tuple[str, ...]
    then: tuple[Step, ...]


def graph_tree(pipeline: Any) -> tuple[Step, ...]:
    """The steps of ``pipeline`` (``beam_runner_api_pb2.Pipeline``) that read no other step's output, with those that follow."""
    transforms = pipeline.components.transforms
    top = [transforms[name] for root in pipeline.root_transform_ids for name in transforms[root].subtransforms]
    return tuple(_step(step, top, transforms) for step in top if not step.inputs)


def step_names(steps: tuple[Step, ...]) -> list[str]:
    """The full labels of all steps in a tree, as Dataflow shows them: ``Read messages``, ``Read messages/Batch``, ..."""
    names: list[str] = []
    for step in steps:
        names += [step.name, *(f"{step.name}/{part}" for part in step.parts), *step_names(step.then)]
    return names


def _step(step: Any, top: list[Any], transforms: Any) -> Step:
    outputs = _outputs(step, transforms)
    then = [_step(other, top, transforms) for other in top if outputs.intersection(other.inputs.values())]
    parts = tuple(transforms[name].unique_name.removeprefix(f"{step.unique_name}/") for name in step.subtransforms)
    return Step(step.unique_name, parts, tuple(then))


def _outputs(step: Any, transforms: Any) -> set[str]:
    """The outputs of a step and of its parts, because a composite does not list all outputs of its parts."""
    found = set(step.outputs.values())
    for name in step.subtransforms:
        found |= _outputs(transforms[name], transforms)
    return found
