"""Google Cloud's services, as error messages name them."""

from __future__ import annotations

import msgspec


class Service(msgspec.Struct, frozen=True):
    """A Google Cloud service, the role that lets an account create and change its resources, and its endpoint.

    ``endpoint`` None: Google's own; ``no_answer``: what to do if another one does not answer.
    """

    title: str
    api: str
    role: str
    project: str
    endpoint: str | None
    no_answer: str = "Start the local stack with: ecomflow infra up"

    @property
    def patience_seconds(self) -> float:
        """How long to retry a transient failure. An emulator answers at once or not at all."""
        return 60.0 if self.endpoint is None else 3.0

    @property
    def answer_seconds(self) -> float:
        """How long to wait for the answer to one request: an emulator on this machine needs no network."""
        return 30.0 if self.endpoint is None else 10.0
