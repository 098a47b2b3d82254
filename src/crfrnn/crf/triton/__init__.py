# SPDX-License-Identifier: MIT
"""Mean field on a GPU: Triton kernels, also run by Triton's interpreter."""
