# SPDX-License-Identifier: MIT
"""`crfrnn pseudo-labels`: convert class activation maps of a training set to label maps."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from crfrnn.commands import bulk, common
from crfrnn.commands.pictures import Pictures, Recursive, conclude, counted, find_pictures

if TYPE_CHECKING:
    from crfrnn.inference.pseudo import CamCRF, Job

_ENDINGS = {
    "cams": (".npz", ".npy"),  # .npy only to be rejected with an explanation
    "logits": (".npy", ".npz", ".pt", ".pth"),
    "probabilities": (".npy", ".npz", ".pt", ".pth"),
    "labels": (".png", ".npy", ".npz", ".pt", ".pth"),
}


def pseudo_labels(
    images: Pictures,
    maps: Annotated[
        str,
        typer.Option("--maps", "-m", help="Folder of maps named like the pictures; in shards their ending."),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the label maps.")],
    recipe: Annotated[
        str,
        typer.Option(
            "--recipe",
            help="For maps: irn, affinitynet, seam, clip-es, more, toco; for scores of all labels: excel, "
            "weclip, afa, dupl, seco; for masks: cutler, manga.",
        ),
    ] = "irn",
    kind: Annotated[
        str, typer.Option("--kind", help="cams (.npz with keys), logits, probabilities or labels.")
    ] = "cams",
    layout: common.Layout = None,
    labels: common.Labels = None,
    void: common.Void = None,
    key: common.Key = None,
    scale: common.Scale = None,
    level: Annotated[
        list[float] | None,
        typer.Option("--level", help="Overrides the recipe's thresholds or powers; once or twice."),
    ] = None,
    iterations: common.Iterations = None,
    quality: common.Quality = "default",
    listing: Annotated[
        Path | None, typer.Option("--list", help="Take only the pictures named in this file, one per line.")
    ] = None,
    recursive: Recursive = False,
    processes: Annotated[
        int | None,
        typer.Option("--processes", "-j", help="Processes of one thread each; default: one per processor."),
    ] = None,
    batch: Annotated[int, typer.Option("--batch", help="Pictures refined together; for a GPU.")] = 1,
    device: Annotated[str, typer.Option("--device", help="cpu or cuda.")] = "cpu",
    overwrite: common.Overwrite = False,
    engine: bulk.Engine = bulk.LOOP,
    actors: bulk.Actors = None,
    num_cpus: bulk.NumCpus = 1,
    num_gpus: bulk.NumGpus = 0,
    to: bulk.To = "files",
    shard_size: bulk.ShardSize = 1000,
    retry_failed: bulk.RetryFailed = False,
) -> None:
    """Make pseudo-labels for weak supervision from activation maps with the dense CRF; 255 where uncertain.

    Repeat the command to resume a stopped run. Exit code 0: all pictures done; 1: some failed (each is
    reported at the end, the others are done); 2: usage.

    Example: crfrnn pseudo-labels JPEGImages/ --maps cams/ --recipe irn -o ir_labels/

    Example: crfrnn pseudo-labels "s3://set/{000..999}.tar" -m npz -o out/ --engine ray --to parquet

    Example: crfrnn pseudo-labels val2014/ -m logits/ --kind logits --layout lhw --recipe clip-es -j 8 -o out/
    """
    from crfrnn.inference.pseudo import LabelStep, write_pseudo_labels
    from crfrnn.lattice.validate import check_choice

    check_choice("--kind", kind, _ENDINGS)
    chosen = _recipe(recipe, level, iterations)
    wanted = bulk.Bulk(engine, actors, num_cpus, num_gpus, to, shard_size, retry_failed)
    if wanted.asked(images):
        if processes is not None:
            raise ValueError(
                f"--processes: expected none with shards, URLs or --engine ray, got {processes}; use --actors"
            )

        def by_name(words: Sequence[str]) -> dict[Path, tuple[Path, ...]]:
            found = _jobs(words, recursive, _folder(maps), kind, listing)
            return {Path(job.name): (job.image, job.source) for job in found}

        step = LabelStep(chosen, kind, layout, labels, void, key, scale, quality, device)
        wanted.run(
            "pseudo-labels", images, output, step, step.record(), by_name, recursive=recursive, resume=True,
            overwrite=overwrite, partner=maps, partner_endings=_ENDINGS[kind], batch=batch,
        )  # fmt: skip
        return
    jobs = _jobs(images, recursive, _folder(maps), kind, listing)
    with counted("pseudo-labels", len(jobs)) as (tally, progress):
        write_pseudo_labels(
            jobs, output, chosen, kind=kind, axes=layout, num_labels=labels, unknown=void, key=key,
            scale=scale, quality=quality, processes=processes, batch=batch, device=device,
            overwrite=overwrite, tally=tally, progress=progress,
        )  # fmt: skip
    common.out.print(f"{tally.done} of {tally.total} written, {tally.skipped} already existed.")
    common.out.print(f"Label maps: {output}", markup=False)
    conclude(tally, "repeat the command to continue with the others")


def _folder(maps: str) -> Path:
    folder = Path(maps)
    if not folder.is_dir():
        raise ValueError(f"--maps: expected a folder, got {maps!r}; check the spelling")
    return folder


def _recipe(name: str, levels: list[float] | None, iterations: int | None) -> CamCRF:
    from crfrnn.inference.pseudo import cam_crf

    chosen = cam_crf(name)
    if levels:
        chosen = replace(chosen, levels=tuple(levels))
    if iterations is not None:
        chosen = replace(chosen, iterations=common.check_iterations(iterations))
    return chosen


def _jobs(images: Sequence[str], recursive: bool, maps: Path, kind: str, listing: Path | None) -> list[Job]:
    """The pictures with the files of their maps; a missing file fails when its picture is processed."""
    from crfrnn.datasets.pictures import read_ids
    from crfrnn.inference.pseudo import Job

    named = [(name.as_posix(), path) for path, name in find_pictures(images, recursive).items()]
    if listing is not None:
        wanted = read_ids(listing, "--list")
        known = {name for name, _ in named}
        missing = [name for name in wanted if name not in known]
        if missing:
            raise ValueError(
                f"--list: expected names of pictures in {', '.join(images)}, got {missing[0]!r} and "
                f"{len(missing) - 1} more that do not exist; names have no ending"
            )
        place = {name: number for number, name in enumerate(wanted)}
        named = sorted((pair for pair in named if pair[0] in place), key=lambda pair: place[pair[0]])
    jobs, counted = [], Counter(path.stem for _, path in named)
    for name, path in named:
        # A folder of maps may have the same subfolders as the pictures, or none if names stay unique.
        stems = dict.fromkeys([name, path.stem] if counted[path.stem] == 1 else [name])
        candidates = [maps / f"{stem}{ending}" for stem in stems for ending in _ENDINGS[kind]]
        source = next((c for c in candidates if c.is_file()), candidates[0])
        jobs.append(Job(name, path, source))
    return jobs
