"""Jobs on Dataflow, by name or id: list them, read their state, metrics and messages, drain and cancel them."""

from __future__ import annotations

import re
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from ecomflow.errors import NotFoundError, PipelineError
from ecomflow.jobs.client import JobsApi
from ecomflow.jobs.records import TERMINAL, Job, JobDetail, JobMessage, Level, Metrics

Sleep = Callable[[float], None]
Now = Callable[[], datetime]

# Identifies ecomflow's own jobs by name or label, and its metrics by namespace. The namespace is that of ``pipeline.counters``,
# which is not imported here because it imports all of Beam.
MARK = "ecomflow"
_JOB_ID = re.compile(r"\d{4}-\d{2}-\d{2}_\d{2}_\d{2}_\d{2}-\d+")
_POLL_SECONDS = 5.0
_RECENT = timedelta(days=1)
_RECENT_ERRORS = 5
# Maximum number of requests for a list: they take a few seconds, eight at a time.
MOST_LOOKUPS = 100
# Watermarks are microseconds since the epoch, per stage; a negative one means that there is none, or that the stage is done.
# The names are those that Beam's own test runner for Dataflow reads (TestDataflowRunner.java), including the older ones.
_DATA_WATERMARKS = ("DataWatermark", "windmill-data-watermark")
_SYSTEM_WATERMARKS = ("SystemWatermark", "windmill-system-watermark")
# The service repeats each distribution as four scalars, which only its own web pages use.
_DISTRIBUTION_PARTS = ("_MIN", "_MAX", "_MEAN", "_COUNT")


def utc_now() -> datetime:
    return datetime.now(UTC)


def jobs(api: JobsApi, *, job_name: str, everything: bool = False, limit: int | None = None, now: Now = utc_now) -> list[Job]:
    """ecomflow's jobs in the region, newest first: those named ``job_name`` or marked by name or label; or ``everything``.

    A list has no labels, so they are fetched for each job; with ``everything`` only for the ``MOST_LOOKUPS`` newest.
    """
    listed = sorted(api.jobs(), key=_created, reverse=True)
    if not everything:
        return [_job(raw, now()) for raw in _ours(api, listed, job_name)[:limit]]
    first, rest = listed[:limit][:MOST_LOOKUPS], listed[:limit][MOST_LOOKUPS:]
    return [_job(raw, now()) for raw in (*api.described(first), *rest)]


def _ours(api: JobsApi, listed: Sequence[Any], job_name: str) -> list[Any]:
    """Jobs with ecomflow's name, and those with its label among the ``MOST_LOOKUPS`` newest other streaming jobs."""
    named_so = {raw.id for raw in listed if raw.name == job_name or raw.name.startswith(MARK)}
    others = [raw.id for raw in listed if raw.id not in named_so and _kind(raw) == "streaming"][:MOST_LOOKUPS]
    found = api.described([raw for raw in listed if raw.id in {*named_so, *others}])
    return [raw for raw in found if raw.id in named_so or any(key.startswith(MARK) for key in raw.labels)]


def find(api: JobsApi, name_or_id: str, *, now: Now = utc_now) -> Job:
    """The job with this id, or the newest job with this name, preferring active ones. Raises NotFoundError."""
    if _JOB_ID.fullmatch(name_or_id):
        return _job(api.job(name_or_id), now())
    found = sorted(api.jobs(name_or_id), key=_created, reverse=True)
    if not found:
        sentence = f"There is no job named {name_or_id} in {api.project}, {api.region}."
        raise NotFoundError(sentence, "Start it with: ecomflow deploy --runner DataflowRunner. See: ecomflow job list --all")
    chosen = next((raw for raw in found if _state(raw) not in TERMINAL), found[0])
    return _job(api.described([chosen])[0], now())


