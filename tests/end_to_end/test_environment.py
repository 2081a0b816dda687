"""What the user's environment holds: proxies, mutual TLS, encodings that lack characters, folders of other users."""

from __future__ import annotations

import csv
import io
import json
import os
from pathlib import Path

import pytest

from ecomflow.config import Settings
from ecomflow.gcp.target import Target
from ecomflow.loopback.proxies import bypass_proxies
from tests.support.cli import ecomflow, ecomflow_that_obeys
from tests.support.contract import inventory
from tests.support.dead_letters import letter, store

NOBODY_LISTENS = "http://127.0.0.1:9"
PROXIES = ("http_proxy", "https_proxy", "all_proxy", "grpc_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")
DEAD_PROXIES = dict.fromkeys(PROXIES, NOBODY_LISTENS)

# What an encoding of one byte lacks, a pair of UTF-16 units among it.
NAME = "Zoë 東京 👟"


class TestProxies:
    @pytest.mark.parametrize(
        ("before", "after"),
        [
            ({}, "localhost,127.0.0.1,::1,[::1]"),
            ({"NO_PROXY": "localhost, .corp"}, "localhost,.corp,127.0.0.1,::1,[::1]"),
            ({"no_proxy": "a", "NO_PROXY": "b"}, "a,localhost,127.0.0.1,::1,[::1]"),
        ],
    )
    def test_loopback_is_exempt(self, before: dict[str, str], after: str) -> None:
        """Added to what is exempt, by either name, of which the lower-case one counts where both are set."""
        environ = dict(before)
        bypass_proxies(environ)
        assert environ == {"no_proxy": after, "NO_PROXY": after}

    def test_grpcs_own_variable(self) -> None:
        """Where it is set gRPC reads no other, so the names are added there as well."""
        environ = {"no_grpc_proxy": "x"}
        bypass_proxies(environ)
        assert environ["no_grpc_proxy"] == "x,localhost,127.0.0.1,::1,[::1]"

    @pytest.mark.stack
    def test_the_demo_behind_proxies_that_do_not_answer(self, tmp_path: Path) -> None:
        """Services, provisioning, pipeline, publishing, queries: nothing of it leaves the machine, so it adds up, although only
        localhost is exempt.
        """
        result = ecomflow("demo", "--n", "5", "--json", folder=tmp_path, **DEAD_PROXIES, NO_PROXY="localhost")
        assert result.returncode == 0, result.stderr
        outcome = json.loads(result.stdout)
        assert sum(outcome["published"]["valid"].values()) == 15
        assert outcome["equation"]["adds_up"] is True

    @pytest.mark.stack
    def test_each_command_that_reads(self, provisioned: Settings, target: Target) -> None:
        """The bucket, the warehouse, the subscription and the services are reached."""
        store(target, [letter(inventory(reason="x"), "$.reason: no", event_id="e-1")])
        for words, said in (
            (("infra", "plan"), "16 to keep"),
            (("infra", "status"), "ready"),
            (("dlq", "inspect"), "e-1"),
            (("dlq", "replay", "--dry-run"), "1"),
            (("query", "SELECT 41 + 1 AS answer"), "42"),
            (("doctor",), "subscription"),
        ):
            result = ecomflow(*words, settings=provisioned, **DEAD_PROXIES)
            assert (result.returncode, said in result.stdout) == (0, True), (words, result.stdout, result.stderr)


@pytest.mark.stack
class TestMutualTls:
    def test_local_endpoints_are_asked(self, provisioned: Settings, target: Target) -> None:
        """With GOOGLE_API_USE_MTLS_ENDPOINT=always a query and the dead letters come from the local services."""
        store(target, [letter(inventory(reason="x"), "$.reason: no", event_id="e-1")])
        for words, said in ((("query", "SELECT 41 + 1 AS answer"), "42"), (("dlq", "inspect"), "e-1"), (("infra", "plan"), "as")):
            result = ecomflow(*words, settings=provisioned, GOOGLE_API_USE_MTLS_ENDPOINT="always")
            assert (result.returncode, said in result.stdout) == (0, True), result.stderr


@pytest.mark.stack
class TestEncodings:
    @pytest.fixture
    def shop(self, provisioned: Settings, target: Target) -> Settings:
        store(target, [letter(inventory(product_id=NAME), f"$.reason: {NAME}", event_id="e-1")])
        return provisioned

    @pytest.mark.parametrize(
        "variables", [{"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}]
    )
    def test_characters_that_the_output_lacks_are_escaped(self, variables: dict[str, str], shop: Settings) -> None:
        """Sentences and tables show their code points; no command ends for them."""
        for words in (("dlq", "inspect"), ("dlq", "stats"), ("query", "--list")):
            result = ecomflow(*words, settings=shop, **variables)
            assert result.returncode == 0, result.stderr
            assert result.stdout.isascii()
        assert "Zo\\xeb \\u6771\\u4eac \\U0001f45f" in ecomflow("dlq", "inspect", settings=shop, **variables).stdout

    @pytest.mark.parametrize("variables", [{}, {"PYTHONIOENCODING": "ascii"}], ids=["utf-8", "ascii"])
    def test_json_is_ascii(self, variables: dict[str, str], shop: Settings) -> None:
        """Everywhere, so that no program's locale can spoil it; it reads back as it was."""
        for words in (("dlq", "inspect", "--json"), ("query", f"SELECT '{NAME}' AS name", "--json")):
            result = ecomflow(*words, settings=shop, **variables)
            assert result.stdout.isascii()
            assert NAME in str(json.loads(result.stdout))

    def test_csv_is_utf_8(self, shop: Settings) -> None:
        """A file of data is not escaped: it has the values as they are, whatever the terminal's encoding."""
        result = ecomflow("query", f"SELECT '{NAME}' AS name", "--csv", settings=shop, PYTHONIOENCODING="ascii")
        assert list(csv.reader(io.StringIO(result.stdout))) == [["name"], [NAME]]


COMMANDS = [
    *(("infra", name) for name in ("up", "plan", "status", "down")),
    ("deploy",),
    ("deploy", "--detach"),
    ("doctor",),
    ("publish", "--n", "1"),
    *(("dlq", name) for name in ("inspect", "stats", "replay")),
    ("dlq", "inspect", "--follow"),
    ("dlq", "export", "letters.jsonl"),
    ("query", "sales-per-product"),
    *(("job", name) for name in ("list", "status", "logs", "metrics", "drain")),
    ("reconcile",),
    ("top", "--once"),
]


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file to another user")
class TestAFolderOfAnotherUser:
    @pytest.mark.parametrize("mode", [0o700, 0o755], ids=["closed", "with closed files"])
    @pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
    def test_each_command_says_whose_it_is(self, command: tuple[str, ...], mode: int, tmp_path: Path) -> None:
        """After a sudo, say: one sentence with the path and its owner, what to do, and the code of a missing access."""
        folder = tmp_path / ".ecomflow"
        (folder / "logs").mkdir(parents=True)
        for name in ("stack.json", "stack.lock", "pipeline.json", "pipeline.lock", "logs/pipeline.jsonl", "logs/pipeline.log"):
            (folder / name).write_text("{}")
            (folder / name).chmod(0o600)
        for path in (*folder.rglob("*"), folder):
            os.chown(path, 65534, 65534)
        folder.chmod(mode)
        result = ecomflow_that_obeys(*command, folder=tmp_path)
        assert result.returncode == 5, result.stdout + result.stderr
        assert ".ecomflow" in result.stderr
        assert "belongs to nobody, not to root" in result.stderr
        assert "ECOMFLOW_STATE_DIR" in result.stderr
