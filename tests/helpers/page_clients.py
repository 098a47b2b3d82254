# SPDX-License-Identifier: MIT
"""Clients of the page without a browser: the requests of its script over HTTP, many at a time."""

from __future__ import annotations

import io
import json
import random
import re
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any
from urllib.request import Request, urlopen

import numpy as np
from PIL import Image

from colour_network import COLOURS

WAIT = 120  # seconds for an answer


def address_in(line: str) -> str:
    """The address that `crfrnn app` prints."""
    found = re.search(r"http://[\d.]+:\d+/", line)
    assert found, line
    return found[0]


def picture(number: int, size: tuple[int, int] = (120, 180)) -> bytes:
    """A PNG of three coloured areas with noise."""
    y, x = np.mgrid[: size[0], : size[1]]
    labels = (x + number % 40 > size[1] / 2).astype(int) + (y > size[0] * 2 / 3)
    noise = np.random.default_rng(number).normal(0, 45, (*size, 3))
    stream = io.BytesIO()
    Image.fromarray((COLOURS[labels] + noise).clip(0, 255).astype(np.uint8)).save(stream, "PNG")
    return stream.getvalue()


class Client:
    """One visitor with a session of its own.

    Args: forwarded, the address that a reverse proxy on this machine would pass on.
    Raises: HTTPError where the server refuses a request; RuntimeError where what it computes fails.
    """

    def __init__(self, address: str, forwarded: str | None = None) -> None:
        self.address, self.session = address, uuid.uuid4().hex[:11]
        self.headers = {} if forwarded is None else {"X-Forwarded-For": forwarded}

    @cached_property
    def config(self) -> dict[str, Any]:
        return self._json("config")

    def _json(self, path: str, body: object = None, kind: str = "application/json") -> Any:
        data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        headers = {**self.headers, "Content-Type": kind}
        with urlopen(Request(self.address + path, data, headers), timeout=WAIT) as answer:
            return json.load(answer)

    def event(self, element: str, name: str) -> tuple[int, list[dict[str, Any]]]:
        """The index of the function of an element's event, and its inputs."""
        parts = {part["id"]: part for part in self.config["components"]}
        for known in self.config["dependencies"]:
            for target, event in known["targets"]:
                if event == name and parts[target]["props"].get("elem_id") == element:
                    return known["id"], [parts[number] for number in known["inputs"]]
        raise AssertionError(f"no {name} of {element}")

    def send(self, name: str, content: bytes) -> dict[str, Any]:
        """Upload a file and return its representation in an event."""
        border = uuid.uuid4().hex
        head = f'--{border}\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n\r\n'
        body = head.encode() + content + f"\r\n--{border}--\r\n".encode()
        (path,) = self._json("gradio_api/upload", body, f"multipart/form-data; boundary={border}")
        return {"path": path, "orig_name": name, "meta": {"_type": "gradio.FileData"}}

    def join(self, number: int, data: list[Any]) -> str:
        """Put a call into the queue."""
        body = {"fn_index": number, "data": data, "session_hash": self.session}
        return self._json("gradio_api/queue/join", body)["event_id"]

    def answer(self) -> list[Any]:
        """Wait for the result of a queued call."""
        address = f"{self.address}gradio_api/queue/data?session_hash={self.session}"
        with urlopen(address, timeout=WAIT) as stream:
            for line in stream:
                message = json.loads(line[5:]) if line.startswith(b"data:") else {}
                if message.get("msg") == "process_completed":
                    if not message["success"]:
                        raise RuntimeError(str(message["output"]))
                    return message["output"]["data"]
        raise RuntimeError("the stream ended without a result")

    def call(self, number: int, data: list[Any]) -> list[Any]:
        self.join(number, data)
        return self.answer()

    def open(self, content: bytes) -> list[Any]:
        """Upload a photograph on the first tab and return its result."""
        number, _ = self.event("photo-upload", "upload")
        return self.call(number, [None, self.send("photo.png", content)])

    def turn(self, knob: str, value: float) -> list[Any]:
        """Change one slider of the first tab, the others at their defaults, and return the result."""
        number, inputs = self.event(f"photo-{knob}", "input")
        values = [part["props"].get("value") for part in inputs]
        for place, part in enumerate(inputs):
            if part["props"].get("elem_id") == f"photo-{knob}":
                values[place] = value
        return self.call(number, [None, *values[1:]])


@dataclass
class Report:
    """The results of the clients and the memory of the server."""

    clients: int
    seconds: float = 0.0
    answers: int = 0
    slowest: float = 0.0
    errors: list[str] = field(default_factory=list)
    memory: list[float] = field(default_factory=list)

    @property
    def growth(self) -> float:
        """Growth in MiB from a third of the time, when every session has its pictures, to the end."""
        return max(self.memory[len(self.memory) // 3 :]) - self.memory[len(self.memory) // 3]

    def __str__(self) -> str:
        errors = f"{len(self.errors)} errors" + (f", the first: {self.errors[0]}" if self.errors else "")
        return (
            f"{self.clients} clients for {self.seconds:.0f} s: {self.answers} answers, {errors}; slowest "
            f"{self.slowest:.1f} s; memory {self.memory[0]:.0f} to {self.memory[-1]:.0f} MiB, "
            f"{self.growth:+.0f} in the last two thirds"
        )


def load(
    address: str, *, clients: int, seconds: float, watch: Callable[[], float],
    say: Callable[[str], None] = lambda _: None,
) -> Report:  # fmt: skip
    """Visitors that open a photograph, move sliders at random, and occasionally open another.

    Args: watch, MiB of the server; say, called with a line now and then.
    """
    report, lock = Report(clients), threading.Lock()
    began = time.monotonic()

    def visit(number: int) -> None:
        chance, visitor, turns = random.Random(number), Client(address), 0
        while time.monotonic() - began < seconds:
            asked = time.monotonic()
            try:
                if turns % 8 == 0:
                    visitor.open(picture(chance.randint(0, 999)))
                else:
                    visitor.turn("theta_beta", chance.uniform(5, 60))
            except Exception as error:
                with lock:
                    report.errors.append(f"{type(error).__name__}: {error}")
                time.sleep(1)
            else:
                with lock:
                    report.answers += 1
                    report.slowest = max(report.slowest, time.monotonic() - asked)
            turns += 1

    report.memory.append(watch())
    threads = [threading.Thread(target=visit, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        time.sleep(min(2.0, seconds / 20))
        report.memory.append(watch())
        if len(report.memory) % 10 == 0:
            say(f"{time.monotonic() - began:.0f} s: {report.answers} answers, {report.memory[-1]:.0f} MiB")
    for thread in threads:
        thread.join()
    report.seconds = time.monotonic() - began
    return report
