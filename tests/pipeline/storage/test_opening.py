"""Files of real web servers on loopback, with and without ranges, HEAD, sizes and stamps; text as UTF-8 only."""

import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from winnow.pipeline import storage
from winnow.pipeline.errors import JobError, PoolError, StorageError

CONTENT = bytes(range(256)) * 4000


class Server(ThreadingHTTPServer):
    """Serves CONTENT under any name but one with `absent`; what it knows, and what it was asked, are its fields."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.ranges = self.head = self.length = True
        self.stamps = {"ETag": '"abc"', "Last-Modified": "Mon, 01 Jan 2024 00:00:00 GMT"}
        self.content = CONTENT
        self.asked: list[str] = []

    def handle_error(self, *_of: object) -> None:
        """A client that has enough hangs up."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, body: bool) -> None:
        server, asked = self.server, self.headers.get("Range")
        server.asked.append(f"{self.command} {self.path} {asked or ''}".strip())
        content, status = server.content, 200
        if "absent" in self.path or "forbidden" in self.path or (self.command == "HEAD" and not server.head):
            content, status = b"", 405 if not server.head else 403 if "forbidden" in self.path else 404
            status = 404 if self.command == "GET" and status == 405 else status
        if status == 200 and server.ranges and asked:
            first, last = re.fullmatch(r"bytes=(\d+)-(\d+)", asked).groups()  # type: ignore[union-attr]
            content, status = content[int(first) : int(last) + 1], 206
        self.send_response(status)
        if server.ranges:
            self.send_header("Accept-Ranges", "bytes")
        for name, value in server.stamps.items():
            self.send_header(name, value)
        if server.length or status != 200:
            self.send_header("Content-Length", str(len(content)))
        else:
            self.send_header("Connection", "close")
        self.end_headers()
        if body:
            self.wfile.write(content)

    def log_message(self, *_words: object) -> None:
        """Says nothing."""


@pytest.fixture
def web() -> Iterator[Server]:
    server = Server()
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.mark.parametrize("ranges", [True, False])
@pytest.mark.parametrize("head", [True, False])
@pytest.mark.parametrize("query", ["", "?download=true", "?path=a/b.tar&id=7"])
def test_a_web_servers_file_is_read_whole_and_in_parts(web: Server, ranges: bool, head: bool, query: str):
    web.ranges, web.head = ranges, head
    url = f"{web.url}/0.tar{query}"
    assert storage.expand([url], ".tar") == [url]
    [found] = storage.identify([url])
    assert (found.url, found.size, found.stamp) == (url, len(CONTENT), "abc")
    assert storage.identity_of(url) == found
    assert storage.present([url]) == {url: found}
    assert storage.read_bytes(url) == CONTENT
    with storage.local_view(url) as view:
        assert view == CONTENT
    with storage.open_exact(url) as file:
        file.seek(500_000)
        assert file.read(100_000) == CONTENT[500_000:600_000]
        file.seek(-10, 2)
        assert file.read() == CONTENT[-10:]
    wanted = "GET /0.tar" + query + " bytes=500000-599999"
    assert wanted in web.asked
    web.stamps = {"Last-Modified": "Tue, 02 Jan 2024 00:00:00 GMT"}
    assert storage.identify([url]) != [found]


def test_files_in_braces_keep_their_order(web: Server):
    urls = storage.expand([f"{web.url}/{{00..39}}.tar?a=1"], ".tar")
    assert [found.url for found in storage.identify(urls)] == urls
    assert len(urls) == 40
    assert urls[7] == f"{web.url}/07.tar?a=1"


def test_a_server_that_does_not_say_enough_is_refused(web: Server):
    url = f"{web.url}/0.tar?a=1"
    web.stamps = {}
    with pytest.raises(StorageError, match=r"so that a change is seen, but .*/0\.tar has neither"):
        storage.identify([url])
    web.stamps, web.length = {"ETag": "x"}, False
    with pytest.raises(StorageError, match=r"how many bytes a file has, but it does not for .*/0\.tar; read a copy"):
        storage.identify([url])
    with pytest.raises(StorageError, match=r"cannot read .*/0\.tar: .*must say how many bytes a file has"):
        storage.read_bytes(url)


def test_what_a_web_server_refuses_is_said(web: Server):
    for name, words in (("absent.tar", "404"), ("forbidden.tar", "403")):
        for ask in (lambda url: storage.identify([url]), storage.identity_of, storage.read_bytes, storage.open_read):
            with pytest.raises(StorageError, match=rf"cannot read {web.url}/{name}: {words}, message="):
                ask(f"{web.url}/{name}")
    closed = f"http://127.0.0.1:{_free()}/0.tar"
    with pytest.raises(StorageError, match=r"cannot read http.*/0\.tar: .*Cannot connect"):
        storage.identify([closed])


def _free() -> int:
    server = Server()
    server.server_close()
    return int(server.server_address[1])


def test_a_web_server_has_no_folders_and_lists_nothing_by_a_query(web: Server):
    with pytest.raises(PoolError, match=r"a web server has no folders, got .*/data/; name the shards"):
        storage.expand([f"{web.url}/data/"], ".tar")
    with pytest.raises(PoolError, match=r"must have no query, got .*/\*\.tar.*; name the files"):
        storage.expand([f"{web.url}/*.tar?a=1"], ".tar")
    with pytest.raises(PoolError, match=r"nothing matches .*; a pattern needs a web server that has a page of links"):
        storage.expand([f"{web.url}/*.tar"], ".tar")
    web.content = b'<a href="1.tar">1</a> <a href="0.tar">0</a> <a href="_x.tar">x</a> <a href="more/">more</a>'
    assert storage.expand([f"{web.url}/data/*.tar"], ".tar") == [f"{web.url}/data/{i}.tar" for i in range(2)]


def test_a_list_may_lie_on_a_web_server(web: Server):
    web.content = "\ufeff# shards\r\nhttp://h/0.tar?a=1 \r\n".encode()
    assert storage.expand([f"{web.url}/list.txt?raw=1"], ".tar") == ["http://h/0.tar?a=1"]
    web.content = web.content.decode().encode("utf-16")
    with pytest.raises(PoolError, match=r"/list\.txt must be UTF-8, but it is UTF-16"):
        storage.expand([f"{web.url}/list.txt?raw=1"], ".tar")


def test_a_file_that_shrank_while_it_was_read_is_refused(web: Server):
    web.ranges = False
    with storage.open_exact(f"{web.url}/0.tar") as file:
        web.content = CONTENT[:200_000]
        file.seek(100)
        with pytest.raises(
            StorageError, match=r"it had 1024000 bytes when it was opened, but has 200000 now; run again"
        ):
            file.read(100)


def test_text_is_utf_8_or_refused_as_asked(tmp_path):
    url = str(tmp_path / "names.txt")
    storage.write_bytes(url, "\ufeffé\n".encode())
    assert storage.read_text(url) == "é\n"
    storage.write_bytes(url, "é\n".encode("latin-1"))
    for kind in (StorageError, PoolError, JobError):
        with pytest.raises(kind, match=r"names\.txt must be UTF-8, but the byte 0xe9 of line 1 is not") as error:
            storage.read_text(url, kind)
        assert type(error.value) is kind
