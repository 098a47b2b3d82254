# SPDX-License-Identifier: MIT
"""MONAI: `CRFd`, a post-transform for dictionaries with channel-first volumes and pictures."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from crfrnn.inference import refine_volume

try:
    from monai.config.type_definitions import KeysCollection
    from monai.data.meta_tensor import MetaTensor
    from monai.transforms.transform import MapTransform
    from monai.utils.type_conversion import convert_to_dst_type, convert_to_numpy
except ImportError as error:
    raise ImportError(
        f"monai: expected the package monai for CRFd, got {error}; pip install monai, or use "
        "crfrnn.inference.refine_volume on arrays"
    ) from error

_FLAT, _VOLUME = 3, 4  # axes of [L, H, W] and [L, X, Y, Z]


class CRFd(MapTransform):
    """Refine predictions along the edges of an image: `crfrnn.inference.refine_volume` as a MONAI transform.

    Place it after the network and before ``AsDiscreted(argmax=True)``. The result is probabilities Float32 of
    the same shape, on the prediction's device and with its meta data. A prediction with one channel, as for a
    sigmoid, is refined as background and foreground and results in the foreground's probability, for
    ``AsDiscreted(threshold=0.5)``.

    Args:
        keys: predictions, channel first: [L, X, Y, Z] or [L, H, W], one item and not a batch.
        image_key: the guide [C, X, Y, Z] or [C, H, W] on the same grid.
        kind: "logits" (from a network), or "probabilities" after ``Activationsd(softmax=True)``.
        spacing: voxel size along each axis, in millimetres; None uses the ``pixdim`` of the image if it
            is a MetaTensor, else 1.
        mask_key: a mask [1, …], valid where above 0; None: everything is valid.
        allow_missing_keys: as in MONAI.
        settings: the other arguments of `refine_volume`: ``theta_alpha`` and ``theta_gamma`` in millimetres,
            ``theta_beta``, weights, ``iterations``, ``rescale``, ``quality``, …

    Raises:
        ValueError, TypeError: other shapes, naming what was expected.

    >>> chain = CRFd("pred", "image", spacing=(1, 1, 3))
    >>> item = {"pred": torch.randn(2, 6, 7, 4), "image": torch.rand(1, 6, 7, 4)}
    >>> chain(item)["pred"].sum(0).mean().round()
    tensor(1.)
    """

    def __init__(
        self,
        keys: KeysCollection,
        image_key: Hashable,
        *,
        kind: str = "logits",
        spacing: Sequence[float] | None = None,
        mask_key: Hashable | None = None,
        allow_missing_keys: bool = False,
        **settings: Any,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.image_key, self.mask_key = image_key, mask_key
        self.kind, self.spacing, self.settings = kind, spacing, settings

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        item = dict(data)
        image = item[self.image_key]
        guide = _array(image, self.image_key)
        mask = None if self.mask_key is None else _array(item[self.mask_key], self.mask_key)[0] > 0
        spacing = self._spacing(image, guide.ndim - 1)
        for key in self.key_iterator(item):
            scores = _array(item[key], key)
            if scores.shape[1:] != guide.shape[1:]:
                raise ValueError(
                    f"{key}: expected the grid {guide.shape[1:]} of {self.image_key!r}, "
                    f"got {scores.shape[1:]}; invert the transforms that changed it first (Invertd)"
                )
            flat = guide.ndim == _FLAT  # a picture is treated as a volume of one slice
            refined = refine_volume(
                guide[:, None] if flat else guide,
                (scores[:, None] if flat else scores).astype(np.float32),
                (1.0, *spacing) if flat else spacing,
                kind=self.kind,
                mask=mask[None] if flat and mask is not None else mask,
                **self.settings,
            ).probabilities
            refined = refined[1:] if len(scores) == 1 else refined
            item[key] = convert_to_dst_type(refined[:, 0] if flat else refined, item[key], np.float32)[0]
        return item

    def _spacing(self, image: Any, axes: int) -> tuple[float, ...]:
        given = self.spacing
        if given is None:
            given = image.pixdim if isinstance(image, MetaTensor) else (1.0,) * axes
        lengths = tuple(float(v) for v in given)
        if self.spacing is None:
            lengths = lengths[:axes]
        if len(lengths) != axes:
            raise ValueError(f"spacing: expected {axes} numbers, one per axis, got {lengths}")
        return lengths


def _array(value: Any, key: Hashable) -> np.ndarray:
    array = convert_to_numpy(value.detach() if isinstance(value, torch.Tensor) else value)
    if array.ndim not in (_FLAT, _VOLUME):
        raise ValueError(
            f"{key}: expected one item with channels first, [C, X, Y, Z] or [C, H, W], got {array.shape}; "
            "split a batch with decollate_batch"
        )
    return array
