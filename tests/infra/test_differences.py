"""What differs from how it should be: each difference has one verdict, and plan, up, status, doctor and deploy follow it."""

from __future__ import annotations

import json
import string
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest

from ecomflow import infra, sql
from ecomflow.config import Endpoints, Settings
from ecomflow.contract.ddl import table_schema
from ecomflow.doctor import Check, preflight, probe
from ecomflow.errors import SchemaError
from ecomflow.gcp.target import Target
from ecomflow.infra.differences import Difference, compare, stops_pipeline
from ecomflow.infra.resources import KINDS, Bucket, Dataset, Resource, Subscription, Table, Topic, View, desired
from ecomflow.infra.verdicts import VERDICTS, remedy_of
from ecomflow.sql import Column
from tests.support.cli import ecomflow
from tests.support.contract import FACT_TABLES
from tests.support.project import ROLES, Project

SETTINGS = Settings(project="test-project")
INVENTORY = f"{SETTINGS.dataset_id}.fact_inventory"
Serve = Callable[[Project], Endpoints]


def with_columns(**types: str) -> tuple[Column, ...]:
    """The columns of fact_inventory with other ``types``, written ``STRING`` or ``STRING NOT NULL``."""
    (table,) = [one for one in desired(SETTINGS) if one.name == INVENTORY]
    assert isinstance(table, Table)
    return tuple(
        msgspec.structs.replace(
            column,
            type=types.get(column.name, column.type).removesuffix(" NOT NULL"),
            required=types[column.name].endswith(" NOT NULL") if column.name in types else column.required,
        )
        for column in table.columns
    )


def project(**changes: Any) -> Project:
    """A project in which everything is as it should be, but for ``changes`` of fact_inventory, or of the resources by name."""
    made = Project(SETTINGS, set(ROLES))
    made.there[INVENTORY] = msgspec.structs.replace(made.there[INVENTORY], **changes)
    return made


def said(differences: tuple[Difference, ...]) -> list[tuple[str, str | None, str | None, str]]:
    return [(one.attribute, one.live, one.wanted, one.how) for one in differences]


def differences_of(name: str, target: Target) -> tuple[Difference, ...]:
    (step,) = [step for step in infra.plan(target).steps if step.name == name]
    return step.differences


def check_of(name: str, target: Target) -> Check:
    (found,) = [check for check in preflight(target, for_dataflow=False) if check.name == name]
    return found


class TestVerdicts:
    """Pure: the list itself."""

    def test_one_verdict_for_each_case(self) -> None:
        """No resource has two verdicts on the same case."""
        cases = [(kind, verdict.case) for verdict in VERDICTS for kind in verdict.kinds]
        assert len(set(cases)) == len(cases)

    @pytest.mark.parametrize(
        "wanted", [*{type(one): one for one in desired(SETTINGS)}.values()], ids=lambda one: KINDS[type(one)]
    )
    def test_every_attribute_has_a_verdict(self, wanted: Resource) -> None:
        """Whatever a service may report can be judged."""
        known = {case for verdict in VERDICTS if KINDS[type(wanted)] in verdict.kinds for case in [verdict.case]}
        assert {name for name in wanted.__struct_fields__ if name not in ("name", "columns")} <= known

    def test_what_is_refused_has_a_remedy(self) -> None:
        """So has what is warned of; all placeholders are filled in."""
        for verdict in VERDICTS:
            assert bool(verdict.remedy) == (verdict.how in ("refuse", "warn")), verdict.case
            for kind in verdict.kinds:
                remedy = remedy_of(kind, verdict.case, "p.d.t", live="EU", wanted="US", column="c") or ""
                assert not [field for _, field, _, _ in string.Formatter().parse(remedy) if field]

    def test_what_is_left_alone_stops_no_pipeline(self) -> None:
        """A pipeline starts with what is accepted or only named, and not with what is refused."""
        for verdict in VERDICTS:
            assert (verdict.stops == "none") or verdict.how in ("add", "change", "refuse"), verdict.case
            assert verdict.how != "refuse" or verdict.stops == "all", verdict.case

    def test_dataflow_only(self) -> None:
        """A retry policy stops a job on Dataflow, and no pipeline on this machine."""
        pipeline = next(one for one in desired(SETTINGS) if isinstance(one, Subscription))
        (difference,) = compare(pipeline, msgspec.structs.replace(pipeline, backoff_seconds=(1, 60)))
        assert [stops_pipeline(difference, for_dataflow=there) for there in (False, True)] == [False, True]


