"""The content of a view in; the whole page out. Pure."""

from __future__ import annotations

from typing import Any

import msgspec

from ecomflow.errors import EcomflowError
from ecomflow.ui.views.html import Exact, Html, join, shown, tag

VIEWS = (("/", "Graph"), ("/tables", "Tables"), ("/dead-letters", "Dead letters"), ("/questions", "Questions"))


class Place(msgspec.Struct, frozen=True):
    """The stack or project of the page: its short ``name``, and ``sentence``, in one line."""

    name: str
    sentence: str


class View(msgspec.Struct, frozen=True):
    """``live``: the part that the page fetches every second from ``live_at``; None: nothing is updated. ``path``: the menu entry
    of the view.
    """

    title: str
    path: str
    content: Html
    live: Html | None = None
    live_at: str | None = None


def page(view: View, place: Place) -> str:
    """The document of ``view``."""
    links = [tag("a", name, href=path, aria_current="page" if path == view.path else None) for path, name in VIEWS]
    live = None
    if view.live is not None:
        live = tag("div", view.live, id="live", data_from=view.live_at)
    body = tag(
        "body",
        tag("a", "Skip to the content", class_="skip", href="#content"),
        tag(
            "header",
            tag("a", "ecomflow", class_="brand", href="/"),
            tag("p", place.sentence, class_="target"),
            tag("nav", links, aria_label="Views"),
        ),
        tag("p", id="connection", role="status", hidden=True),
        tag("main", tag("h1", view.title, class_="unseen"), live, view.content, id="content"),
    )
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("title", f"{view.title} · {shown(place.name, 60)} · ecomflow"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("link", rel="icon", href="/static/icon.svg", type="image/svg+xml"),
        tag("link", rel="stylesheet", href="/static/page.css"),
        tag("script", type="module", src="/static/page.js"),
    )
    return f"<!doctype html>{tag('html', head, body, lang='en')}"


def trouble(error: EcomflowError) -> Html:
    """An error as a sentence with its remedy."""
    return tag(
        "div",
        tag("p", error.message, class_="sentence"),
        tag("p", error.remedy, class_="remedy") if error.remedy else None,
        class_="notice",
        data_tone="bad",
        role="status",
    )


def notice(*children: Any) -> Html:
    """A short note in a box."""
    return tag("div", tag("p", *children), class_="notice")


def section(title: str, *children: Any, note: Any = None, beside: Html | None = None, id_: str | None = None) -> Html:
    """A part of a view with a heading, a note and a form next to it."""
    head = tag("div", tag("h2", title), tag("p", note, class_="quiet") if note else None, beside, class_="head")
    return tag("section", head, join(children), id=id_)


def button(label: str, form_token: str, action: str, *fields: Any, kind: str = "plain", **hidden: str) -> Html:
    """A form with one button that posts ``hidden`` and the given ``fields`` to ``action``."""
    return tag(
        "form",
        tag("input", type="hidden", name="form_token", value=form_token),
        [tag("input", type="hidden", name=name, value=Exact(value)) for name, value in hidden.items()],
        list(fields),
        tag("button", label, type="submit", class_=kind),
        method="post",
        action=action,
    )


def command(line: str) -> Html:
    """A command to run in a terminal."""
    return tag("pre", tag("code", line), class_="command", tabindex="0")
