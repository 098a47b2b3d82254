# SPDX-License-Identifier: MIT
"""Figures: label maps over photographs, panels, heat maps, curves, footprints of kernels, films.

Pixel images are drawn with Pillow, heat maps and curves with matplotlib (the extra `plots`).
"""

from crfrnn.plots.charts import curves as curves
from crfrnn.plots.charts import energy_curve as energy_curve
from crfrnn.plots.charts import heat_map as heat_map
from crfrnn.plots.charts import trimap_curves as trimap_curves
from crfrnn.plots.drawing import CHANGED as CHANGED
from crfrnn.plots.drawing import LEAST as LEAST
from crfrnn.plots.film import frames as frames
from crfrnn.plots.film import write_film as write_film
from crfrnn.plots.footprint import exact_footprint as exact_footprint
from crfrnn.plots.footprint import footprint as footprint
from crfrnn.plots.footprint import kernel_footprints as kernel_footprints
from crfrnn.plots.overlay import difference as difference
from crfrnn.plots.overlay import overlay as overlay
from crfrnn.plots.overlay import painted as painted
from crfrnn.plots.overlay import shrunk as shrunk
from crfrnn.plots.palette import as_seen as as_seen
from crfrnn.plots.palette import least_difference as least_difference
from crfrnn.plots.palette import safe_palette as safe_palette
from crfrnn.plots.panel import panel as panel
from crfrnn.plots.panel import rows_of_pictures as rows_of_pictures
from crfrnn.plots.panel import tiles as tiles
from crfrnn.plots.uncertainty import entropy as entropy
from crfrnn.plots.uncertainty import uncertainty as uncertainty
