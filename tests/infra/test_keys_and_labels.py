"""``kms_key`` and ``labels`` of the settings: every resource that takes them is created with them, compared and changed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from ecomflow import infra
from ecomflow.config import DataflowSettings, Endpoints, Settings, load_settings
from ecomflow.doctor import preflight
from ecomflow.errors import ConfigError, SchemaError
from ecomflow.gcp.clients import publisher_client, storage_client, subscriber_client
from ecomflow.gcp.target import Target
from ecomflow.infra.differences import Difference, plan_step
from ecomflow.infra.resources import (
    Bucket,
    Dataset,
    ExternalTable,
    Resource,
    Subscription,
    Table,
    Topic,
    View,
    dead_letters_table,
    desired,
)
from ecomflow.pipeline.dataflow.options import VERSION_LABEL, beam_options
from ecomflow.warehouse import queries
from tests.support.project import ROLES, Project

KEY = "projects/keys/locations/europe/keyRings/ring/cryptoKeys/key"
OTHER = "projects/keys/locations/europe/keyRings/ring/cryptoKeys/other"
REGIONAL = "projects/keys/locations/europe-west1/keyRings/ring/cryptoKeys/key"
PLAIN = Settings(project="test-project")
SETTINGS = msgspec.structs.replace(PLAIN, kms_key=KEY, labels={"team": "shop", "stage": "test"})
Serve = Callable[[Project], Endpoints]


def project(settings: Settings = SETTINGS) -> Project:
    return Project(settings, set(ROLES))


def wanted(kind: type[Resource], settings: Settings = SETTINGS) -> Any:
    return next(resource for resource in (*desired(settings), dead_letters_table(settings)) if type(resource) is kind)


class TestKeysWanted:
    """Pure: settings in; resources, and the steps for them, out."""

    def test_every_resource_that_takes_one(self) -> None:
        """Both topics, the bucket, the dataset and each table have the key; no other kind of resource takes one."""
        have = [resource for resource in desired(SETTINGS) if hasattr(resource, "kms_key")]
        assert [type(resource) for resource in have] == [Topic, Topic, Bucket, Dataset, *[Table] * 5]
        assert {resource.kms_key for resource in have} == {KEY}

    def test_none_on_this_machine(self) -> None:
        """The local services have no keys, even if one is configured."""
        local = msgspec.structs.replace(SETTINGS, project=None)
        assert {getattr(resource, "kms_key", None) for resource in desired(local)} == {None}

    @pytest.mark.parametrize("kind", [Bucket, Dataset])
    @pytest.mark.parametrize("live", ["", OTHER])
    def test_changed(self, kind: type[Resource], live: str) -> None:
        """The key of a bucket and of a dataset is changed, for new objects and tables."""
        step = plan_step(wanted(kind), msgspec.structs.replace(wanted(kind), kms_key=live))
        assert step.action == "change"
        assert step.differences == (Difference("kms_key", live or "none", KEY, "change"),)

    @pytest.mark.parametrize("live", ["", OTHER])
    def test_a_topic(self, live: str) -> None:
        """A topic's key can't be changed: the difference is refused, with what to do."""
        step = plan_step(wanted(Topic), msgspec.structs.replace(wanted(Topic), kms_key=live))
        assert step.action == "refuse"
        assert "gcloud pubsub topics delete projects/test-project/topics/ecomflow-events" in str(step.differences[0].remedy)

    def test_a_table(self) -> None:
        """A table's key is replaced by another; for a table without a key, the error has the command that gives it one."""
        assert plan_step(wanted(Table), msgspec.structs.replace(wanted(Table), kms_key=OTHER)).action == "change"
        step = plan_step(wanted(Table), msgspec.structs.replace(wanted(Table), kms_key=""))
        assert step.action == "refuse"
        name = "test-project:ecomflow.fact_order_header"
        assert str(step.differences[0].remedy).endswith(f"bq cp -f --destination_kms_key={KEY} {name} {name}")

    @pytest.mark.parametrize("kind", [Topic, Bucket, Dataset, Table])
    def test_not_asked_for(self, kind: type[Resource]) -> None:
        """Without the setting an existing key is left alone."""
        assert plan_step(wanted(kind, PLAIN), msgspec.structs.replace(wanted(kind, PLAIN), kms_key=OTHER)).action == "keep"


