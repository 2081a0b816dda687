"""Who is let in to the page, and what leaves it: nobody without the token, nothing without the strict headers."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from ecomflow.config import Settings
from ecomflow.ui.guard import MAX_FORM_BYTES, Gate
from tests.support.cli import environment
from tests.support.ui import BASE, PORT, page_of, post

SHOWN = ("/", "/live", "/tables", "/live/tables", "/dead-letters", "/live/dead-letters", "/questions", "/static/page.js")


@pytest.fixture
def nowhere(tmp_path: Path) -> Settings:
    """Settings of a folder without a stack."""
    return Settings(state_dir=str(tmp_path))


class TestLettingIn:
    @pytest.mark.parametrize("path", [*SHOWN, "/static/page.css", "/nothing", "/replays/x"])
    def test_without_the_cookie_nothing_is_shown(self, nowhere: Settings, path: str) -> None:
        """Every address answers 403 and one sentence to whoever has no cookie."""
        browser, _ = page_of(nowhere, let_in=False)
        answer = browser.get(path)
        assert (answer.status_code, answer.headers["content-type"]) == (403, "text/plain; charset=utf-8")
        assert answer.text == "Open the address that ecomflow ui printed: it contains the token that gives you access.\n"

    def test_the_token_becomes_a_cookie_that_no_script_reads(self, nowhere: Settings) -> None:
        """The first request is sent on to the address without the token, with a cookie for this site alone."""
        browser, gate = page_of(nowhere, let_in=False)
        answer = browser.get(f"/?token={gate.printed}")
        assert (answer.status_code, answer.headers["location"]) == (303, "/")
        cookie = answer.headers["set-cookie"]
        assert cookie.startswith(f"ecomflow_ui_{PORT}=")
        assert {"HttpOnly", "Path=/", "SameSite=strict"} <= set(cookie.split("; "))
        assert gate.printed not in cookie
        assert browser.get("/questions").status_code == 200

    @pytest.mark.parametrize("token", ["x", "é", "%00", "\u202e"])
    def test_another_token_does_not(self, nowhere: Settings, token: str) -> None:
        """A guess gets no cookie, not even with a cookie beside it."""
        browser, _ = page_of(nowhere)
        answer = browser.get("/", params={"token": token})
        assert (answer.status_code, "set-cookie" in answer.headers) == (403, False)

    def test_the_token_of_the_browsers_command_line_serves_once(self) -> None:
        """The list of processes shows it to every user of the machine, so it lets in but one; the printed one stays good."""
        gate = Gate(PORT)
        opened = gate.once()
        assert (gate.takes(opened), gate.takes(opened), gate.takes(gate.printed), gate.takes(gate.printed)) == (
            True,
            False,
            True,
            True,
        )

    @pytest.mark.parametrize(
        "host", ["evil.example", f"evil.example:{PORT}", "127.0.0.1", f"127.0.0.1:{PORT + 1}", "", "[::1]:8377"]
    )
    def test_a_host_that_is_not_loopback_is_refused(self, nowhere: Settings, host: str) -> None:
        """A name that somebody lets point to this machine does not open the page (DNS rebinding), cookie or not."""
        browser, _ = page_of(nowhere)
        assert browser.get("/", headers={"host": host}).status_code == 403

    def test_localhost_is_loopback(self, nowhere: Settings) -> None:
        """The page answers to both names of this machine."""
        browser, gate = page_of(nowhere, let_in=False)
        assert browser.get(f"/?token={gate.printed}", headers={"host": f"localhost:{PORT}"}).status_code == 303


class TestHeaders:
    @pytest.mark.parametrize("path", [*SHOWN, "/nothing"])
    @pytest.mark.parametrize("let_in", [True, False])
    def test_every_answer_has_them(self, nowhere: Settings, path: str, let_in: bool) -> None:
        """No answer may be framed, cached, sniffed, leaked in a Referer, or run a script that is not the page's own."""
        browser, _ = page_of(nowhere, let_in=let_in)
        headers = browser.get(path).headers
        policy = headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self';")
        assert "frame-ancestors 'none'" in policy
        assert "form-action 'self'" in policy
        assert "base-uri 'none'" in policy
        assert "require-trusted-types-for 'script'" in policy
        assert "unsafe" not in policy
        named = {
            name: headers[name] for name in ("x-content-type-options", "referrer-policy", "cache-control", "x-frame-options")
        }
        assert named == {
            "x-content-type-options": "nosniff",
            "referrer-policy": "same-origin",
            "cache-control": "no-store",
            "x-frame-options": "DENY",
        }

    @pytest.mark.parametrize("path", SHOWN[:-1])
    def test_no_page_needs_what_the_policy_forbids(self, nowhere: Settings, path: str) -> None:
        """There is no script, style or handler within the HTML, and nothing is loaded from elsewhere."""
        browser, _ = page_of(nowhere)
        html = browser.get(path).text
        assert " style=" not in html
        assert " onclick=" not in html
        assert "<style" not in html
        assert "<script>" not in html
        assert "//" not in html.replace("<!doctype", "").replace("http://www.w3.org", "")


