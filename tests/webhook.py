"""A webhook on this machine that answers as it is told, and remembers what came."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

SECRET = "T0SECRET/B0SECRET/xsecretx"


class Webhook:
    """Answers with the statuses of `answers` in turn, then with 200; a status of 0 is no answer until `close`."""

    def __init__(self, *answers: int) -> None:
        self.answers = list(answers)
        self.bodies: list[Any] = []
        self._closing = threading.Event()
        webhook = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                webhook.bodies.append(json.loads(body) if self.path.endswith(SECRET) else self.path)
                status = webhook.answers.pop(0) if webhook.answers else 200
                if status == 0:
                    webhook._closing.wait()
                    return
                self.send_response(status)
                self.send_header("Location", "/elsewhere")
                self.end_headers()
                self.wfile.write(b"ok")

            def log_message(self, *_: object) -> None:
                """Says nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}/services/{SECRET}"

    @property
    def texts(self) -> list[str]:
        return [body["text"] for body in self.bodies]

    def close(self) -> None:
        self._closing.set()
        self._server.shutdown()
        self._server.server_close()
