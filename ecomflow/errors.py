"""The errors that a user sees: a message, what to do next, and an exit code.

One class hierarchy. Exceptions of other libraries are translated where they enter, and only ``cli.py`` prints errors. Each class
keeps its arguments in ``args``, so that an error survives pickling between Beam's workers.
"""

from __future__ import annotations


def install_extra(*extras: str) -> str:
    """How to install optional parts of the package, which no index has."""
    return f"In the folder of ecomflow's source, run: pip install '.[{','.join(extras)}]'"


class EcomflowError(Exception):
    """A failure that the user can understand and fix.

    ``message`` states in one sentence what was expected and what was found; ``remedy`` is the next command or step, or None.
    """

    exit_code = 1

    def __init__(self, message: str, remedy: str | None = None) -> None:
        super().__init__(message, remedy)
        self.message = message
        self.remedy = remedy

    def __str__(self) -> str:
        return self.message if self.remedy is None else f"{self.message}\n{self.remedy}"


class ConfigError(EcomflowError):
    """A setting is missing, malformed or contradicts another."""

    exit_code = 2


class NotFoundError(EcomflowError):
    """A required resource (topic, subscription, bucket, table, question) does not exist."""

    exit_code = 3


class UnavailableError(EcomflowError):
    """A service can't be reached, or the local stack is not running."""

    exit_code = 4


class AccessError(EcomflowError):
    """A credential, role or file permission is missing."""

    exit_code = 5


class SchemaError(EcomflowError):
    """A table's columns differ from its DDL."""

    exit_code = 6


class ImbalanceError(EcomflowError):
    """Facts and dead letters don't add up to what was published."""

    exit_code = 7


class MissingExtraError(EcomflowError):
    """An optional part of the package (``ecomflow[local]``) is not installed."""

    exit_code = 8


class PipelineError(EcomflowError):
    """The pipeline stopped for a reason that a restart does not fix."""

    exit_code = 9


class ContractError(EcomflowError):
    """Events violate the contract, or a contract refuses events that its predecessor accepted."""

    exit_code = 10
