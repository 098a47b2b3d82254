# SPDX-License-Identifier: MIT
"""Ray Data's actors as an engine of `crfrnn.inference.many`; they hold the model and are restarted."""

from __future__ import annotations

import logging
import math
import os
import pickle
import signal
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from crfrnn.bulk import attempts
from crfrnn.extras import optional
from crfrnn.inference.workers import Result

_STORE = 256 * 2**20  # bytes shared by actors, mainly the pickled work
_GROUPS, _LENGTH = 20_000, 64  # number of groups, and lists of jobs in one, at most if both are possible
_PAUSE = 1.0  # seconds between transfers of results, each of which takes the driver several milliseconds
_ADDRESS = "RAY_ADDRESS"
_NONE = pickle.dumps([])  # a part without results


@dataclass(frozen=True)
class RayEngine:
    """Runs the work in actors on the cluster at $RAY_ADDRESS, or on this machine.

    An actor that dies is restarted and repeats the jobs whose results had not left it; each result is
    delivered once. Jobs stay in the driver until an actor takes them, so they do not accumulate.

    Args:
        actors: number of processes; None: as many as fit the cluster, but at most one per list of jobs.
        num_cpus: processors, and threads, of each.
        num_gpus: GPUs of each; may be a fraction.

    Raises:
        ImportError: Ray is not installed.
        ValueError: numbers out of range, or more than the cluster has.
    """

    actors: int | None = None
    num_cpus: float = 1
    num_gpus: float = 0

    def __post_init__(self) -> None:
        for name, value, low in (("actors", self.actors, 1), ("num_gpus", self.num_gpus, 0)):
            if value is not None and not value >= low:
                raise ValueError(f"{name}: expected at least {low}, got {value}")
        if not self.num_cpus > 0:
            raise ValueError(f"num_cpus: expected above 0, got {self.num_cpus}")

    def __call__(
        self, call: Callable[[Sequence[Any]], list[Result]], chunks: Sequence[Sequence[Any]]
    ) -> Iterator[Result]:
        """Yield results as they arrive; an exception of `call` is raised here."""
        if not chunks:
            return
        ray = optional("ray", "scale", "--engine ray")
        data = optional("ray.data", "scale", "--engine ray")
        logging.getLogger("ray.data").setLevel(logging.ERROR)  # the command reports progress
        packed = optional("ray.cloudpickle", "scale", "--engine ray").dumps(call)
        with self._cluster(ray, 3 * len(packed)):
            actors = self._fitting(ray, len(chunks))
            # Results leave an actor when it yields them, not only when its group is done.
            context = data.DataContext.get_current().copy()
            context.target_max_block_size = context.target_min_block_size = 1
            context.enable_progress_bars = False
            here = ray.get_runtime_context().get_node_id()
            beside = optional("ray.util.scheduling_strategies", "scale", "--engine ray")
            # It is on the driver's machine and not restarted: without its records, results could be lost.
            journal = (
                ray.remote(num_cpus=0)(_Journal)
                .options(scheduling_strategy=beside.NodeAffinitySchedulingStrategy(here, soft=False))
                .remote()
            )
            groups = _groups(chunks, actors)
            shared = ray.put(packed)  # kept here for restarted actors
            before = data.DataContext.get_current()
            data.DataContext._set_current(context)
            try:
                jobs = data.from_items(
                    [{"group": number, "chunks": pickle.dumps(group)} for number, group in enumerate(groups)],
                    override_num_blocks=len(groups),
                )
                rows = jobs.map_batches(
                    _Actor,
                    fn_constructor_args=([shared], journal, self.num_cpus),
                    batch_size=1,
                    compute=data.ActorPoolStrategy(size=actors, max_tasks_in_flight_per_actor=2),
                    num_cpus=self.num_cpus,
                    num_gpus=self.num_gpus,
                ).iter_batches(batch_size=1, prefetch_batches=0, batch_format="numpy")
            finally:
                data.DataContext._set_current(before)
            left = [sum(map(len, group)) for group in groups]  # results not received yet
            parts = [0] * len(groups)
            try:
                for row in rows:
                    number = int(row["group"][0])
                    parts[number] += 1
                    for packed in pickle.loads(row["results"][0]):
                        results = pickle.loads(packed)
                        if isinstance(results, Exception):
                            raise results
                        yield from results
                        left[number] -= len(results)
                    if left[number] == 0:  # the caller has taken and recorded them
                        journal.close.remote(number, parts[number])
            finally:
                rows = None  # which stops the actors
                ray.kill(journal)

    @contextmanager
    def _cluster(self, ray: Any, shared: int) -> Iterator[None]:
        """The cluster that this process is connected to, or a temporary one for the block."""
        if ray.is_initialized():
            yield
            return
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        here: dict[str, Any] = {}
        if not os.environ.get(_ADDRESS):
            processors = max(os.cpu_count() or 1, math.ceil((self.actors or 1) * self.num_cpus))
            here = {"num_cpus": processors, "object_store_memory": max(_STORE, shared)}
        with _handlers_kept():
            ray.init(include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR, **here)
        try:
            yield
        finally:
            ray.shutdown()

    def _fitting(self, ray: Any, chunks: int) -> int:
        room = ray.cluster_resources()
        fit = int(room.get("CPU", 0) / self.num_cpus + 1e-9)
        if self.num_gpus:
            fit = min(fit, int(room.get("GPU", 0) / self.num_gpus + 1e-9))
        wanted = self.actors or 1
        if fit < wanted:
            raise ValueError(
                f"actors: expected room for {wanted} of {self.num_cpus:g} processors and {self.num_gpus:g} "
                f"GPUs each, got a cluster of {room.get('CPU', 0):g} and {room.get('GPU', 0):g}; request "
                "less, or name a larger cluster in $RAY_ADDRESS"
            )
        return min(self.actors or fit, chunks)


