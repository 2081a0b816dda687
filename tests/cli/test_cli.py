"""The command line, as far as it needs no service: help, start-up, and errors that say what to do."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from ecomflow import __version__
from ecomflow.cli import COMMANDS as COMMAND_LINES
from ecomflow.cli import app
from tests.contract.test_loading import REFUND
from tests.support import ROOT
from tests.support.cli import customised, ecomflow, environment

sys.path.insert(0, str(ROOT / "docs"))
from make_cli_reference import TARGET, leaf_commands, reference

COMMANDS = dict(leaf_commands(typer.main.get_command(app), ""))


class TestHelp:
    @pytest.mark.parametrize("name", COMMANDS)
    def test_every_command_says_what_it_does_and_shows_an_example(self, name: str) -> None:
        """A command without help, or without an example that starts with its own name, is not finished."""
        command = COMMANDS[name]
        assert command.help
        assert f"ecomflow{name}" in command.epilog

    @pytest.mark.parametrize("name", COMMANDS)
    def test_every_option_is_explained(self, name: str) -> None:
        """Each option and argument has a help text."""
        assert [parameter.name for parameter in COMMANDS[name].params if not parameter.help] == []

    def test_the_reference_is_what_the_commands_say(self) -> None:
        """docs/cli.md is made from the commands; where it differs, run python docs/make_cli_reference.py."""
        assert TARGET.read_text(encoding="utf-8") == reference()

    def test_the_lines_of_help_are_the_commands_own(self) -> None:
        """``ecomflow --help`` imports no command; its lines are the first sentences of their help all the same."""
        assert {name: one.help for name, one in COMMAND_LINES.items()} == {
            name: command.get_short_help_str(limit=300) for name, command in typer.main.get_command(app).commands.items()
        }

    def test_the_version_is_shown(self) -> None:
        """--version prints the package's version and nothing else."""
        result = ecomflow("--version")
        assert (result.returncode, result.stdout) == (0, f"ecomflow {__version__}\n")

    @pytest.mark.parametrize("arguments", [["--help"], ["publish", "--help"], ["publish", "--dry-run", "--n", "1"]])
    def test_starting_is_light(self, arguments: list[str]) -> None:
        """Help and a dry run import neither Beam nor a Google client; help not even Arrow."""
        script = (
            "import sys, atexit; sys.argv[0] = 'ecomflow'\n"
            "heavy = ('apache_beam', 'google.cloud.', 'google.api_core', 'google.auth', 'google.pubsub_v1', 'grpc')\n"
            "heavy += () if '--dry-run' in sys.argv else ('pyarrow',)\n"
            "atexit.register(lambda: print('HEAVY', sorted(m for m in sys.modules if m.startswith(heavy)), file=sys.stderr))\n"
            "from ecomflow.cli import main; main()"
        )
        result = subprocess.run(
            [sys.executable, "-c", script, *arguments], capture_output=True, text=True, env=environment(), check=False, timeout=60
        )
        assert (result.returncode, result.stderr.strip()) == (0, "HEAVY []")

    def test_help_imports_no_more_than_it_needs(self) -> None:
        """Neither a command, nor Rich, nor Faker, each of which would take as long as all the rest."""
        script = "import sys, ecomflow.cli as cli; cli.typer.main.get_command(cli.app)(['--help'], standalone_mode=False); "
        script += "print('HEAVY', sorted(m for m in sys.modules if m in ('rich', 'faker') or m.startswith('ecomflow.commands.')))"
        result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment(), check=False)
        assert result.stdout.splitlines()[-1] == "HEAVY ['ecomflow.commands.shared']", result.stderr


