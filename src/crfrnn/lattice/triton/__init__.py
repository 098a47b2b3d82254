# SPDX-License-Identifier: MIT
"""The GPU backend of the lattice: Triton kernels, also run by Triton's interpreter."""
