# SPDX-License-Identifier: MIT
"""The page in a browser: what the CRF does to a photograph, to scribbles and to scores of your own."""

from crfrnn.app.options import Options as Options
from crfrnn.app.server import serve as serve
from crfrnn.app.server import served as served
