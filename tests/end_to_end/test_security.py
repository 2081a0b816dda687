"""Nothing of a message reaches a path, a shell, SQL or a terminal; nothing but this machine reaches the services."""

from __future__ import annotations

import io
import ipaddress
import json
import os
import pty
import re
import stat
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest
from rich.console import Console

from ecomflow.config import Endpoints, Settings
from ecomflow.contract.codec import Codec
from ecomflow.contract.dead_letter import DeadLetter, dead_letter, from_line, original, to_lines
from ecomflow.contract.events import Message
from ecomflow.contract.loading import shop_contracts
from ecomflow.contract.modelling import model
from ecomflow.deadletters import store
from ecomflow.errors import EcomflowError
from ecomflow.gcp.clients import storage_client
from ecomflow.gcp.target import Target
from ecomflow.pipeline.config import PipelineConfig
from ecomflow.pipeline.counters import Counters
from ecomflow.pipeline.sinks.dead_letters import DeadLetterWriter, object_name
from ecomflow.terminal import console
from ecomflow.terminal.console import show_json
from ecomflow.warehouse import queries
from tests.support.cli import ecomflow, environment
from tests.support.contract import part_of
from tests.support.hostile import CONTROL, HOSTILE
from tests.support.pipeline import inventory

STYLE = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]")  # of rich's own: colours, the cursor of its spinner
NOW = datetime.now(UTC).replace(microsecond=0)
SHOP = shop_contracts()


def letter(**changes: Any) -> DeadLetter:
    sent = Message(HOSTILE.encode(), {"event_id": HOSTILE, HOSTILE: HOSTILE}, "m-1", 0)
    return msgspec.structs.replace(dead_letter(sent, "unknown_event_type", HOSTILE, HOSTILE, NOW, HOSTILE), **changes)


class TestPaths:
    @pytest.mark.parametrize("name", ["../../etc", "order/../../x", "/etc/passwd", "dlq", HOSTILE, "order\n"])
    def test_a_stream_is_one_of_ours(self, name: str) -> None:
        """Whatever type or id a message claims, it goes to a stream whose name we chose."""
        body = json.dumps({"event_type": name}).encode()
        decoded = Codec(SHOP).decode([Message(body, {"event_id": name}, name, 0)], NOW)
        assert [part.stream for part in decoded.parts] == ["unknown"]

    @pytest.mark.stack
    def test_an_objects_name_holds_nothing_of_a_message(self, provisioned: Settings, target: Target) -> None:
        """Stream, minute, a moment and a random number: that is all."""
        write(target, [letter()])
        (found,) = store.newest(target, limit=10)
        assert re.fullmatch(r"dlq/unknown/\d{4}/\d\d/\d\d/\d\d/\d\d/\d{8}-[0-9a-f]{32}\.jsonl", found.object_name)
        assert found.letter == letter()
        assert original(found.letter) == (HOSTILE.encode(), {"event_id": HOSTILE, HOSTILE: HOSTILE})


class TestSql:
    @pytest.mark.parametrize(
        "value", ["2025-12-01' OR '1'='1", "2025-12-01; DROP TABLE fact_order", "@date", "DATE '2025-12-01'"]
    )
    def test_a_parameter_is_a_date_or_nothing(self, value: str, tmp_path: Path) -> None:
        """A question's date is read here, before anything is asked."""
        with pytest.raises(EcomflowError, match="is not a valid DATE"):
            queries.ask(
                Target(Settings(), Endpoints(bigquery="http://127.0.0.1:9")), "delivered-orders-per-country", {"date": value}
            )

    @pytest.mark.parametrize("name", ["DATASET", "PROJECT"])
    def test_names_that_stand_in_sql_are_checked(self, name: str, tmp_path: Path) -> None:
        """A dataset or project with a backtick, a blank or a semicolon never becomes a setting."""
        result = ecomflow("query", "SELECT 1", folder=tmp_path, **{f"ECOMFLOW_{name}": "x`; DROP TABLE y; --"})
        assert result.returncode == 2
        assert f"{name.lower()} is 'x`; DROP TABLE y; --': expected " in result.stderr

    @pytest.mark.stack
    def test_texts_are_values(self, provisioned: Settings, target: Target) -> None:
        """Hostile ids are bound as values: they find their own row, and the table is still there."""
        sent = Message(json.dumps(inventory(1, product_id=HOSTILE)).encode(), {"event_id": HOSTILE}, "m-1", 0)
        load(target, [sent])
        sql = "SELECT event_id, product_id FROM ecomflow.fact_inventory WHERE event_id IN UNNEST(@ids)"
        assert queries.select(target, sql, ids=[HOSTILE]) == ((HOSTILE, HOSTILE),)
        assert queries.select(target, sql, ids=["' OR '1'='1"]) == ()


