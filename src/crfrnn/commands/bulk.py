# SPDX-License-Identifier: MIT
"""Options of the commands that work on millions of pictures, and their execution."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from crfrnn.commands import common
from crfrnn.commands.pictures import conclude, counted, picture_endings

if TYPE_CHECKING:
    from crfrnn.bulk import Step

LOOP, RAY = ENGINES = ("loop", "ray")
LOG = "bulk.log"

Engine = Annotated[str, typer.Option("--engine", help="loop: this process; ray: actors, on many machines.")]
Actors = Annotated[int | None, typer.Option("--actors", help="Ray actors; by default as many as fit.")]
NumCpus = Annotated[float, typer.Option("--num-cpus", help="Processors and threads per actor.")]
NumGpus = Annotated[float, typer.Option("--num-gpus", help="GPUs per actor; may be a fraction.")]
To = Annotated[
    str, typer.Option("--to", help="files; shards (WebDataset) or parquet: many results in one file.")
]
ShardSize = Annotated[int, typer.Option("--shard-size", help="Pictures per shard or Parquet file.")]
RetryFailed = Annotated[
    bool,
    typer.Option("--retry-failed", help="Resume, and also retry the pictures in OUTPUT's failed.jsonl."),
]


@dataclass(frozen=True)
class Bulk:
    """The options; on the command line, pictures may also be given as shards, URLs and lists."""

    engine: str
    actors: int | None
    num_cpus: float
    num_gpus: float
    to: str
    shard_size: int
    retry_failed: bool

    def asked(self, images: Sequence[str]) -> bool:
        """Whether bulk processing is requested.

        Raises: ValueError for options that contradict each other.
        """
        from crfrnn.lattice.validate import check_choice

        check_choice("--engine", self.engine, ENGINES)
        if self.shard_size < 1:
            raise ValueError(f"--shard-size: expected at least 1, got {self.shard_size}")
        if self.engine != RAY:
            given = {"--actors": self.actors, "--num-gpus": self.num_gpus, "--num-cpus": self.num_cpus != 1}
            named = next((option for option, value in given.items() if value), None)
            if named:
                raise ValueError(f"{named}: expected --engine {RAY}, got {self.engine!r}; leave one out")
        special = any("://" in word or word.endswith(".tar") or word.startswith("@") for word in images)
        return self.engine == RAY or self.to != "files" or self.retry_failed or special

    def run(
        self,
        command: str,
        images: Sequence[str],
        output: Path,
        step: Step,
        settings: Mapping[str, Any],
        pair: Callable[[Sequence[str]], Mapping[Path, tuple[Path, ...]]],
        *,
        recursive: bool,
        resume: bool,
        overwrite: bool,
        partner: str | None = None,
        partner_endings: Sequence[str] = (),
        batch: int = 1,
    ) -> None:
        """Run the command on all pictures with the chosen engine, and print a summary.

        Args:
            pair: maps files, folders and globs of the command line to pictures: name of the results, sources.
            partner: the option for the unaries: a folder or its URL, or their ending in shards.
        """
        from crfrnn import bulk
        from crfrnn.lattice.validate import check_choice

        check_choice("--to", self.to, bulk.TO)
        engine = bulk.RayEngine(self.actors, self.num_cpus, self.num_gpus) if self.engine == RAY else None
        if output.suffix.lower() in (".png", ".tif", ".tiff"):
            raise ValueError(f"-o: expected a folder, got {str(output)!r}; omit the ending")
        endings = frozenset(picture_endings())
        found = bulk.find(images, endings, recursive)
        if found.shards and partner is not None:
            if found.local or found.remote:
                raise ValueError(
                    "IMAGE: expected only shards, or only pictures, if unaries belong to them, got "
                    "both; run two commands"
                )
            partner = partner.lstrip(".").lower()
        planner = bulk.Planner(
            step, output, self.to, self.shard_size, endings, pair, partner, tuple(partner_endings)
        )
        plan = planner.plan(found)
        if self.to != bulk.TO[0]:
            settings = {**settings, "to": self.to, "shard_size": self.shard_size}
        began = time.monotonic()
        with counted(command, len(plan.units), output / LOG) as (tally, progress):
            bulk.run(
                plan, bulk.Work(step, self.to, partner, endings), output, command, settings, engine=engine,
                resume=resume, retry_failed=self.retry_failed, overwrite=overwrite, batch=batch, tally=tally,
                progress=progress, debug=common.state.debug,
            )  # fmt: skip
        rate = tally.done / max(time.monotonic() - began, 1e-9)
        what = "pictures" if self.to == bulk.TO[0] else f"{self.to.rstrip('s')} files"
        there = f"; {tally.skipped} {what} already existed" if tally.skipped else ""
        common.out.print(f"{tally.done} pictures done, {rate:.2g} per second{there}.")
        common.out.print(f"Results: {output}", markup=False)
        if tally.failed:
            common.out.print(f"Failures: {output / bulk.FAILED}; --retry-failed retries them", markup=False)
        conclude(tally, "resume by the same command with --skip-existing")
