# SPDX-License-Identifier: MIT
"""Many simultaneous clients of the page: queue, kept pictures and load; over HTTP, without a browser."""

from __future__ import annotations

import importlib.util
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

import pytest

from colour_network import save_colours
from crfrnn.app import Options, server
from crfrnn.inference import Predictor
from page_clients import Client, load, picture

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("gradio") is None, reason="the page needs gradio"),
]
NO_PICTURE = "Choose a photograph first"


@pytest.fixture
def address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A page with room for two waiting requests, and for the pictures of three clients."""
    monkeypatch.setattr(server, "SESSIONS", 3)
    options = Options(checkpoint=str(save_colours(tmp_path / "network")), clients=2)
    with server.served(options) as found:
        yield found


def test_two_requests_run_two_wait_and_others_are_refused(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    go, see, running = threading.Event(), Predictor.see, threading.Semaphore(0)

    def held(*arguments: Any, **options: Any) -> Any:
        running.release()
        assert go.wait(60)
        return see(*arguments, **options)

    monkeypatch.setattr(Predictor, "see", held)
    clients = [Client(address) for _ in range(5)]
    number, _ = clients[0].event("photo-upload", "upload")
    sent = [client.send("photo.png", picture(0)) for client in clients]
    with ThreadPoolExecutor(4) as pool:
        answers = []
        for place in range(4):
            clients[place].join(number, [None, sent[place]])
            answers.append(pool.submit(clients[place].answer))
            if place < 2:
                assert running.acquire(timeout=60)  # it left the queue
        with pytest.raises(HTTPError) as refused:
            clients[4].join(number, [None, sent[4]])
        assert refused.value.code == 503 and b"full" in refused.value.read()
        assert not running.acquire(timeout=0.5)  # no third one runs at the same time
        go.set()
        assert all(answer.result(60) for answer in answers)
    assert clients[4].open(picture(1))  # the queue has a free place again


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