def load(target: Target, messages: list[Message]) -> None:
    """``messages``, all of them stock, into their table by the pipeline's own steps."""
    from ecomflow.pipeline.ingestion import IngestionTimes
    from ecomflow.pipeline.sinks.bigquery import TableWriters, with_ingestion_time

    config = pipeline_config(target)
    facts = model(part_of(Codec(SHOP).decode(messages, datetime(2026, 2, 1, tzinfo=UTC)), "inventory"), NOW)
    (part,) = facts.tables
    with closing(TableWriters(config, Counters())) as writers:
        writer = writers.writer(part.table)
        assert writer.finish(writer.start(with_ingestion_time(part.rows, IngestionTimes().of(facts.event_ids, NOW)))) == []


def write(target: Target, letters: list[DeadLetter]) -> None:
    writer = DeadLetterWriter(pipeline_config(target), Counters())
    writer.finish(writer.start("unknown", letters))
    writer.close()


def put(target: Target, name: str, content: bytes, **more: Any) -> None:
    blob = target.bucket.blob(name)
    for field, value in more.items():
        setattr(blob, field, value)
    blob.upload_from_string(content)


def pipeline_config(target: Target) -> PipelineConfig:
    return PipelineConfig(
        target.settings.project_id,
        target.settings.subscription_path,
        target.settings.bucket_name,
        target.settings.dataset,
        target.endpoints,
        10,
        SHOP,
    )


def on_a_terminal(*arguments: str, settings: Settings) -> str:
    """What the command writes to a colour terminal."""
    master, slave = pty.openpty()
    surroundings = environment(settings, TERM="xterm-256color")
    del surroundings["NO_COLOR"]
    process = subprocess.Popen(
        [sys.executable, "-m", "ecomflow", *arguments],
        stdout=slave,
        stderr=subprocess.DEVNULL,
        stdin=subprocess.DEVNULL,
        env=surroundings,
    )
    os.close(slave)
    written = b""
    try:
        while piece := os.read(master, 65_536):
            written += piece
    except OSError:  # Linux says so when the last writer is gone
        pass
    os.close(master)
    process.wait(timeout=60)
    return written.decode().replace("\r\n", "\n")


@pytest.fixture(scope="module")
def hostile(stack: Endpoints, stack_folder: Path) -> Settings:
    """A bucket of hostile dead letters, with an object that is none."""
    settings = Settings(bucket=f"bucket-{uuid.uuid4().hex[:8]}", state_dir=str(stack_folder))
    storage_client(settings.project_id, stack).create_bucket(settings.bucket_name)
    write(Target(settings, stack), [letter(), letter(payload=f"second {HOSTILE}", reason="processing_error")])
    return settings


@pytest.mark.stack
class TestTerminal:
    @pytest.mark.parametrize("arguments", [(), ("--full",), ("--json",), ("--reason", "processing_error", "--full")])
    def test_a_dead_letter_is_shown_as_text(self, hostile: Settings, arguments: tuple[str, ...]) -> None:
        """Beside rich's own colours no escape, bell, carriage return or turning mark is written, and no markup is read."""
        shown = STYLE.sub("", on_a_terminal("dlq", "inspect", *arguments, settings=hostile))
        assert CONTROL.findall(shown) == []
        if "--json" not in arguments:
            assert "\\x1b[2J\\x1b]0;title\\x07\\x1b]8;;http://evil.example" in re.sub(r"\s", "", shown)

    def test_json_is_json_and_inert(self, hostile: Settings) -> None:
        """A program reads the very text; a terminal sees escapes of JSON in the place of every control character."""
        result = ecomflow("dlq", "inspect", "--json", settings=hostile)
        assert result.returncode == 0, result.stderr
        letters = [from_line(msgspec.json.encode(item["letter"])) for item in json.loads(result.stdout)]
        assert {one.payload for one in letters} == {HOSTILE, f"second {HOSTILE}"}
        assert all((one.error, one.event_type, one.event_id, one.traceback) == (HOSTILE,) * 4 for one in letters)
        assert CONTROL.findall(result.stdout) == []

    def test_errors_quote_hostile_arguments_inertly(self, hostile: Settings) -> None:
        """A sentence that repeats what it was given repeats it as text."""
        argument = HOSTILE.replace("\x00", "")
        for arguments in (("--stream", argument), ("--reason", argument), ("--since", argument)):
            result = ecomflow("dlq", "inspect", *arguments, settings=hostile)
            assert result.returncode == 2
            assert "\\x1b[2J" in result.stderr
            assert CONTROL.findall(result.stderr) == []

    def test_a_querys_answer_is_inert(self, provisioned: Settings, target: Target) -> None:
        """Rows are the producers' words, and shown as text."""
        sent = Message(json.dumps(inventory(1, product_id=HOSTILE)).encode(), {"event_id": "e-1"}, "m-1", 0)
        load(target, [sent])
        sql = "SELECT product_id AS x FROM ecomflow.fact_inventory"
        shown = ecomflow("query", sql, settings=provisioned)
        assert shown.returncode == 0, shown.stderr
        assert "\\x1b[2J\\x1b]0;title\\x07" in shown.stdout
        assert CONTROL.findall(shown.stdout) == []
        as_json = ecomflow("query", sql, "--json", settings=provisioned)
        assert json.loads(as_json.stdout) == [{"x": HOSTILE}]
        assert CONTROL.findall(as_json.stdout) == []


