# SPDX-License-Identifier: MIT
"""Other systems' interfaces over this engine: `pydensecrf`, `dcrf`, `bilateralfilter`."""
