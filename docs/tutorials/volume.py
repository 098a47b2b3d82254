# SPDX-License-Identifier: MIT
# %% [markdown]
# # A volume
#
# This page uses the same layer in three dimensions, with lengths in millimetres. A phantom replaces a scan: a
# ball in a box, with slices twice as thick as the pixels are wide, and a classifier that is unbiased but
# noisy.

# %%
import numpy as np

rng = np.random.default_rng(0)
spacing = (1.0, 1.0, 2.0)  # mm along the axes of the array, x, y, z
x, y, z = np.meshgrid(*(np.arange(n) * s for n, s in zip((48, 48, 20), spacing)), indexing="ij")
truth = np.zeros(x.shape, int)
truth[np.maximum(abs(x - 24), abs(y - 24)) < 19] = 1
truth[(x - 24) ** 2 + (y - 22) ** 2 + (z - 20) ** 2 < 14**2] = 2
scan = np.array([30.0, 95.0, 150.0])[truth] + rng.normal(0, 24, truth.shape)
logits = 1.5 * np.eye(3)[truth].transpose(3, 0, 1, 2) + rng.normal(0, 1.3, (3, *truth.shape))
probabilities = np.exp(logits) / np.exp(logits).sum(0)

# %% [markdown]
# ## Refine
#
# Scanner intensities have no common scale, so each channel is rescaled to 0..255 between two percentiles.
# $\theta_\alpha$ and $\theta_\gamma$ are in millimetres, whatever the voxel size.

# %%
from crfrnn.inference import refine_volume

found = refine_volume(
    scan.astype("float32"), probabilities.astype("float32"), spacing, theta_alpha=6.0, theta_beta=25.0, theta_gamma=1.5
)


def dice(labels, label):
    a, b = labels == label, truth == label
    return 2 * (a & b).sum() / (a.sum() + b.sum())


for label, name in enumerate(("outside", "box", "ball")):
    print(f"{name:8s} Dice {dice(found.before, label):.3f} -> {dice(found.labels, label):.3f}")
assert dice(found.labels, 2) > dice(found.before, 2)

# %% tags=["figure"]
from crfrnn.plots import tiles

middle = 10
tiles(
    {
        "scan, one slice": (scan[:, :, middle] / 200).T,
        "scores alone": found.before[:, :, middle].T.astype(int),
        "refined": found.labels[:, :, middle].T.astype(int),
        "truth": truth[:, :, middle].T,
    },
    height=170,
)

# %% [markdown]
# If each slice were refined on its own, it would receive no messages from its neighbours. The cross-section
# along $z$ shows that here the slices are consistent:

# %% tags=["figure"]
tiles(
    {
        "scores alone, x-z": found.before[:, 24].T.astype(int).repeat(2, 0),
        "refined, x-z": found.labels[:, 24].T.astype(int).repeat(2, 0),
        "truth, x-z": truth[:, 24].T.repeat(2, 0),
    },
    height=150,
)

# %% [markdown]
# ## NIfTI
#
# Files keep their affine; inputs on a different grid from the guide are rejected.

# %%
import nibabel

from crfrnn.io import read_nifti, write_nifti

affine = np.diag([*spacing, 1.0])
nibabel.save(nibabel.Nifti1Image(scan.astype("float32"), affine), "scan.nii.gz")
guide = read_nifti("scan.nii.gz")
write_nifti("labels.nii.gz", found.labels.astype("uint8"), guide, intent="label")
again = nibabel.load("labels.nii.gz")
print("labels.nii.gz:", again.shape, again.get_data_dtype(), "spacing", tuple(map(float, again.header.get_zooms())))

# %% [markdown]
# On the command line, with nnU-Net scores in one or several NIfTI files:
# `crfrnn volume scan.nii.gz -u scores.nii.gz -o labels.nii.gz` ([volumes](../volumes.md)). A video is a
# volume too, with axes t, y, x. Nothing here is a medical device.
