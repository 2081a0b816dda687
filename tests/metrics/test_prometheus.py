"""The pipeline's metrics in Prometheus' text format, served on loopback to loopback."""

from __future__ import annotations

import http.client
import socket
import urllib.error
import urllib.request
from collections.abc import Iterator

import psutil
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics_families
from prometheus_client.parser import text_string_to_metric_families

from ecomflow.errors import ConfigError, PipelineError
from ecomflow.metrics.prometheus import served
from ecomflow.metrics.snapshot import LATENCY_BOUNDS, PipelineMetrics, TableMetrics
from tests.support.metrics import METRICS


@pytest.fixture
def now() -> list[PipelineMetrics | Exception]:
    """What is read at the next scrape."""
    return [METRICS]


@pytest.fixture
def port(now: list[PipelineMetrics | Exception]) -> Iterator[int]:
    def read() -> PipelineMetrics:
        if isinstance(now[0], Exception):
            raise now[0]
        return now[0]

    with served(read, 0) as found:
        yield found


def ask(port: int, host: str | None = None, method: str = "GET", path: str = "/metrics", **headers: str) -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request(method, path, headers={"Host": host or f"127.0.0.1:{port}", **headers})
    answer = connection.getresponse()
    body = answer.read().decode()
    connection.close()
    return answer.status, body


def scraped(port: int) -> dict[tuple[str, ...], float]:
    """Every sample by its name and the values of its labels."""
    families = text_string_to_metric_families(ask(port)[1])
    return {(sample.name, *sample.labels.values()): sample.value for family in families for sample in family.samples}


class TestMetrics:
    def test_every_metric_is_there(self, port: int) -> None:
        """Counters, gauges and labels are those of the metrics, under names with their units."""
        found = scraped(port)
        buckets = {key[1]: found.pop(key) for key in list(found) if key[0] == "ecomflow_publish_to_append_seconds_bucket"}
        assert found == {
            ("ecomflow_pipeline_running",): 1,
            ("ecomflow_pipeline_waiting",): 1,
            ("ecomflow_processes",): 2,
            ("ecomflow_start_time_seconds",): 900.5,
            ("ecomflow_memory_bytes",): 123456,
            ("ecomflow_backlog_messages",): 8,
            ("ecomflow_oldest_unacked_age_seconds",): 1.5,
            ("ecomflow_messages_received_total",): 10,
            ("ecomflow_bundles_total",): 4,
            ("ecomflow_retries_total",): 1,
            ("ecomflow_restarts_total",): 2,
            ("ecomflow_refused_total", 'malformed "json"\n'): 3,
            ("ecomflow_rows_total", "fact_order"): 5,
            ("ecomflow_rows_total", "fact_inventory"): 0,
            ("ecomflow_last_append_timestamp_seconds", "fact_order"): 999.25,
            ("ecomflow_step_messages_total", "in", "Decode events"): 10,
            ("ecomflow_step_messages_total", "out", "Decode events"): 7,
            ("ecomflow_step_messages_total", "refused", "Decode events"): 3,
        }
        assert list(map(float, buckets)) == [*LATENCY_BOUNDS, float("inf")]
        assert [buckets[name] for name in ("0.025", "0.05", "300.0", "1800.0", "+Inf")] == [0, 4, 4, 6, 7]

    def test_what_is_not_known_is_left_out(self, port: int, now: list[PipelineMetrics | Exception]) -> None:
        """Without a pipeline there is no memory, no backlog and no start, and it does not run."""
        now[0] = PipelineMetrics(at=1.0, state="none", where="local")
        found = scraped(port)
        assert found["ecomflow_pipeline_running",] == found["ecomflow_pipeline_waiting",] == 0
        unknown = ("memory_bytes", "backlog_messages", "oldest_unacked_age_seconds", "start_time_seconds")
        assert not [name for name in unknown if (f"ecomflow_{name}",) in found]

    def test_each_scrape_reads_anew(self, port: int, now: list[PipelineMetrics | Exception]) -> None:
        """The next response has what the pipeline has done since."""
        assert scraped(port)["ecomflow_rows_total", "fact_order"] == 5
        now[0] = PipelineMetrics(at=2.0, state="running", where="local", tables=(TableMetrics("fact_order", 6),))
        assert scraped(port)["ecomflow_rows_total", "fact_order"] == 6

    def test_it_can_be_had_as_openmetrics(self, port: int) -> None:
        """To a scraper that prefers OpenMetrics it speaks that, by the rules of its stricter parser."""
        status, text = ask(port, Accept="application/openmetrics-text; version=1.0.0")
        families = {family.name: family.type for family in openmetrics_families(text)}
        assert (status, families["ecomflow_rows"], families["ecomflow_publish_to_append_seconds"]) == (
            200,
            "counter",
            "histogram",
        )


