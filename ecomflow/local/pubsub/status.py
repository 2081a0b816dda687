"""The gRPC statuses with which the local Pub/Sub refuses a request."""

from __future__ import annotations

import grpc


class StatusError(Exception):
    """The response to a request is this status instead of a reply."""

    def __init__(self, code: grpc.StatusCode, details: str) -> None:
        super().__init__(code, details)
        self.code = code
        self.details = details


def invalid(details: str) -> StatusError:
    return StatusError(grpc.StatusCode.INVALID_ARGUMENT, details)


def too_large(limit: int) -> StatusError:
    return invalid(f"Request payload size exceeds the limit: {limit} bytes.")


def unimplemented(what: str) -> StatusError:
    return StatusError(
        grpc.StatusCode.UNIMPLEMENTED, f"The local Pub/Sub does not support this: {what}. Google Cloud Pub/Sub does."
    )


def exhausted(details: str) -> StatusError:
    return StatusError(grpc.StatusCode.RESOURCE_EXHAUSTED, details)
