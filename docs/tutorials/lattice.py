# SPDX-License-Identifier: MIT
# %% [markdown]
# # The lattice in pictures
#
# Message passing is a sum over all pixels for every pixel, $\tilde Q_i = \sum_j \exp(-\frac{1}{2}|f_i - f_j|^2)\, Q_j$, with features $f$ in units
# of the bandwidths. The permutohedral lattice of Adams, Baek and Davis (2010) does it in three steps whose cost grows with $N$ alone:
#
# 1. **splat**: every point hands its value to the corners of the cell that it lies in;
# 2. **blur**: the corners exchange values with their neighbours;
# 3. **slice**: every point reads its own corners back.
#
# ## One dimension: twelve lines
#
# With one feature the cells are intervals. Corners are $\sqrt{3}/2$ bandwidths apart, and the blur runs along two axes, which in one dimension are
# the same line.

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
# Why $\sqrt{3}/2$: splat and slice each spread a value by linear interpolation, a variance of 1/6 of a squared step, and each
# blur adds 1/2. Together $2 \cdot \frac{1}{6} + 2 \cdot \frac{1}{2} = \frac{4}{3}$ squared steps, and $\frac{4}{3} (\sqrt{3}/2)^2 = 1$: the variance of the Gaussian. `crfrnn` computes the
# very same numbers, in compiled code.

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
# The lattice's sums are some 8 % smaller than the exact ones here: its amplitude is its own. A CRF divides by the filter's answer to ones, so that
# every pixel receives a weighted average, and this factor is gone. The averages agree up to the small steps of the interpolation.
#
# ## Two dimensions: triangles
#
# With two features the cells are triangles, with $d$ features simplices of $d + 1$ corners: fewer than the $2^d$ of a grid, which is
# the point of this lattice. The picture shows which triangle each place of the plane lies in, and how much its first corner counts.

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
        "share of the first corner": weight.reshape(180, 180).numpy(),
    }
)

# %% [markdown]
# What a single point sends, by the exact Gaussian and by the lattice. The lattice's bump depends on where in its
# triangle the point lies; over many points this averages out.

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
# The bilateral kernel's features are place and colour, $f_i = (p_i / \theta_\alpha, I_i / \theta_\beta)$: a photograph is a surface in five dimensions. Its
# lattice has few vertices where the picture is smooth, and many where it is busy.

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
# The error is measured on your own picture against the exact sum: `kernel.error()`, or `crfrnn accuracy photo.jpg`. `quality="high"` blurs
# three axes at once, so that a missing vertex does not end a path, and `"finest"` adds vertices; both scale the weights, for fewer errors and
# more time:

# %%
for quality in ("classic", "default", "high", "finest"):
    kernel = crfrnn.GaussianKernel.bilateral(guide, 80.0, 13.0, quality=quality)
    print(f"{quality:8s} {kernel.operator.num_vertices:6d} vertices, error {kernel.error(rows=64):.3f}")

# %% [markdown]
# From where does a pixel receive? The row of the kernel that belongs to one pixel of the fur, exact beside the lattice:

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
# Finding simplices and numbering vertices takes longer than filtering with them. A `Lattice` is therefore a value: built once per picture,
# used for every iteration, label, the normaliser and the backward pass. Its adjoint, which the backward pass needs, is the same three steps with
# the axes of the blur in reverse: `lattice.filter(v, reverse=True)`.

# %%
a, b = torch.rand(1, 400, 1).double(), torch.rand(1, 400, 1).double()
left, right = (lattice.filter(a) * b).sum(), (a * lattice.filter(b, reverse=True)).sum()
print(f"<K a, b> = {left:.6f}, <a, Kᵀ b> = {right:.6f}")

# %% [markdown]
# How fast it is and what bounds it: [engine](../engine.md). Next: [mean field as a recurrent network](mean_field_rnn.md).