def detail(api: JobsApi, job: Job, *, over: float = 0.0, now: Now = utc_now, sleep: Sleep = time.sleep) -> JobDetail:
    """The condition of ``job``. The throughput is the mean since it started, or over the next ``over`` seconds."""
    before, raw = 0, api.metrics(job.id)
    seconds = job.age_seconds
    if over > 0:
        before, seconds = _own_counters(raw).get("received", 0), over
        sleep(over)
        raw = api.metrics(job.id)
    counters = _own_counters(raw)
    received = counters.get("received")
    workers, target = _workers(api, job, now())
    return JobDetail(
        job=job,
        workers=workers,
        target_workers=target,
        events_per_second=(received - before) / seconds if received is not None and seconds else None,
        throughput_seconds=seconds if received is not None else None,
        system_lag_seconds=_behind(raw, _SYSTEM_WATERMARKS, now()),
        data_freshness_seconds=_behind(raw, _DATA_WATERMARKS, now()),
        counters=counters,
        errors=tuple(messages(api, job, "error", now() - _RECENT)[-_RECENT_ERRORS:]),
        updated_at=_plain(max((metric.update_time for metric in raw if metric.update_time), default=None)),
    )


def messages(api: JobsApi, job: Job, level: Level = "basic", since: datetime | None = None) -> list[JobMessage]:
    """The service's messages about ``job``, oldest first."""
    return [_message(raw) for raw in api.messages(job.id, level, since)[0]]


def follow(
    api: JobsApi, job: Job, level: Level = "basic", since: datetime | None = None, *, sleep: Sleep = time.sleep
) -> Iterator[JobMessage]:
    """The messages as they arrive, until the job has ended."""
    shown: set[JobMessage] = set()
    while True:
        ended = _state(api.job(job.id)) in TERMINAL  # checked first, so that the last messages are not missed
        for message in messages(api, job, level, since):
            if message not in shown:
                yield message
            since = message.time
            shown.add(message)
        shown = {message for message in shown if message.time == since}  # the service's start is inclusive
        if ended:
            return
        sleep(_POLL_SECONDS)


def metrics(api: JobsApi, job: Job) -> Metrics:
    """Every counter of ``job``, by name."""
    raw = api.metrics(job.id)
    system = {_label(metric): float(value) for metric, value in _settled(raw) if not _is_own(metric)}
    return Metrics(_own_counters(raw), dict(sorted(system.items())))


def drain(api: JobsApi, job: Job) -> Job:
    """Request that ``job`` stops pulling and finishes the messages in flight. Raises PipelineError unless active or draining."""
    return _end(api, job, "drained", already=("draining",))


def cancel(api: JobsApi, job: Job) -> Job:
    """Request that ``job`` stops at once; unacknowledged messages are redelivered. Raises PipelineError if it has ended."""
    return _end(api, job, "cancelled", already=("cancelling",))


def wait_for(
    api: JobsApi,
    job: Job,
    goal: str,
    timeout: float,
    *,
    sleep: Sleep = time.sleep,
    clock: Callable[[], float] = time.monotonic,
    now: Now = utc_now,
) -> Job:
    """Wait until the state is ``goal``. Raises PipelineError if the job ends in another state or after ``timeout`` seconds."""
    give_up = clock() + timeout
    while True:
        seen = _job(api.job(job.id), now())
        if seen.state == goal:
            return seen
        if seen.state in TERMINAL:
            raise PipelineError(f"{named(seen)} has ended as {seen.state}, not as {goal}.", f"See: ecomflow job logs {seen.id}")
        if clock() >= give_up:
            raise PipelineError(
                f"{named(seen)} is {seen.state} after {timeout:.0f} s, not {goal} yet. The request stays in effect.",
                f"Check it with: ecomflow job status {seen.id}",
            )
        sleep(_POLL_SECONDS)


def named(job: Job) -> str:
    """The job's name in messages."""
    return f"Job {job.name} ({job.id})"