class TestDryRun:
    def test_it_prints_json_lines_and_needs_no_stack(self, tmp_path: Path) -> None:
        """Two rounds are twelve events: one valid and one invalid of each type, each on a line of its own."""
        result = ecomflow("publish", "--n", "2", "--seed", "7", "--dry-run", folder=tmp_path)
        lines = [json.loads(line) for line in result.stdout.splitlines()]
        assert [(line["event_type"], line["fault"] is None) for line in lines] == 2 * [
            (kind, valid) for kind in ("order", "inventory", "user_activity") for valid in (True, False)
        ]

    @pytest.mark.slow
    @pytest.mark.parametrize("time", [(), ("--date", "2025-12-01"), ("--until", "2026-01-01T00:00:00Z")])
    def test_the_same_seed_gives_the_same_bytes(self, tmp_path: Path, time: tuple[str, ...]) -> None:
        """Ids and times too, also of event types of one's own."""
        (tmp_path / "contracts").mkdir()
        (tmp_path / "contracts" / "refund.toml").write_text(REFUND)
        arguments = ("publish", "--n", "3", "--seed", "7", *time, "--dry-run")
        first, second = (ecomflow(*arguments, folder=tmp_path).stdout for _ in range(2))
        assert (len(first.splitlines()), first) == (24, second)

    @pytest.mark.slow
    def test_without_a_seed_nothing_is_repeated(self, tmp_path: Path) -> None:
        """Two runs at the same time of day have no id in common."""
        arguments = ("publish", "--n", "3", "--until", "2026-01-01T00:00:00Z", "--dry-run")
        runs = [ecomflow(*arguments, folder=tmp_path).stdout.splitlines() for _ in range(2)]
        ids = [json.loads(line)["attributes"]["event_id"] for run in runs for line in run]
        assert len(set(ids)) == len(ids) == 36

    @pytest.mark.slow
    def test_the_contracts_in_the_folder_are_generated(self, tmp_path: Path) -> None:
        """Beside the built-in ones, or alone; and they are among the types that --types may name."""
        (tmp_path / "contracts").mkdir()
        (tmp_path / "contracts" / "refund.toml").write_text(REFUND)
        result = ecomflow("publish", "--n", "1", "--valid-only", "--dry-run", folder=tmp_path)
        types = [json.loads(line)["event_type"] for line in result.stdout.splitlines()]
        assert types == ["order", "inventory", "user_activity", "refund"]
        wrong = ecomflow("publish", "--types", "refnd", "--dry-run", folder=tmp_path)
        expected = "order, inventory, user_activity, refund; found 'refnd', did you mean 'refund'?"
        assert (wrong.returncode, wrong.stderr) == (2, f"Error: Expected event types among {expected}\nCorrect --types.\n")
        (tmp_path / "ecomflow.toml").write_text("builtin_events = []\n")
        alone = ecomflow("publish", "--n", "2", "--dry-run", folder=tmp_path)
        assert [json.loads(line)["event_type"] for line in alone.stdout.splitlines()] == ["refund"] * 4

    @pytest.mark.slow
    def test_a_file_is_printed_as_it_would_be_published(self, tmp_path: Path) -> None:
        """A dry run of a dry run's lines has their messages; standard input is a file too."""
        lines = ecomflow("publish", "--n", "2", "--dry-run", folder=tmp_path).stdout
        (tmp_path / "events.jsonl").write_text(lines)
        result = ecomflow("publish", "--file", "events.jsonl", "--dry-run", folder=tmp_path)
        keys = ("data", "data_encoding", "attributes")
        printed, given = (
            [[json.loads(line)[key] for key in keys] for line in text.splitlines()] for text in (result.stdout, lines)
        )
        assert printed == given


@pytest.mark.slow
class TestInit:
    def test_it_writes_a_file_that_changes_nothing(self, tmp_path: Path) -> None:
        """All settings of the new file are commented out."""
        assert ecomflow("init", folder=tmp_path).returncode == 0
        lines = (tmp_path / "ecomflow.toml").read_text().splitlines()
        assert [line for line in lines if line and not line.startswith("#")] == []

    def test_it_does_not_write_over_a_file(self, tmp_path: Path) -> None:
        """A second init is refused, with the command that would do it."""
        (tmp_path / "ecomflow.toml").write_text('topic = "mine"\n')
        result = ecomflow("init", folder=tmp_path)
        assert result.returncode == 2
        assert result.stderr == "Error: ecomflow.toml already exists.\nTo overwrite it, run: ecomflow init --force\n"
        assert (tmp_path / "ecomflow.toml").read_text() == 'topic = "mine"\n'


