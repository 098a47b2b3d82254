# SPDX-License-Identifier: MIT
# %% [markdown]
# # The lattice in pictures
#
# Message passing computes, for every pixel, a sum over all pixels:
# $\tilde Q_i = \sum_j \exp(-\frac{1}{2}|f_i - f_j|^2)\, Q_j$, with features $f$ in units of the bandwidths.
# The permutohedral lattice of Adams, Baek and Davis (2010) does it in three steps whose cost is linear in
# $N$:
#
# 1. **splat**: every point distributes its value over the vertices of its enclosing cell;
# 2. **blur**: each vertex mixes its value with those of its neighbours;
# 3. **slice**: every point interpolates its result from the same vertices.
#
# ## One dimension: twelve lines
#
# With one feature the cells are intervals. Vertices are $\sqrt{3}/2$ bandwidths apart, and the blur runs
# along two axes, which coincide in one dimension.

# %%
import numpy as np

STEP = np.sqrt(3) / 2


def lattice_filter(f, v):
    place = f / STEP
    cell = np.floor(place).astype(int)
    share = place - cell
    cell -= cell.min()
    corners = np.zeros(cell.max() + 2)
    np.add.at(corners, cell, (1 - share) * v)  # splat
    np.add.at(corners, cell + 1, share * v)
    for axis in range(2):  # blur
        corners = np.convolve(corners, [0.5, 1, 0.5], "same")
    return ((1 - share) * corners[cell] + share * corners[cell + 1]) / 1.5  # slice


rng = np.random.default_rng(0)
f = np.sort(rng.uniform(0, 12, 400))
v = (f > 5).astype(float)
v[100] = 20.0  # a single large value
K = np.exp(-0.5 * (f[:, None] - f) ** 2)
exact, ours = K @ v, lattice_filter(f, v)

# %% [markdown]
# Why $\sqrt{3}/2$? Splat and slice interpolate linearly, and each adds a variance of 1/6 of a squared step;
# each blur adds 1/2. The total is $2 \cdot \frac{1}{6} + 2 \cdot \frac{1}{2} = \frac{4}{3}$ squared steps,
# and $\frac{4}{3} (\sqrt{3}/2)^2 = 1$: the variance of the Gaussian. `crfrnn` computes the same numbers in
# compiled code.

# %%
import torch

import crfrnn

lattice = crfrnn.Lattice.build(torch.from_numpy(f)[None, :, None])
compiled = lattice.filter(torch.from_numpy(v)[None, :, None])[0, :, 0].numpy()
print("vertices:", lattice.num_vertices, "for", len(f), "points")
print("largest difference from the twelve lines:", f"{np.abs(compiled - ours).max():.1e}")
assert np.abs(compiled - ours).max() < 1e-9

# %% tags=["figure"]
from crfrnn.plots import curves

averages = {"exact": exact / K.sum(1), "lattice": ours / lattice_filter(f, np.ones(400))}
curves({"value": v.clip(0, 1.6), **averages}, "point, in the order of f", "weighted average")

# %% [markdown]
# Here the lattice's sums are about 8 % smaller than the exact ones, because its amplitude differs. A CRF
# divides by the filter's response to all ones, so that every pixel receives a weighted average; this cancels
# the factor. The averages agree up to interpolation error.
#
# ## Two dimensions: triangles
#
# With two features the cells are triangles; with $d$ features they are simplices with $d + 1$ vertices. A
# regular grid would have $2^d$ per cell, which is why this lattice is used. The figure shows the enclosing
# triangle of each point in the plane, and the weight of its first vertex.

# %% tags=["figure"]
from crfrnn.lattice import reference
from crfrnn.plots import tiles

