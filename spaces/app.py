# SPDX-License-Identifier: MIT
"""The page of crfrnn, served on the port that a Hugging Face Space expects."""

import os

from crfrnn.app import Options, serve

if __name__ == "__main__":
    port = int(os.environ.get("GRADIO_SERVER_PORT", "7860"))
    serve(Options(host="0.0.0.0", port=port), lambda address: print(f"The page: {address}", flush=True))
