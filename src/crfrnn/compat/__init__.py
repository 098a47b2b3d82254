# SPDX-License-Identifier: MIT
"""Interfaces of other packages on this engine: `pydensecrf`, `dcrf`, `bilateralfilter`."""