y, x = np.mgrid[:180, :180] / 36
plane = torch.from_numpy(np.stack([x, y], -1).reshape(1, -1, 2))
elevated = reference.elevate(plane)
base, rank = reference.enclosing_simplex(elevated)
_, triangle = torch.unique(torch.cat([base, rank], -1)[0], dim=0, return_inverse=True)
weight = reference.barycentric(elevated, base, rank)[0, :, 0]
tiles(
    {
        "triangles, 5 by 5 bandwidths": (1 + triangle % 7).reshape(180, 180).numpy(),
        "weight of the first vertex": weight.reshape(180, 180).numpy(),
    }
)

# %% [markdown]
# The impulse response of a single point, for the exact Gaussian and for the lattice. The lattice's response
# depends on the position of the point within its triangle; over many points this averages out.

# %% tags=["figure"]
from crfrnn.plots import exact_footprint, footprint

spatial = crfrnn.GaussianKernel.spatial((81, 81), 9.0, method="lattice")
bumps = {"exact": exact_footprint(spatial, (81, 81), (40, 40))}
for place in ((40, 40), (43, 40), (37, 43)):
    bumps[f"lattice, at {place}"] = footprint(spatial, (81, 81), place)
top = max(bump.max() for bump in bumps.values())
tiles({name: bump / top for name, bump in bumps.items()}, height=160)

# %% [markdown]
# ## Five dimensions: a photograph
#
# The bilateral kernel's features are position and colour, $f_i = (p_i / \theta_\alpha, I_i / \theta_\beta)$:
# a photograph is a surface in five dimensions. Its lattice has few vertices where the image is smooth, and
# many where it is textured.

# %%
from skimage import data

image = data.chelsea()[:240, 60:380]
guide = torch.from_numpy(image.copy()).permute(2, 0, 1)[None].float()
for theta_beta in (3.0, 6.0, 13.0, 40.0):
    kernel = crfrnn.GaussianKernel.bilateral(guide, 80.0, theta_beta)
    print(
        f"theta_beta {theta_beta:4.0f}: {kernel.operator.num_vertices:6d} vertices for {image.shape[0] * image.shape[1]} pixels,"
        f" measured error {kernel.error(rows=64):.3f}"
    )

# %% [markdown]
# To measure the error against the exact sum on your own image, use `kernel.error()` or
# `crfrnn accuracy photo.jpg`. `quality="high"` blurs along three axes at once, so that a missing vertex does
# not interrupt a path, and `"finest"` adds vertices. Both also rescale the weights. They are more accurate
# and slower:

# %%
for quality in ("classic", "default", "high", "finest"):
    kernel = crfrnn.GaussianKernel.bilateral(guide, 80.0, 13.0, quality=quality)
    print(f"{quality:8s} {kernel.operator.num_vertices:6d} vertices, error {kernel.error(rows=64):.3f}")

# %% [markdown]
# Which pixels contribute to a given pixel? The kernel row of one pixel in the fur, exact and by the lattice:

# %% tags=["figure"]
from crfrnn.plots import kernel_footprints

kernel = crfrnn.GaussianKernel.bilateral(guide, 40.0, 13.0)
size, pixel = image.shape[:2], (160, 70)
kernel_footprints(
    image,
    {"exact sum": exact_footprint(kernel, size, pixel), "lattice": footprint(kernel, size, pixel)},
    pixel,
)

# %% [markdown]
# ## Built once
#
# Finding simplices and numbering vertices takes longer than filtering with them. A `Lattice` is therefore an
# object that is built once per image and reused for every iteration and label, the normaliser and the
# backward pass. The backward pass needs the adjoint, which is the same three steps with the blur axes in
# reverse order: `lattice.filter(v, reverse=True)`.

# %%
a, b = torch.rand(1, 400, 1).double(), torch.rand(1, 400, 1).double()
left, right = (lattice.filter(a) * b).sum(), (a * lattice.filter(b, reverse=True)).sum()
print(f"<K a, b> = {left:.6f}, <a, Kᵀ b> = {right:.6f}")

# %% [markdown]
# For its speed and what limits it, see [engine](../engine.md). Next:
# [mean field as a recurrent network](mean_field_rnn.md).
