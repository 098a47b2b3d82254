# SPDX-License-Identifier: MIT
"""The demonstration: a photograph of scikit-learn and a few scribbles of our own."""

from crfrnn.demo.scene import DemoResult as DemoResult
from crfrnn.demo.scene import run as run
