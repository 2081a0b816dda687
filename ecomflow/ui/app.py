"""The addresses of the page and their handlers.

A GET shows data and changes nothing; slow reads run in other threads (``data/readings.py``). A POST is a form of this page.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from importlib import resources
from shlex import quote
from typing import Any
from urllib.parse import urlencode

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from ecomflow.config import Settings, contracts_of
from ecomflow.deadletters.store import replay_command
from ecomflow.errors import ConfigError, EcomflowError, NotFoundError, UnavailableError
from ecomflow.gcp.target import LiveTarget
from ecomflow.infra.resources import fact_tables
from ecomflow.jobs.metrics import MetricsReader
from ecomflow.metrics.record import read_record
from ecomflow.metrics.snapshot import branches_of
from ecomflow.pipeline.tree import Step
from ecomflow.sql import definition_of, question, questions
from ecomflow.ui.data.dead_letters import (
    PAGE,
    Overview,
    Search,
    count_objects,
    filter_of,
    find,
    read_newest,
    read_overview,
    search_of,
    with_others,
)
from ecomflow.ui.data.read_only import read_only
from ecomflow.ui.data.readings import Reading, in_thread, unexpected
from ecomflow.ui.data.replays import Replays
from ecomflow.ui.data.sampler import Sampler
from ecomflow.ui.data.steps import read_steps
from ecomflow.ui.data.warehouse import TableCount, TableDetail, read_counts, read_detail, scanned
from ecomflow.ui.guard import Gate, Guard, read_form
from ecomflow.ui.views.dead_letters import (
    dead_letters_view,
    groups_view,
    hits_view,
    replay_view,
    search_query,
)
from ecomflow.ui.views.graph import GraphSources, graph_view
from ecomflow.ui.views.html import Html, join, tag
from ecomflow.ui.views.layout import Place, View, page, trouble
from ecomflow.ui.views.questions import MOST_ROWS, answer_view, question_view, questions_view, sql_view, weighed
from ecomflow.ui.views.tables import detail_view, table_view, tables_view, weighed_view
from ecomflow.warehouse import queries

_COUNTS_SECONDS, _DETAIL_SECONDS, _LETTERS_SECONDS = 2.0, 3.0, 3.0
# A count is cheap, but the first one, on a machine that is busy, can take seconds.
_MAX_COUNTS_SECONDS = 30.0
# In a project each reading takes several requests to Google.
_CLOUD_SECONDS = 60.0
_FIRST_SECONDS = 1.0
# The local pipeline reports its metrics every second, Dataflow about twice a minute.
_LOCAL_SECONDS, _DATAFLOW_SECONDS = 1.0, 30.0
_TYPES = {"css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}

Handler = Callable[[Request], Awaitable[Response]]
FormHandler = Callable[[Request, dict[str, str]], Awaitable[Response]]


class Options(msgspec.Struct, frozen=True):
    """``here``: show the pipeline on this machine, otherwise the job on Dataflow (``job``: its name or id). ``allow_replay``: the
    page may replay dead letters. ``max_bytes``: the maximum that one query may scan in a project.
    """

    here: bool = True
    job: str | None = None
    allow_replay: bool = False
    max_bytes: int = 10**9


class Pages:
    """The state that the handlers share: the settings and all readings."""

    def __init__(self, settings: Settings, gate: Gate, options: Options) -> None:
        self.settings, self.gate, self.options = settings, gate, options
        self._targets = LiveTarget(settings)
        self.target = self._targets.running
        reader = MetricsReader(settings, self._targets.resolved, here=options.here, job=options.job)
        self.sampler = Sampler(
            reader.read,
            _LOCAL_SECONDS if options.here else _DATAFLOW_SECONDS,
            read_record=(lambda now: read_record(settings.state_path, now)) if options.here else None,
        )
        self.steps: Reading[tuple[Step, ...]] = Reading(lambda: read_steps(settings), None)
        self.counts: Reading[tuple[TableCount, ...]] = Reading(
            lambda: read_counts(self.target()), self._least(_COUNTS_SECONDS), most=_MAX_COUNTS_SECONDS
        )
        self.definitions = {name: definition_of(table) for name, table in fact_tables(settings).items()}
        self.details: dict[str, Reading[TableDetail]] = {
            name: Reading(lambda name=name: read_detail(self.target(), name), _DETAIL_SECONDS)  # type: ignore[misc]
            for name in self.definitions
        }
        self.letters: Reading[Overview] = Reading(
            lambda: read_overview(self.target(), lambda count: setattr(self.letters, "progress", count)),
            self._least(_LETTERS_SECONDS),
        )
        self.objects: Reading[dict[str, int]] = Reading(
            lambda: count_objects(self.target()), self._least(_LETTERS_SECONDS), most=_MAX_COUNTS_SECONDS
        )
        self.replays = Replays(self.target)
        self.graph_sources = GraphSources(
            settings.subscription,
            settings.bucket_name,
            branches_of(contracts_of(settings)),
            self.steps,
            self.counts,
            self.letters,
            self.objects,
        )
        self.place = _place(settings)

    def _least(self, seconds: float) -> float:
        return seconds if self.settings.is_local else _CLOUD_SECONDS

    def close(self) -> None:
        """Stop reading, and close the clients."""
        self.sampler.stop()
        self._targets.close()

    def answer(self, view: View, status: int = 200) -> Response:
        return HTMLResponse(page(view, self.place), status)

    def live(self, title: str, path: str, content: Html, live_at: str) -> Response:
        return self.answer(View(title, path, Html(""), content, live_at))

    def _table_name(self, request: Request) -> str:
        name = str(request.path_params["table"])
        if name not in self.definitions:
            raise NotFoundError(f"There is no fact table '{name}'.", f"The fact tables are: {', '.join(self.definitions)}.")
        return name

    async def _first_look(self, reading: Reading[Any] | None) -> None:
        """Start the reads for a view that somebody opens, and wait briefly, so that most views are complete at once."""
        self.sampler.look()
        if reading is not None:
            if self.settings.is_local:
                reading.expire()  # another view may have read it a while ago
            reading.look()
        await in_thread(lambda: self.sampler.wait_for_first(_FIRST_SECONDS))
        if reading is not None and reading.read_at is None:
            await in_thread(lambda: reading.wait(_FIRST_SECONDS))

    # The graph

    async def graph(self, request: Request) -> Response:
        await self._first_look(None)
        step = request.query_params.get("step")
        return self.live("Graph", "/", self._graph(step), f"/live?{urlencode({'step': step})}" if step else "/live")

    async def live_graph(self, request: Request) -> Response:
        return HTMLResponse(self._graph(request.query_params.get("step")))

    def _graph(self, step: str | None) -> Html:
        for reading in (self.steps, self.counts, self.letters, self.objects):
            reading.look()
        return graph_view(self.sampler.look(), self.graph_sources, step or None)

    # Tables

    async def tables(self, _: Request) -> Response:
        await self._first_look(self.counts)
        return self.live("Tables", "/tables", tables_view(self.sampler.look(), self.counts.look()), "/live/tables")

    async def live_tables(self, _: Request) -> Response:
        return HTMLResponse(tables_view(self.sampler.look(), self.counts.look()))

    async def table(self, request: Request) -> Response:
        name = self._table_name(request)
        if self.settings.is_local:
            await self._first_look(self.details[name])
            content = table_view(self.sampler.look(), self.definitions[name], self.details[name].look())
            return self.live(name, "/tables", content, f"/live/tables/{name}")
        return self._table_of_project(name, weighed_view(name, None, self.gate.form_token))

    async def live_table(self, request: Request) -> Response:
        name = self._table_name(request)
        if not self.settings.is_local:
            raise NotFoundError("In a project a table is read only on request.", f"Open: /tables/{name}")
        return HTMLResponse(table_view(self.sampler.look(), self.definitions[name], self.details[name].look()))

    async def read_table(self, request: Request, form: dict[str, str]) -> Response:
        name = self._table_name(request)
        amount = await in_thread(lambda: scanned(self.target(), name))
        if form.get("step") != "read":
            return self._table_of_project(name, weighed_view(name, amount, self.gate.form_token))
        if amount > self.options.max_bytes:
            raise ConfigError(
                f"BigQuery would scan {amount:,} bytes: expected at most {self.options.max_bytes:,}.",
                "Start the page with a higher --max-bytes.",
            )
        detail = await in_thread(lambda: read_detail(self.target(), name))
        return self._table_of_project(name, detail_view(detail))

    def _table_of_project(self, name: str, below: Html) -> Response:
        return self.answer(View(name, "/tables", join([table_view(self.sampler.look(), self.definitions[name], None), below])))

    # Dead letters

    async def groups(self, request: Request) -> Response:
        await self._first_look(self.letters)
        search = self._search(request)
        if search.lists_letters:
            hits = await in_thread(lambda: find(self.target(), search))
            content = hits_view(self.sampler.look(), hits, search, self._streams())
            return self.answer(View("Dead letters", "/dead-letters", content))
        return self.live("Dead letters", "/dead-letters", self._groups(search), f"/live/dead-letters{search_query(search)}")

    async def live_groups(self, request: Request) -> Response:
        return HTMLResponse(self._groups(self._search(request)))

    def _groups(self, search: Search) -> Html:
        found = self.letters.look()
        return groups_view(self.sampler.look(), found, self.gate.form_token, search, self._streams())

    def _streams(self) -> tuple[str, ...]:
        return with_others(tuple(branch.stream for branch in self.graph_sources.branches), self.letters.value)

    def _search(self, request: Request) -> Search:
        return search_of(request.query_params, self._streams())

    async def read_groups(self, _: Request, __: dict[str, str]) -> Response:
        self.letters.refresh()
        return RedirectResponse("/dead-letters", 303)

    async def group(self, request: Request) -> Response:
        asked = request.path_params
        selected = filter_of(self._streams(), asked["stream"], request.query_params.get("reason", ""), asked["fingerprint"])
        limit = _number(request.query_params.get("limit", ""), PAGE, 200)
        found = await in_thread(lambda: read_newest(self.target(), selected, limit))
        token = self.gate.form_token if self.options.allow_replay else None
        content = dead_letters_view(selected, found, replay_command(self.settings, selected), token)
        return self.answer(View("Dead letters", "/dead-letters", content))

    async def preview_replay(self, _: Request, form: dict[str, str]) -> Response:
        selected = filter_of(self._streams(), form.get("stream", ""), form.get("reason", ""), form.get("fingerprint", ""))
        return RedirectResponse(f"/replays/{self.replays.preview(selected).id}", 303)

    async def confirm_replay(self, request: Request, _: dict[str, str]) -> Response:
        started = self.replays.confirm(request.path_params["replay"])
        self.letters.expire()
        return RedirectResponse(f"/replays/{started.id}", 303)

    async def replay(self, request: Request) -> Response:
        found = self.replays.get(request.path_params["replay"])
        return self.live("Replay", "/dead-letters", replay_view(found, self.gate.form_token), f"/live/replays/{found.id}")

    async def live_replay(self, request: Request) -> Response:
        return HTMLResponse(replay_view(self.replays.get(request.path_params["replay"]), self.gate.form_token))

    # Questions

    async def questions(self, _: Request) -> Response:
        return self.answer(View("Questions", "/questions", questions_view(questions(), self.gate.form_token)))

    async def question(self, request: Request) -> Response:
        asked = question(request.path_params["name"])
        return self.answer(View("Questions", "/questions", question_view(asked, {}, self.gate.form_token)))

    async def ask_question(self, request: Request, form: dict[str, str]) -> Response:
        asked = question(request.path_params["name"])
        values = {name.removeprefix("p_"): text for name, text in form.items() if name.startswith("p_")}
        shell = ["ecomflow query", asked.name, *(f"--param {quote(f'{name}={text}')}" for name, text in values.items())]
        answer = await self._asked(asked.name, values, form, f"/questions/{asked.name}", " ".join(shell))
        return self.answer(View("Questions", "/questions", question_view(asked, values, self.gate.form_token, answer)))

    async def ask_sql(self, _: Request, form: dict[str, str]) -> Response:
        sql = form.get("sql", "").replace("\r\n", "\n")
        answer = await self._asked(sql, {}, form, "/questions", None)
        return self.answer(View("Questions", "/questions", sql_view(sql, self.gate.form_token, answer)))

    async def _asked(
        self, name_or_sql: str, values: dict[str, str], form: dict[str, str], action: str, shell: str | None
    ) -> Html:
        """The result; in a project first the bytes that it would scan; or the error, next to the form with the user's input."""
        try:
            return await in_thread(lambda: self._answer(name_or_sql, values, form, action, shell))
        except EcomflowError as error:
            return trouble(error)

    def _answer(self, name_or_sql: str, values: dict[str, str], form: dict[str, str], action: str, shell: str | None) -> Html:
        own = action == "/questions"
        # Here a single word is SQL too, not a question's name.
        asked = (
            queries.prepare_sql(self.settings, name_or_sql, values)
            if own
            else queries.prepare(self.settings, name_or_sql, values)
        )
        target = self.target()
        if own:
            asked = read_only(target, asked)
        if not self.settings.is_local and form.get("sure") != "yes":
            amount = queries.scanned_bytes(target, asked)
            fields = {name: text for name, text in form.items() if name != "sure"}
            return weighed(amount, self.options.max_bytes, self.gate.form_token, action, fields)
        reply = queries.send(target, asked, None if self.settings.is_local else self.options.max_bytes)
        return answer_view(queries.taken(reply, MOST_ROWS), reply.total, shell)


