"""Submitting to Dataflow: Google's and Beam's own code against a stub of the Jobs API and the local services.

The request, what is staged, that the staged pipeline does what the local one does, and how each refusal ends.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path
from typing import Any

import msgspec
import pytest
from apache_beam.io.gcp.pubsub import PubsubMessage
from apache_beam.portability.api import beam_runner_api_pb2 as beam_proto
from apache_beam.utils import retry as beam_retry

from ecomflow import __version__, infra
from ecomflow.config import DataflowSettings, Endpoints, Settings
from ecomflow.deadletters import store
from ecomflow.errors import AccessError, ConfigError, EcomflowError, NotFoundError, PipelineError, UnavailableError
from ecomflow.gcp.clients import storage_client
from ecomflow.gcp.target import Target
from ecomflow.generator import rounds
from ecomflow.pipeline.dataflow import submit
from ecomflow.pipeline.dataflow.options import beam_options, check_endpoints
from ecomflow.pipeline.tree import step_names
from ecomflow.warehouse.queries import select
from tests.support.cli import ecomflow
from tests.support.dataflow import (
    PROJECT,
    as_variables,
    dataflow_beside,
    download,
    execute,
    in_project,
    read_step,
    staged_pipeline,
)
from tests.support.dataflow_stub import DRAINING, PENDING, RUNNING, DataflowStub
from tests.support.reference import assert_landed

pytestmark = pytest.mark.slow

JOBS = "/v1b3/projects/ecom-test/locations/europe-west1/jobs"
STEPS = [
    "Read messages",
    "Decode events",
    *(f"{verb} {stream} {what}" for stream in ("order", "inventory", "user_activity") for verb, what in (("Model", "facts"),)),
    *(f"Write {stream} facts" for stream in ("order", "inventory", "user_activity")),
    *(f"Write {stream} dead letters" for stream in ("order", "inventory", "user_activity", "unknown")),
    "Refuse unknown events",
]
# Every way in which Beam's graphs move data between workers.
SHUFFLES = {
    "beam:transform:group_by_key:v1",
    "beam:transform:reshuffle:v1",
    "beam:transform:combine_per_key:v1",
    "beam:transform:flatten:v1",
    "beam:transform:group_into_batches:v1",
}


def settings_of(**job: Any) -> Settings:
    return Settings(project="my-project", dataflow=DataflowSettings(**job))


def options_of(settings: Settings, *extra: str) -> list[str]:
    return beam_options(settings, Path("ecomflow.whl"), extra)


class TestOptions:
    def test_what_every_job_has(self) -> None:
        """Streaming, staged in the bucket under staging/ and temp/, with the wheel, a version label, and no main session."""
        assert options_of(settings_of()) == [
            "--runner=DataflowRunner",
            "--project=my-project",
            "--region=europe-west1",
            "--job_name=ecomflow",
            "--staging_location=gs://my-project-ecomflow/staging",
            "--temp_location=gs://my-project-ecomflow/temp",
            "--streaming",
            "--no_save_main_session",
            "--experiments=disable_logging_submission_environment",
            f"--labels=ecomflow-version={__version__.replace('.', '-')}",
            "--extra_package=ecomflow.whl",
        ]

    def test_every_setting_is_an_option(self) -> None:
        """Machine, workers, account, network, key, mode and labels each become the option that Beam has for it."""
        job = settings_of(
            machine_type="n1-standard-2",
            workers=2,
            max_workers=5,
            service_account="job@my-project.iam.gserviceaccount.com",
            network="shop",
            subnetwork="regions/europe-west1/subnetworks/shop",
            kms_key="projects/p/locations/europe-west1/keyRings/r/cryptoKeys/k",
            at_least_once=True,
            labels={"team": "shop"},
        )
        assert set(options_of(job)) - set(options_of(settings_of())) == {
            "--labels=team=shop",
            "--machine_type=n1-standard-2",
            "--num_workers=2",
            "--max_num_workers=5",
            "--service_account_email=job@my-project.iam.gserviceaccount.com",
            "--network=shop",
            "--subnetwork=regions/europe-west1/subnetworks/shop",
            "--dataflow_kms_key=projects/p/locations/europe-west1/keyRings/r/cryptoKeys/k",
            "--dataflow_service_options=min_num_workers=2",
            "--dataflow_service_options=streaming_mode_at_least_once",
        }

    def test_beam_options_follow(self) -> None:
        """Options that Beam knows and ecomflow doesn't set pass through as they are."""
        extra = ("--disk_size_gb=30", "--no_use_public_ips", "--dataflow_service_options=enable_prime")
        assert options_of(settings_of(), *extra)[-4:-1] == list(extra)

    def test_packages_of_the_user_are_installed_first(self, tmp_path: Path) -> None:
        """Workers install packages in the order of the options: what the wheel needs is there when it comes."""
        wheel = tmp_path / "msgspec-1.2-py3-none-any.whl"
        wheel.touch()
        options = [option for option in options_of(settings_of(), f"--extra_package={wheel}") if "package" in option]
        assert options == [f"--extra_package={wheel}", "--extra_package=ecomflow.whl"]

    def test_an_emulator_is_named_localhost(self) -> None:
        """Beam speaks REST only to an endpoint that says localhost, and looks for no credentials then."""
        options = beam_options(settings_of(), Path("w.whl"), endpoint="http://127.0.0.1:8080")
        assert options[-2:] == ["--dataflow_endpoint=http://localhost:8080", "--no_auth"]

    @pytest.mark.parametrize(
        ("extra", "words"),
        [
            ("--runner=DirectRunner", "--runner is set by ecomflow.\nUse --runner instead."),
            ("--num_workers=3", "--num_workers is set by ecomflow.\nUse --workers instead."),
            ("--worker_machine_type=x", "--worker_machine_type is set by ecomflow.\nUse --machine-type instead."),
            ("--labels=a=b", "--labels is set by ecomflow.\nUse --label instead."),
            ("--update", "--update is set by ecomflow.\nUse ecomflow job update instead."),
            ("--streaming", "--streaming is set by ecomflow: the pipeline always streams.\nOmit it."),
            ("--setup_file=setup.py", "--setup_file is set by ecomflow: the package is shipped as a wheel.\nOmit it."),
            ("--disk_siz_gb=30", "Beam has no option --disk_siz_gb.\nDid you mean --disk_size_gb?"),
            ("--qqqqqq", "Beam has no option --qqqqqq.\nSee https://cloud.google.com/dataflow/docs/reference/pipeline-options"),
            ("disk_size_gb=30", "'disk_size_gb=30' is not a Beam option.\nWrite Beam options after -- as --name=value."),
            ("--disk_size_gb", "argument --disk_size_gb: expected one argument."),
            ("--extra_package=missing.whl", "--extra_package is 'missing.whl': there is no such file.\nCorrect the path."),
            ("--extra_packages=setup.py", "expected a package file that ends with .whl, .tar.gz, .tar, .zip.\nBuild one"),
            ("--disk_size_gb=big", "argument --disk_size_gb: invalid int value: 'big'."),
        ],
    )
    def test_a_beam_option_that_cannot_stand(self, extra: str, words: str) -> None:
        """Options that a setting makes, that Beam doesn't know, or can't read, are refused by name."""
        with pytest.raises(ConfigError) as raised:
            options_of(settings_of(), extra)
        assert words in str(raised.value)

    def test_options_that_contradict_each_other(self) -> None:
        """What Beam's own validation finds is passed on."""
        with pytest.raises(ConfigError, match="worker_region and worker_zone are mutually exclusive"):
            options_of(settings_of(), "--worker_zone=a", "--worker_region=b")

    @pytest.mark.parametrize(
        ("job", "words"),
        [
            ({"job_name": "Ecomflow"}, "'Ecomflow' is not a valid job name"),
            ({"job_name": "a-"}, "'a-' is not a valid job name"),
            ({"job_name": "a" * 64}, "is not a valid job name"),
            ({"workers": 0}, "workers is 0: expected 1 or more"),
            ({"workers": 5, "max_workers": 4}, "workers is 5: expected at most max_workers, 4"),
            ({"labels": {"Team": "shop"}}, "'Team' is not a valid label key"),
            ({"labels": {"1team": "shop"}}, "'1team' is not a valid label key"),
            ({"labels": {"team": "The Shop"}}, "'The Shop' is not a valid value of the label team"),
            ({"labels": {"team": "x" * 64}}, "is not a valid value of the label team"),
            ({"labels": {"ecomflow-version": "1"}}, "The label ecomflow-version is set by ecomflow"),
            ({"labels": {f"l{number}": "" for number in range(64)}}, "The job has 64 labels"),
        ],
    )
    def test_a_setting_that_google_would_refuse(self, job: dict[str, Any], words: str) -> None:
        """Names, numbers and labels are checked by Google's rules before anything is sent."""
        with pytest.raises(ConfigError) as raised:
            options_of(settings_of(**job))
        assert words in raised.value.message

    @pytest.mark.parametrize("label", [("team", ""), ("größe", "große-töpfe"), ("a" * 63, "0_-")])
    def test_labels_that_google_takes(self, label: tuple[str, str]) -> None:
        """Values may be empty and begin with a digit; letters need not be English."""
        assert f"--labels={label[0]}={label[1]}" in options_of(settings_of(labels=dict([label])))

    def test_without_a_project(self) -> None:
        """Dataflow runs in a project: the user is told to name one."""
        with pytest.raises(ConfigError, match="Dataflow needs a project, and none is configured"):
            options_of(Settings())

    def test_an_emulator_is_not_sent_to_google(self) -> None:
        """Workers at Google can't reach this machine: the variable that says otherwise is named."""
        with pytest.raises(ConfigError, match=r"PUBSUB_EMULATOR_HOST is set to 127\.0\.0\.1:1"):
            check_endpoints(Endpoints(pubsub="127.0.0.1:1"))
        check_endpoints(Endpoints(pubsub="127.0.0.1:1", dataflow="http://localhost:2"))

    def test_what_travels_to_the_workers(self) -> None:
        """At Google all endpoints are Google's; a job for an emulator carries those of the emulators."""
        assert submit.worker_config(Target(settings_of(), Endpoints())).endpoints == Endpoints()
        emulated = Endpoints(pubsub="127.0.0.1:1", dataflow="http://localhost:2")
        assert submit.worker_config(Target(settings_of(), emulated)).endpoints == Endpoints(pubsub="127.0.0.1:1")


