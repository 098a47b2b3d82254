# SPDX-License-Identifier: MIT
"""Execution of a plan: claiming the folder, the loop over units, the list of failures."""

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
    """Process all unfinished units, and record failures.

    Args:
        plan, work: the units, and their processing.
        output, command, settings: as for `claim`.
        engine: None works in this process.
        resume: skip units that an earlier run finished or listed as failed.
        retry_failed: `resume`, but retry the failed ones; a pack with a failed picture is redone.
        overwrite: as for `claim`.
        batch: units that are passed to the step together.
        tally: updated during the run, counting units, and pictures at the end.
        progress: called with (units done, total).
        debug: whether every exception ends the run.

    Returns:
        The tally: pictures done and failed, units finished before.

    Raises:
        OutputError: no space for results; this is not a failure of the picture, so the run ends.
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
            for unit in plan.units:  # finished, but not recorded by a killed run
                if unit.name in lost and outputs.finished(unit.item):
                    failures.pop(unit.name, None)
            tally.done = pictures
            tally.failed = {name: failure.reason for name, failure in failures.items()}
            tally.total = tally.done + tally.skipped + len(tally.failed)
            with suppress(OSError):  # on a full disk the appended lines remain
                listed.settle(failures.values())
    return tally
