# SPDX-License-Identifier: MIT
"""Many simultaneous clients of the page: queue, kept pictures and load; over HTTP, without a browser."""

from __future__ import annotations

import importlib.util
import json
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlsplit

import pytest

from colour_network import save_colours
from crfrnn.app import Options, server
from crfrnn.app.turns import AT_MOST
from crfrnn.inference import Predictor
from page_clients import Client, load, picture

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("gradio") is None, reason="the page needs gradio"),
]
ROOM = 16
NO_PICTURE = "Choose a photograph first"


@contextmanager
def held(
    monkeypatch: pytest.MonkeyPatch, most: int = 1000
) -> Iterator[tuple[threading.Event, threading.Semaphore]]:
    """The first calls of the network wait for the event; the semaphore counts them.

    The event is set at the end.
    """
    go, see, begun, places = (
        threading.Event(),
        Predictor.see,
        threading.Semaphore(0),
        threading.Semaphore(most),
    )

    def wait(*arguments: Any, **options: Any) -> Any:
        if places.acquire(blocking=False):
            begun.release()
            assert go.wait(60)
        return see(*arguments, **options)

    with monkeypatch.context() as patched:
        patched.setattr(Predictor, "see", wait)
        try:
            yield go, begun
        finally:
            go.set()


@pytest.fixture
def address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A page with room for two waiting requests, and for the pictures of three clients."""
    monkeypatch.setattr(server, "SESSIONS", 3)
    options = Options(checkpoint=str(save_colours(tmp_path / "network")), clients=2)
    with server.served(options) as found:
        yield found


@pytest.fixture
def roomy(tmp_path: Path) -> Iterator[str]:
    """A page with a queue of `ROOM` requests."""
    options = Options(checkpoint=str(save_colours(tmp_path / "network")), clients=ROOM)
    with server.served(options) as found:
        yield found


def test_two_requests_run_two_wait_and_others_are_refused(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    clients = [Client(address) for _ in range(5)]
    number, _ = clients[0].event("photo-upload", "upload")
    sent = [client.send("photo.png", picture(0)) for client in clients]
    with ThreadPoolExecutor(4) as pool, held(monkeypatch) as (go, begun):
        answers = []
        for place in range(4):
            clients[place].join(number, [None, sent[place]])
            answers.append(pool.submit(clients[place].answer))
            if place < 2:
                assert begun.acquire(timeout=60)  # it left the queue
        with pytest.raises(HTTPError) as refused:
            clients[4].join(number, [None, sent[4]])
        assert refused.value.code == 503 and b"full" in refused.value.read()
        assert not begun.acquire(timeout=0.5)  # no third one runs at the same time
        go.set()
        assert all(answer.result(60) for answer in answers)
    assert clients[4].open(picture(1))  # the queue has a free place again


def flood(clients: list[Client], number: int, data: list[Any]) -> list[tuple[int, str]]:
    """Put a call into the queue for each client, all at once; status and message of those refused."""

    def join(client: Client) -> tuple[int, str] | None:
        try:
            client.join(number, data)
        except HTTPError as refused:
            return refused.code, json.load(refused)["detail"]
        return None

    with ThreadPoolExecutor(10) as pool:
        return [refused for refused in pool.map(join, clients) if refused is not None]


def test_a_flood_of_one_client_is_refused_and_others_are_answered(
    roomy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    hostile, other, third = (Client(roomy) for _ in range(3))
    number, _ = hostile.event("photo-upload", "upload")
    data = [None, hostile.send("photo.png", picture(0))]
    with held(monkeypatch) as (_, begun):
        refused = flood([hostile] * 50, number, data)
        assert len(refused) == 50 - AT_MOST
        assert set(refused) == {
            (
                429,
                "the page: expected at most 4 requests at once from one client, got another; wait for an "
                "answer, then try again",
            )
        }
        assert begun.acquire(timeout=60) and not begun.acquire(timeout=0.5)  # the second place is free
    with held(monkeypatch, 1) as (go, begun):
        flood([hostile] * 50, number, data)
        assert begun.acquire(timeout=60)
        assert other.open(picture(1)) and third.open(picture(2))
        assert not go.is_set()
    assert hostile.answer() and hostile.open(picture(3))  # its places are free again


def test_an_address_with_many_sessions_has_half_of_the_queue(
    roomy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    hostile = [Client(roomy, forwarded="203.0.113.7") for _ in range(20)]
    number, _ = hostile[0].event("photo-upload", "upload")
    data = [None, hostile[0].send("photo.png", picture(0))]
    with held(monkeypatch) as (go, begun):
        refused = flood(hostile, number, data)
        assert len(refused) == 20 - ROOM // 2 and {code for code, _ in refused} == {429}
        assert begun.acquire(timeout=60) and begun.acquire(timeout=60)
        local = [Client(roomy) for _ in range(ROOM // 2)]  # loopback: may be clients of a local proxy
        assert not flood(local, number, data)
        go.set()
        assert all(client.answer() for client in local)


def test_requests_without_a_session_count_by_address(roomy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    client = Client(roomy)
    number, _ = client.event("photo-upload", "upload")
    (name,) = {known["api_name"] for known in client.config["dependencies"] if known["id"] == number}
    data = {"data": [client.send("photo.png", picture(0))]}
    codes = []
    with held(monkeypatch):
        for _ in range(10):
            try:
                client._json(f"gradio_api/call/{name}", data)
                codes.append(200)
            except HTTPError as refused:
                codes.append(refused.code)
    assert codes == [200] * AT_MOST + [429] * 6


def test_the_pictures_of_the_latest_clients_are_kept(address: str) -> None:
    clients = [Client(address) for _ in range(4)]
    for client in clients:
        client.open(picture(2))
    said = [str(client.turn("theta_beta", 20.0)) for client in reversed(clients)]
    assert [NO_PICTURE in words for words in said] == [False, False, False, True]


def test_a_few_simultaneous_clients_get_no_error(address: str) -> None:
    """`scripts/soak.py page` has twenty for ten minutes."""
    report = load(address, clients=3, seconds=3, watch=lambda: 0.0)
    assert not report.errors and report.answers >= 3


def test_a_client_in_the_middle_of_an_upload_does_not_keep_the_server_running(tmp_path: Path) -> None:
    """uvicorn waits for such a client without a limit, and its worker threads keep the interpreter alive."""
    before = set(threading.enumerate())
    options = Options(checkpoint=str(save_colours(tmp_path / "network")))
    with server.served(options) as address:
        place = urlsplit(address)
        client = socket.create_connection((place.hostname, place.port), timeout=60)
        client.sendall(
            b"POST /gradio_api/upload HTTP/1.1\r\nHost: " + place.netloc.encode() + b"\r\nContent-Type: "
            b"multipart/form-data; boundary=b\r\nContent-Length: 1000\r\n\r\n--b\r\n"
        )
        assert Client(address).config  # the server has received the first part of the upload by then
    for thread in set(threading.enumerate()) - before:
        if not thread.daemon or "(run)" in thread.name:  # uvicorn's, and those that the interpreter joins
            thread.join(30)
            assert not thread.is_alive(), thread.name
    client.close()
