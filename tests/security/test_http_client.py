"""Whoever can connect over HTTP: what is answered, and what is not."""

from __future__ import annotations

import contextlib
import hmac
import re
import socket
import ssl
import subprocess
import sys
import urllib.parse
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from observability.http.server import tls_context
from support.command import Cli, get
from support.service import connect, exchange, running
from support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

    from observability.service import Service

SECRET = "5up3rs3cret-of-the-test"


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    with running(tmp_path) as service:
        yield service


@pytest.fixture
def closed(tmp_path: Path) -> Iterator[Service]:
    """A service with a token."""
    with running(tmp_path, token=SECRET) as service:
        yield service


def answers(service: Service, said: str) -> list[str]:
    """The status lines of all answers to what is sent over one connection."""
    with connect(service) as client:
        return re.findall(r"HTTP/1\.1 (\d+)", exchange(client, said))


# -- the token ------------------------------------------------------------------------------


def test_a_request_in_the_shadow_of_another_needs_the_token_itself(closed: Service) -> None:
    shadow = "GET /timers HTTP/1.1\nHost: localhost\nConnection: close\n\n"
    head = f"GET /timers HTTP/1.1\nHost: localhost\nAuthorization: Bearer {SECRET}\n"
    for framing in (
        "Content-Length: 6\nTransfer-Encoding: chunked\n\n0\n\n",
        "Transfer-Encoding: chunked\n\n0\n\n",
        "Content-Length: 0\n\n",
    ):
        assert answers(closed, head + framing + shadow) in (["200", "401"], ["400"])
    # Announced as a body, it is one.
    body = f"Content-Length: {len(shadow) + shadow.count(chr(10))}\nConnection: close\n\n"
    assert answers(closed, head + body + shadow) == ["200"]


def test_the_token_is_compared_in_constant_time(
    closed: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared = []
    real = hmac.compare_digest

    def compare(given: bytes, token: bytes) -> bool:
        compared.append(given)
        return real(given, token)

    monkeypatch.setattr(hmac, "compare_digest", compare)
    address = str(closed.address)
    assert get(address, "/timers", {"Authorization": "Bearer 5up3r"})[0] == 401
    assert get(address, "/timers", {"Authorization": f"Bearer {SECRET}"})[0] == 200
    assert compared == [b"5up3r", SECRET.encode()]


def test_a_token_can_be_guessed_as_often_as_one_likes(closed: Service) -> None:
    # Hence the advice to make it long.
    address = str(closed.address)
    for number in range(200):
        assert get(address, "/timers", {"Authorization": f"Bearer {number}"})[0] == 401
    assert get(address, "/timers", {"Authorization": f"Bearer {SECRET}"})[0] == 200


def test_the_token_is_in_no_argument_no_event_no_answer_and_not_given_to_the_job(
    tmp_path: Path,
) -> None:
    token, events = tmp_path / "token", tmp_path / "events"
    token.write_text(f"{SECRET}\n")
    token.chmod(0o600)
    cli = Cli(tmp_path / "cli")
    arguments = ("--http", "127.0.0.1:0", "--http-token-file", token, "--events", events)
    job = ("sh", "-c", 'env; echo "at $TIMERS_HTTP"; read line')
    with cli.start(
        "run", *arguments, "--level", "debug", "--", *job, stderr=subprocess.PIPE
    ) as run:
        assert run.stdout is not None
        seen: list[str] = []
        while not (seen and seen[-1].startswith("at ")):
            seen.append(run.stdout.readline())
        address = seen[-1].split()[1]
        for path in ("/", "/timers", "/metrics", "/-/healthy", "/nothing"):
            for given in ("", "Bearer wrong", f"Bearer {SECRET}"):
                status, body, headers = get(address, path, {"Authorization": given})
                seen += [str(status), body, str(headers)]
        for pid in cli.processes():
            for file in ("cmdline", "environ"):
                with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                    seen.append(Path(f"/proc/{pid}/{file}").read_text())
        out, err = run.communicate("\n", timeout=60)
        seen += [out, err, events.read_text()]
    assert "watchdog started" in events.read_text()
    assert "200" in seen
    assert "401" in seen
    assert not [text for text in seen if SECRET in text]


# -- requests -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "said",
    [
        "GET /timers HTTP/1.1\nHost: localhost\nHost: evil.example\nConnection: close\n\n",
        "GET /timers HTTP/1.1\nHost : localhost\nConnection: close\n\n",
        "GET /timers HTTP/1.1\n Host: localhost\nConnection: close\n\n",
        "GET /timers HTTP/1.1\nHost: localhost\nContent-Length: 1, 2\nConnection: close\n\n",
        "GET /timers HTTP/1.1\nHost: localhost\nTransfer-Encoding: gzip\nConnection: close\n\n",
        "GET /timers HTTP/1.1\nHost: localhost\nX: a\0b\nConnection: close\n\n",
    ],
)
def test_a_request_that_could_be_read_in_two_ways_is_refused(service: Service, said: str) -> None:
    with connect(service) as client:
        answer = exchange(client, said)
    assert re.match(r"HTTP/1\.1 (400|501) ", answer)
    assert '"timers"' not in answer


