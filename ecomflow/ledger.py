"""A publisher's ledger in, what was published by event id out; and where the local stack's own ledger lies."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import quote

import msgspec

from ecomflow.config import Endpoints, Settings, read_stack_endpoints
from ecomflow.errors import ConfigError
from ecomflow.generator.publisher import LedgerEntry


def default_ledger(settings: Settings, endpoints: Endpoints) -> Path | None:
    """Where ``ecomflow publish`` keeps the ledger of the local stack; None for a project and for an emulator of the user's.

    It lies among the data of the local Pub/Sub, so that ``infra down --with-data`` takes it along with the events that it tells
    of. Each topic and dataset has its own.
    """
    data = settings.state_path / "pubsub"
    own = read_stack_endpoints(settings.state_path) if settings.is_local else None
    if own is None or own.pubsub != endpoints.pubsub or not data.is_dir():
        return None
    return data / "ledger" / f"{quote(settings.topic, safe='')}.{settings.dataset}.jsonl"


def read_ledger(path: Path) -> dict[str, LedgerEntry]:
    """The entries by the ``event_id`` of the fact tables: an event that was published twice is there once.

    A last line without an end is being written and left out. Raises ConfigError for a file that can't be read or is no ledger.
    """
    entries: dict[str, LedgerEntry] = {}
    decoder = msgspec.json.Decoder(LedgerEntry)
    try:
        with path.open("rb") as lines:
            for line in lines:
                if line.endswith(b"\n"):
                    entry = decoder.decode(line)
                    entries[entry.event_id or entry.message_id] = entry
    except OSError as error:
        raise ConfigError(f"The ledger {path} can't be read: {error.strerror}.", "Name another with --ledger.") from error
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is no ledger: {error}.", "Name one that ecomflow publish --ledger wrote.") from error
    return entries
