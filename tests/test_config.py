"""Settings from flags, environment, file and defaults, and the endpoints that follow."""

from __future__ import annotations

import json
import os
import re
import shutil
import tomllib
from pathlib import Path
from typing import Any

import msgspec
import pytest

from ecomflow.config import (
    COMMENTED_CONFIG,
    EMULATOR_VARIABLES,
    DataflowSettings,
    Endpoints,
    Settings,
    envelope_of,
    external_endpoints,
    foreign_variables,
    load_settings,
    read_stack_endpoints,
    resolve_endpoints,
    running_endpoints,
    variables_of,
)
from ecomflow.contract.envelope import CLOUDEVENTS, ECOMFLOW, EnvelopeSettings, Location
from ecomflow.errors import AccessError, ConfigError, UnavailableError
from ecomflow.processes.state_folder import folder_mark

LOCAL = Endpoints("127.0.0.1:1", "http://127.0.0.1:2", "http://127.0.0.1:3", "127.0.0.1:4")


def write_config(folder: Path, text: str) -> Path:
    (folder / "ecomflow.toml").write_text(text, encoding="utf-8")
    return folder


def write_stack(folder: Path) -> Settings:
    endpoints = {name: getattr(LOCAL, name) for name in Endpoints.__struct_fields__}
    (folder / "stack.json").write_text(json.dumps({"folder": folder_mark(folder), "endpoints": endpoints, "more": 1}))
    return Settings(state_dir=str(folder))


class TestPrecedence:
    @pytest.mark.parametrize(
        ("name", "values", "default"),
        [
            ("project", ("file-project", "env-project", "flag-project"), None),
            ("topic", ("file-topic", "env-topic", "flag-topic"), "ecomflow-events"),
            ("dataset", ("file_set", "env_set", "flag_set"), "ecomflow"),
            ("ack_deadline_seconds", (11, 12, 13), 30),
        ],
    )
    def test_precedence_of_flag_environment_and_file(
        self, tmp_path: Path, name: str, values: tuple[Any, Any, Any], default: Any
    ) -> None:
        """Each layer counts only where none above it says anything; the default only where none does."""
        assert getattr(load_settings({}, {}, tmp_path), name) == default
        write_config(tmp_path, f"{name} = {json.dumps(values[0])}")
        environ = {f"ECOMFLOW_{name.upper()}": str(values[1])}
        assert getattr(load_settings({}, {}, tmp_path), name) == values[0]
        assert getattr(load_settings({}, environ, tmp_path), name) == values[1]
        assert getattr(load_settings({name: values[2]}, environ, tmp_path), name) == values[2]
        assert getattr(load_settings({name: None}, environ, tmp_path), name) == values[1]

    def test_a_list_in_the_environment(self, tmp_path: Path) -> None:
        """builtin_events is a list in the file, and separated by commas in a variable."""
        write_config(tmp_path, 'builtin_events = ["order"]')
        assert load_settings({}, {}, tmp_path).builtin_events == ("order",)
        environ = {"ECOMFLOW_BUILTIN_EVENTS": "inventory, order"}
        assert load_settings({}, environ, tmp_path).builtin_events == ("inventory", "order")

    def test_layers_are_merged_by_setting(self, tmp_path: Path) -> None:
        """A flag for one setting leaves the file's others in force."""
        write_config(tmp_path, 'topic = "mine"\nregion = "us-west1"')
        settings = load_settings({"region": "us-east1"}, {"ECOMFLOW_LOCATION": "US"}, tmp_path)
        assert (settings.topic, settings.region, settings.location) == ("mine", "us-east1", "US")

    def test_an_empty_variable_says_nothing(self, tmp_path: Path) -> None:
        """ECOMFLOW_PROJECT= is the local stack."""
        assert load_settings({}, {"ECOMFLOW_PROJECT": ""}, tmp_path).is_local

    def test_other_variables_are_not_ours(self, tmp_path: Path) -> None:
        """ECOMFLOW_LOG, or what Kubernetes sets for a service of that name, may be another tool's: it is named and ignored."""
        environ = {"ECOMFLOW_LOG": "x", "ECOMFLOW_PORT": "tcp://10.0.0.1:80", "PROJECT": "y", "ECOMFLOW_DEBUG": "1"}
        assert load_settings({}, environ, tmp_path) == Settings()
        assert foreign_variables(environ) == ("ECOMFLOW_LOG", "ECOMFLOW_PORT")

    def test_settings_survive_as_variables(self, tmp_path: Path) -> None:
        """A process that is given them as variables has the same ones."""
        settings = load_settings(
            {"topic": "mine", "builtin_events": "", "labels": "team=shop, env=test", "processes": 2}, {}, tmp_path
        )
        assert (settings.builtin_events, settings.labels) == ((), {"team": "shop", "env": "test"})
        assert load_settings({}, variables_of(settings), tmp_path) == settings

    def test_settings_of_the_job(self, tmp_path: Path) -> None:
        """Flags are by path; labels come to those of the file."""
        write_config(tmp_path, '[dataflow]\nworkers = 2\nlabels = { team = "shop" }')
        settings = load_settings({"dataflow.max_workers": 4, "dataflow.labels": ["env=test"]}, {}, tmp_path)
        job = settings.dataflow
        assert (job.workers, job.max_workers, job.labels) == (2, 4, {"team": "shop", "env": "test"})