@pytest.mark.parametrize(
    "method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT"]
)
@pytest.mark.parametrize("path", ["/", "/timers", "/metrics", "/-/healthy"])
def test_there_is_nothing_to_be_changed(service: Service, method: str, path: str) -> None:
    said = f"{method} {path} HTTP/1.1\nHost: localhost\nContent-Length: 0\nConnection: close\n\n"
    assert answers(service, said) == ["405"]
    assert answers(service, said.replace(method, "GET", 1)) == ["200"]


@pytest.mark.parametrize(
    "path",
    [
        "/../../../../etc/passwd",
        "/..%2f..%2fetc/passwd",
        "//etc/passwd",
        "/timers/../../etc/passwd",
        "/%00",
        "/timers%00.html",
        "/page.html",
        "/timers;x",
    ],
)
def test_no_path_leads_to_a_file(service: Service, path: str) -> None:
    said = f"GET {path} HTTP/1.1\nHost: localhost\nConnection: close\n\n"
    assert answers(service, said) in (["404"], ["400"])


@pytest.mark.parametrize("digits", ["9" * 5, "9" * 5000, "0" * 5000, "\u00b2", "-0", "1_0", " 1"])
def test_a_number_of_any_length_is_a_number_or_refused(service: Service, digits: str) -> None:
    status, body, _ = get(str(service.address), f"/timers?limit={urllib.parse.quote(digits)}")
    assert status == 400
    assert "must be a number" in body


def test_a_request_for_other_hosts_is_no_proxy(service: Service) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        other.settimeout(0.2)
        url = f"http://127.0.0.1:{other.getsockname()[1]}/timers"
        said = f"GET {url} HTTP/1.1\nHost: localhost\nConnection: close\n\n"
        assert answers(service, said)[0] in ("200", "400", "403", "404")
        with pytest.raises(TimeoutError):
            other.accept()


# -- TLS ------------------------------------------------------------------------------------


def test_old_tls_is_not_spoken(tmp_path: Path) -> None:
    path = _certificate(tmp_path)
    assert tls_context(str(path)).minimum_version in (
        ssl.TLSVersion.TLSv1_2,
        ssl.TLSVersion.TLSv1_3,
    )
    with running(tmp_path, tls_cert=str(path)) as service:
        for version, spoken in (
            (ssl.TLSVersion.TLSv1_1, False),
            (ssl.TLSVersion.TLSv1_2, True),
            (ssl.TLSVersion.TLSv1_3, True),
        ):
            context = ssl.create_default_context(cafile=path)
            context.set_ciphers("ALL:@SECLEVEL=0")
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)
                context.minimum_version = context.maximum_version = version
            expected = contextlib.nullcontext() if spoken else pytest.raises(ssl.SSLError)
            with (
                connect(service) as plain,
                expected,
                context.wrap_socket(plain, server_hostname="localhost") as client,
            ):
                said = "GET /-/ready HTTP/1.1\nHost: localhost\nConnection: close\n\n"
                assert "200 OK" in exchange(client, said)


def _certificate(directory: Path) -> Path:
    path, key = directory / "both.pem", directory / "key.pem"
    made = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
    made += ["-nodes", "-days", "2", "-subj", "/CN=localhost"]
    made += ["-addext", "subjectAltName=DNS:localhost", "-out", str(path), "-keyout", str(key)]
    try:
        subprocess.run(made, check=True, capture_output=True)
    except FileNotFoundError:
        pytest.skip("needs the openssl command")
    path.write_text(path.read_text() + key.read_text())
    return path


# -- what it knows --------------------------------------------------------------------------


def test_file_names_and_addresses_of_a_stuck_worker_are_told_arguments_and_environment_are_not(
    tmp_path: Path,
) -> None:
    cli = Cli(tmp_path / "cli")
    events, dumps, open_file = tmp_path / "events", tmp_path / "dumps", tmp_path / "open-file-name"
    open_file.touch()
    worker = (
        "import sys, time, timers\n"
        f"held = open({str(open_file)!r})\n"
        "def stuck(password):\n"
        "    local = password + '-local-variable'\n"
        "    with timers.expires(0.3, 'hang'):\n"
        "        time.sleep(1000)\n"
        "timers.configure_from_env()\n"
        "stuck(sys.argv[1])\n"
    )
    script = tmp_path / "job.py"
    script.write_text(worker)
    arguments = ("--http", "127.0.0.1:0", "--events", events, "--dump-dir", dumps)
    job = ("sh", "-c", 'echo "$TIMERS_HTTP"; "$0" "$@"; read line', sys.executable, script)
    secret = "argument-5up3rs3cret"
    environment = {"API_KEY": "environment-5up3rs3cret", "RANK": "0"}
    with cli.start("run", *arguments, "--", *job, secret, env=environment) as run:
        assert run.stdout is not None
        address = run.stdout.readline().strip()
        eventually(lambda: events.exists() and "kill worker process" in events.read_text())
        seen = events.read_text()
        seen += "".join(get(address, path)[1] for path in ("/timers", "/metrics", "/"))
        run.communicate("\n", timeout=60)
    seen += events.read_text() + "".join(each.read_text() for each in dumps.iterdir())
    assert "open-file-name" in seen
    assert "job.py:6 stuck" in seen
    assert "5up3rs3cret" not in seen
    assert "local-variable" not in seen