class TestLabelsWanted:
    KINDS = (Topic, Subscription, Bucket, Dataset, Table, View, ExternalTable)

    def test_every_resource(self) -> None:
        """Every resource has the labels."""
        assert {resource.labels for resource in desired(SETTINGS)} == {("stage=test", "team=shop")}  # type: ignore[union-attr]

    @pytest.mark.parametrize("kind", KINDS)
    @pytest.mark.parametrize(("live", "expected"), [((), "none"), (("mine=1", "team=toys"), "team=toys")])
    def test_changed(self, kind: type[Resource], live: tuple[str, ...], expected: str) -> None:
        """Missing and different labels are shown; other people's labels are not."""
        step = plan_step(wanted(kind), msgspec.structs.replace(wanted(kind), labels=live))
        assert step.action == "change"
        assert step.differences == (Difference("labels", expected, "stage=test, team=shop", "change", stops="none"),)

    @pytest.mark.parametrize("kind", KINDS)
    def test_others(self, kind: type[Resource]) -> None:
        """Additional labels of other people are no difference."""
        live = ("mine=1", "stage=test", "team=shop")
        assert plan_step(wanted(kind), msgspec.structs.replace(wanted(kind), labels=live)).action == "keep"


class TestJob:
    """Pure: the options of the Dataflow job."""

    def options(self, settings: Settings) -> list[str]:
        return beam_options(settings, Path("ecomflow.whl"))

    def test_labels(self) -> None:
        """The job has the labels of all resources and its own, which take precedence."""
        own = msgspec.structs.replace(SETTINGS, kms_key=None, dataflow=DataflowSettings(labels={"team": "jobs", "run": "1"}))
        labels = [option for option in self.options(own) if option.startswith("--labels=")]
        assert [label for label in labels if VERSION_LABEL not in label] == [
            "--labels=run=1",
            "--labels=stage=test",
            "--labels=team=jobs",
        ]

    def test_own_key(self) -> None:
        """The job's own key takes precedence over that of the resources."""
        own = msgspec.structs.replace(SETTINGS, dataflow=DataflowSettings(kms_key=REGIONAL))
        assert f"--dataflow_kms_key={REGIONAL}" in self.options(own)

    def test_the_key_of_the_resources(self) -> None:
        """If bucket and dataset are in the job's region, one key is enough for everything."""
        one = msgspec.structs.replace(SETTINGS, location="europe-west1", kms_key=REGIONAL)
        assert f"--dataflow_kms_key={REGIONAL}" in self.options(one)

    def test_another_region(self) -> None:
        """Dataflow takes no key in a multi-region: it is refused, never left out silently."""
        with pytest.raises(ConfigError, match="is in europe: expected europe-west1, where the job runs") as caught:
            self.options(SETTINGS)
        assert "kms_key under [dataflow]" in str(caught.value.remedy)


class TestSettings:
    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ('kms_key = "key"', "'key' is not a Cloud KMS key: expected projects/PROJECT/locations/LOCATION/keyRings/RING/"),
            (f'kms_key = "{KEY}/cryptoKeyVersions/1"', "is not a Cloud KMS key: .*, without a version"),
            (f'kms_key = "{REGIONAL}"', "kms_key is in europe-west1: expected europe, because bucket and dataset are in EU"),
            (f'location = "US"\nkms_key = "{KEY}"', "kms_key is in europe: expected us, because bucket and dataset are in US"),
            ('[dataflow]\nkms_key = "key"', "'key' is not a Cloud KMS key"),
        ],
    )
    def test_wrong_key(self, text: str, expected: str, tmp_path: Path) -> None:
        """A key that Google would refuse half way through is refused when the settings are read."""
        (tmp_path / "ecomflow.toml").write_text(text)
        with pytest.raises(ConfigError, match=expected):
            load_settings({}, {}, tmp_path)

    @pytest.mark.parametrize(
        ("labels", "expected"),
        [
            ({"Team": "shop"}, "'Team' is not a valid label key"),
            ({"team": "The Shop"}, "'The Shop' is not a valid value of the label team"),
            ({"1": "a"}, "'1' is not a valid label key"),
            ({"": "a"}, "'' is not a valid label key"),
            ({"a" * 64: "a"}, "is not a valid label key"),
            ({"a": "b" * 64}, "is not a valid value of the label a"),
        ],
    )
    def test_wrong_labels(self, labels: dict[str, str], expected: str, tmp_path: Path) -> None:
        """Labels that Google would refuse are refused when the settings are read, with the place to correct."""
        pairs = ", ".join(f'"{key}" = "{value}"' for key, value in labels.items())
        (tmp_path / "ecomflow.toml").write_text(f"labels = {{ {pairs} }}\n")
        with pytest.raises(ConfigError, match=expected) as caught:
            load_settings({}, {}, tmp_path)
        assert caught.value.remedy == f"Correct labels in {tmp_path}/ecomflow.toml."

    def test_too_many_labels(self, tmp_path: Path) -> None:
        """A resource takes 64."""
        pairs = ",".join(f"l{number}=" for number in range(65))
        with pytest.raises(ConfigError, match="There are 65 labels: expected at most 64"):
            load_settings({}, {"ECOMFLOW_LABELS": pairs}, tmp_path)

    def test_from_the_environment(self, tmp_path: Path) -> None:
        """Labels are pairs separated by commas; anything else is refused."""
        found = load_settings({}, {"ECOMFLOW_LABELS": "team=shop, stage=test", "ECOMFLOW_KMS_KEY": KEY}, tmp_path)
        assert (found.labels, found.kms_key) == ({"team": "shop", "stage": "test"}, KEY)
        with pytest.raises(ConfigError, match="'shop' is not a valid label: expected key=value"):
            load_settings({}, {"ECOMFLOW_LABELS": "shop"}, tmp_path)