class TestColumns:
    """Pure, by column."""

    ID, AGENT = Column("event_id", "STRING", True), Column("user_agent", "STRING", False)

    @pytest.mark.parametrize(
        ("live", "expected"),
        [
            (Column("User_Agent", "STRING", False), [("column user_agent", "User_Agent", "user_agent", "accept")]),
            (
                Column("USER_AGENT", "INT64", False),
                [("column user_agent", "USER_AGENT", "user_agent", "accept"), ("column user_agent", "INT64", "STRING", "refuse")],
            ),
            (Column("user_agent", "STRING(3)", False), [("column user_agent", "STRING(3)", "STRING", "refuse")]),
            (Column("user_agent", "STRING", True), [("column user_agent", "STRING NOT NULL", "STRING", "refuse")]),
        ],
    )
    def test_one_that_is_there(self, live: Column, expected: list[tuple[str, str, str, str]]) -> None:
        """Names are compared without case, types with their parameters."""
        assert said(infra.differences.compare_columns("p.d.t", (self.ID, self.AGENT), (self.ID, live))) == expected

    def test_relaxed(self) -> None:
        """A NOT NULL that was dropped is accepted: a pipeline writes a value anyway."""
        (found,) = infra.differences.compare_columns("p.d.t", (self.ID,), (Column("event_id", "STRING", False),))
        assert found == Difference("column event_id", "STRING", "STRING NOT NULL", "accept", stops="none")

    def test_a_view_over_a_column_in_other_case(self) -> None:
        """It is not made again for that."""
        view = View("p.d.v", ("user_agent",), None)
        assert compare(view, msgspec.structs.replace(view, columns=("User_Agent",))) == ()


