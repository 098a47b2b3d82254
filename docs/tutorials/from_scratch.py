# SPDX-License-Identifier: MIT

# %% [markdown]
# # A dense CRF from scratch
#
# An image of 12 × 12 pixels is small enough to write out every sum. We build the paper's model in plain
# numpy, run its inference, and check that `crfrnn` computes the same numbers.
#
# ## A picture and a poor classifier
#
# The image shows a light square on a dark background. A classifier has scored each pixel independently with
# two logits, one for each label $l$: 0 for background, 1 for square. It is often wrong.

# %%
import numpy as np

rng = np.random.default_rng(1)
truth = np.zeros((12, 12), int)
truth[3:9, 4:10] = 1
colours = np.array([[50, 60, 80], [200, 180, 120]])
image = (colours[truth] + rng.normal(0, 8, (12, 12, 3))).clip(0, 255).astype("uint8")
U = np.stack([-0.8 * truth, 0.8 * truth - 0.8], -1) + rng.normal(0, 0.9, (12, 12, 2))
U = U.reshape(144, 2)  # 144 pixels in rows, labels in columns
print("wrong pixels:", int((U.argmax(1) != truth.ravel()).sum()), "of 144")

# %% tags=["figure"]
from crfrnn.plots import tiles

tiles({"picture I": image, "truth": truth, "argmax of U": U.argmax(1).reshape(12, 12)})

# %% [markdown]
# ## The model
#
# Each labelling $x$ has an energy; lower is better:
#
# $$E(x) = \sum_i \psi_u(x_i) + \sum_{i<j} \psi_p(x_i, x_j), \qquad \psi_p(x_i, x_j) = \mu(x_i, x_j) \sum_m w^{(m)} k^{(m)}(f_i, f_j)$$
#
# The first sum is the unary term, given by the classifier: $\psi_u(x_i = l) = -U_i(l)$. The second connects
# **every** pair of pixels. Two kernels measure how similar two pixels are, from their positions $p$ and
# colours $I$:
#
# $$k^{(1)} = \exp\left(-\frac{|p_i - p_j|^2}{2\theta_\gamma^2}\right), \qquad k^{(2)} = \exp\left(-\frac{|p_i - p_j|^2}{2\theta_\alpha^2} - \frac{|I_i - I_j|^2}{2\theta_\beta^2}\right)$$
#
# The label compatibility $\mu$ is the penalty for a pair of labels. The Potts model, with $\mu = -1$ on the
# diagonal and 0 elsewhere, rewards equal labels.
#
# With 144 pixels, each kernel is a 144 × 144 matrix.

# %%
y, x = np.divmod(np.arange(144), 12)
p = np.stack([x, y], 1).astype(float)
I = image.reshape(144, 3).astype(float)


def squared(f):
    return ((f[:, None] - f[None]) ** 2).sum(-1)


theta_alpha, theta_beta, theta_gamma = 5.0, 30.0, 1.0
k = [
    np.exp(-squared(p) / (2 * theta_gamma**2)),
    np.exp(-squared(p) / (2 * theta_alpha**2) - squared(I) / (2 * theta_beta**2)),
]
w = [1.0, 3.0]
mu = -np.eye(2)

# %% [markdown]
# Row $i$ of a kernel holds the weights of all pixels in the message to pixel $i$. Below is the row of the
# pixel at x = 5, y = 4, inside the square. The first kernel weights its neighbours; the second weights the
# whole square, up to its border.

# %% tags=["figure"]
i = 4 * 12 + 5
tiles({"spatial kernel": k[0][i].reshape(12, 12), "bilateral kernel": k[1][i].reshape(12, 12)})

# %% [markdown]
# ## Mean field
#
# In general, the best labelling of such a model cannot be found exactly: there are $2^{144}$ labellings. Mean
# field looks for a fully factorised distribution $Q(x) = \prod_i Q_i(x_i)$ close to
# $P(x) \propto \exp(-E(x))$ by repeating five steps. They are the lines of Algorithm 1 in the paper, and each
# is one line of numpy. (The second line divides by the sum of the weights, as the paper's own code does, so
# that pixels at the image border receive as much as others.)

# %%
def softmax(z):
    e = np.exp(z - z.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def iteration(Q):
    Q_tilde = [k_m @ Q for k_m in k]  # message passing
    Q_tilde = [q / k_m.sum(1, keepdims=True) for q, k_m in zip(Q_tilde, k)]
    Q_check = sum(w_m * q for w_m, q in zip(w, Q_tilde))  # weighting filter outputs
    Q_hat = Q_check @ mu.T  # compatibility transform
    Q_breve = U - Q_hat  # adding the unary
    return softmax(Q_breve)  # normalising


Q = softmax(U)  # initial marginals
history = [Q]
for t in range(5):
    Q = iteration(Q)
    history.append(Q)
wrong = [int((q.argmax(1) != truth.ravel()).sum()) for q in history]
print("wrong pixels after 0, 1, 2, … iterations:", wrong)

# %% tags=["figure"]
tiles({f"Q(square), T = {t}": history[t][:, 1].reshape(12, 12) for t in (0, 1, 2, 5)}, height=180)

# %% [markdown]
# The pixels of the square exchange messages, and the many correct pixels outweigh the few wrong ones. Nothing
# was trained.
#
# ## The same with crfrnn
#
# `GaussianKernel` is the matrix and `mean_field` is the loop. With `method="exact"` the results differ only
# by rounding.

# %%
import torch

import crfrnn

guide = torch.from_numpy(image).permute(2, 0, 1)[None].float()
unary = torch.from_numpy(U.T.reshape(1, 2, 12, 12)).float()
kernels = [
    crfrnn.GaussianKernel.spatial((12, 12), theta_gamma),
    crfrnn.GaussianKernel.bilateral(guide, theta_alpha, theta_beta, method="exact"),
]
logits = crfrnn.mean_field(unary, kernels, w, torch.from_numpy(mu).float(), iterations=5)
ours = logits.softmax(1)[0].permute(1, 2, 0).reshape(144, 2).numpy()
print("largest difference of a probability:", f"{np.abs(ours - Q).max():.1e}")
assert np.abs(ours - Q).max() < 1e-4

# %% [markdown]
# ## Why a library
#
# The matrix has $N^2$ entries. A 500 × 500 photograph would need 62.5 billion per kernel, and half a minute
# per iteration and label on a fast machine. The next page shows how a [lattice](lattice.md) computes the same
# sum in time linear in $N$, and [the one after](mean_field_rnn.md) shows what follows from all of this being
# differentiable.
