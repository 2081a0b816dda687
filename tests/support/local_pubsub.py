"""A local Pub/Sub for tests, in a thread or in a process, and a clock that tests move."""

from __future__ import annotations

import asyncio
import contextlib
import queue
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from google import pubsub_v1 as gapic
from google.cloud import pubsub_v1
from google.pubsub_v1 import types

from ecomflow.config import Endpoints
from ecomflow.gcp.clients import publisher_client, subscriber_client
from ecomflow.local.pubsub.queue import Options
from ecomflow.local.pubsub.server import serve

TOPIC = "projects/test-project/topics/events"
SUBSCRIPTION = "projects/test-project/subscriptions/pipeline"


class ManualClock:
    """Stands still until ``advance``; alarms then ring on the loop that set them. ``step`` moves only what the calendar says."""

    def __init__(self) -> None:
        self._now = 0.0
        self._calendar = 1_764_547_200.0
        self._alarms: list[tuple[float, asyncio.AbstractEventLoop, Callable[[], None]]] = []
        self._lock = threading.Lock()

    def now(self) -> float:
        return self._calendar + self._now

    def steady(self) -> float:
        return self._now

    def step(self, seconds: float) -> None:
        self._calendar += seconds

    def call_at(self, when: float, callback: Callable[[], None]) -> Callable[[], None]:
        loop = asyncio.get_running_loop()
        with self._lock:
            if when <= self._now:
                return loop.call_soon(callback).cancel
            alarm = (when, loop, callback)
            self._alarms.append(alarm)
        return lambda: self._call_off(alarm)

    def advance(self, seconds: float) -> None:
        with self._lock:
            self._now += seconds
            due = [alarm for alarm in self._alarms if alarm[0] <= self._now]
            self._alarms = [alarm for alarm in self._alarms if alarm[0] > self._now]
        for _, loop, callback in due:
            loop.call_soon_threadsafe(callback)

    def _call_off(self, alarm: tuple[float, asyncio.AbstractEventLoop, Callable[[], None]]) -> None:
        with self._lock:
            if alarm in self._alarms:
                self._alarms.remove(alarm)


class Clients:
    """Google's own publisher and subscriber at one server, with the shortest way to say what the tests say often."""

    def __init__(self, host: str) -> None:
        self.host = host
        self.publisher: pubsub_v1.PublisherClient = publisher_client(Endpoints(pubsub=host))
        self.raw_publisher = gapic.PublisherClient(transport=self.publisher.transport)
        self.subscriber: pubsub_v1.SubscriberClient = subscriber_client(Endpoints(pubsub=host))

    def create(self, topic: str = TOPIC, subscription: str = SUBSCRIPTION, **config: Any) -> None:
        self.publisher.create_topic(name=topic)
        self.subscriber.create_subscription(request={"name": subscription, "topic": topic} | config)

    def publish(self, *payloads: bytes, topic: str = TOPIC, key: str = "") -> list[str]:
        """Publish in one request, in order; the message ids."""
        messages = [{"data": payload, "ordering_key": key} for payload in payloads]
        return list(self.raw_publisher.publish(topic=topic, messages=messages).message_ids)

    def pull(self, count: int = 1000, subscription: str = SUBSCRIPTION) -> list[Any]:
        """What is there now."""
        request = {"subscription": subscription, "max_messages": count, "return_immediately": True}
        return list(self.subscriber.pull(request=request).received_messages)

    def pull_data(self, count: int = 1000, subscription: str = SUBSCRIPTION) -> list[bytes]:
        return [received.message.data for received in self.pull(count, subscription)]

    def acknowledge(self, *received: Any, subscription: str = SUBSCRIPTION) -> None:
        self.subscriber.acknowledge(subscription=subscription, ack_ids=[one.ack_id for one in received])

    def modify_deadline(self, seconds: int, *received: Any) -> None:
        ack_ids = [one.ack_id for one in received]
        self.subscriber.modify_ack_deadline(subscription=SUBSCRIPTION, ack_ids=ack_ids, ack_deadline_seconds=seconds)

    @contextlib.contextmanager
    def subscribed(self, callback: Callable[[Any], None]) -> Iterator[None]:
        """Google's streaming-pull subscriber calls ``callback`` in threads of its own while the context is open."""
        future = self.subscriber.subscribe(SUBSCRIPTION, callback)
        try:
            yield
        finally:
            future.cancel()
            future.result(10)

    def close(self) -> None:
        self.publisher.stop()
        self.publisher.transport.close()
        self.subscriber.close()


@contextlib.contextmanager
def clients_of_server(data_dir: Path, clock: ManualClock | None = None, options: Options | None = None) -> Iterator[Clients]:
    """Clients of a server in a thread of this process, which ends with the context."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    context = serve(data_dir, clock=clock, options=options)
    try:
        port = asyncio.run_coroutine_threadsafe(context.__aenter__(), loop).result(10)
        clients = Clients(f"127.0.0.1:{port}")
        try:
            yield clients
        finally:
            clients.close()
            asyncio.run_coroutine_threadsafe(context.__aexit__(None, None, None), loop).result(10)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()


class ServerProcess:
    """``python -m ecomflow.local.pubsub`` as a process of its own, which does not outlive the context."""

    def __init__(self, data_dir: Path, port: int = 0, *options: str) -> None:
        command = [sys.executable, "-m", "ecomflow.local.pubsub", "--port", str(port), "--data-dir", str(data_dir), *options]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.first_line = self.process.stdout.readline().strip()
        self.host = self.first_line.removeprefix("listening on ")

    def __enter__(self) -> ServerProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate(timeout=10)

    def terminate(self) -> int:
        self.process.terminate()
        self.process.communicate(timeout=10)
        return self.process.returncode


class StreamUser:
    """A StreamingPull spoken by hand, where the tests need what Google's manager hides."""

    def __init__(self, clients: Clients, **first: Any) -> None:
        self._requests: queue.Queue[types.StreamingPullRequest | None] = queue.Queue()
        self.send(**({"subscription": SUBSCRIPTION, "stream_ack_deadline_seconds": 10} | first))
        self.responses = clients.subscriber.streaming_pull(iter(self._requests.get, None))

    def send(self, **request: Any) -> None:
        self._requests.put(types.StreamingPullRequest(**request))

    def half_close(self) -> None:
        self._requests.put(None)

    def receive(self) -> list[Any]:
        return list(next(iter(self.responses)).received_messages)

    def close(self) -> None:
        self.responses.cancel()
        self.half_close()
