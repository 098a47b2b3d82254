# SPDX-License-Identifier: MIT
"""Gaussian filters over points and grids: lattice, exact, separable. Nothing here depends on labels."""

from crfrnn.lattice import forked as forked
from crfrnn.lattice.exact import Exact as Exact
from crfrnn.lattice.exact import exact_filter as exact_filter
from crfrnn.lattice.lattice import Lattice as Lattice
from crfrnn.lattice.memory import keep_memory as keep_memory
from crfrnn.lattice.memory import release_memory as release_memory
from crfrnn.lattice.quality import QUALITIES as QUALITIES
from crfrnn.lattice.quality import Quality as Quality
from crfrnn.lattice.separable import Separable as Separable
from crfrnn.lattice.separable import separable_filter as separable_filter
