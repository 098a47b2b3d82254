# SPDX-License-Identifier: MIT
"""A run over a plan: the folder claimed, the loop over units, the list of failures."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from crfrnn.bulk.failed import FailedList, Failure
from crfrnn.bulk.plan import Plan, Unit
from crfrnn.bulk.work import Done, Work
from crfrnn.inference.many import Engine, Progress, Tally, many
from crfrnn.io.files import OutputError
from crfrnn.io.outputs import claim


def run(
    plan: Plan,
    work: Work,
    output: Path,
    command: str,
    settings: Mapping[str, Any],
    *,
    engine: Engine | None = None,
    resume: bool = False,
    retry_failed: bool = False,
    overwrite: bool = False,
    batch: int = 1,
    tally: Tally | None = None,
    progress: Progress | None = None,
    debug: bool = False,
) -> Tally:
    """Do what is not done, and write down what fails.

    Args:
        plan, work: what is done, and how.
        output, command, settings: as `claim` takes them.
        engine: None works in this process.
        resume: leave what an earlier run finished, and what it listed as failed.
        retry_failed: `resume`, but try the latter again; a pack with a failed picture is made anew.
        overwrite: as `claim` takes it.
        batch: units that are handed to the step together.
        tally: is counted on, in units while the run goes on, at its end in pictures.
        progress: called with the units done and in all.
        debug: every exception ends the run.

    Returns:
        The tally: pictures done and failed, units that were finished before.

    Raises:
        OutputError: no room for results: nothing is wrong with the picture, so the run ends.
        ValueError: a folder of another job, files that would be lost.
    """
    tally = Tally() if tally is None else tally
    resume = resume or retry_failed
    listed = FailedList(output)
    earlier = [failure for failure in listed.read() if resume]
    known = {unit.name for unit in plan.units}
    failures = {failure.picture: failure for failure in earlier if failure.unit in known}
    bad = {failure.unit for failure in failures.values()}
    lost = {failure.unit for failure in failures.values() if failure.picture == failure.unit}
    again = {unit.item for unit in plan.units if unit.packed and unit.name in bad} if retry_failed else set()
    pictures = 0

    def found(unit: Unit, done: Done) -> None:
        nonlocal pictures
        pictures += done.pictures
        for name in [name for name, failure in failures.items() if failure.unit == unit.name]:
            del failures[name]
        fail([Failure(name, unit.name, reason) for name, reason in done.failed.items()])

    def fail(new: list[Failure]) -> None:
        failures.update({failure.picture: failure for failure in new})
        if new:
            listed.add(new)

    with claim(
        output, command, settings, [unit.item for unit in plan.units], resume=resume, overwrite=overwrite,
        again=again, identify=plan.identify,
    ) as outputs:  # fmt: skip
        left = [
            unit
            for unit in plan.units
            if retry_failed or unit.name not in lost or outputs.finished(unit.item)
        ]
        try:
            if not resume:
                listed.settle([])
            fail([Failure(name, name, reason) for name, reason in plan.refused.items()])
            many(
                left, work.some, tally, name=lambda unit: unit.name,
                finished=lambda unit: outputs.finished(unit.item), found=found,
                lost=lambda unit, reason: fail([Failure(unit.name, unit.name, reason)]),
                batch=batch, engine=engine, progress=progress, strict=debug or (OutputError,),
            )  # fmt: skip
        finally:
            for unit in plan.units:  # finished, although a killed run could not note it any more
                if unit.name in lost and outputs.finished(unit.item):
                    failures.pop(unit.name, None)
            tally.done = pictures
            tally.failed = {name: failure.reason for name, failure in failures.items()}
            tally.total = tally.done + tally.skipped + len(tally.failed)
            with suppress(OSError):  # where there is no room for it the lines that were added remain
                listed.settle(failures.values())
    return tally