class TestDryRun:
    def test_the_graph_is_the_local_one(self) -> None:
        """The tree begins with the read and has every step of the graph once, by the labels that updates depend on."""
        (root,) = submit.dry_run(settings_of()).graph
        assert (root.name, root.parts) == ("Read messages", ("Subscribe", "Batch"))
        names = [name for name in step_names((root,)) if "/" not in name]
        assert sorted(names) == sorted(STEPS)
        (decode,) = root.then
        assert [[step.name for step in branch.then] for branch in decode.then] == [
            ["Write order facts"],
            ["Write inventory facts"],
            ["Write user_activity facts"],
            ["Write unknown dead letters"],
        ]

    def test_from_the_command_line(self, tmp_path: Path) -> None:
        """With flags before settings it prints graph and options in seconds, without credentials, and starts nothing."""
        (tmp_path / "ecomflow.toml").write_text('project = "my-project"\n[dataflow]\nworkers = 2\nlabels = { team = "shop" }\n')
        began = time.monotonic()
        flags = ("--workers", "3", "--label", "run=test", "--timestamp-attribute", "event_timestamp")
        result = ecomflow("deploy", "--dry-run", *flags, "--", "--disk_size_gb=30", folder=tmp_path)
        assert result.returncode == 0, result.stderr
        assert time.monotonic() - began < 20  # some 2 s, on a machine that does nothing else
        lines = [line.strip() for line in result.stdout.splitlines()]
        assert lines[0] == "Google Cloud project my-project, europe-west1."
        assert "└── Read messages  Subscribe, Batch" in lines
        assert {"--num_workers=3", "--labels=run=test", "--labels=team=shop", "--disk_size_gb=30"} <= set(lines)
        assert lines[-1] == "Nothing was started."
        assert result.stderr == ""

    def test_as_json(self, tmp_path: Path) -> None:
        """--json prints one document: options and graph."""
        result = ecomflow("deploy", "--project", "my-project", "--dry-run", "--json", folder=tmp_path)
        planned = json.loads(result.stdout)
        assert planned["graph"][0]["then"][0]["name"] == "Decode events"
        assert "--job_name=ecomflow" in planned["options"]

    def test_every_setting_has_its_flag(self, tmp_path: Path) -> None:
        """A job needs no file: region, bucket and what else it uses stand on the command line."""
        flags = ("--region", "us-east1", "--bucket", "my-bucket", "--dataset", "facts", "--subscription", "my-subscription")
        result = ecomflow(
            "deploy", "--runner", "DataflowRunner", "--project", "my-project", *flags, "--dry-run", "--json", folder=tmp_path
        )
        assert result.returncode == 0, result.stderr
        options = set(json.loads(result.stdout)["options"])
        assert {"--project=my-project", "--region=us-east1", "--temp_location=gs://my-bucket/temp"} <= options

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            (("--label", "a=b"), "--label can only be used on Dataflow"),
            (("--dry-run",), "--dry-run can only be used on Dataflow"),
            (
                ("--runner", "DirectRunner", "--project", "my-project", "--max-workers", "3"),
                "--max-workers can only be used on Dataflow",
            ),
            (("--", "--disk_size_gb=30"), "Beam options can only be used on Dataflow"),
            (("--runner", "DataflowRunner"), "Dataflow needs a project, and none is configured"),
            (("--runner", "Flink"), "'Flink' is not a valid runner"),
            (("--project", "my-project", "--detach"), "--detach can only be used on this machine"),
            (("--project", "my-project", "--dry-run", "--label", "team"), "'team' is not a valid label: expected key=value"),
            (("--project", "my-project", "--dry-run", "--job-name", "No"), "'No' is not a valid job name"),
        ],
    )
    def test_flags_that_do_not_fit(self, arguments: tuple[str, ...], words: str, tmp_path: Path) -> None:
        """A flag for the other runner, or a value that can't stand, is an error with its name."""
        result = ecomflow("deploy", *arguments, folder=tmp_path)
        assert result.returncode == 2
        assert words in result.stderr

    def test_an_emulator_in_the_environment(self, tmp_path: Path) -> None:
        """A job for Google does not go out while an emulator is named."""
        result = ecomflow("deploy", "--project", "my-project", "--dry-run", folder=tmp_path, PUBSUB_EMULATOR_HOST="127.0.0.1:1")
        assert result.returncode == 2
        assert "Unset PUBSUB_EMULATOR_HOST" in result.stderr


