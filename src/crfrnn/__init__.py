# SPDX-License-Identifier: MIT
"""Dense conditional random fields as a PyTorch layer."""

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
from crfrnn.lattice import Lattice

__all__ = [
    "CRFRNN",
    "GaussianKernel",
    "Lattice",
    "dense_crf_loss",
    "free_energy",
    "free_energy_trace",
    "gibbs_energy",
    "mean_field",
    "monotone_damping",
    "robust_log_likelihood",
]
