"""The services of the local stack that do not answer, by the same calls as ``ecomflow infra status`` makes."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from ecomflow.config import Endpoints, read_stack_endpoints
from ecomflow.gcp.target import Target
from ecomflow.local.probes import answers

_PROBE_SECONDS = 2.0


def silent_services(target: Target) -> tuple[str, ...]:
    """The names of the local stack's services that ``target`` uses and that do not answer; none without a stack."""
    settings = target.settings
    stack = read_stack_endpoints(settings.state_path) if settings.is_local else None
    used = {} if stack is None else _used(stack, target.endpoints)
    if not used:
        return ()
    with ThreadPoolExecutor(len(used)) as pool:
        found = pool.map(lambda name: answers(name, used[name], _PROBE_SECONDS), used)
        return tuple(name for name, is_well in zip(used, found, strict=True) if not is_well)


def _used(stack: Endpoints, endpoints: Endpoints) -> dict[str, list[int]]:
    """The ports of each service of ``stack`` that no emulator variable overrides."""
    services = {
        "pubsub": ((stack.pubsub, endpoints.pubsub),),
        "storage": ((stack.storage, endpoints.storage),),
        "bigquery": ((stack.bigquery, endpoints.bigquery), (stack.bigquery_storage, endpoints.bigquery_storage)),
    }
    return {
        name: [int(own.rsplit(":", 1)[1]) for own, _ in pairs if own is not None]
        for name, pairs in services.items()
        if all(own is not None and own == used for own, used in pairs)
    }
