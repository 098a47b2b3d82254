# SPDX-License-Identifier: MIT
"""Learning rate and weight decay of each parameter; the CRF's parameters never decay."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import nn

from crfrnn.models import FCN, DeepLab, LiteFPN, Segmenter
from crfrnn.training.recipe import Stage

_VGG = ("conv", "fc6", "fc7")
_CRF = {
    "spatial_weights": "crf_weights",
    "bilateral_weights": "crf_weights",
    "compatibility": "crf_compatibility",
}


def backbone_of(network: nn.Module) -> tuple[str, ...]:
    """Name prefixes of the pretrained part; ("",), which is all of it, for unknown networks."""
    if isinstance(network, LiteFPN):
        return ("encoder.",)
    if isinstance(network, DeepLab):
        return ("backbone.",)
    return _VGG if isinstance(network, FCN) else ("",)


def kinds(
    segmenter: Segmenter, backbone: tuple[str, ...] | None = None
) -> Iterator[tuple[str, nn.Parameter, str]]:
    """Every parameter with its name and its kind, a field of `Rates`."""
    front = backbone_of(segmenter.network) if backbone is None else backbone
    for name, parameter in segmenter.network.named_parameters():
        yield f"network.{name}", parameter, "network" if name.startswith(front) else "head"
    for name, parameter in segmenter.crf.named_parameters() if segmenter.crf is not None else ():
        yield f"crf.{name}", parameter, _CRF.get(name, "crf_theta")


def parameter_groups(
    segmenter: Segmenter, stage: Stage, backbone: tuple[str, ...] | None = None
) -> list[dict[str, Any]]:
    """The optimiser's groups of a stage; other parameters get ``requires_grad=False``.

    Weight decay applies only to matrices and kernels of the network, not to biases and norms, and never to
    the CRF, whose weights it would shrink to zero.

    Raises: ValueError if nothing would be learned, or a pattern of `Stage.layers` matches no name.
    """
    names = [name for name, _ in segmenter.network.named_parameters()]
    strange = [pattern for pattern in stage.layers if not any(fnmatchcase(n, pattern) for n in names)]
    if strange:
        raise ValueError(
            f"layers: expected patterns that match names such as {names[0]}, got {', '.join(strange)} "
            f"in stage {stage.name!r}"
        )
    ours = [] if segmenter.crf is None else [name for name, _ in segmenter.crf.named_parameters()]
    unknown = [name for name in stage.freeze if name not in ours]
    if unknown:
        raise ValueError(f"freeze: expected names among {', '.join(ours)}, got {', '.join(unknown)}")
    groups: dict[tuple[str, bool, bool, float], list[nn.Parameter]] = {}
    for name, parameter, kind in kinds(segmenter, backbone):
        crf = kind.startswith("crf_")
        if name == "crf.log_temperature" and stage.rates.crf_temperature is not None:
            kind = "crf_temperature"
        factor = 1.0 if crf else layer_factor(name.removeprefix("network."), stage)
        learns = ("crf" if crf else kind) in stage.learn and getattr(stage.rates, kind) * factor > 0
        kept = stage.freeze + (("compatibility",) if stage.compatibility == "fixed" else ())
        if crf and (not stage.crf or name.removeprefix("crf.") in kept):
            learns = False
        parameter.requires_grad_(learns)
        if learns:
            key = (kind, not crf and parameter.ndim > 1, not crf and name.endswith(".bias"), factor)
            groups.setdefault(key, []).append(parameter)
    if not groups:
        raise ValueError(
            f"stage {stage.name!r}: expected something to learn, got none; see learn, rates and crf"
        )
    return [
        {
            "name": kind + (".bias" if bias else ".decayed" if decayed else ""),
            "params": parameters,
            "lr": getattr(stage.rates, kind) * (stage.bias_rate if bias else 1) * factor,
            "weight_decay": stage.weight_decay if decayed else 0.0,
        }
        for (kind, decayed, bias, factor), parameters in groups.items()
    ]


def layer_factor(name: str, stage: Stage) -> float:
    """The product of the factors of all patterns that match the name of a network's parameter.

    >>> layer_factor("blocks.3.expand.weight", Stage("s", layers={"*.expand.*": 0.1, "blocks.[0-3].*": 0.5}))
    0.05
    """
    return math.prod(value for pattern, value in stage.layers.items() if fnmatchcase(name, pattern))


class Together(torch.optim.Optimizer):
    """Several optimisers, each with its own groups, combined: one step, one state, one schedule of rates."""

    def __init__(self, parts: Sequence[torch.optim.Optimizer]) -> None:
        self.parts = tuple(parts)
        super().__init__([group for part in parts for group in part.param_groups], {})
        self._share()

    def _share(self) -> None:
        """Pass groups and state, which loading replaces, on to the parts."""
        begin = 0
        for part in self.parts:
            part.param_groups = self.param_groups[begin : begin + len(part.param_groups)]
            part.state = self.state
            begin += len(part.param_groups)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self._share()

    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for part in self.parts:
            part.step()
        return loss


def build_optimiser(groups: list[dict[str, Any]], stage: Stage) -> torch.optim.Optimizer:
    """One optimiser for all groups, or one for the network and one for the CRF and the loss's temperature."""
    other = stage.crf_optimiser or stage.optimiser
    if other == stage.optimiser:
        return _optimiser(stage.optimiser, groups, stage)
    parts = []
    for name, wanted in ((stage.optimiser, False), (other, True)):
        own = [g for g in groups if g["name"].startswith(("crf_", "temperature")) == wanted]
        if own:
            parts.append(_optimiser(name, own, stage))
    return parts[0] if len(parts) == 1 else Together(parts)


def _optimiser(name: str, groups: list[dict[str, Any]], stage: Stage) -> torch.optim.Optimizer:
    if name == "sgd":
        return torch.optim.SGD(groups, lr=0.0, momentum=stage.momentum)
    return torch.optim.AdamW(groups, lr=0.0, betas=(stage.momentum, stage.second_momentum))


def rate_factor(stage: Stage, step: int, steps: int) -> float:
    """The factor of all rates at `step` of `steps`.

    >>> [round(rate_factor(Stage("s", schedule="cosine"), step, 4), 3) for step in range(5)]
    [1.0, 0.854, 0.5, 0.146, 0.0]
    """
    rise = min(1.0, (step + 1) / (stage.warm_up + 1))
    share = min(1.0, step / max(1, steps))
    if stage.schedule == "poly":
        return rise * (1 - share) ** stage.power
    return rise * (0.5 * (1 + math.cos(math.pi * share)) if stage.schedule == "cosine" else 1.0)
