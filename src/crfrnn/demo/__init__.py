# SPDX-License-Identifier: MIT
"""The demonstration: scribbles on one photograph, the packaged checkpoint on another."""

from crfrnn.demo.photograph import Segmented as Segmented
from crfrnn.demo.photograph import segment_photograph as segment_photograph
from crfrnn.demo.scene import DemoResult as DemoResult
from crfrnn.demo.scene import run as run