@pytest.fixture
def dataflow_stub(stack: Endpoints) -> Iterator[tuple[DataflowStub, Endpoints]]:
    with dataflow_beside(stack) as both:
        yield both


@pytest.fixture
def stub(dataflow_stub: tuple[DataflowStub, Endpoints]) -> DataflowStub:
    return dataflow_stub[0]


@pytest.fixture
def endpoints(dataflow_stub: tuple[DataflowStub, Endpoints]) -> Endpoints:
    return dataflow_stub[1]


@pytest.fixture
def cloud(settings: Settings, endpoints: Endpoints) -> Settings:
    """A project with everything in it but the job."""
    wanted = in_project(settings)
    target = Target(wanted, endpoints)
    infra.apply(target, infra.plan(target))
    return wanted


@pytest.fixture
def bucket_only(settings: Settings, endpoints: Endpoints) -> Settings:
    """A project with nothing but the bucket, which is all that submitting needs."""
    wanted = in_project(settings)
    storage_client(PROJECT, endpoints).create_bucket(wanted.bucket_name)
    return wanted


@pytest.mark.stack
class TestSubmission:
    def test_the_request(self, bucket_only: Settings, endpoints: Endpoints, stub: DataflowStub) -> None:
        """One POST: a streaming job with its name, labels, machine, workers, account, mode and key."""
        job = DataflowSettings(
            job_name="shop-events",
            machine_type="n1-standard-2",
            workers=2,
            max_workers=5,
            service_account="job@ecom-test.iam.gserviceaccount.com",
            network="shop",
            subnetwork="regions/europe-west1/subnetworks/shop",
            kms_key="projects/p/locations/europe-west1/keyRings/r/cryptoKeys/k",
            at_least_once=True,
            labels={"team": "shop"},
        )
        settings = msgspec.structs.replace(bucket_only, dataflow=job)
        submitted = submit.submit(Target(settings, endpoints), extra=["--disk_size_gb=30"])
        (request,) = stub.seen("POST")
        body, environment = request.body, request.body["environment"]
        (pool,) = environment["workerPools"]
        assert request.path == JOBS
        assert (body["name"], body["type"]) == ("shop-events", 2)
        assert body["labels"] == {"team": "shop", "ecomflow-version": __version__.replace(".", "-")}
        assert (pool["machineType"], pool["numWorkers"], pool["diskSizeGb"]) == ("n1-standard-2", 2, 30)
        assert pool["autoscalingSettings"]["maxNumWorkers"] == 5
        assert (pool["network"], pool["subnetwork"]) == ("shop", "regions/europe-west1/subnetworks/shop")
        assert environment["serviceAccountEmail"] == job.service_account
        assert environment["serviceKmsKeyName"] == job.kms_key
        assert environment["serviceOptions"] == ["min_num_workers=2", "streaming_mode_at_least_once"]
        assert environment["version"]["job_type"] == "FNAPI_STREAMING"
        assert {"use_runner_v2", "enable_streaming_engine"} <= set(environment["experiments"])
        assert "replaceJobId" not in body

        job_id = next(iter(stub.jobs))
        assert submitted.job_id == job_id
        assert (submitted.name, submitted.state) == ("shop-events", "pending")
        assert submitted.url == f"https://console.cloud.google.com/dataflow/jobs/europe-west1/{job_id}?project=ecom-test"

    def test_what_is_staged(self, bucket_only: Settings, endpoints: Endpoints, stub: DataflowStub) -> None:
        """In the bucket lie the pipeline and the wheel; every worker container installs the wheel, and nothing else."""
        target = Target(bucket_only, endpoints)
        submitted = submit.submit(target)
        pipeline = staged_pipeline(target, submitted)
        (environment,) = pipeline.components.environments.values()
        image = beam_proto.DockerPayload.FromString(environment.payload).container_image
        assert image.startswith("gcr.io/cloud-dataflow/v1beta3/beam_python3.")
        names = [
            beam_proto.ArtifactStagingToRolePayload.FromString(dependency.role_payload).staged_name
            for dependency in environment.dependencies
        ]
        assert sorted(names) == [f"ecomflow-{__version__}-py3-none-any.whl", "extra_packages.txt"]
        folder = submitted.staged[0].rsplit("/", 1)[0]
        assert download(target, f"{folder}/extra_packages.txt").decode().split() == [names[-1]]
        with zipfile.ZipFile(BytesIO(download(target, submitted.staged[1]))) as wheel:
            assert "ecomflow/pipeline/graph.py" in wheel.namelist()

    def test_the_staged_graph(self, bucket_only: Settings, endpoints: Endpoints) -> None:
        """It has the local graph's steps, one Pub/Sub read, and nothing that moves data between read and sinks."""
        target = Target(bucket_only, endpoints)
        pipeline = staged_pipeline(target, submit.submit(target))
        transforms = pipeline.components.transforms
        (root,) = pipeline.root_transform_ids
        assert sorted(transforms[name].unique_name for name in transforms[root].subtransforms) == sorted(STEPS)
        assert {step.spec.urn for step in transforms.values()} & SHUFFLES == set()
        leaves = {step.spec.urn for step in transforms.values() if not step.subtransforms}
        assert leaves == {"beam:transform:pubsub_read:v1", "beam:transform:pardo:v1"}

    @pytest.mark.parametrize(
        ("job", "id_attribute", "timestamp_attribute"),
        [
            ({}, "event_id", ""),
            ({"timestamp_attribute": "event_timestamp"}, "event_id", "event_timestamp"),
            ({"id_attribute": ""}, "", ""),
        ],
    )
    def test_the_read(
        self, bucket_only: Settings, endpoints: Endpoints, job: dict[str, str], id_attribute: str, timestamp_attribute: str
    ) -> None:
        """Dataflow reads the subscription with attributes, knows repeats by event_id, and the event's time where it is named."""
        settings = in_project(bucket_only, **job)
        target = Target(settings, endpoints)
        read = read_step(staged_pipeline(target, submit.submit(target)))
        payload = beam_proto.PubSubReadPayload.FromString(read.spec.payload)
        assert read.unique_name == "Read messages/Subscribe/Read"
        assert payload.subscription == settings.subscription_path
        assert payload.with_attributes
        assert (payload.id_attribute, payload.timestamp_attribute) == (id_attribute, timestamp_attribute)

    def test_the_staged_pipeline_does_what_the_local_one_does(self, cloud: Settings, endpoints: Endpoints) -> None:
        """Run on generated events, the very pipeline that was staged makes the reference's rows and dead letters, no more."""
        target = Target(cloud, endpoints)
        pipeline = staged_pipeline(target, submit.submit(target))
        events = list(rounds.generate(200, seed=7, now=datetime.now(UTC)))
        execute(
            pipeline,
            [PubsubMessage(e.data, e.attributes)._to_proto_str(for_publish=True) for e in events],
            target,
        )
        assert_landed(target, events)

    def test_a_contract_of_ones_own_travels_with_the_job(self, cloud: Settings, endpoints: Endpoints, tmp_path: Path) -> None:
        """The staged pipeline runs it with the user's folder gone: a worker reads no contract file."""
        folder = tmp_path / "contracts"
        folder.mkdir()
        (folder / "refund.toml").write_text(REFUND)
        target = Target(msgspec.structs.replace(cloud, contracts=str(folder)), endpoints)
        infra.apply(target, infra.plan(target))
        pipeline = staged_pipeline(target, submit.submit(target))
        shutil.rmtree(folder)

        at = datetime.now(UTC).isoformat()
        bodies = [{"event_type": "refund", "refund_id": f"R-{n}", "at": at, "lines": [{"price": n}] * n} for n in (1, 2)]
        bodies.append({"event_type": "refund", "refund_id": "", "at": at, "lines": []})
        messages = [PubsubMessage(json.dumps(body).encode(), {"event_id": f"E-{n}"}) for n, body in enumerate(bodies)]
        execute(pipeline, [one._to_proto_str(for_publish=True) for one in messages], target)
        lines = select(
            target, "SELECT refund_id, line_number, price FROM ecomflow.fact_refund_line ORDER BY refund_id, line_number"
        )
        assert list(lines) == [("R-1", 1, 1), ("R-2", 1, 2), ("R-2", 2, 2)]
        (letter,) = store.newest(target, limit=10)
        assert (letter.stream, letter.letter.error) == ("refund", "$.refund_id: expected str of length >= 1, got ''")

    def test_an_update(self, bucket_only: Settings, endpoints: Endpoints, stub: DataflowStub) -> None:
        """An update names the running job and the mapping of its steps; the old job makes way."""
        old = stub.add_job("ecomflow", RUNNING)
        mapping = {"Old step": "Decode events"}
        new = submit.submit(Target(bucket_only, endpoints), update=True, transform_name_mapping=mapping)
        (request,) = stub.seen("POST")
        assert (request.body["replaceJobId"], request.body["transformNameMapping"]) == (old, mapping)
        assert stub.jobs[old]["replacedByJobId"] == new.job_id

    def test_nothing_of_it_stays(
        self, bucket_only: Settings, endpoints: Endpoints, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Beam's patience, its logging and the environment are afterwards as they were before; no temporary folder is left."""
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

        def state() -> tuple[Any, ...]:
            return beam_retry.Clock.sleep, logging.root.manager.disable, dict(os.environ), tempfile.tempdir

        before = state()
        submit.submit(Target(bucket_only, endpoints))
        assert state() == before
        assert [path.name for path in tmp_path.iterdir() if path.name != "beam-requirements-cache"] == []


REFUND = """
event = "refund"
time = "at"
[fields]
refund_id = "string"
at = "timestamp"
lines = { type = "list", of = "line" }
[records.line]
price = "numeric"
[[tables]]
name = "fact_refund"
[[tables]]
name = "fact_refund_line"
each = "lines"
columns = ["refund_id", "lines"]
"""

Arrange = Callable[[DataflowStub], Any]


@pytest.mark.stack
class TestRefusals:
    """Each ends within seconds, with what is wrong and what to do; nothing is staged where it could be known before."""

    def refused(self, target: Target, **options: Any) -> EcomflowError:
        began = time.monotonic()
        with pytest.raises(EcomflowError) as raised:
            submit.submit(target, **options)
        assert time.monotonic() - began < 15
        return raised.value

    def staged(self, target: Target) -> list[str]:
        return [blob.name for blob in storage_client(PROJECT, target.endpoints).list_blobs(target.settings.bucket_name)]

    def test_a_bucket_that_is_not_there(self, settings: Settings, endpoints: Endpoints, stub: DataflowStub) -> None:
        """The bucket is looked up first: Beam would retry for minutes."""
        error = self.refused(Target(in_project(settings), endpoints))
        assert isinstance(error, NotFoundError)
        assert str(error) == f"Bucket {settings.bucket_name} does not exist.\nRun: ecomflow infra up"
        assert stub.requests == []

    @pytest.mark.parametrize("state", [PENDING, RUNNING, DRAINING])
    def test_a_name_that_is_taken(self, bucket_only: Settings, endpoints: Endpoints, stub: DataflowStub, state: int) -> None:
        """A job of the name that has not ended is named, with the three ways on; nothing is staged."""
        taken = stub.add_job("ecomflow", state)
        stub.add_job("ecomflow", 6)
        target = Target(bucket_only, endpoints)
        error = self.refused(target)
        assert isinstance(error, PipelineError)
        assert error.message == f"A job named ecomflow is already running ({taken})."
        assert "ecomflow job update" in str(error.remedy)
        assert self.staged(target) == []

    def test_a_name_that_is_taken_in_the_meantime(
        self, bucket_only: Settings, endpoints: Endpoints, stub: DataflowStub, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Where another was quicker, Dataflow answers with that job: it is not taken for ours."""
        other = stub.add_job("ecomflow", RUNNING, clientRequestId="another")
        monkeypatch.setattr(submit, "running_job", lambda target: None)
        error = self.refused(Target(bucket_only, endpoints))
        assert isinstance(error, PipelineError)
        assert error.message == f"A job named ecomflow is already running ({other})."

    @pytest.mark.parametrize(
        ("method", "status", "message", "kind", "words"),
        [
            (
                "GET",
                403,
                "Permission denied on dataflow.jobs.list",
                AccessError,
                "Access to job ecomflow is denied: this account lacks dataflow.jobs.list.",
            ),
            (
                "POST",
                403,
                "Permission denied on dataflow.jobs.create",
                AccessError,
                "Access to job ecomflow is denied: this account lacks dataflow.jobs.create.",
            ),
            (
                "GET",
                403,
                "Dataflow API has not been used in project 1 before or it is disabled.",
                AccessError,
                "Dataflow is not enabled in project 1.\nRun: gcloud services enable dataflow.googleapis.com --project 1",
            ),
            ("GET", 404, "Project not found: ecom-test", NotFoundError, "Project 'ecom-test' does not exist"),
            ("POST", 404, "no such region", NotFoundError, "Dataflow has no project ecom-test in europe-west1: no such region"),
            (
                "POST",
                409,
                "the job is being changed",
                PipelineError,
                "Dataflow refuses the job ecomflow: the job is being changed",
            ),
            ("POST", 400, "The machine type x is unknown", ConfigError, "The machine type x is unknown"),
        ],
    )
    def test_a_refusal_of_the_service(
        self,
        bucket_only: Settings,
        endpoints: Endpoints,
        stub: DataflowStub,
        method: str,
        status: int,
        message: str,
        kind: type[EcomflowError],
        words: str,
    ) -> None:
        """Each status becomes the error of its kind, in the service's own words, without a try too many."""
        stub.fail(method, "/jobs$", status, times=100, message=message)
        error = self.refused(Target(bucket_only, endpoints))
        assert isinstance(error, kind)
        assert words in str(error)
        assert len(stub.seen(method)) == 1

    @pytest.mark.parametrize("method", ["GET", "POST"])
    def test_a_service_that_is_not_there(
        self, bucket_only: Settings, endpoints: Endpoints, stub: DataflowStub, method: str
    ) -> None:
        """A 503 that stays is retried a few times, and ends as unavailable."""
        stub.fail(method, "/jobs$", 503, times=100, message="The service is unavailable")
        error = self.refused(Target(bucket_only, endpoints))
        assert isinstance(error, UnavailableError)
        assert "The service is unavailable" in error.message
        assert 2 <= len(stub.seen(method)) <= 12

    def test_a_hiccup_of_the_service(self, bucket_only: Settings, endpoints: Endpoints, stub: DataflowStub) -> None:
        """A 503 that passes is passed over."""
        stub.fail("GET", "/jobs$", 503, times=1)
        stub.fail("POST", "/jobs$", 503, times=1)
        assert submit.submit(Target(bucket_only, endpoints)).job_id in stub.jobs

    def test_a_port_that_nobody_listens_at(self, bucket_only: Settings, endpoints: Endpoints) -> None:
        """A wrong DATAFLOW_EMULATOR_HOST is found in seconds."""
        error = self.refused(Target(bucket_only, msgspec.structs.replace(endpoints, dataflow="http://localhost:9")))
        assert isinstance(error, UnavailableError)
        assert error.remedy == "Check DATAFLOW_EMULATOR_HOST."

    @pytest.mark.parametrize(
        ("state", "words"), [(None, "There is no running job named ecomflow"), (DRAINING, "is draining"), (PENDING, "is pending")]
    )
    def test_an_update_of_what_does_not_run(
        self, bucket_only: Settings, endpoints: Endpoints, stub: DataflowStub, state: int | None, words: str
    ) -> None:
        """Only a running job is updated: for any other Beam would look for ever."""
        if state is not None:
            stub.add_job("ecomflow", state)
        error = self.refused(Target(bucket_only, endpoints), update=True)
        assert isinstance(error, PipelineError)
        assert words in error.message
        assert stub.seen("POST") == []


@pytest.mark.stack
class TestTheCommand:
    def deploy(self, target: Target, folder: Path, *arguments: str) -> Any:
        return ecomflow(
            "deploy", *arguments, settings=target.settings, folder=folder, timeout=60, **as_variables(target.endpoints)
        )

    def test_it_submits_and_returns(self, cloud: Settings, endpoints: Endpoints, stub: DataflowStub, tmp_path: Path) -> None:
        """With a project deploy submits to Dataflow, says what it did in four lines, and shows none of Beam's log."""
        result = self.deploy(Target(cloud, endpoints), tmp_path, "--job-name", "shop", "--label", "team=shop")
        assert result.returncode == 0, result.stderr
        (job_id,) = stub.jobs
        assert stub.jobs[job_id]["labels"]["team"] == "shop"
        assert result.stdout.splitlines() == [
            "Google Cloud project ecom-test, europe-west1.",
            f"Dataflow has accepted job shop ({job_id}); it is pending.",
            f"https://console.cloud.google.com/dataflow/jobs/europe-west1/{job_id}?project=ecom-test",
            "See how it runs: ecomflow job status. See its errors: ecomflow job logs. Drain it: ecomflow job drain",
        ]
        assert result.stderr == ""

    def test_as_json(self, cloud: Settings, endpoints: Endpoints, stub: DataflowStub, tmp_path: Path) -> None:
        """--json prints the job as one document."""
        job = json.loads(self.deploy(Target(cloud, endpoints), tmp_path, "--json").stdout)
        assert (job["job_id"], job["state"]) == (next(iter(stub.jobs)), "pending")

    def test_a_failed_preflight_stops_it(
        self, settings: Settings, endpoints: Endpoints, stub: DataflowStub, tmp_path: Path
    ) -> None:
        """Where bucket, topic and tables are missing, it ends before anything is staged, with the command that makes them."""
        result = self.deploy(Target(in_project(settings), endpoints), tmp_path)
        assert result.returncode == 3
        assert "does not exist" in result.stderr
        assert "ecomflow infra up" in result.stderr
        assert stub.seen("POST") == []

    @pytest.mark.parametrize(
        ("arrange", "code", "words"),
        [
            (lambda stub: stub.add_job("ecomflow"), 9, "A job named ecomflow is already running"),
            (lambda stub: stub.fail("POST", "/jobs$", 403, times=9), 5, "Access to job ecomflow is denied"),
            (lambda stub: stub.fail("POST", "/jobs$", 409, times=9), 9, "Dataflow refuses the job ecomflow"),
            (lambda stub: stub.fail("POST", "/jobs$", 503, times=99), 4, "does not answer"),
        ],
        ids=["duplicate", "403", "409", "503"],
    )
    def test_how_a_refusal_ends(
        self,
        cloud: Settings,
        endpoints: Endpoints,
        stub: DataflowStub,
        tmp_path: Path,
        arrange: Arrange,
        code: int,
        words: str,
    ) -> None:
        """A sentence, what to do, the exit code of its kind; no traceback, and no log line of Beam."""
        arrange(stub)
        began = time.monotonic()
        result = self.deploy(Target(cloud, endpoints), tmp_path)
        assert (result.returncode, result.stdout.count("\n")) == (code, 1)
        assert result.stderr.startswith("Error: ")
        assert words in result.stderr
        assert len(result.stderr.splitlines()) == 2
        assert time.monotonic() - began < 30