class TestInAProject:
    """On services that report keys and labels."""

    def test_all_as_it_should_be(self, served: Serve) -> None:
        """If everything has key and labels, there is nothing to do."""
        assert {step.action for step in infra.plan(Target(SETTINGS, served(project()))).steps} == {"keep"}

    def test_status(self, served: Serve) -> None:
        """Each resource with another key or other labels is reported."""
        there = {status.name: status.detail for status in infra.status(Target(SETTINGS, served(project(PLAIN))))}
        labels = "labels is none, expected stage=test, team=shop"
        key = f"kms_key is none, expected {KEY}"
        found = {resource.name: there[resource.name] for resource in desired(SETTINGS)}
        assert found == {
            resource.name: f"{key}; {labels}" if hasattr(resource, "kms_key") else labels for resource in desired(SETTINGS)
        }

    def test_up_refuses(self, served: Serve) -> None:
        """If a topic has another key nothing is changed, whatever else differs."""
        stub = project(PLAIN)
        target = Target(SETTINGS, served(stub))
        with pytest.raises(SchemaError, match=f"Nothing was changed, .*kms_key is none, expected {KEY}"):
            infra.apply(target, infra.plan(target))
        assert stub.writes() == []

    def test_created(self, served: Serve) -> None:
        """A topic, a bucket and a dataset are created with key and labels; a table gets the key from its dataset."""
        stub = project()
        for name in (SETTINGS.topic_path, SETTINGS.bucket_name, SETTINGS.dataset_id):
            del stub.there[name]
        endpoints = served(stub)
        target = Target(SETTINGS, endpoints)
        infra.apply(target, infra.plan(target))
        topic = stub.there[SETTINGS.topic_path]
        assert isinstance(topic, Topic)
        assert (topic.kms_key, topic.labels) == (KEY, ("stage=test", "team=shop"))
        bucket, dataset = stub.bodies
        assert (bucket["encryption"], bucket["labels"]) == ({"defaultKmsKeyName": KEY}, SETTINGS.labels)
        assert (dataset["defaultEncryptionConfiguration"], dataset["labels"]) == ({"kmsKeyName": KEY}, SETTINGS.labels)

    def test_changed(self, served: Serve) -> None:
        """Bucket, dataset and table get the key in place of another, and the labels in addition to other people's."""
        stub = project()
        names = (SETTINGS.bucket_name, SETTINGS.dataset_id, f"{SETTINGS.dataset_id}.fact_order")
        for name in names:
            stub.there[name] = msgspec.structs.replace(stub.there[name], kms_key=OTHER, labels=("mine=1",))
        endpoints = served(stub)
        target = Target(SETTINGS, endpoints)
        done = infra.apply(target, infra.plan(target))
        assert [(step.kind, step.action) for step in done.steps] == [
            ("bucket", "change"),
            ("dataset", "change"),
            ("table", "change"),
        ]
        bucket, dataset, key, labels = stub.bodies
        every = {"mine": "1", **SETTINGS.labels}
        assert (bucket["encryption"], bucket["labels"]) == ({"defaultKmsKeyName": KEY}, every)
        assert dataset == {"defaultEncryptionConfiguration": {"kmsKeyName": KEY}, "labels": every}
        assert (key, labels) == ({"encryptionConfiguration": {"kmsKeyName": KEY}}, {"labels": every})

    def test_a_key_by_its_version(self, served: Serve) -> None:
        """BigQuery may report the version that it encrypted with: it is the same key."""
        stub = project()
        name = f"{SETTINGS.dataset_id}.fact_order"
        stub.there[name] = msgspec.structs.replace(stub.there[name], kms_key=f"{KEY}/cryptoKeyVersions/3")
        assert {step.action for step in infra.plan(Target(SETTINGS, served(stub))).steps} == {"keep"}

    def test_a_query(self, served: Serve) -> None:
        """A query has the labels, so that its cost can be attributed."""
        stub = project()
        endpoints = served(stub)
        query = queries.prepare(SETTINGS, "SELECT 1", {})
        target = Target(SETTINGS, endpoints)
        queries._started(target, query, queries._service(target))
        assert [body["configuration"]["labels"] for body in stub.bodies] == [SETTINGS.labels]

    @pytest.mark.parametrize("for_dataflow", [True, False])
    def test_before_a_deploy(self, for_dataflow: bool, served: Serve) -> None:
        """A pipeline runs without the labels, but not without the configured key."""
        found = preflight(Target(SETTINGS, served(project(PLAIN))), for_dataflow=for_dataflow)
        wrong = {check.name: check.message for check in found if not check.ok and not check.name.startswith("roles/")}
        assert {name.split()[0] for name in wrong} == {"topic", "bucket", "dataset", "table"}
        assert {message.split(";")[0] for message in wrong.values()} == {f"Kms_key is none, expected {KEY}"}