def _groups(chunks: Sequence[Sequence[Any]], actors: int) -> list[Sequence[Sequence[Any]]]:
    """Lists of jobs that an actor receives together: many at first, single at the end for equal loads.

    >>> [len(group) for group in _groups([[k] for k in range(20)], 2)]
    [2, 2, 2, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1]
    """
    most = max(_LENGTH, math.ceil(len(chunks) / _GROUPS))
    out, at = [], 0
    while at < len(chunks):
        size = min(most, max(1, (len(chunks) - at) // (4 * actors)))
        out.append(chunks[at : at + size])
        at += size
    return out


class _Actor:
    """An actor process, which holds the model."""

    def __init__(self, packed: list[Any], journal: Any, num_cpus: float) -> None:
        import ray

        torch.set_num_threads(max(1, int(num_cpus)))
        self._journal, self._get, self._process = journal, ray.get, uuid.uuid4().hex
        self._call = pickle.loads(ray.get(packed[0]))

    def __call__(self, batch: dict[str, Any]) -> Iterator[dict[str, Any]]:
        for number, chunks in zip(batch["group"], batch["chunks"], strict=True):
            yield from self._group(int(number), pickle.loads(chunks))

    def _group(self, number: int, chunks: Sequence[Sequence[Any]]) -> Iterator[dict[str, Any]]:
        """Results of a group, about once a second; after the death of an actor, list by list.

        A repeated group has to begin with the same results in the same parts, since Ray skips as many parts
        as it has received. They are therefore recorded before they are yielded, unless there can be only one.
        """
        attempt, parts, closed = self._get(self._journal.opened.remote(number))
        for _, part in parts:
            yield _row(number, part)
        if closed:
            return
        if attempt > 1:
            attempts.count_by(lambda name: self._get(self._journal.begun.remote(self._process, name)))
        part, jobs, began = [], 0, time.monotonic()
        left = _left(chunks, sum(jobs for jobs, _ in parts), alone=attempt > 2)
        for position, chunk in enumerate(left, 1):
            part.append(self._packed(chunk))
            jobs += len(chunk)
            if position == len(left) or attempt > 1 or time.monotonic() - began > _PAUSE:
                packed = pickle.dumps(part)
                if sum(map(len, chunks)) > 1:
                    self._get(self._journal.record.remote(number, jobs, packed))
                yield _row(number, packed)
                part, jobs, began = [], 0, time.monotonic()
        if attempt > 1:
            attempts.count_by(None)
            self._get(self._journal.ended.remote(self._process))

    def _packed(self, chunk: Sequence[Any]) -> bytes:
        try:
            results: Any = self._call(chunk)
        except Exception as error:
            results = error
        try:
            packed = pickle.dumps(results)
            pickle.loads(packed)
        except Exception:  # exceptions that cannot be unpickled
            packed = pickle.dumps(RuntimeError(f"{type(results).__name__}: {results}"))
        return packed


def _left(chunks: Sequence[Sequence[Any]], done: int, alone: bool) -> list[Sequence[Any]]:
    """The lists after the first `done` jobs; with `alone` a list per job, as one kills its process."""
    out: list[Sequence[Any]] = []
    lists = [[job] for chunk in chunks for job in chunk] if alone else chunks
    for chunk in lists:
        if done > 0:
            done -= len(chunk)
        else:
            out.append(chunk)
    return out


def _row(group: int, packed: bytes) -> dict[str, Any]:
    results = np.empty(1, object)
    results[0] = packed
    return {"group": np.array([group]), "results": results}


class _Journal:
    """Records of an actor that outlive it, until the driver has received the results of a group."""

    def __init__(self) -> None:
        self._parts: dict[int, list[tuple[int, bytes]]] = {}
        self._openings: dict[int, int] = {}
        self._closed: dict[int, int] = {}
        self._at: dict[str, str] = {}

    def opened(self, group: int) -> tuple[int, list[tuple[int, bytes]], bool]:
        """The number of the attempt, the recorded parts of results, and whether there are no others.

        A part has its number of jobs. The parts of a closed group are empty: the driver has received all.
        """
        if group in self._closed:
            return 1, [(0, _NONE)] * self._closed[group], True
        self._openings[group] = self._openings.get(group, 0) + 1
        return self._openings[group], self._parts.setdefault(group, []), False

    def close(self, group: int, parts: int) -> None:
        """Drop the records of a group of which the driver has received that many parts, which were all."""
        self._parts.pop(group, None)
        self._openings.pop(group, None)
        self._closed[group] = parts

    def held(self) -> tuple[int, int]:
        """The numbers of recorded groups and of bytes of their results."""
        return len(self._parts), sum(len(part) for parts in self._parts.values() for _, part in parts)

    def record(self, group: int, jobs: int, part: bytes) -> None:
        self._parts[group].append((jobs, part))

    def begun(self, process: str, name: str) -> int:
        """See `crfrnn.bulk.attempts`; counts this process, those that died at it, and the first attempt."""
        died = sum(at == name for other, at in self._at.items() if other != process)
        self._at[process] = name
        return died + 2

    def ended(self, process: str) -> None:
        self._at.pop(process, None)


@contextmanager
def _handlers_kept() -> Iterator[None]:
    """Keep the program's SIGTERM handler, which unwinds; Ray's handler would exit immediately."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            if handler is not None:
                signal.signal(number, handler)
