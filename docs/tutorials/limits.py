# SPDX-License-Identifier: MIT
# %% [markdown]
# # Limits and failures
#
# A CRF of this kind has one idea: pixels that are near and of one colour should have one label. Where that is wrong, it is wrong. Each failure here
# is made on purpose, small enough to see why.

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
# The right half of the disk has the colour of the ground. Nothing in the picture shows its border, so the CRF goes by what is left: it gives that half to the ground.

# %% tags=["figure"]
truth = ((xx - 40) ** 2 + (yy - 30) ** 2 < 20**2).astype(int)
image = painted(np.where((truth == 1) & (xx < 40), 1, 0), [[110, 120, 100], [190, 90, 70]])
unary = scores(truth, noise=2.5)
row(image, unary, refined(unary, image), truth)

# %% [markdown]
# ## Thin things
#
# A line two pixels wide has few pixels of its own colour within reach, and the plain smoothing kernel outweighs them. Here its colour is close to the ground's.
# Less spatial weight helps, and costs specks elsewhere.

# %% tags=["figure"]
truth = ((np.abs(yy - 0.4 * xx - 12) < 1.2) | ((xx - 60) ** 2 + (yy - 15) ** 2 < 100)).astype(int)
image = painted(truth, [[120, 120, 120], [150, 130, 110]], noise=12)
unary = scores(truth)
row(image, unary, refined(unary, image, spatial_weight=4.0), truth)

# %% [markdown]
# ## Errors that are sure of themselves
#
# The CRF moves borders, and no more. A whole region that the network takes for something else stays so, with sharper borders.

# %% tags=["figure"]
truth = ((xx - 25) ** 2 + (yy - 30) ** 2 < 15**2).astype(int)
other = ((xx - 60) ** 2 + (yy - 30) ** 2 < 12**2).astype(int)
image = painted(truth + 2 * other, [[90, 120, 90], [200, 90, 60], [70, 90, 190]])
unary = scores(truth + other, noise=1.5)
row(image, unary, refined(unary, image), truth)

# %% [markdown]
# ## A guide in the wrong unit
#
# $\theta_\beta$ is a number of steps of 0..255. A guide in 0..1 has no edge that it could see: labels are only smoothed. There is a warning.

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
# With a camera's noise above $\theta_\beta$ no pixel resembles its neighbour, and nothing is refined. A larger $\theta_\beta$, or a denoised guide, helps.

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
# In many dimensions nearly every point stands alone, and the lattice averages it with little but itself: vertices per point climb towards the
# number of corners. `guide_components=3` compares principal components instead.

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
# - **Never run on a GPU.** The Triton kernels are checked in the interpreter and compiled for sm_90 ([state](../gpu.md)).
# - **Never run on macOS**; on Windows only the native core has, on 64-bit ARM only under emulation ([comparison](../comparison.md)).
# - **The packaged checkpoint is small**: 69.3 mean IU on the person subset of VOC 2012, whose 21 labels are all that it can say. It is weak at sofas and chairs ([pictures](../networks.md#the-network-of-the-package)).
# - **Mean IU of learned parameters over pydensecrf2 is not clear of zero** on the pictures that were measured; trimap IU is ([accuracy](../results.md)).
# - **The compatibility needs pictures**: with a few hundred it is best kept at Potts' ([experiments](../experiments.md)).
# - **Labels beyond 1024** leave the native operator and take the general path.
# - **Mean field finds a local optimum**, and its marginals are too sure of themselves: calibrate with a temperature before you read them as probabilities.
