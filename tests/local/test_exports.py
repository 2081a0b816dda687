"""``ecomflow infra env``: a program with Google's clients and nothing of ours finds the local stack."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from ecomflow.config import LOCAL_PROJECT, Endpoints, Settings
from ecomflow.local.exports import Shell, export_line, variables
from tests.support.cli import ecomflow, environment

NAMES = [
    *("PUBSUB_EMULATOR_HOST", "STORAGE_EMULATOR_HOST", "BIGQUERY_EMULATOR_HOST", "BIGQUERY_STORAGE_EMULATOR_HOST"),
    "GOOGLE_CLOUD_PROJECT",
]
PROGRAM = """
import os
from google.auth.credentials import AnonymousCredentials
from google.cloud import bigquery, pubsub_v1, storage
project, name = os.environ["GOOGLE_CLOUD_PROJECT"], os.environ["NAME"]
publisher, subscriber = pubsub_v1.PublisherClient(), pubsub_v1.SubscriberClient()
topic, subscription = publisher.topic_path(project, name), subscriber.subscription_path(project, name)
publisher.create_topic(name=topic)
subscriber.create_subscription(name=subscription, topic=topic)
publisher.publish(topic, b"hello").result(20)
pulled = subscriber.pull(subscription=subscription, max_messages=1, timeout=20)
print([one.message.data.decode() for one in pulled.received_messages])
bucket = storage.Client().create_bucket(name)
bucket.blob("a").upload_from_string("in the bucket")
print(bucket.blob("a").download_as_text())
client = bigquery.Client(credentials=AnonymousCredentials())
print([tuple(row) for row in client.query("SELECT 'from SQL' AS a").result()])
"""


@pytest.mark.stack
class TestRunning:
    def test_a_program_of_googles_clients_finds_the_stack(self, settings: Settings, stack: Endpoints, tmp_path: Path) -> None:
        """After ``eval "$(ecomflow infra env)"`` a script without ecomflow publishes, uploads and queries."""
        (tmp_path / "program.py").write_text(PROGRAM)
        script = f'eval "$({shlex.quote(sys.executable)} -m ecomflow infra env)" && exec {shlex.quote(sys.executable)} program.py'
        result = subprocess.run(
            ["sh", "-c", script],
            capture_output=True,
            text=True,
            timeout=120,
            cwd=tmp_path,
            env=environment(settings, NAME=settings.bucket, PUBSUB_EMULATOR_HOST="127.0.0.1:9"),
            check=False,
        )
        assert result.returncode == 0, result.stderr
        assert result.stdout.splitlines() == ["['hello']", "in the bucket", "[('from SQL',)]"]

    def test_each_shells_lines(self, settings: Settings, stack: Endpoints) -> None:
        """One line for each variable, with the values that JSON gives."""
        values = json.loads(ecomflow("infra", "env", "--json", settings=settings).stdout)
        assert values == {
            "PUBSUB_EMULATOR_HOST": stack.pubsub,
            "STORAGE_EMULATOR_HOST": stack.storage,
            "BIGQUERY_EMULATOR_HOST": stack.bigquery,
            "BIGQUERY_STORAGE_EMULATOR_HOST": stack.bigquery_storage,
            "GOOGLE_CLOUD_PROJECT": LOCAL_PROJECT,
        }
        expected = {
            "sh": [f"export {name}={values[name]}" for name in NAMES],
            "fish": [f"set -gx {name} '{values[name]}'" for name in NAMES],
            "powershell": [f"$env:{name} = '{values[name]}'" for name in NAMES],
            "dotenv": [f"{name}={values[name]}" for name in NAMES],
        }
        assert {
            shell: ecomflow("infra", "env", "--shell", shell, settings=settings).stdout.splitlines() for shell in expected
        } == (expected)


@pytest.mark.slow
class TestNotRunning:
    def test_without_a_stack_it_says_what_to_run(self, tmp_path: Path) -> None:
        """Exit code 4 and nothing to evaluate, even where the variables of another stack are set."""
        result = ecomflow("infra", "env", folder=tmp_path, PUBSUB_EMULATOR_HOST="127.0.0.1:9")
        assert (result.returncode, result.stdout) == (4, "")
        assert "The local stack in .ecomflow/ is not running." in result.stderr
        assert "Run: ecomflow infra up" in result.stderr

    def test_a_stack_that_has_died_does_not_run(self, tmp_path: Path) -> None:
        """Its file is still there, and says nothing."""
        endpoints = {"pubsub": "127.0.0.1:9", "storage": "http://127.0.0.1:9"}
        (tmp_path / ".ecomflow").mkdir()
        (tmp_path / ".ecomflow" / "stack.json").write_text(json.dumps({"version": 1, "endpoints": endpoints, "services": {}}))
        assert ecomflow("infra", "env", folder=tmp_path).returncode == 4

    def test_a_project_needs_no_variables(self, tmp_path: Path) -> None:
        """They would lead its commands to this machine."""
        result = ecomflow("infra", "env", folder=tmp_path, ECOMFLOW_PROJECT="my-project")
        assert (result.returncode, result.stdout) == (2, "")
        assert "my-project is configured" in result.stderr


class TestQuoting:
    @pytest.mark.parametrize(
        ("shell", "line"),
        [
            ("sh", "export A='a b'\"'\"'c$d\\e\"'"),
            ("fish", "set -gx A 'a b\\'c$d\\\\e\"'"),
            ("powershell", "$env:A = 'a b''c$d\\e\"'"),
            ("dotenv", 'A="a b\'c\\$d\\\\e\\""'),
        ],
    )
    def test_a_value_is_a_value(self, shell: Shell, line: str) -> None:
        """Blanks, quotes, dollars and backslashes mean nothing to the shell."""
        assert export_line(shell, "A", "a b'c$d\\e\"") == line

    def test_sh_reads_what_was_meant(self) -> None:
        """The shell itself gives the value back."""
        value = "a b'c$HOME`id`\\e\"\n*"
        script = f'{export_line("sh", "A", value)}\nprintf %s "$A"'
        assert subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True).stdout == value

    def test_what_is_not_there_is_not_set(self) -> None:
        """A service without an endpoint has no variable."""
        assert variables(Endpoints(pubsub="127.0.0.1:1")) == {
            "PUBSUB_EMULATOR_HOST": "127.0.0.1:1",
            "GOOGLE_CLOUD_PROJECT": LOCAL_PROJECT,
        }