class TestTheFolder:
    """ecomflow.toml and the state folder are found from the folders below them, as git finds its repository."""

    @pytest.fixture
    def below(self, tmp_path: Path) -> Path:
        below = tmp_path / "one" / "two"
        below.mkdir(parents=True)
        return below

    def test_the_settings_of_a_folder_above(self, tmp_path: Path, below: Path) -> None:
        """Its ecomflow.toml is read, and its paths, and the default ones, are those of its folder."""
        write_config(tmp_path, 'topic = "mine"\nstate_dir = "state"')
        settings = load_settings({}, {}, below)
        assert (settings.topic, settings.state_path) == ("mine", tmp_path / "state")
        assert settings.contracts == str(tmp_path / "contracts")

    def test_the_stack_of_a_folder_above(self, tmp_path: Path, below: Path) -> None:
        """A state folder is enough; the nearest counts."""
        (tmp_path / ".ecomflow").mkdir()
        assert load_settings({}, {}, below).state_path == tmp_path / ".ecomflow"
        (below.parent / ".ecomflow").mkdir()
        assert load_settings({}, {}, below).state_path == below.parent / ".ecomflow"
        (below / "ecomflow.toml").touch()
        assert load_settings({}, {}, below).state_path == Path(".ecomflow")

    def test_an_absolute_path_and_a_variable_stay_as_they_are(self, tmp_path: Path, below: Path) -> None:
        """A variable is relative to the current folder, as everywhere in a shell."""
        write_config(tmp_path, f'state_dir = "{tmp_path / "far"}"')
        assert load_settings({}, {}, below).state_path == tmp_path / "far"
        assert load_settings({}, {"ECOMFLOW_STATE_DIR": "near"}, below).state_path == Path("near")

    def test_none_is_found(self, below: Path) -> None:
        """Then the current folder is the one."""
        assert load_settings({}, {}, below) == Settings()

    def test_a_folder_that_everyone_can_write_to_is_not_searched(self, tmp_path: Path, below: Path) -> None:
        """Anyone could leave settings there, which name a project and a bucket."""
        write_config(tmp_path, 'topic = "mine"')
        below.parent.chmod(0o777)
        assert load_settings({}, {}, below).topic == "ecomflow-events"
        below.parent.chmod(0o775)
        assert load_settings({}, {}, below).topic == "mine"

    @pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder to another user")
    def test_a_folder_of_another_user_is_not_searched(self, tmp_path: Path, below: Path) -> None:
        """Nor any above it."""
        write_config(tmp_path, 'topic = "mine"')
        os.chown(below.parent, 12345, -1)
        assert load_settings({}, {}, below).topic == "ecomflow-events"

    def test_the_current_folder_has_been_deleted(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """There is nothing above it."""
        gone = tmp_path / "gone"
        gone.mkdir()
        monkeypatch.chdir(gone)
        gone.rmdir()
        assert load_settings({}, {}) == Settings()


class TestWrongSettings:
    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ('projct = "my-project"', "ecomflow.toml has the unknown setting projct, did you mean 'project'?"),
            ("max_workers = 3", "the unknown setting max_workers, did you mean 'dataflow.max_workers'?"),
            ("[dataflow]\nworkerz = 3", "the unknown setting dataflow.workerz, did you mean 'dataflow.workers'?"),
            ("xyz = 1", "ecomflow.toml has the unknown setting xyz."),
            ('dataflow = "x"', "dataflow is 'x': expected a table."),
            ("topic = 5", "topic is 5: expected a string."),
            ('ack_deadline_seconds = "soon"', "ack_deadline_seconds is 'soon': expected a whole number."),
            ("builtin_events = 3", "builtin_events is 3: expected a list of strings."),
            ("labels = [1]", "labels is a list: expected a table of strings."),
            ('[dataflow]\nat_least_once = "maybe"', "dataflow.at_least_once is 'maybe': expected true or false."),
            ("[dataflow]\nworkers = []", "dataflow.workers is a list: expected a whole number."),
            ('other_users = "alow"', "other_users is 'alow': expected allow or refuse, did you mean 'allow'?"),
            ("topic = ", "not valid TOML"),
            ('[project]\nname = "x"', "project is a table: expected a string."),
            ('topic = "a"\ntopic = "b"', "not valid TOML"),
            ('project = "ab"', "project is 'ab': expected 6 to 30 lowercase letters, digits and hyphens, starting with a letter"),
            ('project = "My-Project"', "project is 'My-Project': expected 6 to 30 lowercase letters"),
            ('project = "1-project"', "project is '1-project': expected"),
            ('project = "my-project-"', "project is 'my-project-': expected"),
            (f'project = "{"a" * 31}"', "expected 6 to 30 lowercase letters"),
            ('project = ""', "project is '': expected"),
            ('project = "my-project\\n"', "project is 'my-project\\n': expected"),
            ('region = "Europe"', "region is 'Europe': expected a region, such as europe-west1"),
            ('location = "E U"', "location is 'E U': expected a region or a multi-region, such as europe-west1 or EU"),
            ('topic = "1st"', "topic is '1st': expected 3 to 255 letters, digits and - . _ ~ % +, starting with a letter"),
            ('topic = "goog-events"', "topic is 'goog-events': expected"),
            ('subscription = "a/b"', "subscription is 'a/b': expected 3 to 255 letters"),
            ('bucket = "My_Bucket!"', "bucket is 'My_Bucket!': expected 3 to 63 lowercase letters, digits and - _ ."),
            ('bucket = "10.0.0.1"', "bucket is '10.0.0.1': expected"),
            ('bucket = "my-google-bucket"', "expected 3 to 63 lowercase letters"),
            ('bucket = "a..b"', "bucket is 'a..b': expected"),
            ("ack_deadline_seconds = 9", "ack_deadline_seconds is 9: expected 10 to 600"),
            ("ack_deadline_seconds = 601", "ack_deadline_seconds is 601: expected 10 to 600"),
            ('bucket_project = "My Project"', "bucket_project is 'My Project': expected the id or the number of a project"),
            ('bucket_project = ""', "bucket_project is '': expected"),
            ("topic_retention_days = -1", "topic_retention_days is -1: expected 0 (off) to 31"),
            ("topic_retention_days = 32", "topic_retention_days is 32: expected 0 (off) to 31"),
            ("soft_delete_days = 6", "soft_delete_days is 6: expected 0 (off), or 7 to 90"),
            ("soft_delete_days = 91", "soft_delete_days is 91: expected 0 (off), or 7 to 90"),
            ("soft_delete_days = -7", "soft_delete_days is -7: expected 0 (off), or 7 to 90"),
            ("processes = 0", "processes is 0: expected 1 or more"),
            ('dataset = "my-set"', "dataset is 'my-set': expected 1 to 1,024 letters, digits and underscores"),
            ('dataset = "a`b"', "dataset is 'a`b': expected"),
            ('dataset = ""', "dataset is '': expected"),
            ('state_dir = ""', "state_dir is '': expected the path of a folder"),
            ('contracts = ""', "contracts is '': expected the path of a folder"),
            ('state_dir = "~nobody-of-that-name/x"', "state_dir is '~nobody-of-that-name/x': expected the path of a folder"),
        ],
    )
    def test_the_error_says_what_is_wrong_and_what_to_do(self, tmp_path: Path, text: str, said: str) -> None:
        """Unknown keys, wrong types, bad TOML, names that Google Cloud refuses: a sentence, a remedy, exit code 2."""
        with pytest.raises(ConfigError, match=re.escape(said)) as caught:
            load_settings({}, {}, write_config(tmp_path, text))
        assert caught.value.remedy
        assert caught.value.exit_code == 2

    def test_flags_and_variables_are_checked_too(self, tmp_path: Path) -> None:
        """Whatever layer a wrong value comes from."""
        for flags, environ in [
            ({"project": "X"}, {}),
            ({}, {"ECOMFLOW_PROJECT": "X"}),
            ({}, {"ECOMFLOW_ACK_DEADLINE_SECONDS": "x"}),
        ]:
            with pytest.raises(ConfigError):
                load_settings(flags, environ, tmp_path)

    @pytest.mark.parametrize(
        ("flags", "environ", "remedy"),
        [
            ({"dataset": "a-b"}, {"ECOMFLOW_DATASET": "c-d"}, "Correct --dataset."),
            ({}, {"ECOMFLOW_DATASET": "c-d"}, "Correct ECOMFLOW_DATASET."),
            ({}, {}, "Correct dataset in {folder}/ecomflow.toml."),
            ({"dataflow.workers": "x"}, {}, "Correct --workers."),
            ({"labels": "Team=x"}, {}, "Correct --labels."),
            ({"project": "X"}, {}, "Correct --project. List your projects with: gcloud projects list"),
        ],
    )
    def test_the_error_says_where_the_value_was_set(
        self, tmp_path: Path, flags: dict[str, Any], environ: dict[str, str], remedy: str
    ) -> None:
        """The flag, the variable, or the key of the file: the one that counts."""
        write_config(tmp_path, 'dataset = "e-f"')
        with pytest.raises(ConfigError) as caught:
            load_settings({"dataset": "fine", **flags} if "dataset" not in flags and flags else flags, environ, tmp_path)
        assert caught.value.remedy == remedy.format(folder=tmp_path)

    @pytest.mark.parametrize(
        ("name", "said"),
        [
            ("ECOMFLOW_DATASETT", "ECOMFLOW_DATASETT is not the variable of a setting, did you mean ECOMFLOW_DATASET?"),
            ("ECOMFLOW_STATE", "did you mean ECOMFLOW_STATE_DIR?"),
            ("ECOMFLOW_DATAFLOW_WORKERS", "ECOMFLOW_DATAFLOW_WORKERS is set, but [dataflow] has no variables."),
            ("ECOMFLOW_ENVELOPE_TYPE", "ECOMFLOW_ENVELOPE_TYPE is set, but [envelope] has no variables."),
        ],
    )
    def test_a_misspelt_variable_is_not_ignored(self, tmp_path: Path, name: str, said: str) -> None:
        """What is nearly a setting's, or would be one of a table, is refused with what to do."""
        with pytest.raises(ConfigError, match=re.escape(said)) as caught:
            load_settings({}, {name: "x"}, tmp_path)
        assert caught.value.remedy

    @pytest.mark.parametrize("bucket", ["abc", "my_bucket-1", "a" * 63, f"{'a' * 63}.example.com", "1.2.3.4.5"])
    def test_buckets_that_google_has(self, tmp_path: Path, bucket: str) -> None:
        """3 to 63 characters, with dots up to 63 between them."""
        assert load_settings({"bucket": bucket}, {}, tmp_path).bucket_name == bucket

    def test_a_file_that_is_no_text_is_no_settings_file(self, tmp_path: Path) -> None:
        """Bytes that are not UTF-8 are an error with the file's name, not a traceback."""
        (tmp_path / "ecomflow.toml").write_bytes(b'topic = "\xff"')
        with pytest.raises(ConfigError, match=r"ecomflow\.toml is not valid TOML"):
            load_settings({}, {}, tmp_path)

    @pytest.mark.parametrize("project", ["abcdef", "my-project-123", "a" * 30, "example.com:my-project"])
    def test_project_ids_that_google_has(self, tmp_path: Path, project: str) -> None:
        """6 to 30 characters, and the old ones with a domain before them."""
        assert load_settings({"project": project}, {}, tmp_path).project == project