def _end(api: JobsApi, job: Job, goal: str, already: tuple[str, ...]) -> Job:
    if job.state in already:
        return job
    if job.state in TERMINAL or job.state == "cancelling":
        raise PipelineError(f"{named(job)} is {job.state}: only a running job can be {goal}.", "Start one with: ecomflow deploy")
    api.request_state(job.id, goal)
    return msgspec.structs.replace(job, state=already[0])


def _job(raw: Any, now: datetime) -> Job:
    created = raw.create_time
    return Job(
        id=raw.id,
        name=raw.name,
        state=_state(raw),
        kind=_kind(raw),
        region=raw.location,
        condition=_state(raw),
        created=_plain(created),
        state_since=_plain(raw.current_state_time),
        age_seconds=None if created is None else (now - created).total_seconds(),
        labels=dict(raw.labels),
    )


def _state(raw: Any) -> str:
    return str(raw.current_state.name).removeprefix("JOB_STATE_").lower()


def _plain(moment: datetime | None) -> datetime | None:
    """A datetime of the standard library's class, because records are encoded as JSON."""
    return None if moment is None else datetime.fromtimestamp(moment.timestamp(), UTC)


def _kind(raw: Any) -> str:
    return str(raw.type_.name).removeprefix("JOB_TYPE_").lower()


def _created(raw: Any) -> datetime:
    return _plain(raw.create_time) or datetime.fromtimestamp(0, UTC)


def _message(raw: Any) -> JobMessage:
    level = raw.message_importance.name.removeprefix("JOB_MESSAGE_").lower()
    return JobMessage(_plain(raw.time) or datetime.fromtimestamp(0, UTC), level, raw.message_text)


def _workers(api: JobsApi, job: Job, now: datetime) -> tuple[int | None, int | None]:
    """Current and wanted workers, from the last autoscaling event. Tries the last day first, because there can be many errors."""
    events = api.messages(job.id, "error", now - _RECENT)[1] or api.messages(job.id, "error", None)[1]
    if not events:
        return None, None
    last = max(events, key=lambda event: event.time)
    return last.current_num_workers, last.target_num_workers


def _settled(raw: Iterable[Any]) -> list[tuple[Any, Any]]:
    """The numeric metrics: the committed value of each if there is one, otherwise the tentative one."""
    chosen: dict[tuple[Any, ...], Any] = {}
    for metric in raw:
        context = dict(metric.name.context)
        tentative = context.pop("tentative", "false") == "true"
        key = (metric.name.origin, metric.name.name, *sorted(context.items()))
        is_number = isinstance(metric.scalar, int | float) and not isinstance(metric.scalar, bool)
        if is_number and not metric.name.name.endswith(_DISTRIBUTION_PARTS) and not (tentative and key in chosen):
            chosen[key] = metric
    return [(metric, metric.scalar) for metric in chosen.values()]


def _is_own(metric: Any) -> bool:
    return bool(metric.name.origin == "user" and metric.name.context.get("namespace") == MARK)


def _own_counters(raw: Iterable[Any]) -> dict[str, int]:
    totals: dict[str, int] = defaultdict(int)
    for metric, value in _settled(raw):
        if _is_own(metric):
            totals[metric.name.name] += int(value)
    return dict(sorted(totals.items()))


def _label(metric: Any) -> str:
    """The name of a system metric with its step or collection."""
    belongs = [value for key, value in sorted(metric.name.context.items()) if key != "tentative"]
    return " ".join([metric.name.name, *belongs])


def _behind(raw: Iterable[Any], names: tuple[str, ...], now: datetime) -> float | None:
    """How many seconds the oldest watermark of ``names`` was behind when it was reported; None if there is none."""
    found = [(metric, value) for metric, value in _settled(raw) if metric.name.name.endswith(names) and value >= 0]
    if not found:
        return None
    metric, oldest = min(found, key=lambda pair: float(pair[1]))
    reported = metric.update_time or now
    return max(0.0, float(reported.timestamp()) - float(oldest) / 1e6)
