# SPDX-License-Identifier: MIT
"""The model: kernels of a picture, mean-field inference, the layer, energies and losses."""

from crfrnn.crf.damping import monotone_damping
from crfrnn.crf.energy import free_energy, free_energy_trace, gibbs_energy
from crfrnn.crf.features import principal_directions
from crfrnn.crf.kernels import GaussianKernel
from crfrnn.crf.layer import CRFRNN
from crfrnn.crf.losses import dense_crf_loss, robust_log_likelihood
from crfrnn.crf.mean_field import mean_field
from crfrnn.lattice.validate import InputWarning

__all__ = [
    "CRFRNN",
    "GaussianKernel",
    "InputWarning",
    "dense_crf_loss",
    "free_energy",
    "free_energy_trace",
    "gibbs_energy",
    "mean_field",
    "monotone_damping",
    "principal_directions",
    "robust_log_likelihood",
]