class TestServed:
    def test_only_on_loopback(self, port: int) -> None:
        """It listens at 127.0.0.1 and nowhere else."""
        listening = [place.laddr for place in psutil.Process().net_connections("inet") if place.status == psutil.CONN_LISTEN]
        assert [address.ip for address in listening if address.port == port] == ["127.0.0.1"]

    @pytest.mark.parametrize("host", ["localhost", "LOCALHOST:1", "127.0.0.1", "[::1]:9100"])
    def test_loopback_names_are_answered(self, port: int, host: str) -> None:
        """With and without a port."""
        assert ask(port, host)[0] == 200

    @pytest.mark.parametrize(
        "host", ["evil.example", "127.0.0.1.evil.example", "localhost@evil.example", "10.0.0.1:80", "localhost:"]
    )
    def test_other_names_are_refused(self, port: int, host: str) -> None:
        """A page elsewhere, whose name was made to lead here, reads nothing."""
        assert ask(port, host) == (403, f"Use a loopback host name: http://127.0.0.1:{port}/metrics\n")

    def test_without_a_name_it_is_refused(self, port: int) -> None:
        """A request that names no host is not known to be meant for loopback."""
        with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
            connection.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
            assert connection.recv(100).startswith(b"HTTP/1.0 403 Forbidden\r\n")

    @pytest.mark.parametrize(
        ("method", "path", "answer"),
        [
            ("POST", "/metrics", (405, "Only GET is allowed.\n")),
            ("OPTIONS", "/metrics", (405, "Only GET is allowed.\n")),
            ("GET", "/", (404, "Not found. The only path is /metrics.\n")),
        ],
    )
    def test_there_is_one_page_to_get(self, port: int, method: str, path: str, answer: tuple[int, str]) -> None:
        """Other methods and paths are refused."""
        assert ask(port, method=method, path=path) == answer

    def test_metrics_that_cannot_be_read_are_reported(self, port: int, now: list[PipelineMetrics | Exception]) -> None:
        """The scrape fails with the error's sentences, and the next one is answered again."""
        now[0] = PipelineError("pipeline.json can't be read.", "Delete it.")
        status, said = ask(port)
        assert (status, "pipeline.json can't be read." in said) == (503, True)
        now[0] = METRICS
        assert ask(port)[0] == 200

    def test_a_taken_port_is_reported(self, port: int) -> None:
        """A sentence with the port, and the command that takes a free one."""
        with (
            pytest.raises(ConfigError, match=f"The metrics can't be served on port {port} of 127.0.0.1") as caught,
            served(lambda: METRICS, port),
        ):
            pass
        assert caught.value.remedy == "Use a free port with: ecomflow deploy --metrics-port 0"

    def test_afterwards_nothing_listens(self) -> None:
        """The port is free again when the pipeline has ended."""
        with served(lambda: METRICS, 0) as port:
            assert ask(port)[0] == 200
        with pytest.raises(urllib.error.URLError):
            urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5)
