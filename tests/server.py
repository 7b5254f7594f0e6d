"""Local HTTP servers that play the Hub and Civitai, well and badly."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit


@dataclass
class Request:
    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]


@dataclass
class Answer:
    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    cut: int | None = None  # close the connection after so many bytes
    hold: threading.Event | None = None  # wait for it half-way

    @classmethod
    def json(cls, value: Any, status: int = 200) -> Answer:
        return cls(status, json.dumps(value).encode(), {"Content-Type": "application/json"})


class Quiet(ThreadingHTTPServer):
    def handle_error(self, request, client_address):
        """Clients that hang up are part of the tests."""


class Site:
    """A server whose `answer(request)` a test supplies; it keeps what it was asked."""

    def __init__(self, answer):
        self.answer, self.requests = answer, []
        site = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                self.reply()

            def do_HEAD(self):
                self.reply()

            def reply(self):
                url = urlsplit(self.path)
                query = {key: values[0] for key, values in parse_qs(url.query).items()}
                headers = {key.lower(): value for key, value in self.headers.items()}
                request = Request(self.command, url.path, query, headers)
                site.requests.append(request)
                answer = site.answer(request)
                self.send_response(answer.status)
                chunked = "Transfer-Encoding" in answer.headers
                length = {} if chunked else {"Content-Length": str(len(answer.body))}
                for key, value in (length | answer.headers).items():
                    self.send_header(key, value)
                self.end_headers()
                if self.command == "GET":
                    body = answer.body if answer.cut is None else answer.body[: answer.cut]
                    most = len(body) // (2 if answer.hold else 1)
                    self.wfile.write(body[:most])
                    if answer.hold:
                        answer.hold.wait(60)
                        self.wfile.write(body[most:])
                if answer.cut is not None:
                    self.close_connection = True

            def log_message(self, *_):
                pass

        self.server = Quiet(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def stop(self) -> None:
        """Out of reach from now on; connections that are open break with the next question."""
        self.answer = None
        self.server.shutdown()
        self.server.server_close()


@contextmanager
def serve(answer) -> Iterator[Site]:
    site = Site(answer)
    thread = threading.Thread(target=site.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield site
    finally:
        site.server.shutdown()
        site.server.server_close()


def ranged(data: bytes, request: Request) -> Answer:
    """A file, or the part of it that is asked for."""
    asked = request.headers.get("range")
    if not asked:
        return Answer(200, data)
    start = int(asked.removeprefix("bytes=").removesuffix("-"))
    if start >= len(data):
        return Answer(416, headers={"Content-Range": f"bytes */{len(data)}"})
    return Answer(206, data[start:], {"Content-Range": f"bytes {start}-{len(data) - 1}/{len(data)}"})


def hub(repos: dict[str, dict[str, bytes]], commit: str = "c" * 40):
    """An answer function that plays the Hub for some repositories of files."""

    def answer(request: Request) -> Answer:
        for repo, files in repos.items():
            if request.path.startswith(f"/api/models/{repo}"):
                listing = [{"rfilename": name} for name in files]
                return Answer.json({"id": repo, "modelId": repo, "sha": commit, "siblings": listing, "tags": []})
            if request.path.startswith(f"/{repo}/resolve/"):
                data = files.get(request.path.removeprefix(f"/{repo}/resolve/").partition("/")[2])
                if data is None:
                    return Answer(404, headers={"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit})
                found = ranged(data, request)
                found.headers |= {"ETag": f'"{hashlib.sha256(data).hexdigest()}"', "X-Repo-Commit": commit}
                return found
        return Answer.json({"error": "Invalid username or password."}, 401)

    return answer
