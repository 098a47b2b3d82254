# SPDX-License-Identifier: MIT
"""One file per command of `crfrnn`: it parses options, calls the library and prints results."""
