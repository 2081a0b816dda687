"""The benchmark questions: subjects, comparisons, and the targets that were set beforehand."""

from __future__ import annotations

from typing import NamedTuple

from benchmarks import growth
from benchmarks.measure import Subject


class Comparison(NamedTuple):
    """``ours`` over ``theirs`` in ``metric``. The median's target is ``at_least`` or ``at_most``; neither: no target."""

    ours: str
    theirs: str
    metric: str
    at_least: float | None = None
    at_most: float | None = None


class Question(NamedTuple):
    """``key`` is its name on the command line; ``rounds`` how often each subject runs by default."""

    key: str
    number: int
    title: str
    about: str
    rounds: int
    subjects: tuple[Subject, ...]
    comparisons: tuple[Comparison, ...] = ()


DECODING = Question(
    "decoding",
    1,
    "Decoding, validating and modelling, one core",
    "Bytes to Arrow batches for all five tables, mixed valid events. A subject's result is its best repeat in three seconds.",
    5,
    (
        Subject("ecomflow", "decoding", "ecomflow", "ecomflow's transforms"),
        Subject("limit", "decoding", "limit", "the limit: msgspec decodes the same bytes into the same types, nothing else"),
        Subject("pydantic", "decoding", "pydantic", "json, pydantic models, a dict per row"),
    ),
    (Comparison("ecomflow", "limit", "rate", at_least=0.5), Comparison("ecomflow", "pydantic", "rate", at_least=4)),
)

GRAPH = Question(
    "graph",
    2,
    "The Beam graph without I/O on FnApiRunner",
    "The same messages through the whole graph, with writers that accept everything at once.",
    5,
    (
        Subject("ecomflow", "graph", "ecomflow", "ecomflow's graph"),
        Subject("per-element", "graph", "per-element", "the same work as a Map per step and element"),
        Subject("loop", "graph", "loop", "a plain Python loop over the same pure functions"),
    ),
    (Comparison("ecomflow", "per-element", "rate", at_least=5), Comparison("ecomflow", "loop", "rate", at_least=0.8)),
)

END_TO_END = Question(
    "end-to-end",
    3,
    "End to end on the local stack, a backlog of 100,000 mixed events to rows",
    """\
Each subject is a process on a fresh stack that already has the backlog. The clock starts when the Pub/Sub service leases the
first message, and stops when the subscription is empty and every row is in its table, counted exactly. The plain loop pulls,
decodes, appends and acknowledges one batch of ten pulls after another, so a subject that prefetches can beat it. Beam's own way
(bundle-based DirectRunner, ReadFromPubSub, WriteToBigQuery with streaming inserts and its defaults, a step for each of the five
tables) gets 1,500 events; the comparison is by rate.""",
    3,
    (
        Subject("ecomflow", "end_to_end", "ecomflow", "ecomflow deploy"),
        Subject("two", "end_to_end", "two", "ecomflow deploy --processes 2"),
        Subject("beam", "end_to_end", "beam", "Beam's own way on the same services", ("--events", "1500")),
        Subject("loop", "end_to_end", "loop", "the roofline: a plain loop"),
    ),
    (
        Comparison("ecomflow", "beam", "rate", at_least=100),
        Comparison("ecomflow", "loop", "rate", at_least=0.8),
        Comparison("two", "ecomflow", "rate"),
    ),
)

LATENCY = Question(
    "latency",
    4,
    "Latency from publish to readable row, at 500 events per second",
    """\
ecomflow deploy for a minute, after a warm-up of 1,000 events. The clock of an event starts when its publish request is sent,
and stops when a query returns its row. Queries run one after another with pauses of 50 ms, so the latency includes a query and
its pause.""",
    1,
    (Subject("ecomflow", "latency", "ecomflow", "ecomflow deploy"),),
)

