"""The proxy before Dagster's UI: whom it lets through, and what another site's page can make a browser do."""

from __future__ import annotations

import base64
import shutil
import socket
import socketserver
import ssl
import subprocess
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import trustme
from tenacity import retry, retry_if_exception_type, stop_after_delay, wait_fixed

SETTINGS = Path(__file__).parents[2] / "deploy" / "nginx.conf"
HOST = "ursa.example.org"
FOREIGN = "https://evil.example.com"
LOGIN = {"Authorization": f"Basic {base64.b64encode(b'aria:secret').decode()}"}

pytestmark = pytest.mark.skipif(not shutil.which("nginx"), reason="nginx is not installed")


class Webserver(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        while self.rfile.readline().strip():
            pass
        self.wfile.write(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n")


@pytest.fixture
def proxy(tmp_path: Path) -> Iterator[Path]:
    """The socket of an nginx with our settings, before a webserver that answers 204."""
    pair = trustme.CA().issue_cert(HOST)
    pair.private_key_pem.write_to_path(tmp_path / "privkey.pem")
    for part in pair.cert_chain_pems:
        part.write_to_path(tmp_path / "fullchain.pem", append=True)
    (tmp_path / "htpasswd").write_text("aria:{PLAIN}secret\n")
    ours = SETTINGS.read_text()
    for there, here in {
        "/etc/ssl/ursa": str(tmp_path),
        "/etc/nginx/ursa.htpasswd": str(tmp_path / "htpasswd"),
        "server 127.0.0.1:3000;": f"server unix:{tmp_path}/web;",
        "listen 80;": f"listen unix:{tmp_path}/plain;",
        "listen 443 ssl http2;": f"listen unix:{tmp_path}/tls ssl http2;",
    }.items():
        assert there in ours
        ours = ours.replace(there, here)
    ours = "\n".join(line for line in ours.splitlines() if "listen [::]" not in line)
    temporary = "".join(
        f"{name}_temp_path {tmp_path}/{name};\n" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    settings = tmp_path / "nginx.conf"
    settings.write_text(
        f"user root;\ndaemon off;\npid {tmp_path}/pid;\nevents {{}}\nhttp {{\naccess_log off;\n{temporary}{ours}\n}}\n"
    )
    with (
        socketserver.ThreadingUnixStreamServer(f"{tmp_path}/web", Webserver) as webserver,
        subprocess.Popen(["nginx", "-e", f"{tmp_path}/log", "-c", str(settings)]) as nginx,
    ):
        threading.Thread(target=webserver.serve_forever, daemon=True).start()
        yield tmp_path / "tls"
        nginx.terminate()
        webserver.shutdown()


@retry(retry=retry_if_exception_type((FileNotFoundError, ConnectionRefusedError)), stop=stop_after_delay(30),
       wait=wait_fixed(0.05), reraise=True)  # fmt: skip
def status_of(proxy: Path, method: str = "GET", path: str = "/", headers: Mapping[str, str] = LOGIN) -> int:
    trusting = ssl._create_unverified_context()
    with socket.socket(socket.AF_UNIX) as plain:
        plain.connect(str(proxy))
        with trusting.wrap_socket(plain, server_hostname=HOST) as sent:
            lines = [f"{method} {path} HTTP/1.1", f"Host: {HOST}", "Connection: close", "Content-Length: 0"]
            sent.sendall("\r\n".join([*lines, *(f"{name}: {one}" for name, one in headers.items()), "", ""]).encode())
            return int(sent.makefile("rb").readline().split()[1])


def test_who_does_not_say_the_password_is_let_nowhere(proxy: Path) -> None:
    assert status_of(proxy, headers={}) == 401
    assert status_of(proxy) == 204


@pytest.mark.parametrize(
    ("method", "path", "headers"),
    [
        ("GET", "/runs", {"Sec-Fetch-Site": "none", "Sec-Fetch-Mode": "navigate"}),
        ("GET", "/runs", {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}),
        ("POST", "/graphql", {"Sec-Fetch-Site": "same-origin", "Sec-Fetch-Mode": "cors", "Origin": f"https://{HOST}"}),
        ("GET", "/graphql", {"Upgrade": "websocket", "Origin": f"https://{HOST}"}),
        ("POST", "/graphql", {}),
    ],
    ids=["typed in", "a link in a notice", "our own page", "its websocket", "a command"],
)
def test_our_pages_and_links_to_them_are_served(proxy: Path, method: str, path: str, headers: dict[str, str]) -> None:
    assert status_of(proxy, method, path, LOGIN | headers) == 204


@pytest.mark.parametrize(
    ("method", "headers"),
    [
        ("POST", {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Origin": FOREIGN}),
        ("POST", {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "cors", "Origin": FOREIGN}),
        ("GET", {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"}),
        ("POST", {"Origin": FOREIGN}),
        ("POST", {"Origin": "null"}),
        ("POST", {"Origin": f"https://{HOST}.example.com"}),
        ("GET", {"Upgrade": "websocket", "Origin": FOREIGN}),
    ],
    ids=["form", "script", "image", "an older browser", "a sandbox", "a name like ours", "websocket"],
)
def test_a_page_of_another_site_launches_nothing(proxy: Path, method: str, headers: dict[str, str]) -> None:
    assert status_of(proxy, method, "/graphql", LOGIN | headers) == 403


def test_nobody_reports_through_it_what_never_happened(proxy: Path) -> None:
    assert status_of(proxy, "POST", "/report_asset_materialization/recording") == 403


@pytest.mark.skipif(not shutil.which("curl"), reason="curl is not installed")
def test_it_knows_its_own_origin_over_http_2_too_as_browsers_speak_it(proxy: Path) -> None:
    assert status_of(proxy) == 204

    def answer(origin: str) -> str:
        told = ["curl", "-sk", "--http2", "-o", "/dev/null", "-w", "%{http_code} over %{http_version}", "-X", "POST"]
        to = ["-u", "aria:secret", "-H", f"Origin: {origin}", "--unix-socket", str(proxy), f"https://{HOST}/graphql"]
        return subprocess.run([*told, *to], capture_output=True, text=True, check=True).stdout

    assert answer(f"https://{HOST}") == "204 over 2"
    assert answer(FOREIGN) == "403 over 2"
