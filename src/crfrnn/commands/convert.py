# SPDX-License-Identifier: MIT
"""`crfrnn convert`: foreign weight files to safetensors with a configuration."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from crfrnn.commands import common


def convert(
    source: Annotated[Path, typer.Argument(help=".caffemodel, .h5, .pth, .safetensors or .tflite.")],
    output: Annotated[
        Path,
        typer.Option("--output", "-o", help="A folder, or FILE.safetensors with the configuration in it."),
    ],
    origin: Annotated[
        str, typer.Option("--from", help="Origin of the file: caffe, keras, pytorch, torchvision, deeplab.")
    ],
    labels: common.Labels = None,
    half: Annotated[bool, typer.Option("--half", help="Store the network's weights in 16 bits.")] = False,
    overwrite: common.Overwrite = False,
) -> None:
    """Convert a CRF-RNN, FCN, VGG-16 or DeepLab weight file without running code from it.

    Example: crfrnn convert TVG_CRFRNN_COCO_VOC.caffemodel --from caffe -o crfrnn-original/

    Example: crfrnn convert vgg16.pth --from torchvision --labels 5 -o start.safetensors

    Example: crfrnn convert deeplabv3_mnv2_pascal_quant.tflite --from deeplab -o deeplab/
    """
    import torch

    from crfrnn.io.outputs import Item, claim
    from crfrnn.models.importers import convert as convert_file
    from crfrnn.models.pretrained import CONFIG, WEIGHTS

    if output.suffix and output.suffix != ".safetensors":
        raise ValueError(f"-o: expected a folder or FILE.safetensors, got {str(output)!r}")
    files = (output,) if output.suffix else (output / CONFIG, output / WEIGHTS)
    folder = files[0].parent
    item = Item((source,), files)
    with claim(folder, "convert", common.settings(), [item], whole=not output.suffix, overwrite=overwrite):
        converted = convert_file(source, origin, labels)
        segmenter = converted.segmenter
        segmenter.save_pretrained(output, dtype=torch.float16 if half else torch.float32)
    recipe, crf = segmenter.network.recipe, segmenter.crf
    common.out.print(
        f"{output}: {recipe.name}, {recipe.arguments['num_labels']} labels, "  # type: ignore[union-attr]
        f"{'with its CRF' if crf is not None else 'no CRF'}; {len(converted.filled)} tensors filled"
    )
    if converted.fresh:
        common.out.print(f"freshly initialised: {', '.join(converted.fresh)}", markup=False)
