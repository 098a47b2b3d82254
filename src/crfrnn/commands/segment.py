# SPDX-License-Identifier: MIT
"""`crfrnn segment`: segment photographs into label maps, overlays and areas."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from crfrnn.commands import bulk, common, scenes
from crfrnn.commands.pictures import Pictures, Recursive, conclude, counted, find_pictures

if TYPE_CHECKING:
    import torch

    from crfrnn.inference import Prediction, Predictor, Tiling
    from crfrnn.io.outputs import Item

PANEL_SIDE = 1400
OVERLAY, PANEL, PROBABILITIES = "_overlay.png", "_panel.png", "_probabilities.npz"
AREAS, LABELS = ".json", ".png"
CAPTIONS = ("photograph", "network alone", "with the CRF", "difference")


def segment(
    images: Pictures,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder of the results, or LABELS.tif for one GeoTIFF.")
    ],
    checkpoint: Annotated[
        str | None,
        typer.Option(
            "--checkpoint", "-c", help="Folder, .safetensors file or name; default: the packaged one."
        ),
    ] = None,
    crf: Annotated[bool, typer.Option("--crf/--no-crf", help="Refine with the CRF.")] = True,
    params: Annotated[
        Path | None,
        typer.Option(
            "--params",
            help="Parameter file of another CRF, from fit, tune or `crfrnn app`.",
        ),
    ] = None,
    compare: Annotated[
        bool, typer.Option("--compare", help="Also NAME_panel.png: without the CRF, with it, difference.")
    ] = False,
    iterations: common.Iterations = None,
    long_side: Annotated[
        int | None,
        typer.Option(
            "--long-side",
            help="Pixels: larger pictures are segmented at this size. Default: the checkpoint's size.",
        ),
    ] = None,
    memory: Annotated[
        float, typer.Option("--memory", help="MiB for one picture; larger ones are cut into tiles.")
    ] = 2048,
    tile: Annotated[
        int | None, typer.Option("--tile", help="Side of the tiles, pixels, instead of --memory.")
    ] = None,
    overlap: Annotated[
        int | None,
        typer.Option("--overlap", help="Pixels that tiles share; default: 128, or 3 theta-alpha if larger."),
    ] = None,
    overlay: Annotated[bool, typer.Option("--overlay/--no-overlay", help="NAME_overlay.png.")] = True,
    save_probabilities: Annotated[
        bool, typer.Option("--save-probabilities", help="Also NAME_probabilities.npz, float32 [L, H, W].")
    ] = False,
    scale: common.Scale = None,
    bands: scenes.Bands = scenes.BANDS,
    recursive: Recursive = False,
    limit: common.Limit = None,
    skip_existing: common.SkipExisting = False,
    overwrite: common.Overwrite = False,
    device: Annotated[str, typer.Option("--device", help="cpu or cuda.")] = "cpu",
    engine: bulk.Engine = bulk.LOOP,
    actors: bulk.Actors = None,
    num_cpus: bulk.NumCpus = 1,
    num_gpus: bulk.NumGpus = 0,
    to: bulk.To = "files",
    shard_size: bulk.ShardSize = 1000,
    retry_failed: bulk.RetryFailed = False,
) -> None:
    """Segment photographs to NAME.png (labels), NAME_overlay.png (for viewing) and NAME.json (areas).

    With -o LABELS.tif, a GeoTIFF of any size is read and written by windows, keeping its georeference.

    Exit code 0: all pictures done; 1: some failed (each is reported, the others are done); 2: usage; 130:
    stopped by Ctrl-C, 143: by SIGTERM (every existing file is complete).

    Example: crfrnn segment photo.jpg -o segmented/

    Example: crfrnn segment photos/*.jpg -o segmented/ --long-side 1024 --compare

    Example: crfrnn segment photos/ --recursive -o segmented/

    Example: crfrnn segment "s3://bucket/train-{000000..000999}.tar" -o out/ --engine ray --to shards

    Example: crfrnn segment scene.tif -o labels.tif --bands 4,3,2 --scale 0 3000 --memory 2048
    """
    from crfrnn.datasets.pictures import spread
    from crfrnn.inference import Predictor, default_checkpoint
    from crfrnn.inference.many import many
    from crfrnn.io import load_parameters
    from crfrnn.io.outputs import claim
    from crfrnn.io.scale import check_scale
    from crfrnn.lattice import keep_memory
    from crfrnn.models.pretrained import find_checkpoint

    wanted = bulk.Bulk(engine, actors, num_cpus, num_gpus, to, shard_size, retry_failed)
    in_bulk = wanted.asked(images)
    scene = output.suffix.lower() in scenes.ENDINGS and not in_bulk
    names = {} if scene or in_bulk else find_pictures(images, recursive)
    if scene:
        _check_scene(images, output, compare=compare, recursive=recursive, long_side=long_side, limit=limit)
    elif bands != scenes.BANDS:
        raise ValueError(f"--bands: expected -o FILE.tif, a GeoTIFF, got {str(output)!r}; omit one of them")
    name = default_checkpoint() if checkpoint is None else checkpoint
    if params is not None and not crf:
        raise ValueError("--params: expected an active CRF, got --no-crf; omit one of them")
    layer = None if params is None else load_parameters(params).crf
    if not scene:  # whose tiles stay within a budget of memory
        keep_memory()
    predictor = Predictor.from_pretrained(
        name, device="cpu" if in_bulk else _device(device), crf=layer, use_crf=crf, iterations=iterations,
        long_side=long_side, memory=memory, tile=tile, overlap=overlap,
    )  # fmt: skip
    refines = crf and predictor.segmenter.crf is not None
    for option, given in (("--compare", compare), ("--iterations", iterations is not None)):
        if given and not refines:
            why = "--no-crf" if not crf else f"{name!r}, which has none"
            raise ValueError(f"{option}: expected an active CRF, got {why}; omit one of them")
    settings = {
        "checkpoint": find_checkpoint(name) or name, "crf": crf, "params": params, "iterations": iterations,
        "long_side": long_side, "memory": memory, "tile": tile, "overlap": overlap, "scale": scale,
    }  # fmt: skip
    if scene:
        _scene(
            Path(images[0]), output, predictor, str(name), settings, bands, scale, save_probabilities,
            skip_existing, overwrite,
        )  # fmt: skip
        return
    there = _device(device, here=engine != bulk.RAY)
    step = _Step(predictor, str(name), overlay, compare, save_probabilities, check_scale(scale), there)
    if in_bulk:

        def alone(words: Sequence[str]) -> dict[Path, tuple[Path, ...]]:
            found = find_pictures(words, recursive)
            return {found[path]: (path,) for path in spread(list(found), common.check_limit(limit))}

        wanted.run(
            "segment", images, output, step, settings, alone, recursive=recursive, resume=skip_existing,
            overwrite=overwrite,
        )  # fmt: skip
        return
    pictures = spread(list(names), common.check_limit(limit))
    items = [step.item((path,), output / names[path]) for path in pictures]

    def shown(item: Item) -> str:
        path = item.sources[0]
        return (names[path].parent / path.name).as_posix()

    with (
        claim(
            output,
            "segment",
            settings,
            items,
            inputs=[params] if params else [],
            resume=skip_existing,
            overwrite=overwrite,
        ) as outputs,
        counted("segment", len(items)) as (tally, progress),
    ):
        many(
            items, step.some, tally, name=shown, finished=outputs.finished, progress=progress,
            found=lambda item, areas: common.out.print(f"{shown(item)}: {areas}", markup=False),
            strict=common.state.debug,
        )  # fmt: skip
    there = f", {tally.skipped} already existed" if tally.skipped else ""
    common.out.print(f"{tally.done} of {tally.total} segmented{there}.")
    common.out.print(f"Results: {output}", markup=False)
    conclude(tally, "resume by the same command with --skip-existing")


@dataclass
class _Step:
    """The processing of each picture; can be pickled."""

    predictor: Predictor
    checkpoint: str
    overlay: bool
    compare: bool
    save_probabilities: bool
    scale: tuple[float, float] | None
    device: torch.device

    def item(self, sources: tuple[Path, ...], target: Path) -> Item:
        """The outputs for a picture: ``TARGET.png`` and the files next to it."""
        from crfrnn.io.outputs import Item

        return Item(sources, tuple(target.with_name(f"{target.name}{end}") for end in self.endings()))

    def endings(self) -> list[str]:
        """Endings of the outputs; the label map is written last, so that its existence marks completion."""
        wanted = {PANEL: self.compare, OVERLAY: self.overlay, PROBABILITIES: self.save_probabilities}
        return [*(ending for ending, asked in wanted.items() if asked), AREAS, LABELS]

    def some(self, items: Sequence[Item]) -> list[str]:
        """Read, segment and write pictures; returns the areas of each in words."""
        self.predictor.segmenter.to(self.device)
        return [
            self._one(item.sources[0], dict(zip(self.endings(), item.files, strict=True))) for item in items
        ]

    def _one(self, path: Path, paths: dict[str, Path]) -> str:
        import numpy as np

        from crfrnn.io import read_image, write_label_png
        from crfrnn.io.files import write_text
        from crfrnn.io.images import write_png
        from crfrnn.plots import painted, panel, shrunk

        image = read_image(path, scale=self.scale)
        found = self.predictor(image, probabilities=self.save_probabilities)
        if found.labels.dtype != np.uint8:
            raise ValueError("labels: expected at most 256 for a PNG, got more; use crfrnn.Predictor")
        record: dict[str, Any] = {"picture": path.name, "checkpoint": self.checkpoint, **found.as_dict()}
        if self.compare:
            record["changed"] = round(found.changed, 6)
            picture = panel(
                *shrunk(image, found.before, found.labels, long_side=PANEL_SIDE),
                names=found.class_names,
                captions=CAPTIONS,
            )
            write_png(picture, paths[PANEL])
        if self.overlay:
            write_png(painted(image, found.labels, names=found.titles), paths[OVERLAY])
        if found.probabilities is not None:
            common.write_probabilities(paths[PROBABILITIES], found.probabilities)
        said = json.dumps(record, indent=1, ensure_ascii=False)
        write_text(paths[AREAS], said + "\n")
        write_label_png(paths[LABELS], found.labels)
        return _areas(found)


def _check_scene(images: list[str], output: Path, **others: Any) -> None:
    if len(images) != 1 or not Path(images[0]).is_file():
        raise ValueError(
            f"-o: expected a folder, or FILE.tif for one existing GeoTIFF, got {str(output)!r} for "
            f"{' '.join(images[:3])!r}; name a folder, or one scene at a time"
        )
    for option, given in others.items():
        if given:
            raise ValueError(
                f"--{option.replace('_', '-')}: expected none for a GeoTIFF, segmented by windows at its own "
                f"resolution, got {given}; omit it"
            )


def _scene(
    image: Path, output: Path, predictor: Predictor, checkpoint: str, settings: dict[str, Any], bands: str,
    scale: tuple[float, float] | None, save_probabilities: bool, skip_existing: bool, overwrite: bool,
) -> None:  # fmt: skip
    """Segment a GeoTIFF by windows: label map, areas and, if requested, marginals."""
    from crfrnn.io import LabelRaster
    from crfrnn.io.files import write_text
    from crfrnn.io.outputs import Item, claim

    extra, areas, done = scenes.beside(output, save_probabilities), output.with_suffix(AREAS), None
    item = Item((image,), (*([extra] if extra else ()), areas, output))
    with scenes.open_scene(image, bands, scale) as scene:
        if scene.shape[0] != 3:
            raise ValueError(f"--bands: expected three, red, green, blue, such as 4,3,2, got {bands!r}")
        with claim(
            output.parent, "segment", {**settings, "bands": bands}, [item],
            inputs=[settings["params"]] if settings["params"] else [], whole=False, resume=skip_existing,
            overwrite=overwrite,
        ) as outputs:  # fmt: skip
            if not outputs.finished(item):
                with (
                    LabelRaster(output, scene, predictor.num_labels, extra) as out,
                    scenes.tile_bar() as progress,
                ):
                    done = predictor.by_windows(scene, out.write, progress=progress)
                    record = {"picture": image.name, "checkpoint": checkpoint, **done.as_dict()}
                    if done.crf:
                        record["changed"] = round(done.changed, 6)
                    write_text(areas, json.dumps(record, indent=1, ensure_ascii=False) + "\n")
    if done is not None:
        common.out.print(f"{image.name}: {_areas(done)}", markup=False)
    scenes.say(done, output)


def _areas(found: Prediction | Tiling) -> str:
    """The labels by decreasing area, without those of 0.0 %."""
    from crfrnn.inference.prediction import percent
    from crfrnn.plots import LEAST

    order = sorted((area for area in found.areas if area.share >= LEAST), key=lambda area: -area.pixels)
    tiles = f" ({found.tiles} tiles)" if found.tiles > 1 else ""
    return ", ".join(f"{area.name} {percent(area.share)}" for area in order) + tiles


def _device(name: str, here: bool = True) -> torch.device:
    """The device of that name. Args: here: the work is done by this process."""
    import torch

    kind = name.split(":")[0]
    if kind not in ("cpu", "cuda"):
        raise ValueError(f"--device: expected cpu or cuda, got {name!r}")
    if kind == "cuda" and here and not torch.cuda.is_available():
        raise ValueError("--device: expected cpu here, got cuda, which this torch cannot use")
    return torch.device(name)
