"""A web page that somebody who works here has open: what it learns of the service. Nothing."""

from __future__ import annotations

import http.server
import threading
from typing import TYPE_CHECKING

import pytest

from support.command import get
from support.service import running
from support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from observability.service import Service


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    with running(tmp_path) as service:
        yield service


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:9464",
        "127.0.0.1.evil.example",
        "localhost.evil.example",
        "evil.example#localhost",
        "localhost@evil.example",
        "0.0.0.0:9464",
        "[::]",
        "[::ffff:10.0.0.1]",
        "10.0.0.1",
        "",
    ],
)
@pytest.mark.parametrize("path", ["/", "/timers", "/metrics"])
def test_a_name_that_was_made_to_lead_here_is_refused(
    service: Service, host: str, path: str
) -> None:
    address = str(service.address)
    status, body, _ = get(address, path, {"Host": host})
    assert status == 403
    assert "run-1" not in body
    assert get(address, path, {"Host": "localhost"})[0] == 200


def test_no_answer_is_for_another_origin(service: Service) -> None:
    for path in ("/", "/timers", "/metrics", "/-/healthy", "/-/ready"):
        status, _, headers = get(str(service.address), path, {"Origin": "http://evil.example"})
        assert status == 200
        assert not [name for name in headers if name.lower().startswith("access-control-")]


def test_the_page_runs_nothing_but_itself_and_is_in_no_frame(service: Service) -> None:
    _, body, headers = get(str(service.address), "/")
    policy = dict(
        part.strip().split(" ", 1) for part in headers["Content-Security-Policy"].split(";")
    )
    assert policy["default-src"] == policy["frame-ancestors"] == policy["base-uri"] == "'none'"
    assert policy["connect-src"] == "'self'"
    for kind in ("script-src", "style-src"):
        assert policy[kind].startswith("'sha256-")
        assert " " not in policy[kind]
    assert (headers["X-Content-Type-Options"], headers["Referrer-Policy"]) == (
        "nosniff",
        "no-referrer",
    )
    for sink in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval("):
        assert sink not in body


PAGE = """<!doctype html><title>begun</title><script>
const url = "http://SERVICE";
const results = [];
const note = (what) => {
  results.push(what);
  if (results.length === 4) document.title = results.sort().join(" ");
};
const size = (answer) => answer.text().then((text) => text.length);
fetch(url + "/timers").then(size)
  .then((length) => note("fetch:" + length), () => note("fetch-refused"));
fetch(url + "/timers", {mode: "no-cors"}).then(size)
  .then((length) => note("opaque:" + length), () => note("opaque-refused"));
const script = document.createElement("script");
script.onload = () => note("script-ran");
script.onerror = () => note("script-refused");
script.src = url + "/timers";
document.head.append(script);
const frame = document.createElement("iframe");
frame.onload = () => {
  let inside = null;
  try { inside = frame.contentDocument && frame.contentDocument.body.innerText; } catch {}
  note(inside ? "frame:" + inside.length : "frame-closed");
};
frame.src = url + "/";
document.documentElement.append(frame);
</script>"""


def test_a_page_of_another_origin_reads_nothing(service: Service, tmp_path: Path) -> None:
    pytest.importorskip("selenium.webdriver")
    from support.browser import chromium

    content = PAGE.replace("SERVICE", str(service.address)).encode()

    class Evil(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:  # http.server's name
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    evil = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Evil)
    thread = threading.Thread(target=evil.serve_forever, daemon=True)
    thread.start()
    try:
        with chromium(tmp_path) as browser:
            browser.get(f"http://127.0.0.1:{evil.server_port}/")
            title = eventually(lambda: browser.title != "begun" and browser.title, "all four tries")
            assert title == "fetch-refused frame-closed opaque:0 script-refused"
            # The same from the service's own origin: there is something to be read.
            browser.get(f"http://{service.address}/")
            read = "return fetch('/timers').then((answer) => answer.text())"
            assert '"run_id": "run-1"' in browser.execute_script(read)
    finally:
        evil.shutdown()
        evil.server_close()
        thread.join()
