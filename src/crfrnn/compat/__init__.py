# SPDX-License-Identifier: MIT
"""Other systems' interfaces over this engine: `crfrnn.compat.pydensecrf`."""
