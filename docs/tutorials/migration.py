# SPDX-License-Identifier: MIT
# %% [markdown]
# # From pydensecrf, in three steps
#
# 1. Change the import: same calls, same results, multi-threaded.
# 2. Write the same model as a layer: batches, float64, a GPU.
# 3. Use what pydensecrf cannot do: gradients.
#
# ## The original script
#
# The image is scikit-learn's china.jpg (CC BY 2.0) at half size, with scores estimated from scribbles.

# %%
import numpy as np
import torch

from crfrnn.demo.scene import load_scene, unary_from_scribbles
from crfrnn.plots import overlay, safe_palette, tiles

scene = load_scene()
image = np.ascontiguousarray(scene.image[::2, ::2])
scores = unary_from_scribbles(scene.image, scene.scribbles, len(scene.names))[:, ::2, ::2]
probabilities = scores.softmax(0).numpy()
L, height, width = probabilities.shape

# %% [markdown]
# ## Step 1: the import
#
# Replace `import pydensecrf.densecrf as dcrf`. That is the whole migration. For code that cannot be edited,
# use `crfrnn.compat.pydensecrf.install()`; for whole scripts, use
# `python -m crfrnn.compat.pydensecrf old_script.py`.

# %%
import crfrnn.compat.pydensecrf.densecrf as dcrf
from crfrnn.compat.pydensecrf.utils import unary_from_softmax

d = dcrf.DenseCRF2D(width, height, L)
d.setUnaryEnergy(unary_from_softmax(probabilities))
d.addPairwiseGaussian(sxy=3, compat=3)
d.addPairwiseBilateral(sxy=40, srgb=13, rgbim=image, compat=10)
Q = np.array(d.inference(5)).reshape(L, height, width)

# %% tags=["figure"]
def seen(labels):
    return overlay(image, labels, safe_palette())


tiles({"photograph": image, "scores alone": seen(probabilities.argmax(0)), "after inference(5)": seen(Q.argmax(0))}, height=160)

# %% [markdown]
# ## Step 2: the layer
#
# | pydensecrf | crfrnn |
# |---|---|
# | `setUnaryEnergy(-log p)` | logits: `log p`, or the network's logits, without a softmax |
# | `addPairwiseGaussian(sxy=3, compat=3)` | `theta_gamma=3, spatial_weight=3` |
# | `addPairwiseBilateral(sxy=40, srgb=13, compat=10)` | `theta_alpha=40, theta_beta=13, bilateral_weight=10` |
# | `NORMALIZE_SYMMETRIC`, its default | `normalization="symmetric"`; this layer's default is `"after"` |
# | `inference(5)` | `iterations=5` |
# | its lattice | `quality="classic"`, for both kernels `method="lattice"` |

# %%
from crfrnn import CRFRNN

same = CRFRNN(
    L, theta_alpha=40.0, theta_beta=13.0, theta_gamma=3.0, spatial_weight=3.0, bilateral_weight=10.0, iterations=5,
    normalization="symmetric", quality="classic", spatial_method="lattice",
)  # fmt: skip
logits = torch.from_numpy(np.log(probabilities.clip(1e-5)))[None]
guide = torch.from_numpy(image).permute(2, 0, 1)[None]
with torch.no_grad():
    ours = same(logits, guide).softmax(1)[0].numpy()
print("mean difference of a probability:", f"{np.abs(ours - Q).mean():.1e}", "| same labels:", f"{(ours.argmax(0) == Q.argmax(0)).mean():.4%}")
assert np.abs(ours - Q).mean() < 1e-3

# %% [markdown]
# With the defaults, `CRFRNN(L, ...)` computes the spatial kernel exactly and normalises as the paper's code
# does. The best parameters then differ slightly: symmetric normalisation gives less weight to isolated
# pixels.
#
# ## Step 3: what is new
#
# Everything is differentiable. Ten optimiser steps on the two weights and the bandwidths, with the scribbles
# as targets:

# %%
layer = CRFRNN(L, theta_alpha=40.0, theta_beta=13.0, theta_gamma=3.0, spatial_weight=3.0, bilateral_weight=10.0)
target = torch.from_numpy(scene.scribbles[::2, ::2].copy())[None]
optimiser = torch.optim.Adam(layer.parameters(), lr=0.02)
losses = []
for step in range(10):
    loss = torch.nn.functional.cross_entropy(layer(logits, guide), target, ignore_index=-1)
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()
    losses.append(float(loss))
print("loss by step:", [f"{loss:.3f}" for loss in losses])
assert losses[-1] < losses[0]

# %% tags=["figure"]
with torch.no_grad():
    after = layer(logits, guide)[0].argmax(0).numpy()
tiles({"pydensecrf's parameters": seen(Q.argmax(0)), "after ten steps": seen(after)}, height=160)

# %% [markdown]
# Ten steps on one image show that the parameters change, but do not give a better CRF: the sky over the lake
# is worse. For real training, see [train on your own folder](own_folder.md).
#
# For a list of the calls, defaults and errors that agree, and those that do not, see
# [in place of pydensecrf](../pydensecrf.md).