class TestForms:
    """What changes anything is a POST of this page's own form."""

    @pytest.mark.parametrize(
        "origin", [None, "null", "http://evil.example", f"https://127.0.0.1:{PORT}", f"http://localhost:{PORT}"]
    )
    def test_a_form_of_another_site_is_refused(self, nowhere: Settings, origin: str | None) -> None:
        """The cookie and the form's token do not help where Origin is not this page."""
        browser, gate = page_of(nowhere, allow_replay=True)
        assert post(browser, gate, "/replays", origin, stream="order").status_code == 403

    @pytest.mark.parametrize(
        "path", ["/replays", "/replays/x", "/dead-letters", "/questions", "/questions/sales-per-product", "/tables/fact_order"]
    )
    def test_a_form_without_its_token_is_refused(self, nowhere: Settings, path: str) -> None:
        """Whatever it would do, a form needs the token that the page put into it."""
        browser, _ = page_of(nowhere, allow_replay=True)
        assert browser.post(path, headers={"origin": BASE}).status_code == 403
        assert browser.post(path, headers={"origin": BASE}, data={"form_token": "x"}).status_code == 403

    def test_a_form_without_the_cookie_is_refused(self, nowhere: Settings) -> None:
        """The form's token alone lets nobody in."""
        browser, gate = page_of(nowhere, let_in=False, allow_replay=True)
        assert post(browser, gate, "/replays", stream="order").status_code == 403

    def test_a_large_form_is_not_read(self, nowhere: Settings) -> None:
        """Nobody fills the server's memory."""
        browser, gate = page_of(nowhere)
        assert post(browser, gate, "/questions", sql="x" * (MAX_FORM_BYTES + 1)).status_code == 413

    @pytest.mark.parametrize("body", [b"\xff\xfe", "&".join(f"a{n}=1" for n in range(100)).encode()])
    def test_a_form_that_cannot_be_read(self, nowhere: Settings, body: bytes) -> None:
        """It is refused, not stumbled over."""
        browser, _ = page_of(nowhere)
        assert browser.post("/questions", headers={"origin": BASE}, content=body).status_code == 400

    @pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"])
    def test_no_other_method_is_understood(self, nowhere: Settings, method: str) -> None:
        """A GET shows, a POST does."""
        browser, _ = page_of(nowhere)
        assert browser.request(method, "/").status_code == 405

    def test_without_the_flag_the_page_does_not_replay(self, nowhere: Settings) -> None:
        """A page started without --allow-replay refuses both forms of a replay, whoever sends them."""
        browser, gate = page_of(nowhere)
        answers = [post(browser, gate, path, stream="order") for path in ("/replays", "/replays/x")]
        assert [answer.status_code for answer in answers] == [403, 403]
        assert "started without --allow-replay" in answers[0].text

    @pytest.mark.parametrize("path", ["/replays", "/replays/x"])
    def test_a_get_does_not_replay(self, nowhere: Settings, path: str) -> None:
        """Following a link starts nothing."""
        browser, _ = page_of(nowhere, allow_replay=True)
        assert browser.get(path).status_code in (404, 405)


class TestWithoutAStack:
    """Nothing runs: the page says so, and what to do."""

    @pytest.mark.parametrize("path", ["/", "/tables", "/tables/fact_order", "/dead-letters"])
    def test_each_view_says_what_to_run(self, nowhere: Settings, path: str) -> None:
        """Every view comes, with the sentence and the next command."""
        browser, _ = page_of(nowhere)
        answer = browser.get(path)
        assert answer.status_code == 200
        assert "The local stack in " in answer.text
        assert "Run: ecomflow infra up" in answer.text

    def test_a_question_says_so_in_its_place(self, nowhere: Settings) -> None:
        """What was typed stays in the form beside the error."""
        browser, gate = page_of(nowhere)
        answer = post(browser, gate, "/questions", sql="SELECT 1 AS mine")
        assert (answer.status_code, "SELECT 1 AS mine" in answer.text) == (200, True)
        assert "Run: ecomflow infra up" in answer.text

    @pytest.mark.parametrize(
        ("path", "status"),
        [
            ("/nothing", 404),
            ("/tables/x", 404),
            ("/tables/..%2f..%2fetc", 404),
            ("/questions/x", 404),
            ("/dead-letters/x/any", 404),
            ("/dead-letters/order/;rm%20-rf", 404),
            ("/dead-letters/order/any?reason=x;y", 404),
            ("/replays/x", 404),
            ("/static/..%2fapp.py", 404),
            ("/static/nothing.css", 404),
        ],
    )
    def test_what_there_is_not_is_a_page_too(self, nowhere: Settings, path: str, status: int) -> None:
        """An address that names nothing is answered in words, with a way back."""
        browser, _ = page_of(nowhere)
        answer = browser.get(path)
        assert (answer.status_code, "Go to the graph" in answer.text) == (status, True)


@pytest.mark.slow
def test_without_the_extra_the_command_says_how_to_get_it() -> None:
    """Where starlette or uvicorn is not installed the error names the extra, and nothing is served."""
    script = "import sys; sys.modules['uvicorn'] = None; sys.argv = ['ecomflow', 'ui']; from ecomflow.cli import main; main()"
    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env=environment(), check=False, timeout=60
    )
    assert (result.returncode, "run: pip install '.[ui]'" in result.stderr) == (8, True)