def make_app(settings: Settings, gate: Gate, options: Options = Options()) -> tuple[ASGIApp, Pages]:  # noqa: B008  # frozen
    """The page as an ASGI application behind its guard, and its shared state."""
    pages = Pages(settings, gate, options)

    def form(path: str, handler: FormHandler) -> Route:
        async def handle(request: Request) -> Response:
            fields = await read_form(request, gate)
            return fields if isinstance(fields, Response) else await handler(request, fields)

        return Route(path, handle, methods=["POST"])

    def replaying(handler: FormHandler) -> FormHandler:
        async def refuse(_: Request, __: dict[str, str]) -> Response:
            raise HTTPException(403, "This page was started without --allow-replay.")

        return handler if options.allow_replay else refuse

    routes = [
        _show("/", pages.graph),
        _show("/live", pages.live_graph),
        _show("/tables", pages.tables),
        _show("/live/tables", pages.live_tables),
        _show("/tables/{table}", pages.table),
        _show("/live/tables/{table}", pages.live_table),
        form("/tables/{table}", pages.read_table),
        _show("/dead-letters", pages.groups),
        _show("/live/dead-letters", pages.live_groups),
        form("/dead-letters", pages.read_groups),
        _show("/dead-letters/{stream}/{fingerprint}", pages.group),
        form("/replays", replaying(pages.preview_replay)),
        form("/replays/{replay}", replaying(pages.confirm_replay)),
        _show("/replays/{replay}", pages.replay),
        _show("/live/replays/{replay}", pages.live_replay),
        _show("/questions", pages.questions),
        form("/questions", pages.ask_sql),
        _show("/questions/{name}", pages.question),
        form("/questions/{name}", pages.ask_question),
        _show("/static/{name}", _static),
    ]
    handlers = {EcomflowError: _show_errors(pages), HTTPException: _show_errors(pages), Exception: _show_errors(pages)}
    return Guard(Starlette(routes=routes, exception_handlers=handlers), gate), pages


