# SPDX-License-Identifier: MIT
# %% [markdown]
# # Limits and failures
#
# A dense CRF makes one assumption: nearby pixels of similar colour should have the same label. Where the
# assumption fails, so does the CRF. Each failure here is constructed on purpose and small enough to see the
# cause.

# %% tags=["figure"]
import warnings

import numpy as np
import torch

from crfrnn import CRFRNN, GaussianKernel
from crfrnn.plots import tiles

rng = np.random.default_rng(0)
yy, xx = np.mgrid[:60, :80]


def guide_of(image):
    return torch.from_numpy(image.copy()).permute(2, 0, 1)[None]


@torch.no_grad()
def refined(unary, image, **numbers):
    crf = CRFRNN(2, **{"theta_alpha": 15.0, "theta_beta": 15.0, "theta_gamma": 1.5, "spatial_weight": 1.0, "bilateral_weight": 5.0, **numbers})
    return crf(torch.from_numpy(unary)[None].float(), guide_of(image))[0].argmax(0).numpy()


def scores(truth, noise=1.0):
    return np.stack([1.0 - truth, truth]) * 1.5 + rng.normal(0, noise, (2, *truth.shape))


def painted(truth, colours, noise=6):
    return (np.array(colours)[truth] + rng.normal(0, noise, (*truth.shape, 3))).clip(0, 255).astype("uint8")


def row(image, unary, after, truth):
    return tiles({"picture": image, "scores alone": unary.argmax(0), "with the CRF": after, "truth": truth}, height=120)


# %% [markdown]
# ## Two objects of one colour
#
# The right half of the disk has the colour of the background. Nothing in the image shows its border, so the
# CRF labels that half as background.

# %% tags=["figure"]
truth = ((xx - 40) ** 2 + (yy - 30) ** 2 < 20**2).astype(int)
image = painted(np.where((truth == 1) & (xx < 40), 1, 0), [[110, 120, 100], [190, 90, 70]])
unary = scores(truth, noise=2.5)
row(image, unary, refined(unary, image), truth)

# %% [markdown]
# ## Thin structures
#
# A line two pixels wide has few pixels of its own colour within range, and the spatial kernel outweighs them.
# Here its colour is close to that of the background. A smaller spatial weight helps, but leaves specks
# elsewhere.

# %% tags=["figure"]
truth = ((np.abs(yy - 0.4 * xx - 12) < 1.2) | ((xx - 60) ** 2 + (yy - 15) ** 2 < 100)).astype(int)
image = painted(truth, [[120, 120, 120], [150, 130, 110]], noise=12)
unary = scores(truth)
row(image, unary, refined(unary, image, spatial_weight=4.0), truth)

# %% [markdown]
# ## Confident errors
#
# The CRF only moves borders. If the network misclassifies a whole region, the region stays misclassified,
# with sharper borders.

# %% tags=["figure"]
truth = ((xx - 25) ** 2 + (yy - 30) ** 2 < 15**2).astype(int)
other = ((xx - 60) ** 2 + (yy - 30) ** 2 < 12**2).astype(int)
image = painted(truth + 2 * other, [[90, 120, 90], [200, 90, 60], [70, 90, 190]])
unary = scores(truth + other, noise=1.5)
row(image, unary, refined(unary, image), truth)

# %% [markdown]
# ## A guide in the wrong unit
#
# $\theta_\beta$ is in units of the 0..255 intensity scale. In a guide scaled to 0..1, no edge is large enough
# to count, so labels are only smoothed. The layer issues a warning.

# %%
truth = ((xx - 40) ** 2 + (yy - 30) ** 2 < 20**2).astype(int)
image = painted(truth, [[90, 120, 90], [200, 90, 60]])
unary = scores(truth, noise=2.0)
crf = CRFRNN(2, theta_alpha=15.0, theta_beta=15.0, theta_gamma=1.5, spatial_weight=1.0, bilateral_weight=5.0)
with warnings.catch_warnings(record=True) as said, torch.no_grad():
    warnings.simplefilter("always")
    wrong = crf(torch.from_numpy(unary)[None].float(), guide_of(image).float() / 255)[0].argmax(0).numpy()
print(said[0].message)

# %% tags=["figure"]
tiles({"picture": image, "guide 0..1": wrong, "guide 0..255": refined(unary, image), "truth": truth}, height=120)

# %% [markdown]
# ## Noise that looks like edges
#
# If the camera noise exceeds $\theta_\beta$, no pixel resembles its neighbours, and nothing is refined. Use a
# larger $\theta_\beta$ or a denoised guide.

# %% tags=["figure"]
image = painted(truth, [[90, 120, 90], [200, 90, 60]], noise=40)
tiles(
    {
        "picture": image,
        "scores alone": unary.argmax(0),
        "theta_beta = 5": refined(unary, image, theta_beta=5.0, spatial_weight=0.0),
        "theta_beta = 50": refined(unary, image, theta_beta=50.0, spatial_weight=0.0),
    },
    height=120,
)

# %% [markdown]
# ## Too many channels
#
# In many dimensions nearly every point is isolated, and the lattice averages it with almost nothing but
# itself: the number of vertices per point approaches the number of vertices of a simplex.
# `guide_components=3` uses principal components instead.

# %%
for channels in (1, 3, 5, 8):
    features = torch.rand(1, 4000, channels, generator=torch.Generator().manual_seed(0)) * 8
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        kernel = GaussianKernel(features)
    print(f"{channels} channels: {kernel.operator.num_vertices / 4000:5.2f} vertices per point, error {kernel.error(rows=64):.2f}")

# %% [markdown]
# ## What else is known
#
# - **Never run on a GPU.** The Triton kernels are checked in the interpreter and compiled for sm_90
#   ([state](../gpu.md)).
# - **Never run on macOS**; on Windows only the native core has run, and on 64-bit ARM only under emulation
#   ([comparison](../comparison.md)).
# - **The packaged checkpoint is small**: 69.3 mean IU on the person subset of VOC 2012, and it only predicts
#   the 21 VOC labels. It is weak on sofas and chairs ([pictures](../networks.md#the-network-of-the-package)).
# - **The gain in mean IU of learned parameters over pydensecrf2 is not significant** on the images measured;
#   the gain in trimap IU is ([accuracy](../results.md)).
# - **Learning the compatibility needs many images**: with a few hundred, keep it fixed to the Potts model
#   ([experiments](../experiments.md)).
# - **More than 1024 labels** use the general path instead of the native operator.
# - **Mean field finds a local optimum**, and its marginals are overconfident: calibrate with a temperature
#   before you use them as probabilities.