class TestInAProject:
    """On services that report everything."""

    @pytest.mark.parametrize("table_type", ["VIEW", "MATERIALIZED_VIEW", "SNAPSHOT", "EXTERNAL"])
    def test_something_else_in_place_of_a_table(self, table_type: str, served: Serve) -> None:
        """It is refused with what to do, by plan and up, by doctor, and before a pipeline starts."""
        target = Target(SETTINGS, served(project(table_type=table_type)))
        (difference,) = differences_of(INVENTORY, target)
        assert (difference.live, difference.wanted, difference.how) == (table_type, "TABLE", "refuse")
        assert difference.remedy == (
            f"{INVENTORY} is not a table of ecomflow's: rename or drop it, or set another dataset, and run: ecomflow infra up"
        )
        assert check_of("table fact_inventory", target).message == f"Table_type is {table_type}, expected TABLE."
        with pytest.raises(SchemaError, match=f"fact_inventory: table_type is {table_type}, expected TABLE"):
            infra.check_tables(target)
        with pytest.raises(SchemaError, match=r"^Nothing was changed"):
            infra.apply(target, infra.plan(target))

    @pytest.mark.parametrize("table_type", ["TABLE", "MATERIALIZED_VIEW", "SNAPSHOT", "EXTERNAL"])
    def test_something_else_in_place_of_a_view(self, table_type: str, served: Serve) -> None:
        """The same, also for a table that someone filled from the view's query."""
        stub = project()
        name = f"{INVENTORY}_unique"
        stub.there[name] = msgspec.structs.replace(stub.there[name], table_type=table_type)
        target = Target(SETTINGS, served(stub))
        assert said(differences_of(name, target)) == [("table_type", table_type, "VIEW", "refuse")]
        assert check_of("view fact_inventory_unique", target).exit_code == 6

    @pytest.mark.parametrize(
        ("changes", "expected"),
        [
            ({"partition_expiration": "30 days"}, "It exists, but partition_expiration is 30 days, expected none."),
            ({"expires": "2030-01-01 12:00 UTC"}, "It exists, but expires is 2030-01-01 12:00 UTC, expected none."),
            ({"require_partition_filter": True}, "It exists, but require_partition_filter is True, expected False."),
        ],
    )
    def test_a_table_that_loses_rows_or_refuses_queries(self, changes: dict[str, Any], expected: str, served: Serve) -> None:
        """It is named, with the statement that takes it back; nothing is changed, and pipelines start."""
        stub = project(**changes)
        target = Target(SETTINGS, served(stub))
        (difference,) = differences_of(INVENTORY, target)
        assert (difference.attribute, difference.how) == (*changes, "warn")
        assert infra.apply(target, infra.plan(target)).steps == ()
        assert stub.writes() == []
        infra.check_tables(target)
        check = check_of("table fact_inventory", target)
        assert (check.ok, check.message) == (True, expected)
        assert f"ALTER TABLE `{INVENTORY}` SET OPTIONS" in str(check.remedy)
        (status,) = [one for one in infra.status(target) if one.name == INVENTORY]
        assert (status.state, status.detail) == ("exists", expected.removeprefix("It exists, but ").rstrip("."))

    @pytest.mark.parametrize(
        ("kind", "changes", "command"),
        [
            (Dataset, {"default_table_expiration": "60 days"}, "ALTER SCHEMA `test-project.ecomflow` SET OPTIONS"),
            (Dataset, {"default_partition_expiration": "1 day"}, "ALTER SCHEMA `test-project.ecomflow` SET OPTIONS"),
            (
                Bucket,
                {"retention_policy": "30 days"},
                "gcloud storage buckets update gs://test-project-ecomflow --clear-retention",
            ),
            (Bucket, {"retention_policy": "30 days, locked"}, "Set another bucket"),
            (Bucket, {"default_event_based_hold": True}, "--no-default-event-based-hold"),
        ],
    )
    def test_a_dataset_or_bucket_with_a_policy(
        self, kind: type[Resource], changes: dict[str, Any], command: str, served: Serve
    ) -> None:
        """It is named by plan and doctor, with what to do if it is not intended."""
        stub = project()
        (name,) = [one.name for one in desired(SETTINGS) if isinstance(one, kind)]
        stub.there[name] = msgspec.structs.replace(stub.there[name], **changes)
        target = Target(SETTINGS, served(stub))
        ((attribute, value),) = changes.items()
        (difference,) = differences_of(name, target)
        assert (difference.attribute, difference.live, difference.how) == (attribute, str(value), "warn")
        assert command in str(difference.remedy)
        check = check_of(f"{KINDS[kind]} {name.rsplit('.', 1)[-1]}", target)
        assert check.ok
        assert check.message.startswith(f"It exists, but {attribute} is {value}, expected ")

    @pytest.mark.parametrize(
        ("types", "expected"),
        [
            ({"reason": "STRING(3) NOT NULL"}, [("column reason", "STRING(3) NOT NULL", "STRING NOT NULL", "refuse")]),
            ({"reason": "STRING"}, [("column reason", "STRING", "STRING NOT NULL", "accept")]),
        ],
    )
    def test_types_and_modes(self, types: dict[str, str], expected: list[Any], served: Serve) -> None:
        """A length is another type; a column without its NOT NULL is accepted."""
        target = Target(SETTINGS, served(project(columns=with_columns(**types))))
        assert said(differences_of(INVENTORY, target)) == expected

    def test_an_explicit_precision_of_numeric(self, served: Serve) -> None:
        """NUMERIC(38, 9) is NUMERIC."""
        stub = Project(SETTINGS, set(ROLES))
        for name, table in stub.there.items():
            if isinstance(table, Table):
                columns = tuple(
                    msgspec.structs.replace(column, type=column.type.replace("NUMERIC", "NUMERIC(38, 9)"))
                    for column in table.columns
                )
                stub.there[name] = msgspec.structs.replace(table, columns=columns)
        assert {step.differences for step in infra.plan(Target(SETTINGS, served(stub))).steps} == {()}

    def test_a_relaxed_column(self, served: Serve) -> None:
        """A pipeline starts, doctor and status say it, and up changes nothing."""
        stub = project(columns=with_columns(reason="STRING"))
        target = Target(SETTINGS, served(stub))
        infra.check_tables(target)
        told = "column reason is STRING, expected STRING NOT NULL"
        assert [one.detail for one in infra.status(target) if one.name == INVENTORY] == [told]
        assert infra.apply(target, infra.plan(target)).steps == ()
        assert stub.writes() == []
        assert check_of("table fact_inventory", target).message == f"It exists, but {told}."

    def test_less_retention_stops_no_pipeline(self, served: Serve) -> None:
        """Whatever broker there is: it is changed by up, and doctor only says it."""
        stub = project()
        for name, resource in stub.there.items():
            if isinstance(resource, Topic | Subscription):
                stub.there[name] = msgspec.structs.replace(resource, retention_days=1)
        found = preflight(Target(SETTINGS, served(stub)), for_dataflow=True)
        checks = [check for check in found if check.name.startswith(("topic ", "subscription "))]
        assert [check.ok for check in checks] == [True] * 4
        assert checks[1].message == "It exists, but retention_days is 1, expected 7."


def run(statement: str, target: Target) -> None:
    target.bigquery.query(statement.replace("DATASET", target.settings.dataset_id)).result()


