"""Endpoints of the local stack come in; the lines go out that set, in a shell, the variables by which programs find it."""

from __future__ import annotations

import re
import shlex
from typing import Literal

from ecomflow.config import LOCAL_PROJECT, Endpoints

Shell = Literal["sh", "fish", "powershell", "dotenv"]


def variables(endpoints: Endpoints) -> dict[str, str]:
    """What Google's clients read, by name. BIGQUERY_STORAGE_EMULATOR_HOST is read by ecomflow alone: Google's has no variable."""
    named = {
        "PUBSUB_EMULATOR_HOST": endpoints.pubsub,
        "STORAGE_EMULATOR_HOST": endpoints.storage,
        "BIGQUERY_EMULATOR_HOST": endpoints.bigquery,
        "BIGQUERY_STORAGE_EMULATOR_HOST": endpoints.bigquery_storage,
        "GOOGLE_CLOUD_PROJECT": LOCAL_PROJECT,
    }
    return {name: value for name, value in named.items() if value is not None}


def export_line(shell: Shell, name: str, value: str) -> str:
    """The line of ``shell`` that sets ``name`` for the programs it starts; of a .env file for ``dotenv``."""
    match shell:
        case "sh":
            return f"export {name}={shlex.quote(value)}"
        case "fish":
            # https://fishshell.com/docs/current/language.html#quotes
            escaped = value.replace("\\", "\\\\").replace("'", "\\'")
            return f"set -gx {name} '{escaped}'"
        case "powershell":
            # Typographic single quotes end a string, too.
            escaped = re.sub("(['\u2018-\u201b])", r"\1\1", value)
            return f"$env:{name} = '{escaped}'"
        case "dotenv":
            escaped = re.sub(r'([\\"$`])', r"\\\1", value).replace("\n", "\\n")
            return f"{name}={value}" if re.fullmatch(r"[\w.:/@-]*", value, re.ASCII) else f'{name}="{escaped}"'
