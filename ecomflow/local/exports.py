"""Endpoints of the local stack in; shell commands that set the variables by which programs find it out."""

from __future__ import annotations

import re
import shlex
from typing import Literal

from ecomflow.config import EMULATOR_VARIABLES, LOCAL_PROJECT, Endpoints

Shell = Literal["sh", "fish", "powershell", "dotenv"]


def variables(endpoints: Endpoints) -> dict[str, str]:
    """The variables that Google's clients read; only ecomflow reads BIGQUERY_STORAGE_EMULATOR_HOST."""
    named = {variable: getattr(endpoints, field) for field, variable in EMULATOR_VARIABLES.items()}
    return {name: value for name, value in named.items() if value is not None} | {"GOOGLE_CLOUD_PROJECT": LOCAL_PROJECT}


def export_line(shell: Shell, name: str, value: str) -> str:
    """The command that sets ``name`` in ``shell`` for the programs it starts; for ``dotenv`` a line of a .env file."""
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
