"""Question 5: publishing to the embedded Pub/Sub, in events a second.

Subjects: ``ecomflow`` (what ``ecomflow publish --n 10000`` does: 60,000 events of the shop, valid and faulty, with a ledger);
``one-by-one`` (Faker called for each field of each event, one publish future at a time, by Google's client with its defaults,
which hold a message back for 10 ms in case more come); ``one-by-one-at-once`` (the same, without that wait). All begin
when their imports are done; ``command_seconds`` is the whole command, from the shell to its exit.

The publisher's share. The publisher's process makes the events, and then the publisher has to put them into requests, send them
and keep its count and ledger. All in CPU seconds, of one run:

- ``generating``: the same events made and thrown away;
- ``publishing``: what the process took beyond that, Google's client included;
- ``serving``: what the Pub/Sub process took;
- ``publisher_share`` = publishing / (generating + publishing + serving), which is to stay under half;
- ``process_share`` = (generating + publishing) / all three: what is not Pub/Sub's;
- ``at_once_share``: the time of a run whose events are confirmed at once, without a request, over the time of the real one.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import msgspec
import psutil
from faker import Faker
from google.cloud.pubsub_v1.types import BatchSettings

from benchmarks.events import NOW, SEED
from benchmarks.throwaway import cpu_seconds, environment, temporary_folder
from ecomflow.config import STACK_FILE, Endpoints, Settings
from ecomflow.gcp import publishing
from ecomflow.gcp.clients import publisher_client, subscriber_client
from ecomflow.gcp.target import Target
from ecomflow.generator import publisher
from ecomflow.generator.rounds import GeneratedEvent, generate
from ecomflow.processes.state_folder import folder_mark

ROUNDS = 10_000
ONE_BY_ONE_EVENTS = 600
_WARM_UP_ROUNDS = 200


class Service(NamedTuple):
    """The embedded Pub/Sub with topic and subscription, in a process and folder of its own."""

    settings: Settings
    endpoints: Endpoints
    process: psutil.Process


@contextmanager
def pubsub(*options: str) -> Iterator[Service]:
    """One of its own, started with ``options``."""
    with temporary_folder() as folder:
        command = [sys.executable, "-m", "ecomflow.local.pubsub", "--port", "0", "--data-dir", str(folder / "pubsub"), *options]
        child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        try:
            assert child.stdout is not None
            host = child.stdout.readline().removeprefix("listening on ").strip()
            service = Service(Settings(state_dir=str(folder)), Endpoints(host, host, host, host), psutil.Process(child.pid))
            with publisher_client(service.endpoints) as topics, subscriber_client(service.endpoints) as subscriptions:
                topics.create_topic(name=service.settings.topic_path)
                subscriptions.create_subscription(name=service.settings.subscription_path, topic=service.settings.topic_path)
            yield service
        finally:
            child.terminate()
            child.wait()


def ecomflow(service: Service) -> dict[str, float]:
    _publish(service, _WARM_UP_ROUNDS)
    generating = _cpu_of(lambda: sum(1 for _ in _events(ROUNDS)))
    served, used, began = cpu_seconds([service.process]), time.process_time(), time.perf_counter()
    total = _publish(service, ROUNDS)
    seconds, sending = time.perf_counter() - began, time.process_time() - used - generating
    serving = cpu_seconds([service.process]) - served
    with _confirmed_at_once():
        at_once = _seconds_of(lambda: _publish(service, ROUNDS))
    everything = generating + sending + serving
    return {
        "rate": total / seconds,
        "seconds": seconds,
        "generating": generating,
        "publishing": sending,
        "serving": serving,
        "publisher_share": sending / everything,
        "process_share": (generating + sending) / everything,
        "at_once_share": at_once / seconds,
        "command_seconds": _seconds_of(lambda: _command(service)),
    }


def one_by_one(service: Service, **options: Any) -> dict[str, float]:
    """As a script is usually written: Faker for every field, and ``publish(...).result()``. ``options`` are the client's."""
    fake = Faker()
    Faker.seed(SEED)
    makers = (_order, _inventory, _user_activity)
    with publisher_client(service.endpoints, **options) as client:
        began = time.perf_counter()
        for number in range(ONE_BY_ONE_EVENTS):
            body = makers[number % 3](fake)
            client.publish(service.settings.topic_path, json.dumps(body).encode(), event_id=fake.uuid4()).result()
        return {"rate": ONE_BY_ONE_EVENTS / (time.perf_counter() - began)}


