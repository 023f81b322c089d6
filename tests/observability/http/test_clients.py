"""Clients that are slow, idle, many or broken hurt nobody."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import ssl
import subprocess
from typing import TYPE_CHECKING

import psutil
import pytest

from observability.http import server as http_module
from support.command import get
from support.service import connect, exchange, is_closed, running
from support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from observability.service import Service

REQUEST = "GET /-/ready HTTP/1.1\nHost: localhost\nConnection: close\n\n"


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    with running(tmp_path) as service:
        yield service


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_module, "STALL_SECONDS", 0.1)
    monkeypatch.setattr(http_module, "HANDSHAKE_SECONDS", 0.1)


@contextlib.contextmanager
def many(service: Service, number: int) -> Iterator[list[socket.socket]]:
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(connect(service)) for _ in range(number)]


def held(service: Service) -> int:
    """How many descriptors clients cost the service."""
    assert service.address is not None
    return sum(
        found.laddr.port == service.address.port and found.status != psutil.CONN_LISTEN
        for found in psutil.Process().net_connections("tcp")
    )


@pytest.mark.slow
def test_200_idle_connections_keep_nobody_out(service: Service) -> None:
    with many(service, 200) as idle:
        for _ in range(3):
            assert get(str(service.address), "/metrics")[0] == 200
        assert 0 < held(service) <= http_module.MAX_CONNECTIONS
        assert is_closed(idle[0])  # those that waited longest had to go
        assert "200 OK" in exchange(idle[-1], REQUEST)


def test_without_descriptors_few_are_kept(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_module, "is_reserved", lambda _descriptor: True)
    with many(service, 30) as idle:
        assert get(str(service.address), "/-/ready")[0] == 200
        assert is_closed(idle[0])
        eventually(lambda: 0 < held(service) <= http_module.FEW_CONNECTIONS)


def test_no_answer_waits_for_the_client_to_acknowledge_its_start(service: Service) -> None:
    with connect(service) as client:
        assert "200 OK" in exchange_kept(client)
        (accepted,) = (
            found.fd
            for found in psutil.Process().net_connections("tcp")
            if found.raddr and found.raddr.port == client.getsockname()[1]
        )
        with socket.socket(fileno=os.dup(accepted)) as same:
            assert same.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1


def exchange_kept(client: socket.socket) -> str:
    client.sendall(REQUEST.replace("Connection: close\n", "").replace("\n", "\r\n").encode())
    answer = ""
    while not answer.endswith("workers can connect\n"):
        answer += client.recv(65536).decode()
    return answer


NO_CHUNK = "POST /-/ready HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize("answered", [True, False], ids=["answered", "at once"])
def test_a_body_that_is_none_is_not_told_to_the_log(
    service: Service, caplog: pytest.LogCaptureFixture, *, answered: bool
) -> None:
    for _ in range(5):
        with connect(service) as client:
            if answered:
                client.sendall(NO_CHUNK.encode())
                assert client.recv(65536).startswith(b"HTTP/1.1 405 ")
                client.sendall(b"zz\r\n")
            else:
                client.sendall(NO_CHUNK.encode() + b"zz\r\n")
            with contextlib.suppress(ConnectionResetError):
                while client.recv(65536):
                    pass
    assert get(str(service.address), "/-/ready")[0] == 200
    assert caplog.records == []


@pytest.mark.parametrize(
    ("path", "accept", "status"),
    [
        ("/timers?limit=" + "1" * 5000, "", 400),
        ("/timers?limit=10001", "", 400),
        ("/timers?limit=010000", "", 200),
        ("/metrics", "application/openmetrics-text; version=x", 200),
        ("/metrics", "application/openmetrics-text; version=1.0.0", 200),
    ],
)
def test_what_a_stranger_asks_for_is_no_error_of_ours(
    service: Service, caplog: pytest.LogCaptureFixture, path: str, accept: str, status: int
) -> None:
    assert get(str(service.address), path, {"Accept": accept})[0] == status
    assert caplog.records == []


@pytest.mark.slow
def test_who_is_being_answered_is_not_dropped(service: Service) -> None:
    with connect(service) as asking, service.server._watchdog.lock:
        asking.sendall(REQUEST.replace("ready", "healthy").replace("\n", "\r\n").encode())
        with many(service, 150) as idle:
            assert "503" in exchange(asking, "")
            assert is_closed(idle[0])


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("said", ["", "GET /metrics HT", "POST /timers HTTP/1.1\r\nHost: x\r\n"])
def test_half_a_request(service: Service, said: str) -> None:
    with connect(service) as client:
        client.sendall(said.encode())
        assert is_closed(client)
    assert get(str(service.address), "/metrics")[0] == 200


@pytest.mark.usefixtures("impatient")
def test_a_trickle(service: Service) -> None:
    with connect(service) as client:
        client.settimeout(0.02)

        def dropped() -> bool:
            try:
                client.sendall(b"G")
                return client.recv(1) == b""
            except TimeoutError:
                return False
            except ConnectionError:
                return True

        eventually(dropped)


@pytest.mark.usefixtures("impatient")
def test_a_connection_is_kept_between_requests(service: Service) -> None:
    keep = REQUEST.replace("Connection: close\n", "").replace("\n", "\r\n").encode()
    with connect(service) as client, connect(service) as idle:
        for _ in range(2):
            client.sendall(keep)
            answer = b""
            while not answer.endswith(b"workers can connect\n"):
                answer += client.recv(65536)
            assert answer.startswith(b"HTTP/1.1 200 OK")
            assert is_closed(idle)  # whose time is up by now


@pytest.mark.usefixtures("impatient")
def test_who_does_not_read_is_dropped(service: Service) -> None:
    for number in range(199):
        # Escaped, a control character is four: about as large as a scope in a label gets.
        service.server.statistics.scope(f"{number:04}" + "\x01" * 110)
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.settimeout(30)
        assert service.address is not None
        client.connect(service.address)
        request = REQUEST.replace("/-/ready", "/metrics").replace("Connection: close\n", "")
        client.sendall(request.replace("\n", "\r\n").encode() * 50)
        assert select.select([client], [], [], 30)[0]  # it is being answered
        eventually(lambda: held(service) == 0, "it was given up")
    assert get(str(service.address), "/metrics")[0] == 200


@pytest.mark.parametrize(
    "said",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"GET /" + b"x" * 100_000,
        b"GET / HTTP/1.1\r\nHost: x\r\n" + b"X: " + b"y" * 100_000,
    ],
)
def test_what_is_no_http_is_answered_and_closed(service: Service, said: bytes) -> None:
    with connect(service) as client:
        with contextlib.suppress(ConnectionError):
            client.sendall(said)
        with contextlib.suppress(ConnectionError):  # closed with some of it unread: a reset
            assert exchange(client, "").startswith("HTTP/1.1 400")
    assert get(str(service.address), "/metrics")[0] == 200


def test_stopping_does_not_wait_for_idle_clients(tmp_path: Path) -> None:
    with running(tmp_path) as service, many(service, 20) as idle:
        assert get(str(service.address), "/metrics")[0] == 200
        service.stop()
        assert all(is_closed(client) for client in idle)
        with pytest.raises(ConnectionRefusedError):
            connect(service)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A self-signed certificate of localhost with its key, in one file."""
    path = tmp_path_factory.mktemp("tls") / "both.pem"
    key = path.with_name("key.pem")
    try:
        subprocess.run(
            [
                *[
                    "openssl",
                    "req",
                    "-x509",
                    "-newkey",
                    "ec",
                    "-pkeyopt",
                    "ec_paramgen_curve:P-256",
                    "-nodes",
                ],
                *["-days", "2", "-subj", "/CN=localhost"],
                *["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"],
                *("-out", path, "-keyout", key),
            ],
            check=True,
            capture_output=True,
        )
    except FileNotFoundError:
        pytest.skip("needs the openssl command")
    path.write_text(path.read_text() + key.read_text())
    return path


def test_tls(tmp_path: Path, certificate: Path) -> None:
    context = ssl.create_default_context(cafile=certificate)
    with (
        running(tmp_path, tls_cert=str(certificate)) as service,
        connect(service) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as client,
    ):
        assert client.version() in ("TLSv1.2", "TLSv1.3")
        assert "workers can connect" in exchange(client, REQUEST)


@pytest.mark.slow
@pytest.mark.usefixtures("impatient")
def test_half_a_handshake(tmp_path: Path, certificate: Path) -> None:
    with running(tmp_path, tls_cert=str(certificate)) as service, many(service, 150) as silent:
        assert all(is_closed(client) for client in silent)
        context = ssl.create_default_context(cafile=certificate)
        with (
            connect(service) as plain,
            context.wrap_socket(plain, server_hostname="localhost") as client,
        ):
            assert "workers can connect" in exchange(client, REQUEST)