@pytest.mark.stack
class TestForeignObjects:
    """The bucket is input as well: what lies under dlq/ may be anybody's."""

    def test_the_others_are_shown_and_it_fails(self, provisioned: Settings, target: Target) -> None:
        """Text, bytes, broken lines, wrong compression and wrong places: each is named, the dead letters are shown."""
        write(target, [letter(error="$: the good one")])
        folder = f"dlq/unknown/{NOW:%Y/%m/%d/%H/%M}"
        good = to_lines([letter(error="$: beside a bad line")])
        put(target, f"{folder}/a.txt", b"hello\n\x1b[2J")
        put(target, f"{folder}/b.bin", bytes(range(256)) * 100)
        put(target, f"{folder}/c.jsonl", good + b'{"reason":"boredom"}\n' + good[:50])
        put(target, f"{folder}/d.gz", b"not compressed", content_encoding="gzip")
        put(target, f"{folder}/e.jsonl", b"[" * 100_000)
        naive = json.loads(to_lines([letter()])) | {"failed_at": "2026-01-01T00:00:00"}
        put(target, f"{folder}/f.jsonl", json.dumps(naive).encode())
        put(target, f"{folder}/g.jsonl", b"")
        put(target, "dlq/unknown/readme.txt", b"at a level that holds no objects")
        put(target, "dlq/unknown/x/y/z/v/w/h.jsonl", b"in folders that are no time")

        result = ecomflow("dlq", "inspect", "--json", settings=provisioned)
        assert result.returncode == 1
        assert [one["letter"]["error"] for one in json.loads(result.stdout)] == ["$: beside a bad line", "$: the good one"]
        error = json.loads(result.stderr)["error"]
        sentence = error["message"]
        assert sentence.startswith("7 objects")
        named = [line.partition(":")[0].rpartition("/")[2] for line in sentence.splitlines() if line.startswith("dlq/")]
        assert sorted(named) == ["a.txt", "b.bin", "c.jsonl", "d.gz", "e.jsonl", "f.jsonl", "h.jsonl"]
        assert "c.jsonl: line 2 is not a dead letter: Invalid enum value 'boredom'" in result.stderr
        assert "(and 1 more lines)" in result.stderr
        assert CONTROL.findall(result.stderr) == []
        assert error["remedy"] == "Move them out of dlq/."

    def test_reading_all_of_them_fails(self, provisioned: Settings, target: Target) -> None:
        """A count that leaves an object out would be wrong, so there is none."""
        put(target, f"dlq/order/{NOW:%Y/%m/%d/%H/%M}/x.jsonl", b"hello")
        with pytest.raises(EcomflowError, match=r"x\.jsonl is unreadable: line 1 is not a dead letter"):
            list(store.letters(target))

    def test_a_huge_object_is_not_read(self, provisioned: Settings, monkeypatch: pytest.MonkeyPatch, target: Target) -> None:
        """What is larger than any object of ours stays where it is."""
        monkeypatch.setattr(store, "MAX_OBJECT_BYTES", 4)
        put(target, f"dlq/order/{NOW:%Y/%m/%d/%H/%M}/x.jsonl", b"hello")
        unreadable: list[store.Unreadable] = []
        assert store.newest(target, limit=10, unreadable=unreadable) == []
        assert [one.error for one in unreadable] == ["its size, 5 bytes, exceeds that of any object of dead letters (4 bytes)"]


class TestJson:
    def test_every_character_survives(self, capsys: pytest.CaptureFixture[str]) -> None:
        """Escaping changes how a text is written, not what it is; as a key, too."""
        text = "".join(map(chr, [*range(0x300), *range(0x2000, 0x2070), 0xFEFF, 0x1F600]))
        show_json({text: [text]})
        written = capsys.readouterr().out
        assert json.loads(written) == {text: [text]}
        assert CONTROL.findall(written) == []


