"""What can go wrong for a user: a sentence, what to do next, and an exit code.

One tree. Foreign exceptions are translated into it at the border where they enter, and ``cli.py`` is the only place that prints
one. Every class keeps its arguments in ``args``, so that an error survives pickling between Beam's workers.
"""

from __future__ import annotations


class EcomflowError(Exception):
    """A failure that the user can understand and mend.

    ``message`` says in one sentence what was expected and what was found; ``remedy`` is the next command or step, or None.
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
    """A resource that must exist (topic, subscription, bucket, table, question) does not."""

    exit_code = 3


class UnavailableError(EcomflowError):
    """A service cannot be reached, or the local stack does not run."""

    exit_code = 4


class AccessError(EcomflowError):
    """A credential, role or file permission is missing."""

    exit_code = 5


class SchemaError(EcomflowError):
    """A table's columns are not those that its DDL gives."""

    exit_code = 6


class ImbalanceError(EcomflowError):
    """What was published is not what landed as facts and dead letters."""

    exit_code = 7


class MissingExtraError(EcomflowError):
    """An optional part of the package (``ecomflow[local]``) is not installed."""

    exit_code = 8


class PipelineError(EcomflowError):
    """The pipeline stopped for a reason that a restart does not mend."""

    exit_code = 9


class ContractError(EcomflowError):
    """Events are not those of the contract, or a contract would refuse what the one before it took."""

    exit_code = 10