@pytest.mark.slow
class TestErrors:
    """Bad input ends in a sentence, the next command and an exit code; never in a traceback."""

    @pytest.mark.parametrize(
        "arguments",
        [
            ("deploy",),
            ("deploy", "--detach"),
            ("publish", "--n", "1"),
            ("dlq", "inspect"),
            ("query", "sales-per-product"),
        ],
    )
    def test_without_a_stack(self, arguments: tuple[str, ...], tmp_path: Path) -> None:
        """A command that needs the local stack says that it is not running, and how to start it."""
        result = ecomflow(*arguments, folder=tmp_path)
        assert result.returncode == 4
        assert result.stderr == "Error: The local stack in .ecomflow/ is not running.\nRun: ecomflow infra up\n"

    def test_status_without_a_stack(self, tmp_path: Path) -> None:
        """infra status says plainly that nothing runs."""
        result = ecomflow("infra", "status", folder=tmp_path)
        assert result.returncode == 4
        assert "The local stack is not ready. Start it with: ecomflow infra up" in result.stdout

    def test_job_without_a_pipeline(self, tmp_path: Path) -> None:
        """job status and job drain say that there is no pipeline."""
        shown, drained = ecomflow("job", "status", folder=tmp_path), ecomflow("job", "drain", folder=tmp_path)
        sentence = "No pipeline is running. The local stack in .ecomflow/ is not running. Run: ecomflow infra up\n"
        assert (shown.returncode, shown.stdout) == (4, sentence)
        assert (drained.returncode, drained.stderr.splitlines()[0]) == (9, "Error: No local pipeline is running.")

    @pytest.mark.parametrize(
        ("arguments", "code", "sentence"),
        [
            (("infra", "up", "--project", "X"), 2, "project is 'X': expected 6 to 30 lowercase letters"),
            (
                ("deploy", "--runner", "DataflowRunner"),
                2,
                "none is configured. Add: --project my-project",
            ),
            (("job", "list", "--runner", "DataflowRunner"), 2, "Dataflow needs a project, and none is configured."),
            (("deploy", "--runner", "Dataflow"), 2, "expected DataflowRunner or DirectRunner, did you mean 'DataflowRunner'?"),
            (("publish", "--seed", str(2**53), "--dry-run"), 2, "Invalid value for '--seed'"),
            (("publish", "--until", "1 May", "--dry-run"), 2, "'1 May' is not a valid time"),
            (("publish", "--until", "2025-12-01", "--date", "2025-12-01", "--dry-run"), 2, "--date and --until both say"),
            (("deploy", "--runner", "SparkRunner"), 2, "'SparkRunner' is not a valid runner"),
            (("publish", "--types", "order,refund", "--dry-run"), 2, "found 'refund'"),
            (("publish", "--date", "1 May", "--dry-run"), 2, "'1 May' is not a valid date"),
            (("publish", "--file", "none.jsonl", "--dry-run"), 2, "none.jsonl can't be read: No such file"),
            (("publish", "--file", "none.jsonl", "--seed", "7"), 2, "--seed is for generated events, and --file"),
            (("publish", "--n", "0"), 2, "Invalid value for '--n'"),
            (("publish", "--rate", "0"), 2, "Invalid value for '--rate'"),
            (("dlq", "inspect", "--stream", "refund"), 2, "'refund' is not a valid stream"),
            (("dlq", "inspect", "--reason", "mood"), 2, "'mood' is not a valid reason"),
            (("dlq", "inspect", "--since", "yesterday"), 2, "'yesterday' is not a valid duration"),
            (("query",), 2, "Expected a question's name or GoogleSQL"),
            (("frobnicate",), 2, "No such command 'frobnicate'"),
        ],
    )
    def test_arguments_that_do_not_fit(self, arguments: tuple[str, ...], code: int, sentence: str, tmp_path: Path) -> None:
        """The sentence names what was given, and no traceback is shown."""
        result = ecomflow(*arguments, folder=tmp_path)
        assert result.returncode == code
        assert sentence in " ".join(result.stderr.replace("│", " ").split())
        assert "Traceback" not in result.stderr

    @pytest.mark.parametrize(
        ("text", "sentence"),
        [
            ("topic = ", "is not valid TOML"),
            ('colour = "red"', "unknown setting colour"),
            ("ack_deadline_seconds = 5", "ack_deadline_seconds is 5: expected 10 to 600"),
        ],
    )
    def test_a_settings_file_that_does_not_fit(self, text: str, sentence: str, tmp_path: Path) -> None:
        """ecomflow.toml is named, with what is wrong in it."""
        (tmp_path / "ecomflow.toml").write_text(text)
        result = ecomflow("infra", "status", folder=tmp_path)
        assert (result.returncode, sentence in result.stderr) == (2, True)

    def test_a_state_folder_that_cannot_be_written(self, tmp_path: Path) -> None:
        """infra up names the folder and what to do."""
        (tmp_path / "file").write_text("")
        result = ecomflow("infra", "up", folder=tmp_path, ECOMFLOW_STATE_DIR=str(tmp_path / "file" / "state"))
        assert result.returncode == 5
        assert str(tmp_path / "file") in result.stderr

    def test_a_missing_extra(self, tmp_path: Path) -> None:
        """Without bqemulator infra up says which extra to install, and starts nothing."""
        missing = customised(
            tmp_path / "site",
            "from importlib import metadata as m; real = m.version\n"
            "def version(name):\n"
            "    if name == 'bqemulator': raise m.PackageNotFoundError(name)\n"
            "    return real(name)\n"
            "m.version = version\n",
        )
        result = ecomflow("infra", "up", folder=tmp_path, **missing)
        assert result.returncode == 8
        assert "pip install '.[local]'" in result.stderr
        assert not (tmp_path / ".ecomflow" / "stack.json").exists()

    @pytest.mark.slow
    def test_without_credentials(self, tmp_path: Path) -> None:
        """A project without credentials ends in the command that signs in, within seconds."""
        result = ecomflow(
            "publish",
            "--n",
            "1",
            "--project",
            "my-project",
            folder=tmp_path,
            GOOGLE_APPLICATION_CREDENTIALS=str(tmp_path / "none"),
        )
        assert result.returncode == 5
        assert "gcloud auth application-default login" in result.stderr

    def test_debug_shows_the_traceback(self, tmp_path: Path) -> None:
        """--debug adds the traceback to the same sentence."""
        result = ecomflow("--debug", "dlq", "inspect", folder=tmp_path)
        assert "is not running" in result.stderr
        assert "Traceback (most recent call last)" in result.stderr

    @pytest.mark.parametrize(
        ("arguments", "error"),
        [
            (
                ("dlq", "inspect", "--json"),
                {
                    "type": "UnavailableError",
                    "message": "The local stack in .ecomflow/ is not running.",
                    "remedy": "Run: ecomflow infra up",
                    "exit_code": 4,
                },
            ),
            (
                ("job", "list", "--json", "--nope"),
                {
                    "type": "ConfigError",
                    "message": "No such option: --nope",
                    "remedy": "See: python -m ecomflow job list --help",
                    "exit_code": 2,
                },
            ),
        ],
    )
    def test_errors_as_json(self, arguments: tuple[str, ...], error: dict[str, object], tmp_path: Path) -> None:
        """With --json an error is a line of JSON on standard error, with the same exit code; standard output stays empty."""
        result = ecomflow(*arguments, folder=tmp_path)
        assert (result.returncode, result.stdout) == (error["exit_code"], "")
        assert json.loads(result.stderr) == {"error": error}

    def test_variables_of_others_are_named(self, tmp_path: Path) -> None:
        """A note on standard error; the command goes on."""
        result = ecomflow("publish", "--n", "1", "--dry-run", folder=tmp_path, ECOMFLOW_LOG="debug")
        assert (result.returncode, result.stderr) == (0, "Ignored these variables, which are not settings: ECOMFLOW_LOG.\n")