def _place(settings: Settings) -> Place:
    if not settings.is_local:
        return Place(str(settings.project), f"Project {settings.project}, {settings.region}")
    folder = settings.state_path.resolve()
    return Place(folder.parent.name, f"Local stack in {folder}")


def _show(path: str, handler: Handler) -> Route:
    return Route(path, handler, methods=["GET"])


async def _static(request: Request) -> Response:
    """The style sheet, the script and the icon, from the package."""
    name = request.path_params["name"]
    known = {one.name: one for one in (resources.files("ecomflow.ui") / "static").iterdir()}
    if name not in known:
        raise HTTPException(404, "There is no such file.")
    return Response(known[name].read_bytes(), media_type=_TYPES[name.rpartition(".")[2]])


def _show_errors(pages: Pages) -> Callable[[Request, Exception], Awaitable[Response]]:
    """Show an error as a page, or as the live part of a page if that was requested."""

    async def show(request: Request, error: Exception) -> Response:
        status, shown = _status(error)
        if request.url.path.startswith("/live"):
            return HTMLResponse(trouble(shown), status)
        back = tag("p", tag("a", "Go to the graph", href="/"))
        return pages.answer(View("Error", "", join([trouble(shown), back])), status)

    return show


def _status(error: Exception) -> tuple[int, EcomflowError]:
    match error:
        case NotFoundError():
            return 404, error
        case ConfigError():
            return 400, error
        case UnavailableError():
            return 503, error
        case EcomflowError():
            return 500, error
        case HTTPException():
            words = "There is no such page." if error.detail == "Not Found" else error.detail
            return error.status_code, EcomflowError(words)
    return 500, unexpected(error)


def _number(text: str, default: int, limit: int) -> int:
    return min(int(text), limit) if text.isdecimal() and text.isascii() and 0 < len(text) < 6 and int(text) else default
