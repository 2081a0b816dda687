"""Text that is hostile to whatever shows or runs it."""

from __future__ import annotations

import re

# What a terminal, a markup reader, a shell, a path and SQL would each take for more than text.
HOSTILE = (
    "\x1b[2J\x1b]0;title\x07\x1b]8;;http://evil.example\x1b\\click\x9b31m\x90q\x9c\r\b\x7f\x00"
    "[red]x[/red][link=http://evil.example]y[/link][/]\u202egnp.exe\u2066\u2028\u200f"
    "../../etc/passwd $(touch pwned) `id`; DROP TABLE fact_inventory;-- ' \" \\ {0} %s é 💶"
)
# No output may hold them. Line feeds are the output's own.
CONTROL = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")