@pytest.mark.stack
class TestOnTheLocalServices:
    def test_created_kept_and_changed(self, settings: Settings, stack: Endpoints, target: Target) -> None:
        """Everything is created with the labels; a second time there is nothing to do; another value is changed everywhere, and
        other people's labels stay.
        """
        labelled = msgspec.structs.replace(settings, labels={"team": "shop"})
        infra.apply(Target(labelled, stack), infra.plan(Target(labelled, stack)))
        assert self.labels(target) == [{"team": "shop"}] * 16
        assert infra.apply(Target(labelled, stack), infra.plan(Target(labelled, stack))).steps == ()

        own = {"name": settings.topic_path, "labels": {"team": "shop", "owner": "ops"}}
        publisher_client(stack).update_topic(topic=own, update_mask={"paths": ["labels"]})
        bucket = storage_client(settings.project_id, stack).get_bucket(settings.bucket)
        bucket.labels = {**bucket.labels, "mine": "1"}
        bucket.patch()
        moved = msgspec.structs.replace(settings, labels={"team": "toys"})
        done = infra.apply(Target(moved, stack), infra.plan(Target(moved, stack)))
        assert {(step.action, step.differences) for step in done.steps} == {
            ("change", (Difference("labels", "team=shop", "team=toys", "change", stops="none"),))
        }
        assert len(done.steps) == 16
        found = self.labels(target)
        assert [labels["team"] for labels in found] == ["toys"] * 16
        assert found[0] == {"team": "toys", "owner": "ops"}
        assert found[4] == {"team": "toys", "mine": "1"}

    def test_added(self, provisioned: Settings, target: Target) -> None:
        """Resources that were created without labels get them; then there is nothing left to do."""
        labelled = msgspec.structs.replace(provisioned, labels={"team": "shop", "env": "test"})
        infra.apply(Target(labelled, target.endpoints), infra.plan(Target(labelled, target.endpoints)))
        assert self.labels(target) == [{"team": "shop", "env": "test"}] * 16
        assert {step.action for step in infra.plan(Target(labelled, target.endpoints)).steps} == {"keep"}

    @staticmethod
    def labels(target: Target) -> list[dict[str, str]]:
        """The labels of every resource, in the order of ``desired``, as Google's own clients read them."""
        client = target.bigquery
        found: list[dict[str, str]] = []
        for resource in desired(target.settings):
            match resource:
                case Topic():
                    found.append(dict(target.publisher.get_topic(topic=resource.name).labels))
                case Subscription():
                    with subscriber_client(target.endpoints) as subscriber:
                        found.append(dict(subscriber.get_subscription(subscription=resource.name).labels))
                case Bucket():
                    found.append(target.storage.get_bucket(resource.name).labels)
                case Dataset():
                    found.append(client.get_dataset(resource.name).labels)
                case _:
                    found.append(client.get_table(resource.name).labels)
        return found