class TestSettings:
    @pytest.mark.parametrize("name", ["state_dir", "contracts"])
    def test_a_folder_may_be_in_the_home_folder(self, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """Wherever it is set: a shell expands ~ only where it stands alone."""
        monkeypatch.setenv("HOME", str(tmp_path))
        for flags, environ in (({name: "~/x"}, {}), ({}, {f"ECOMFLOW_{name.upper()}": "~/x"})):
            assert getattr(load_settings(flags, environ, tmp_path / "none"), name) == str(tmp_path / "x")

    def test_names_that_follow_from_others(self) -> None:
        """Paths and the bucket's default name come from the project; a colon or a dot can't stand in a bucket's name."""
        settings = Settings(project="example.com:my-project", topic="t", subscription="s", dataset="d")
        assert (settings.is_local, settings.project_id) == (False, "example.com:my-project")
        assert settings.bucket_name == "example-com-my-project-ecomflow"
        assert settings.topic_path == "projects/example.com:my-project/topics/t"
        assert settings.subscription_path == "projects/example.com:my-project/subscriptions/s"
        assert settings.dataset_id == "example.com:my-project.d"

    def test_without_a_project_it_is_the_local_stack(self) -> None:
        """The local project has a name of its own, long enough for Beam's Pub/Sub source."""
        assert (Settings().is_local, Settings().project_id, Settings().bucket_name) == (
            True,
            "ecomflow-local",
            "ecomflow-local-ecomflow",
        )
        assert Settings(bucket="mine").bucket_name == "mine"


class TestCommentedConfig:
    def test_it_changes_nothing_as_it_is(self) -> None:
        """Every line is a comment."""
        assert tomllib.loads(COMMENTED_CONFIG) == {}

    def test_uncommented_it_names_every_setting(self, tmp_path: Path) -> None:
        """Each setting is there once, those of Dataflow and the envelope in their tables; outside with its default, if any."""
        text = re.sub(r"^# (\w+ = |\[)", r"\1", COMMENTED_CONFIG, flags=re.MULTILINE)
        values = tomllib.loads(text)
        assert sorted(values) == sorted(Settings.__struct_fields__)
        assert sorted(values["dataflow"]) == sorted(DataflowSettings.__struct_fields__)
        assert sorted(values["envelope"]) == sorted(EnvelopeSettings.__struct_fields__)
        settings = load_settings({}, {}, write_config(tmp_path, text))
        assert msgspec.structs.replace(settings, dataflow=DataflowSettings(), envelope=EnvelopeSettings()) == Settings(
            project="my-project",
            bucket="my-project-ecomflow",
            bucket_project="my-shared-project",
            kms_key="projects/my-project/locations/europe/keyRings/ring/cryptoKeys/key",
            labels={"team": "shop", "env": "production"},
        )
        assert settings.bucket_name == Settings(project="my-project").bucket_name


class TestEnvelope:
    def test_from_the_file(self, tmp_path: Path) -> None:
        """The places that it says, the others of the preset."""
        write_config(tmp_path, '[envelope]\ntype = "attribute:eventType"\nbody = "$.data"')
        envelope = envelope_of(load_settings({}, {}, tmp_path))
        assert envelope == msgspec.structs.replace(ECOMFLOW, type=Location("eventType"), body=("data",))
        write_config(tmp_path, '[envelope]\npreset = "cloudevents"')
        assert envelope_of(load_settings({}, {}, tmp_path)) == CLOUDEVENTS
        assert envelope_of(Settings()) == ECOMFLOW

    @pytest.mark.parametrize(
        ("text", "sentence"),
        [
            (
                'preset = "x"\ntype = "y"',
                "envelope.preset is 'x': expected one of ecomflow, cloudevents.\nenvelope.type is 'y': ",
            ),
            ("preset = 1", "envelope.preset is 1: expected a string."),
        ],
    )
    def test_mistakes_are_told_at_load(self, tmp_path: Path, text: str, sentence: str) -> None:
        """All of them at once."""
        write_config(tmp_path, f"[envelope]\n{text}")
        with pytest.raises(ConfigError) as caught:
            load_settings({}, {}, tmp_path)
        assert caught.value.message.startswith(sentence)


class TestEndpoints:
    def test_a_running_stack_gives_its_endpoints(self, tmp_path: Path) -> None:
        """Read from the stack file in the state folder."""
        settings = write_stack(tmp_path)
        assert resolve_endpoints(settings, {}) == running_endpoints(settings, {}) == LOCAL

    def test_emulator_variables_are_used_as_given(self, tmp_path: Path) -> None:
        """They stand before the stack's; a REST host without a scheme is a URL of plain HTTP."""
        environ = {
            "PUBSUB_EMULATOR_HOST": "localhost:8085",
            "STORAGE_EMULATOR_HOST": "localhost:4443",
            "BIGQUERY_EMULATOR_HOST": "https://bq.test:9050",
            "BIGQUERY_STORAGE_EMULATOR_HOST": "localhost:9060",
        }
        given = Endpoints("localhost:8085", "http://localhost:4443", "https://bq.test:9050", "localhost:9060")
        assert resolve_endpoints(write_stack(tmp_path), environ) == given
        assert running_endpoints(Settings(state_dir=str(tmp_path / "none")), environ) == given
        assert resolve_endpoints(Settings(project="my-project"), environ) == given

    @pytest.mark.parametrize("written", ["localhost:8085", "http://localhost:8085", "http://localhost:8085/"])
    def test_with_or_without_a_scheme(self, written: str, tmp_path: Path) -> None:
        """Each client gets what it understands: host and port for gRPC, a URL for REST."""
        given = resolve_endpoints(Settings(state_dir=str(tmp_path)), dict.fromkeys(EMULATOR_VARIABLES.values(), written))
        grpc, rest = "localhost:8085", "http://localhost:8085"
        assert given == Endpoints(grpc, rest, rest, grpc, rest)

    @pytest.mark.parametrize("variable", ["PUBSUB_EMULATOR_HOST", "BIGQUERY_STORAGE_EMULATOR_HOST"])
    def test_a_scheme_that_no_emulator_has(self, variable: str) -> None:
        """gRPC emulators speak no TLS."""
        with pytest.raises(ConfigError) as caught:
            resolve_endpoints(Settings(project="my-project"), {variable: "https://localhost:8085"})
        assert (
            caught.value.message == f"{variable} is 'https://localhost:8085': expected host:port, because emulators use no TLS."
        )
        assert caught.value.remedy == f"Correct or unset {variable}."

    def test_what_is_not_the_stacks_own(self, tmp_path: Path) -> None:
        """A shell may have the stack's own variables; a damaged stack file, which infra up replaces, is no stack."""
        settings = write_stack(tmp_path)
        own = {
            EMULATOR_VARIABLES[field]: getattr(LOCAL, field) for field in ("pubsub", "storage", "bigquery", "bigquery_storage")
        }
        assert external_endpoints(settings, own) == {}
        other = own | {"PUBSUB_EMULATOR_HOST": "http://localhost:8085"}
        assert external_endpoints(settings, other) == {"pubsub": "localhost:8085"}
        (tmp_path / "stack.json").write_text("{")
        assert external_endpoints(settings, other).keys() == {"pubsub", "storage", "bigquery", "bigquery_storage"}

    def test_one_variable_replaces_one_endpoint(self, tmp_path: Path) -> None:
        """The rest stays the stack's; an empty variable says nothing."""
        environ = {"PUBSUB_EMULATOR_HOST": "localhost:8085", "STORAGE_EMULATOR_HOST": ""}
        endpoints = resolve_endpoints(write_stack(tmp_path), environ)
        assert (endpoints.pubsub, endpoints.storage, endpoints.bigquery) == ("localhost:8085", LOCAL.storage, LOCAL.bigquery)

    def test_with_a_project_they_are_googles(self, tmp_path: Path) -> None:
        """A local stack beside it is not asked."""
        write_stack(tmp_path)
        settings = Settings(project="my-project", state_dir=str(tmp_path))
        assert resolve_endpoints(settings, {}) == running_endpoints(settings, {}) == Endpoints()

    @pytest.mark.parametrize("environ", [{}, {"PUBSUB_EMULATOR_HOST": "localhost:8085"}])
    def test_without_a_stack_the_error_says_how_to_start_one(self, tmp_path: Path, environ: dict[str, str]) -> None:
        """No stack, or a part of one only: exit code 4 and the command to run."""
        with pytest.raises(UnavailableError) as caught:
            running_endpoints(Settings(state_dir=str(tmp_path)), environ)
        assert (caught.value.exit_code, caught.value.remedy) == (4, "Run: ecomflow infra up")

    @pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"endpoints": 5}', '{"endpoints": {"pubsub": 5}}'])
    def test_a_broken_stack_file_is_an_error(self, tmp_path: Path, text: str) -> None:
        """Half-written or foreign: the error has its path and the command that fixes it."""
        (tmp_path / "stack.json").write_text(text)
        with pytest.raises(ConfigError, match=r"stack\.json is not a valid stack file") as caught:
            read_stack_endpoints(tmp_path)
        assert caught.value.remedy == "Run: ecomflow infra up"

    @pytest.mark.parametrize("host", ["10.0.0.7:8085", "pubsub.example.org:443", "http://127.0.0.1.example.org:80", "127.0.0.1"])
    def test_a_stack_file_that_leads_elsewhere_is_refused(self, host: str, tmp_path: Path) -> None:
        """The local stack is on this machine: whatever else a file names is no local stack."""
        content = {"folder": folder_mark(tmp_path), "endpoints": {"pubsub": host}}
        (tmp_path / "stack.json").write_text(json.dumps(content))
        with pytest.raises(ConfigError, match=f"names '{host}': expected an address on this machine"):
            read_stack_endpoints(tmp_path)

    def test_a_copied_folder_is_no_stack(self, tmp_path: Path) -> None:
        """The content of its file belongs to the original folder; a folder that was moved stays the same."""
        (tmp_path / "one").mkdir()
        write_stack(tmp_path / "one")
        shutil.copytree(tmp_path / "one", tmp_path / "two")
        assert read_stack_endpoints(tmp_path / "two") is None
        (tmp_path / "one").rename(tmp_path / "three")
        assert read_stack_endpoints(tmp_path / "three") == LOCAL

    @pytest.mark.parametrize("mode", [0o777, 0o770, 0o702])
    def test_a_folder_that_others_may_write_to_is_refused(self, mode: int, tmp_path: Path) -> None:
        """Whoever made it ready could have put anything there."""
        write_stack(tmp_path)
        tmp_path.chmod(mode)
        with pytest.raises(AccessError, match=f"can be written by other users .mode {mode:04o}") as caught:
            read_stack_endpoints(tmp_path)
        assert caught.value.remedy == f"Check its content, then run: chmod go-w {tmp_path}"

    def test_no_stack_file_is_no_stack(self, tmp_path: Path) -> None:
        """Nothing came up here."""
        assert read_stack_endpoints(tmp_path) is None
