# SPDX-License-Identifier: MIT
"""One file per command of `crfrnn`: options in, calls out, results on the screen."""
