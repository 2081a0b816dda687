"""What a process's steps share: one of each for a config, made on demand, found by the pickled steps, and closed together."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

import pytest

from ecomflow.pipeline.config import PipelineConfig
from ecomflow.pipeline.counters import Counters
from ecomflow.pipeline.runtime import Runtime, runtime_of
from tests.support.pipeline import config_for

NOW = datetime(2026, 2, 1, 12, 0, tzinfo=UTC)


class Connections:
    """Makes connections that note in ``log`` when they are made and closed."""

    def __init__(self) -> None:
        self.log: list[str] = []

    def named(self, name: str) -> Callable[[PipelineConfig, Counters], Any]:
        log = self.log

        class Connection:
            def __init__(self, *_: Any) -> None:
                log.append(f"make {name}")

            def writer(self, table: str) -> str:
                return f"writer of {table}"

            def close(self) -> None:
                log.append(f"close {name}")

        return Connection

    def runtime(self) -> Runtime:
        return Runtime(
            config_for(),
            puller=self.named("puller"),
            table_writers=self.named("tables"),
            dead_letter_writer=self.named("letters"),
        )


class TestConnections:
    def test_each_is_made_when_it_is_asked_for(self) -> None:
        """Once, however often it is asked for; one that nobody asks for is never made."""
        connections = Connections()
        runtime = connections.runtime()
        assert runtime.puller is runtime.puller
        assert [runtime.table_writer("a"), runtime.table_writer("b")] == ["writer of a", "writer of b"]
        runtime.close_connections()
        assert connections.log == ["make puller", "make tables", "close puller", "close tables"]

    def test_closing_begins_anew(self) -> None:
        """Whoever asks after the closing gets a new one, which counts in the same place; closing twice is no error."""
        connections = Connections()
        runtime = connections.runtime()
        counters, first = runtime.counters, runtime.puller
        runtime.close_connections()
        runtime.close_connections()
        assert runtime.puller is not first
        assert runtime.counters is counters
        assert connections.log == ["make puller", "close puller", "make puller"]

    def test_threads_share_them(self) -> None:
        """Many threads that ask at once get one and the same writer: a table's, and that of the dead letters."""
        barrier = threading.Barrier(8)
        with Runtime(config_for(bigquery_storage="127.0.0.1:1", storage="http://127.0.0.1:1")) as runtime:

            def ask(_: int) -> tuple[Any, Any]:
                barrier.wait()
                return runtime.table_writer("fact_order"), runtime.dead_letter_writer

            with ThreadPoolExecutor(8) as threads:
                found = list(threads.map(ask, range(8)))
            assert len({id(table) for table, _ in found}) == 1
            assert len({id(letters) for _, letters in found}) == 1


class TestOfAProcess:
    def test_steps_find_the_one_that_is_entered(self) -> None:
        """By their config alone, and until its end, which closes its connections."""
        connections = Connections()
        with connections.runtime() as runtime:
            assert runtime_of(config_for()) is runtime
            assert runtime_of(config_for(pubsub="127.0.0.1:1")) is not runtime
            _ = runtime.puller
        assert runtime_of(config_for()) is not runtime
        assert connections.log == ["make puller", "close puller"]

    def test_without_one_it_is_made_at_first_use(self) -> None:
        """As on a worker of Dataflow: one a config, with the same counts whoever asks."""
        config = config_for(deadline=77)
        runtime_of(config).counters.count("received", 3)
        assert runtime_of(config_for(deadline=77)).counters.totals() == {"received": 3}

    def test_a_config_has_one(self) -> None:
        """Two pipelines of one config in a process would take each other's messages: the second is refused."""
        first, second = Connections().runtime(), Connections().runtime()
        with first, pytest.raises(RuntimeError, match="already runs a pipeline of projects/test-project/subscriptions/pipeline"):
            second.__enter__()
        with second:
            assert runtime_of(config_for()) is second

    def test_its_clock_dates_what_is_counted(self) -> None:
        """The time of an append is the runtime's."""
        runtime = Runtime(config_for(), lambda: NOW, steady=lambda: 0.0)
        runtime.counters.appended("fact_order", 1)
        assert runtime.counters.snapshot()["gauges"]["last_append/fact_order"] == NOW.timestamp()
