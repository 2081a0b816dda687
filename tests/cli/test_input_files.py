"""Files of events that commands read: what is no text in UTF-8 is named at once, and not line by line."""

from __future__ import annotations

import gzip
import io
import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from ecomflow.commands.shared import lines_of
from ecomflow.errors import ConfigError
from tests.contract.test_reasons import ENCODED
from tests.support.cli import ecomflow
from tests.support.contract import encoded, inventory

TEXT = "".join(json.dumps({"event_type": "refund", "n": n}) + "\n" for n in range(3))
NAMED = [(encode, name) for encode, name in ENCODED if name != "nothing"]


@pytest.mark.parametrize(("encode", "name"), NAMED, ids=[f"{name} {n}" for n, (_, name) in enumerate(NAMED)])
def test_a_file_that_is_no_utf_8_is_named(encode: object, name: str, tmp_path: Path) -> None:
    """With the command that converts it, where there is one."""
    assert callable(encode)
    path = tmp_path / "my events"
    path.write_bytes(encode(TEXT))
    with pytest.raises(ConfigError) as caught:
        list(lines_of(path))
    assert caught.value.message == f"{path}: expected JSON lines in UTF-8, got {name}."
    assert caught.value.remedy is not None
    is_convertible = name not in ("an Avro file", "a Parquet file")
    assert caught.value.remedy.endswith(f" '{path}' > events.jsonl" if is_convertible else "as JSON lines.")


def test_standard_input_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pipe has no name, and the file behind it is the user's to know."""
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(gzip.compress(TEXT.encode()))))
    with pytest.raises(ConfigError) as caught:
        list(lines_of(Path("-")))
    assert caught.value.args == (
        "Standard input: expected JSON lines in UTF-8, got data compressed with gzip.",
        "Convert it first: gunzip -c FILE > events.jsonl",
    )


@pytest.mark.parametrize("content", [b"", b"\n", TEXT.encode(), b"\xff\n", "é\n".encode()])
def test_any_other_file_comes_line_by_line(content: bytes, tmp_path: Path) -> None:
    """Its very bytes: each line is judged by itself."""
    (tmp_path / "events").write_bytes(content)
    assert b"".join(lines_of(tmp_path / "events")) == content


@pytest.mark.slow
@pytest.mark.parametrize(
    "command",
    ["contract check FILE", "contract new refund --from FILE", "publish --file FILE --dry-run"],
    ids=lambda one: one[:12],
)
def test_each_command_says_so(command: str, tmp_path: Path) -> None:
    """Exit code 2, and nothing is printed of the file."""
    (tmp_path / "events.gz").write_bytes(gzip.compress(TEXT.encode()))
    found = ecomflow(*command.replace("FILE", "events.gz").split(), folder=tmp_path)
    assert (found.returncode, found.stdout) == (2, "")
    assert "events.gz: expected JSON lines in UTF-8, got data compressed with gzip." in found.stderr
    assert "gunzip -c events.gz > events.jsonl" in found.stderr


@pytest.mark.slow
def test_a_file_with_a_message_that_pubsub_would_refuse(tmp_path: Path) -> None:
    """The dry run prints the others, and names the line and why; exit code 1."""
    lines = [encoded(inventory()), json.dumps({"data": {}, "attributes": {"googol": "1"}}).encode(), encoded(inventory())]
    (tmp_path / "events.jsonl").write_bytes(b"\n".join(lines))
    found = ecomflow("publish", "--file", "events.jsonl", "--dry-run", folder=tmp_path)
    assert (found.returncode, len(found.stdout.splitlines())) == (1, 2)
    assert "Pub/Sub does not take 1 message of events.jsonl:" in found.stderr
    assert "line 2: expected no attribute whose name begins with goog, which Pub/Sub reserves, got 'googol'" in found.stderr
