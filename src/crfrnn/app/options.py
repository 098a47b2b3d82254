# SPDX-License-Identifier: MIT
"""The options of the page, and its limits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from crfrnn.app.work import Work

MEGA = 10**6
LARGEST = 67  # megapixels, the limit of `crfrnn.io.read_image`
# The longer side in pixels for segmentation and scribbles. Pictures of this size fit into one tile of
# `crfrnn segment` with any network, so that page and command agree to the last pixel.
WORK_SIDE = 720
MOST_SCORES = 2**26  # labels × pixels of scores: about 1.5 GB of memory


@dataclass(frozen=True)
class Options:
    """Where the page is served, and what it accepts.

    Attributes:
        host, port: the address; port 0 takes the first free one from 7860.
        max_megapixels: limit for photographs; larger ones are rejected before they are decoded.
        max_file_size: limit for uploaded files, in megabytes.
        checkpoint: the network's checkpoint, as for `Predictor.from_pretrained`; None: the packaged one.
        open_browser: show the page in the browser of this machine.
        clients: largest number of waiting requests; more are rejected.
        worded: translates messages of Python functions for the page's commands.
        work: what is being computed; the server closes it when it ends.
    """

    host: str = "127.0.0.1"
    port: int = 0
    max_megapixels: float = 24.0
    max_file_size: float = 256.0
    checkpoint: str | None = None
    open_browser: bool = False
    clients: int = 32
    worded: Callable[[str], str] = str
    work: Work = field(default_factory=Work, compare=False)

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65535:
            raise ValueError(f"port: expected 0..65535, got {self.port}; 0 takes a free one")
        if not 0 < self.max_megapixels <= LARGEST:
            raise ValueError(
                f"max_megapixels: expected above 0 and at most {LARGEST}, got {self.max_megapixels:g}; "
                "larger pictures go through crfrnn segment, tile by tile"
            )
        if not self.max_file_size > 0:
            raise ValueError(f"max_file_size: expected megabytes above 0, got {self.max_file_size:g}")

    @property
    def max_pixels(self) -> int:
        return round(self.max_megapixels * MEGA)

    @property
    def max_bytes(self) -> int:
        return round(self.max_file_size * MEGA)
