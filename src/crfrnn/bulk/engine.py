# SPDX-License-Identifier: MIT
"""Ray Data's actors as an engine of `crfrnn.inference.many`; they hold the model and are restarted."""

from __future__ import annotations

import logging
import math
import os
import pickle
import signal
import threading
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
_BLOCKS = 20_000  # largest number of blocks of jobs
_ADDRESS = "RAY_ADDRESS"


@dataclass(frozen=True)
class RayEngine:
    """Runs the work in actors on the cluster at $RAY_ADDRESS, or on this machine.

    An actor that dies is restarted and its job repeated; each result is delivered once. Jobs stay in the
    driver until an actor takes them, so they do not accumulate.

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
            # Results leave an actor one by one, not only when its block of jobs is done.
            context = data.DataContext.get_current().copy()
            context.target_max_block_size = context.target_min_block_size = 1
            context.enable_progress_bars = False
            counter = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(_Counter).remote()
            shared = ray.put(packed)  # kept here for restarted actors
            before = data.DataContext.get_current()
            data.DataContext._set_current(context)
            try:
                jobs = data.from_items(
                    [{"chunk": pickle.dumps(chunk)} for chunk in chunks],
                    override_num_blocks=min(len(chunks), _BLOCKS),
                )
                rows = jobs.map_batches(
                    _Actor,
                    fn_constructor_args=([shared], counter, self.num_cpus),
                    batch_size=1,
                    compute=data.ActorPoolStrategy(size=actors, max_tasks_in_flight_per_actor=2),
                    num_cpus=self.num_cpus,
                    num_gpus=self.num_gpus,
                ).iter_batches(batch_size=1, prefetch_batches=0, batch_format="numpy")
            finally:
                data.DataContext._set_current(before)
            try:
                for row in rows:
                    results = pickle.loads(row["result"][0])
                    if isinstance(results, Exception):
                        raise results
                    yield from results
            finally:
                rows = None  # which stops the actors
                ray.kill(counter)

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


class _Actor:
    """An actor process, which holds the model."""

    def __init__(self, packed: list[Any], counter: Any, num_cpus: float) -> None:
        import ray

        torch.set_num_threads(max(1, int(num_cpus)))
        attempts.count_by(lambda name: ray.get(counter.begun.remote(name)))
        self._call = pickle.loads(ray.get(packed[0]))

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        out = np.empty(len(batch["chunk"]), object)
        for number, chunk in enumerate(batch["chunk"]):
            try:
                results: Any = self._call(pickle.loads(chunk))
            except Exception as error:
                results = error
            try:
                out[number] = pickle.dumps(results)
                pickle.loads(out[number])
            except Exception:  # exceptions that cannot be unpickled
                out[number] = pickle.dumps(RuntimeError(f"{type(results).__name__}: {results}"))
        return {"result": out}


class _Counter:
    """See `crfrnn.bulk.attempts`."""

    def __init__(self) -> None:
        self._begun: dict[str, int] = {}

    def begun(self, name: str) -> int:
        self._begun[name] = self._begun.get(name, 0) + 1
        return self._begun[name]


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
