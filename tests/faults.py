"""An HTTP proxy on loopback that spoils a seeded share of the requests that pass it, and counts all of them.

It stands between a client and a real S3 server. It is outside of what is tested: the client only sees a storage
that fails, stalls, or hangs up.
"""

import http.client
import random
import socket
import struct
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qsl, urlsplit

KINDS = ("500", "503", "hang-up", "cut", "short", "stall", "lost")
"""What can befall a request.

500: InternalError, nothing is done. 503: SlowDown, nothing is done. hang-up: the connection is reset before any answer,
nothing is done. cut: the connection is reset in the middle of the answer's body, or of the request's. short: half of
the answer's body comes, and says that it is all. stall: no answer for `stall_s`, then a reset. lost: the request is
done, but its answer never comes.
"""

_SLOW_DOWN = ("SlowDown", "Please reduce your request rate.")
_BROKEN = ("InternalError", "We encountered an internal error. Please try again.")


class FaultyProxy:
    """Passes requests on to `upstream`; each fails with probability `share`, the kinds in turn.

    share, kinds, stall_s: may be set while it runs. seed: of the choice which requests fail. injected: faults by kind.
    requests: all that came by method and what they ask for, such as `GET list`. uploads: those that were done, by path.
    """

    def __init__(
        self, upstream: str, share: float = 0.0, kinds: Sequence[str] = KINDS, stall_s: float = 3.0, seed: int = 0
    ) -> None:
        self.upstream, self.share, self.kinds, self.stall_s = urlsplit(upstream).netloc, share, tuple(kinds), stall_s
        self.injected: Counter[str] = Counter()
        self.requests: Counter[str] = Counter()
        self.uploads: Counter[str] = Counter()
        self._random = random.Random(seed)
        self._lock = threading.Lock()
        self._forced: list[str | None] = []
        self._server = _Server(self)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    @contextmanager
    def running(self) -> Iterator["FaultyProxy"]:
        """While the block runs, requests are answered."""
        thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self._server.shutdown()
            self._server.server_close()
            thread.join(10)

    def spoil_next(self, *kinds: str | None) -> None:
        """The next requests fail in these ways, whatever the share; None passes one on."""
        with self._lock:
            self._forced = list(kinds)

    def draw(self, asked: str) -> str | None:
        """What befalls a request, if anything; counts it."""
        with self._lock:
            self.requests[asked] += 1
            if self._forced:
                kind = self._forced.pop(0)
            elif self._random.random() < self.share:
                # in turn, so that each kind is met as often as any other
                kind = min(self.kinds, key=lambda name: self.injected[name])
            else:
                return None
            if kind is not None:
                self.injected[kind] += 1
            return kind


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, proxy: FaultyProxy) -> None:
        self.proxy = proxy
        super().__init__(("127.0.0.1", 0), _Handler)

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that went away is no news: some kinds of fault make it do so."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 60
    server: _Server

    def log_message(self, format: str, *args: object) -> None:
        """Nothing is logged."""

    def handle_one_request(self) -> None:
        """One request, or the end of the connection."""
        try:
            super().handle_one_request()
        except OSError:
            self.close_connection = True

    def _pass(self) -> None:
        proxy = self.server.proxy
        kind = proxy.draw(self._asked())
        length = int(self.headers.get("Content-Length") or 0)
        if kind == "cut" and length > 1:
            self.rfile.read(length // 2)
            return self._reset()
        body = self._chunks() if self.headers.get("Transfer-Encoding") == "chunked" else self.rfile.read(length)
        if kind in ("500", "503"):
            return self._error(int(kind), *(_BROKEN if kind == "500" else _SLOW_DOWN))
        if kind in ("hang-up", "stall"):
            # a reset ends the wait of a client that has no timeout, and of the thread when the proxy stops
            self._wait(proxy.stall_s if kind == "stall" else 0)
            return self._reset()
        status, headers, content = self._upstream(body)
        if self.command == "PUT":
            proxy.uploads[self.path] += 1
        if kind == "lost":
            return self._reset()
        if kind == "short":
            content = content[: len(content) // 2]
        self._answer(status, headers, content, cut=kind == "cut")
        return None

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _pass

    def _asked(self) -> str:
        query = dict(parse_qsl(urlsplit(self.path).query, keep_blank_values=True))
        if "list-type" in query:
            return f"{self.command} list"
        return f"{self.command} object"

    def _upstream(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        connection = http.client.HTTPConnection(self.server.proxy.upstream, timeout=60)
        try:
            hop = ("connection", "transfer-encoding", "expect", "content-length")
            headers = {name: value for name, value in self.headers.items() if name.lower() not in hop}
            connection.request(self.command, self.path, body or None, {**headers, "Content-Length": str(len(body))})
            answer = connection.getresponse()
            return answer.status, answer.getheaders(), answer.read()
        finally:
            connection.close()

    def _answer(self, status: int, headers: list[tuple[str, str]], content: bytes, cut: bool) -> None:
        self.send_response_only(status)
        skipped = {"transfer-encoding", "connection"} | ({"content-length"} if self.command != "HEAD" else set())
        for name, value in headers:
            if name.lower() not in skipped:
                self.send_header(name, value)
        if self.command != "HEAD":
            self.send_header("Content-Length", str(len(content)))
        if cut:
            self.end_headers()
            self.wfile.write(content[: len(content) // 2])
            self.wfile.flush()
            return self._reset()
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)
        return None

    def _error(self, status: int, code: str, message: str) -> None:
        xml = f'<?xml version="1.0" encoding="UTF-8"?><Error><Code>{code}</Code><Message>{message}</Message></Error>'
        self.send_response_only(status)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(xml)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(xml.encode())

    def _chunks(self) -> bytes:
        found = b""
        while size := int(self.rfile.readline().split(b";")[0], 16):
            found += self.rfile.read(size)
            self.rfile.readline()
        while self.rfile.readline().strip():
            pass
        return found

    def _wait(self, seconds: float) -> None:
        threading.Event().wait(seconds)

    def _reset(self) -> None:
        self.close_connection = True
        # linger 0: the peer gets a reset, not an orderly end that it could take for the end of the body
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()