@pytest.mark.stack
class TestOnTheLocalServices:
    def test_a_table_in_place_of_a_view(self, provisioned: Settings, target: Target) -> None:
        """It is refused before anything is changed, and down leaves it and its dataset."""
        run("DROP VIEW `DATASET.fact_inventory_unique`", target)
        run("CREATE TABLE `DATASET.fact_inventory_unique` AS SELECT 1 AS a", target)
        name = f"{provisioned.dataset_id}.fact_inventory_unique"
        assert said(differences_of(name, target)) == [("table_type", "TABLE", "VIEW", "refuse")]
        with pytest.raises(SchemaError, match=r"view .*fact_inventory_unique: table_type is TABLE, expected VIEW"):
            infra.apply(target, infra.plan(target))
        kept = [(one.kind, one.reason) for one in infra.down(target, with_data=True) if one.outcome == "kept"]
        assert kept == [
            ("view", "it is of the type TABLE, so it is not ecomflow's"),
            ("dataset", "it contains tables that are not ecomflow's, such as fact_inventory_unique"),
        ]

    def test_a_view_in_place_of_a_table(self, provisioned: Settings, target: Target) -> None:
        """It is refused before anything is changed, and down leaves it."""
        run("DROP TABLE `DATASET.fact_inventory`", target)
        run("CREATE VIEW `DATASET.fact_inventory` AS SELECT 1 AS a", target)
        assert said(differences_of(f"{provisioned.dataset_id}.fact_inventory", target)) == [
            ("table_type", "VIEW", "TABLE", "refuse")
        ]
        kept = [(one.kind, one.reason) for one in infra.down(target, with_data=True) if one.outcome == "kept"]
        assert kept[0] == ("table", "it is of the type VIEW, so it is not ecomflow's")

    def test_expirations_of_the_dataset(self, provisioned: Settings, target: Target) -> None:
        """What the dataset does to new tables is named."""
        dataset = target.bigquery.get_dataset(provisioned.dataset_id)
        dataset.default_table_expiration_ms = 60 * 86_400_000
        target.bigquery.update_dataset(dataset, ["default_table_expiration_ms"])
        assert said(differences_of(provisioned.dataset_id, target)) == [("default_table_expiration", "60 days", "none", "warn")]

    def test_columns_in_other_case_and_relaxed(self, provisioned: Settings, target: Target) -> None:
        """Nothing is added beside a column whose name has capitals, and rows are written into it."""
        table = FACT_TABLES["fact_inventory"]
        ddl = sql.table_ddl(table, provisioned.dataset_id)
        run("DROP TABLE `DATASET.fact_inventory`", target)
        run(
            ddl.replace("  reason ", "  Reason ").replace("quantity_change     INT64 NOT NULL", "quantity_change     INT64"),
            target,
        )
        assert said(differences_of(f"{provisioned.dataset_id}.fact_inventory", target)) == [
            ("column quantity_change", "INT64", "INT64 NOT NULL", "accept"),
            ("column reason", "Reason", "reason", "accept"),
        ]
        infra.check_tables(target)
        assert infra.apply(target, infra.plan(target)).steps == ()
        probe._append(probe.sample_row(table, datetime.now(UTC)), table_schema(table), "fact_inventory", target)
        (row,) = target.bigquery.query(f"SELECT * FROM `{provisioned.dataset_id}.fact_inventory`").result()
        assert [name for name in row.keys() if name.lower() == "reason"] == ["Reason"]  # noqa: SIM118  # a row, not a mapping
        assert row["Reason"] == probe._TEXT

    def test_on_the_command_line(self, provisioned: Settings, target: Target, tmp_path: Path) -> None:
        """plan and up show what is left as it is, and what to do about it."""
        dataset = target.bigquery.get_dataset(provisioned.dataset_id)
        dataset.default_partition_expiration_ms = 30 * 86_400_000
        target.bigquery.update_dataset(dataset, ["default_partition_expiration_ms"])
        bucket = target.storage.get_bucket(provisioned.bucket_name)
        bucket.retention_period = 86_400
        bucket.patch()
        plan = ecomflow("infra", "plan", settings=provisioned, folder=tmp_path).stdout
        assert f"= keep   dataset      {provisioned.dataset}\n    * default_partition_expiration: 30 days (expected none" in plan
        assert (
            f"= keep   bucket       {provisioned.bucket}\n    * retention_policy: 1 day (expected none; left as it is)\n" in plan
        )
        assert plan.endswith("16 to keep.\n")
        up = ecomflow("infra", "up", settings=provisioned, folder=tmp_path).stdout
        assert "All 16 resources exist; nothing was changed.\nLeft as they are:\n" in up
        assert f"  dataset {provisioned.dataset}: default_partition_expiration: 30 days (expected none; left as it is)\n" in up
        assert f"run: gcloud storage buckets update gs://{provisioned.bucket} --clear-retention-period\n" in up
        left = json.loads(ecomflow("infra", "up", "--json", settings=provisioned, folder=tmp_path).stdout)["left"]
        assert [(one["kind"], one["difference"]["attribute"]) for one in left] == [
            ("bucket", "retention_policy"),
            ("dataset", "default_partition_expiration"),
        ]
