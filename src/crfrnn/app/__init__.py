# SPDX-License-Identifier: MIT
"""The page in a browser: the CRF on a photograph, on scribbles and on your own scores."""

from crfrnn.app.options import Options as Options
from crfrnn.app.server import serve as serve
from crfrnn.app.server import served as served
