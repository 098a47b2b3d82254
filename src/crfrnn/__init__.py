# SPDX-License-Identifier: MIT
"""Dense conditional random fields as a PyTorch layer."""

from typing import TYPE_CHECKING

from crfrnn import _earlier
from crfrnn._late import for_command_line, late

if TYPE_CHECKING or not for_command_line():
    # Import now: torch.compile does not trace imports, and a saved graph needs the registered operators.
    from crfrnn.crf import (
        CRFRNN,
        GaussianKernel,
        dense_crf_loss,
        free_energy,
        free_energy_trace,
        gibbs_energy,
        mean_field,
        monotone_damping,
        robust_log_likelihood,
    )
    from crfrnn.lattice import Lattice, keep_memory, release_memory
if TYPE_CHECKING:
    from crfrnn.inference import Predictor
    from crfrnn.models import FCN8s, Segmenter

__all__ = [
    "CRFRNN",
    "FCN8s",
    "GaussianKernel",
    "Lattice",
    "Predictor",
    "Segmenter",
    "dense_crf_loss",
    "free_energy",
    "free_energy_trace",
    "gibbs_energy",
    "keep_memory",
    "mean_field",
    "monotone_damping",
    "release_memory",
    "robust_log_likelihood",
]
__getattr__, __dir__ = late(__name__, __all__, ("lattice", "crf", "io", "models", "inference"))
_earlier.install(__name__)
