# SPDX-License-Identifier: MIT
"""The page's queue, shared between clients: one request of each computes at a time, and few more may wait."""

from __future__ import annotations

import asyncio
import ipaddress
from typing import TYPE_CHECKING, Any

from fastapi import HTTPException, Request

if TYPE_CHECKING:
    from gradio.queueing import Event, Queue

AT_MOST = 4  # requests of one client: one computes, three wait


def take_turns(queue: Queue) -> None:
    """Limit the requests of one client in a queue of Gradio, and compute one of them at a time.

    A client is a session, which each page in a browser draws at random, or the network address of a request
    without one. Since a program can draw any number of sessions, all sessions of one address may occupy half
    of the queue. Loopback addresses may occupy all of it: they belong to this machine, or to a reverse proxy
    that does not forward the addresses of its clients.

    Methods of the instance are replaced, since Gradio limits requests of a function only, not of a client.
    The counts are taken from the queue itself, so that none is lost when a client disconnects.
    """
    push, next_events = queue.push, queue.get_events
    joining = asyncio.Lock()  # no other request joins between the count and the entry

    async def join(body: Any, request: Request, username: str | None) -> Any:
        address = _address(request)
        async with joining:
            present = [*_waiting(queue), *_computing(queue)]
            _refuse(sum(_client(event) == (body.session_hash or address) for event in present), AT_MOST)
            if queue.max_size is not None and not _loopback(address):
                share = max(AT_MOST, queue.max_size // 2)
                _refuse(sum(_address(event.request) == address for event in present), share)
            return await push(body=body, request=request, username=username)

    def take() -> Any:
        """The next events of clients for which nothing is computed; the others keep their places."""
        busy = {_client(event) for event in _computing(queue)}
        lines = [(line, list(line.queue)) for line in queue.event_queue_per_concurrency_id.values()]
        for line, events in lines:
            line.queue = [event for event in events if _client(event) not in busy]
        taken = next_events()
        for line, events in lines:
            line.queue = [event for event in events if taken is None or event not in taken[0]]
        return taken

    queue.push, queue.get_events = join, take  # type: ignore[method-assign]


def _refuse(found: int, most: int) -> None:
    if found >= most:
        raise HTTPException(
            429,
            f"the page: expected at most {most} requests at once from one client, got another; wait for an "
            "answer, then try again",
            {"Retry-After": "1"},
        )


def _waiting(queue: Queue) -> list[Event]:
    return [event for line in queue.event_queue_per_concurrency_id.values() for event in line.queue]


def _computing(queue: Queue) -> list[Event]:
    return [event for job in queue.active_jobs for event in job or ()]


def _client(event: Event) -> str:
    # Gradio takes the number of the event as the session of a request without one.
    return _address(event.request) if event.session_hash == event._id else event.session_hash


def _address(request: Request) -> str:
    return request.client.host if request.client else ""


def _loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:  # a socket file or a name
        return True
