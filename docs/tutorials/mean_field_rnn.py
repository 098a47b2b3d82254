# SPDX-License-Identifier: MIT
# %% [markdown]
# # Mean field as a recurrent network
#
# The paper's idea in one sentence: one mean-field iteration is a stack of differentiable layers, so $T$
# iterations form a recurrent network whose parameters can be learned by back-propagation. In the paper's
# symbols, with $f_\theta$ for one iteration (eqs. 3 to 5):
#
# $$H_1(t) = \mathrm{softmax}(U) \;\; (t = 0), \qquad H_1(t) = H_2(t - 1) \;\; (0 < t \leq T)$$
#
# $$H_2(t) = f_\theta(U, H_1(t), I), \qquad Y(t) = 0 \;\; (0 \leq t < T), \qquad Y(T) = H_2(T)$$
#
# There are two gates: the first supplies the initial marginals in the first step, the second outputs the
# result after the last step. In code this is a loop.

# %%
import numpy as np
import torch
from skimage import data

import crfrnn
from crfrnn.plots import curves, tiles

image = data.chelsea()[30:230:2, 60:380:2]
height, width = image.shape[:2]
guide = torch.from_numpy(image.copy()).permute(2, 0, 1)[None].float()
truth = np.zeros((height, width), int)
yy, xx = np.mgrid[:height, :width]
truth[((xx - 78) / 62) ** 2 + ((yy - 52) / 50) ** 2 < 1] = 1  # a rough "head" as ground truth
rng = np.random.default_rng(0)
noise = rng.normal(0, 1.5, (2, height, width))
U = torch.from_numpy(np.stack([1.0 - truth, truth]) * 1.2 + noise).float()[None]

crf = crfrnn.CRFRNN(2, theta_alpha=20.0, theta_beta=20.0, theta_gamma=2.0, spatial_weight=2.0, bilateral_weight=4.0)
spatial, bilateral = crf.kernels(guide)


def f_theta(H1):
    """One iteration: message passing, weighting, compatibility, unary, softmax."""
    q = H1.flatten(2).mT  # pixels in rows
    messages = (spatial @ q) * crf.spatial_weights + (bilateral @ q) * crf.bilateral_weights
    x = U.flatten(2).mT - messages @ crf.compatibility.T
    return x.softmax(-1).mT.reshape(U.shape)


with torch.no_grad():
    states = [U.softmax(1)]
    for t in range(10):
        states.append(f_theta(states[-1]))
    library = crf(U, guide, iterations=10).softmax(1)
print("largest difference from crf(U, I):", f"{(states[-1] - library).abs().max():.1e}")
assert (states[-1] - library).abs().max() < 1e-4

# %% tags=["figure"]
tiles(
    {
        "picture I": image,
        "unary alone": U[0].argmax(0).numpy(),
        "T = 1": states[1][0].argmax(0).numpy(),
        "T = 5": states[5][0].argmax(0).numpy(),
    },
    height=130,
)

# %% [markdown]
# ## Convergence
#
# The plot shows the mean change of a marginal per iteration. As the paper found, little changes after about
# five iterations; it trains with $T = 5$ and tests with $T = 10$:
# `CRFRNN(..., iterations=5, eval_iterations=10)`.

# %%
changes = [float((b - a).abs().mean()) for a, b in zip(states, states[1:], strict=False)]
print([f"{change:.3f}" for change in changes])

# %% tags=["figure"]
curves({"mean |Q(t) - Q(t-1)|": changes}, "iteration", "change of a marginal")

# %% [markdown]
# ## The gradient of a loss at one pixel
#
# Without a CRF, the loss at one pixel has a gradient only at that pixel's unary. With the CRF, the gradient
# reaches every pixel that sent a message to it. The figures show $|\partial x_i / \partial U_j|$ for one
# pixel $i$ over all $j$, on a square-root scale.

# %%
def reach(T, pixel=(80, 40)):
    u = U.clone().requires_grad_()
    x = crf(u, guide, iterations=T)
    (x[0, 1] - x[0, 0])[pixel[1], pixel[0]].backward()
    return u.grad[0].abs().sum(0).numpy()


gradients = {T: reach(T) for T in (0, 1, 2, 5)}
print({T: int((g > 1e-6).sum()) for T, g in gradients.items()}, "pixels get a gradient above 1e-6")

# %% tags=["figure"]
tiles({f"T = {T}": np.sqrt(g / np.sort(g.ravel())[-20]) for T, g in gradients.items()}, height=130)

# %% [markdown]
# ## Learn the parameters
#
# Kernel weights, compatibility and the bandwidths $\theta$ are parameters of the layer. We start from bad
# values and minimise the loss. (One image is enough to see the effect; for real training, see
# [train on your own folder](own_folder.md).)

# %%
learned = crfrnn.CRFRNN(2, theta_alpha=5.0, theta_beta=5.0, theta_gamma=1.0, spatial_weight=0.2, bilateral_weight=0.2)
target = torch.from_numpy(truth)[None]
optimiser = torch.optim.Adam(learned.parameters(), lr=0.08)
losses = []
for step in range(40):
    loss = torch.nn.functional.cross_entropy(learned(U, guide), target)
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()
    losses.append(float(loss))
with torch.no_grad():
    after = learned(U, guide).argmax(1)[0].numpy()
wrong = [int((labels != truth).sum()) for labels in (U[0].argmax(0).numpy(), after)]
print(f"loss {losses[0]:.3f} -> {losses[-1]:.3f}; wrong pixels {wrong[0]} -> {wrong[1]} of {truth.size}")
print("theta_alpha 5 -> %.1f, theta_beta 5 -> %.1f, theta_gamma 1 -> %.1f" % tuple(
    float(getattr(learned, f"log_theta_{name}").exp()) for name in ("alpha", "beta", "gamma")
))
assert losses[-1] < losses[0] and wrong[1] < wrong[0] / 4

# %% tags=["figure"]
tiles({"target": truth, "unary alone": U[0].argmax(0).numpy(), "after learning": after}, height=130)

# %% [markdown]
# Only $x$ is stored for each of the $T$ iterations; the rest is recomputed in the backward pass. For many
# iterations, `gradient="implicit"` differentiates the fixed point itself, with memory independent of $T$.
#
# Next: [choose the thetas](thetas.md).