def _order(fake: Faker) -> dict[str, Any]:
    items = [
        {
            "product_id": fake.bothify("SKU-#####"),
            "product_name": fake.catch_phrase(),
            "quantity": fake.random_int(1, 5),
            "price": fake.random_int(300, 30_000) / 100,
        }
        for _ in range(fake.random_int(1, 3))
    ]
    return {
        "event_type": "order",
        "order_id": fake.uuid4(),
        "customer_id": fake.bothify("CUS-#####"),
        "customer_name": fake.name(),
        "order_date": f"{fake.date_time_this_month().isoformat()}Z",
        "status": fake.random_element(("pending", "processing", "shipped", "delivered")),
        "items": items,
        "shipping_address": {"street": fake.street_address(), "city": fake.city(), "country": fake.country()},
        "total_amount": round(sum(item["quantity"] * item["price"] for item in items), 2),
    }


def _inventory(fake: Faker) -> dict[str, Any]:
    return {
        "event_type": "inventory",
        "inventory_id": fake.uuid4(),
        "product_id": fake.bothify("SKU-#####"),
        "warehouse_id": fake.bothify("WH-###"),
        "quantity_change": fake.random_int(1, 50),
        "reason": fake.random_element(("restock", "sale", "return", "damage")),
        "timestamp": f"{fake.date_time_this_month().isoformat()}Z",
    }


def _user_activity(fake: Faker) -> dict[str, Any]:
    return {
        "event_type": "user_activity",
        "user_id": fake.bothify("CUS-#####"),
        "activity_type": fake.random_element(("login", "view_product", "add_to_cart", "checkout", "logout")),
        "ip_address": fake.ipv4(),
        "user_agent": fake.user_agent(),
        "timestamp": f"{fake.date_time_this_month().isoformat()}Z",
        "metadata": {"session_id": fake.uuid4(), "platform": fake.random_element(("web", "mobile", "tablet"))},
    }


def _events(rounds: int) -> Iterator[GeneratedEvent]:
    return generate(rounds, seed=SEED, now=NOW)


def _publish(service: Service, rounds: int) -> int:
    ledger = service.settings.state_path / "ledger.jsonl"
    return publisher.publish(Target(service.settings, service.endpoints), _events(rounds), ledger=ledger).total


def _command(service: Service) -> None:
    """``ecomflow publish --n 10000`` as a process, which finds the service where the stack's file says."""
    state_path = service.settings.state_path
    written = {"folder": folder_mark(state_path), "endpoints": service.endpoints}
    (state_path / STACK_FILE).write_bytes(msgspec.json.encode(written))
    command = [sys.executable, "-m", "ecomflow", "publish", "--n", str(ROUNDS)]
    subprocess.run(command, check=True, capture_output=True, env=environment(service.settings))


@contextmanager
def _confirmed_at_once() -> Iterator[None]:
    """Within, requests are confirmed as soon as they are to be sent, and go nowhere."""
    send = publishing.RequestSender.send

    def confirm(_: publishing.RequestSender, request: Sequence[publishing.Publishable]) -> list[str]:
        return ["1"] * len(request)

    publishing.RequestSender.send = confirm  # type: ignore[method-assign]
    try:
        yield
    finally:
        publishing.RequestSender.send = send  # type: ignore[method-assign]


def _cpu_of(work: Callable[[], Any]) -> float:
    began = time.process_time()
    work()
    return time.process_time() - began


def _seconds_of(work: Callable[[], Any]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def one_by_one_at_once(service: Service) -> dict[str, float]:
    return one_by_one(service, batch_settings=BatchSettings(max_messages=1))


SUBJECTS = {"ecomflow": ecomflow, "one-by-one": one_by_one, "one-by-one-at-once": one_by_one_at_once}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--subject", choices=SUBJECTS, required=True)
    subject = SUBJECTS[parser.parse_args().subject]
    with pubsub() as service:
        print(json.dumps(subject(service)))


if __name__ == "__main__":
    main()