def test_headings_and_sentences_are_inert(monkeypatch: pytest.MonkeyPatch) -> None:
    """The names of columns, and what a sentence or a note quotes, are text; a sentence may have lines."""
    text = io.StringIO()
    for name in ("out", "err"):
        monkeypatch.setattr(console, name, Console(file=text, width=300))
    console.show_table("[red]t", ("[red]c\x1b[2J",), [("v",)])
    console.say("[blink]one\x07\ntwo")
    console.note("[blink]three\x9b")
    assert [line.strip() for line in text.getvalue().splitlines() if line.strip("─ ")] == [
        *("[red]t", "[red]c\\x1b[2J", "v", "[blink]one\\x07", "two", "[blink]three\\x9b"),
    ]


SECRET = "MIIEvQIBADANBgkqhkiG9w0BAQEFAASCBKcwggSjAgEAAoIBAQC7"


@pytest.fixture(scope="module")
def own_stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, list[str]]]:
    """A stack made by the CLI under a umask that hides nothing, with a credentials file around; all that commands printed."""
    folder = tmp_path_factory.mktemp("own")
    key = {"type": "service_account", "private_key": f"-----BEGIN PRIVATE KEY-----\n{SECRET}\n", "private_key_id": SECRET[::-1]}
    (folder / "key.json").write_text(json.dumps(key | {"client_email": "robot@test.example", "token_uri": "https://x.example"}))
    printed = []

    def run(*arguments: str) -> None:
        result = subprocess.run(
            [sys.executable, "-m", "ecomflow", *arguments],
            capture_output=True,
            text=True,
            timeout=120,
            cwd=folder,
            env=environment(None, GOOGLE_APPLICATION_CREDENTIALS=str(folder / "key.json"), ECOMFLOW_DEBUG="1"),
            umask=0,
            check=False,
        )
        printed.append(result.stdout + result.stderr)
        assert result.returncode == 0, printed[-1]

    try:
        run("infra", "up")
        run("deploy", "--detach")
        run("publish", "--n", "2")
        run("job", "drain")
        yield folder, printed
    finally:
        ecomflow("job", "drain", folder=folder)
        ecomflow("infra", "down", folder=folder)


@pytest.mark.stack
class TestWhoGetsIn:
    def test_services_listen_on_loopback_only(self, own_stack: tuple[Path, list[str]]) -> None:
        """Every socket that any process of the stack listens at is bound to 127.0.0.1."""
        services = json.loads((own_stack[0] / ".ecomflow/stack.json").read_bytes())["services"]
        listening: dict[str, set[Any]] = {}
        for name, service in services.items():
            parent = psutil.Process(service["pid"])
            for process in (parent, *parent.children(recursive=True)):
                for connection in process.net_connections("inet"):
                    if connection.status == psutil.CONN_LISTEN:
                        listening.setdefault(name, set()).add(tuple(connection.laddr))
        assert {name: {port for _, port in places} for name, places in listening.items()} == {
            name: set(service["ports"]) for name, service in services.items()
        }
        hosts = {ipaddress.ip_address(host) for places in listening.values() for host, _ in places}
        assert {str(getattr(host, "ipv4_mapped", None) or host) for host in hosts} == {"127.0.0.1"}

    def test_the_state_folder_is_the_users_own(self, own_stack: tuple[Path, list[str]]) -> None:
        """Whatever the umask, nobody else can look into it, so that what lies in it is private as well."""
        assert stat.S_IMODE((own_stack[0] / ".ecomflow").stat().st_mode) == 0o700
        folders = [path for path in (own_stack[0] / ".ecomflow").iterdir() if path.is_dir()]
        assert {path.name for path in folders} == {"logs", "pubsub", "storage", "bigquery"}
        assert {stat.S_IMODE(path.stat().st_mode) for path in folders} == {0o700}

    def test_no_secret_is_printed_or_kept(self, own_stack: tuple[Path, list[str]]) -> None:
        """Neither output, nor log, nor any file of the stack holds the key, its id or its file's content."""
        folder, printed = own_stack
        files = {path: path.read_bytes() for path in (folder / ".ecomflow").rglob("*") if path.is_file()}
        assert any(path.name == "pipeline.log" for path in files)
        for secret in (SECRET, SECRET[::-1], "BEGIN PRIVATE KEY"):
            assert not any(secret in text for text in printed)
            assert [path for path, content in files.items() if secret.encode() in content] == []


def test_an_objects_name_is_made_of_our_own_words() -> None:
    """The one place that makes a path from a stream, which is an event of a contract or unknown."""
    assert (
        object_name("unknown", datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=UTC), "u")
        == "dlq/unknown/2026/01/02/03/04/05000006-u.jsonl"
    )