PUBLISHING = Question(
    "publishing",
    5,
    "Publishing",
    """\
The work of ecomflow publish --n 10000, 60,000 events with a ledger, compared with calling Faker for each field and waiting for
each publish future (600 events; the comparison is by rate). Both publish to the embedded Pub/Sub. Google's client waits 10 ms
for more messages before it sends a request; the last subject turns that off.""",
    3,
    (
        Subject("ecomflow", "publishing", "ecomflow", "ecomflow publish"),
        Subject("one-by-one", "publishing", "one-by-one", "Faker for each field, one future at a time"),
        Subject("one-by-one-at-once", "publishing", "one-by-one-at-once", "the same, each message sent at once"),
    ),
    (
        Comparison("ecomflow", "one-by-one", "rate", at_least=10),
        Comparison("ecomflow", "one-by-one-at-once", "rate", at_least=10),
    ),
)

STARTING = Question(
    "starting",
    6,
    "Starting",
    """\
Seconds until the process exits: the median of 15 runs, in turn with `python -c "import typer"`, with compiled bytecode.""",
    3,
    (
        Subject("help", "starting", "help", "ecomflow --help"),
        Subject("dry-run", "starting", "dry-run", "ecomflow publish --dry-run --n 1"),
    ),
)

GROWTH = Question(
    "growth",
    7,
    "Growth: more events, larger orders",
    """\
ecomflow deploy as in question 3, with growing backlogs and a fixed number of items per order. Beyond 30,000 events the bodies
repeat under new event ids. Time is measured from the first leased message. For each order size a line (a start, and a time per
event) is fitted to the times; the deviation is the largest relative error. A million events with 1 or 30 items take minutes, so
only `--full` measures them. A run of a million events has a single round.""",
    3,
    growth.subjects(is_full=False),
)

STACK = Question(
    "stack",
    8,
    "The local stack",
    """\
Seconds from the start of ecomflow infra up in a new folder until all services answer, compared with each service alone until it
answers the same calls. Idle CPU is measured over ten seconds, five seconds after the start.""",
    3,
    (
        Subject("stack", "stack", "stack", "ecomflow infra up"),
        *(Subject(name, "stack", name, f"{name} alone") for name in ("pubsub", "storage", "bigquery")),
    ),
)

COST = Question(
    "cost",
    9,
    "Cost on Dataflow, calculated",
    """\
The load of a million mixed events on Dataflow and BigQuery, for the graph that deploy submits and for Beam's WriteToBigQuery
with streaming inserts. 6,000 events are measured and scaled, without an account. `benchmarks/cost.py` says how each metric is
calculated.""",
    1,
    (
        Subject("ecomflow", "cost", "ecomflow", "ecomflow's graph"),
        Subject("write-to-bigquery", "cost", "write-to-bigquery", "WriteToBigQuery, streaming inserts"),
    ),
)

PULLING = Question(
    "pulling",
    10,
    "Pulling from a distant Pub/Sub",
    """\
The embedded Pub/Sub simulates a round trip of 50 ms and returns at most 100 messages per pull. No account was used; how many
messages Google's service returns is its own choice. The puller is that of the pipeline, without the steps after it. ecomflow
deploy is the whole pipeline, as in question 3. The last subject is the puller with a Pub/Sub on the same machine, which returns
as many messages as requested.""",
    3,
    (
        Subject("ecomflow", "pulling", "ecomflow", "the puller"),
        Subject("one-by-one", "pulling", "one-by-one", "a loop: a pull, its acknowledgement, the next pull"),
        Subject("pipeline", "end_to_end", "distant", "ecomflow deploy", ("--events", "60000")),
        Subject("near", "pulling", "near", "the puller, on the same machine"),
    ),
    (Comparison("ecomflow", "one-by-one", "rate", at_least=2.5),),
)

_ALL = (DECODING, GRAPH, END_TO_END, LATENCY, PUBLISHING, STARTING, GROWTH, STACK, COST, PULLING)
QUESTIONS = {question.key: question for question in _ALL}
