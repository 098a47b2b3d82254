# SPDX-License-Identifier: MIT
"""Pictures too big for the memory: tiles that overlap and fade, files read by windows."""

from crfrnn.tiles.geotiff import LabelRaster as LabelRaster
from crfrnn.tiles.geotiff import Raster as Raster
from crfrnn.tiles.sources import InMemory as InMemory
from crfrnn.tiles.sources import Source as Source
from crfrnn.tiles.tiled import Tiling as Tiling
from crfrnn.tiles.tiled import refine_tiles as refine_tiles
from crfrnn.tiles.unaries import as_logits as as_logits
