"""The questions that are asked of ecomflow's speed: their subjects, what is compared with what, and the reach set beforehand."""

from __future__ import annotations

from typing import NamedTuple

from benchmarks import growth
from benchmarks.measure import Subject


class Comparison(NamedTuple):
    """``ours`` over ``theirs`` in ``figure``; reached where the median is at least, or at most, ``reach``. None: only told."""

    ours: str
    theirs: str
    figure: str
    at_least: float | None = None
    at_most: float | None = None


class Question(NamedTuple):
    """``key`` is its name on the command line; ``rounds`` how often each subject runs unless told otherwise."""

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
    "Bytes to Arrow batches for all five tables, mixed valid events; each subject's best of three seconds of repeats.",
    5,
    (
        Subject("ecomflow", "decoding", "ecomflow", "ecomflow's transforms"),
        Subject("limit", "decoding", "limit", "the limit: msgspec decoding the same bytes into the same types, nothing else"),
        Subject("pydantic", "decoding", "pydantic", "json, pydantic models, a dict a row"),
    ),
    (Comparison("ecomflow", "limit", "rate", at_least=0.5), Comparison("ecomflow", "pydantic", "rate", at_least=4)),
)

GRAPH = Question(
    "graph",
    2,
    "The Beam graph without I/O on FnApiRunner",
    "The same messages through the whole graph, with writers that take everything at once.",
    5,
    (
        Subject("ecomflow", "graph", "ecomflow", "ecomflow's graph"),
        Subject("per-element", "graph", "per-element", "the same work as one Map a step and element"),
        Subject("loop", "graph", "loop", "a plain Python loop over the same pure functions"),
    ),
    (Comparison("ecomflow", "per-element", "rate", at_least=5), Comparison("ecomflow", "loop", "rate", at_least=0.8)),
)

END_TO_END = Question(
    "end-to-end",
    3,
    "End to end on the local stack, a backlog of 100,000 mixed events to rows",
    """\
Each subject is a process on a fresh stack that holds the backlog already. Its clock runs from the first message leased, as the
Pub/Sub service tells it, until the subscription is empty and every row is in its table, counted exactly. The plain loop pulls,
decodes, appends and acknowledges one batch of ten pulls after the other, so that what runs ahead may beat it. Beam's own way
(bundle-based DirectRunner, ReadFromPubSub, WriteToBigQuery with streaming inserts and its defaults, a step for each of the five
tables) gets 1,500 events; rates are compared.""",
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
    "Latency, publish to row readable, at 500 events a second",
    """\
Through ecomflow deploy for a minute, after a warm-up of 1,000 events. An event's clock starts when the request that carries it
is sent and stops when a query returns its row; queries follow one another with pauses of 50 ms, so that a query and its pause are
part of what is measured.""",
    1,
    (Subject("ecomflow", "latency", "ecomflow", "ecomflow deploy"),),
)

PUBLISHING = Question(
    "publishing",
    5,
    "Publishing",
    """\
What ecomflow publish --n 10000 does, 60,000 events with a ledger, against Faker called for each field and one publish future at a
time (600 events; rates are compared), to the embedded Pub/Sub. Google's client holds a message back for 10 ms in case more come;
the last subject tells it not to.""",
    3,
    (
        Subject("ecomflow", "publishing", "ecomflow", "ecomflow publish"),
        Subject("one-by-one", "publishing", "one-by-one", "Faker a field, one future at a time"),
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
Seconds from the shell to the exit, the median of 15 runs in turn with `python -c "import typer"`, with bytecode made before.""",
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
Question 3's ecomflow deploy at growing backlogs. Every order has so many items; beyond 30,000 events the same bodies come again
under event ids of their own. Time is from the first message leased. A line (a start, and a time an event) is fitted to the times
of each order size; the largest relative error is how far growth is off the line. A million events at 1 and at 30 items take
minutes each, so that only `--full` asks them; a run of a million is made once.""",
    3,
    growth.subjects(is_full=False),
)

STACK = Question(
    "stack",
    8,
    "The local stack",
    """\
Seconds from the start of ecomflow infra up in a new folder until all services answer, against each service's process started
alone until it answers the same calls. Idle: ten seconds, five after the start.""",
    3,
    (
        Subject("stack", "stack", "stack", "ecomflow infra up"),
        *(Subject(name, "stack", name, f"{name} alone") for name in ("pubsub", "storage", "bigquery")),
    ),
)

COST = Question(
    "cost",
    9,
    "Cost on Dataflow, reckoned",
    """\
What a million mixed events make Dataflow and BigQuery move, by the graph that deploy submits and by Beam's WriteToBigQuery with
streaming inserts: 6,000 events measured and scaled, no account asked. `benchmarks/cost.py` says how each figure was reckoned.""",
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
The embedded Pub/Sub, told to be a round trip of 50 ms away and to bring 100 messages a pull at most: no account was asked, and
what Google's brings a pull is its own choice. The puller is the pipeline's, without what follows it; the pipeline is question 3's
ecomflow deploy on such a Pub/Sub. The last subject is the puller at a Pub/Sub on the same machine, which brings what it is asked
for.""",
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
