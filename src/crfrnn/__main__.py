# SPDX-License-Identifier: MIT
"""``python -m crfrnn`` runs the command `crfrnn`."""

from crfrnn.cli import main

if __name__ == "__main__":
    main()
