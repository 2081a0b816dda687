"""An HTTP server for many connections at once."""

from __future__ import annotations

from http.server import ThreadingHTTPServer


class BusyHttpServer(ThreadingHTTPServer):
    """Usually five connections may wait to be accepted, and the system resets others: a command opens more at the same time."""

    request_queue_size = 128
    daemon_threads = True
