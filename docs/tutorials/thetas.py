# SPDX-License-Identifier: MIT
# %% [markdown]
# # Choose the thetas
#
# Five parameters control the CRF. This page shows the effect of each on one photograph, and ends with how to
# choose them for your own images.
#
# $$k^{(1)} = \exp\left(-\frac{|p_i - p_j|^2}{2\theta_\gamma^2}\right), \qquad k^{(2)} = \exp\left(-\frac{|p_i - p_j|^2}{2\theta_\alpha^2} - \frac{|I_i - I_j|^2}{2\theta_\beta^2}\right)$$
#
# | | unit | question |
# |---|---|---|
# | $\theta_\alpha$ | pixels | how far apart may pixels of the same colour be to affect each other? |
# | $\theta_\beta$ | steps of 0..255 | how different may their colours be? |
# | $\theta_\gamma$ | pixels | how far does plain smoothing reach? |
# | $w^{(2)}$, bilateral | | how much do pixels of similar colour count relative to the unary? |
# | $w^{(1)}$, spatial | | how much do nearby pixels count, whatever their colour? |
#
# The picture is scikit-learn's china.jpg (CC BY 2.0) at half size, with unaries estimated from the colours of
# a few scribbles, plus noise.

# %%
import numpy as np
import torch

from crfrnn import CRFRNN
from crfrnn.demo.scene import load_scene, unary_from_scribbles
from crfrnn.plots import overlay, safe_palette, tiles

scene = load_scene()
image = scene.image[::2, ::2]
unary = unary_from_scribbles(scene.image, scene.scribbles, len(scene.names))[:, ::2, ::2]
unary = unary / 2 + 1.2 * torch.randn(unary.shape, generator=torch.Generator().manual_seed(0))
guide = torch.from_numpy(image.copy()).permute(2, 0, 1)[None]
START = dict(theta_alpha=30.0, theta_beta=20.0, theta_gamma=2.0, spatial_weight=2.0, bilateral_weight=6.0)


@torch.no_grad()
def labels(**numbers):
    crf = CRFRNN(len(scene.names), iterations=5, **{**START, **numbers})
    return crf(unary[None], guide)[0].argmax(0).numpy()


def seen(found):
    return overlay(image, found, safe_palette())


def changes(name, values):
    found = {f"{name} = {value:g}": seen(labels(**{name: value})) for value in values}
    return tiles(found, height=150)


# %% tags=["figure"]
tiles(
    {"photograph": image, "unary alone": seen(unary.argmax(0).numpy()), "with the parameters above": seen(labels())},
    height=150,
)

# %% [markdown]
# ## $\theta_\beta$: colour
#
# Set this one first. If it is too small, camera noise looks like edges: every pixel is isolated, and nothing
# is refined. If it is too large, edges between objects are ignored, and labels leak across them. Use the
# largest value that still preserves the borders.

# %% tags=["figure"]
changes("theta_beta", (2, 8, 20, 80))

# %% [markdown]
# ## $\theta_\alpha$: reach
#
# If it is small, only nearby pixels help, and wrong regions larger than $\theta_\alpha$ stay. If it is large,
# similar colours get the same label across the whole image. At 150 the pagoda's dark walls receive messages
# from so many dark trees that they take the trees' label. The value scales with the image: at twice the size,
# use twice the value.

# %% tags=["figure"]
changes("theta_alpha", (3, 10, 30, 150))

# %% [markdown]
# ## $\theta_\gamma$: smoothing
#
# The spatial kernel ignores colour and removes specks. At 0.5 the weights of all neighbours are negligible,
# and specks stay. Above that, the range matters little while the kernel's weight is small. With a large
# weight it rounds corners and removes thin structures (the last row of figures on this page).

# %% tags=["figure"]
changes("theta_gamma", (0.5, 2, 5, 15))

# %% [markdown]
# ## The weights
#
# The weights are on the scale of the logits: with a weight of 6, if all messages to a pixel support one
# label, this label gains 6 over the others. A weight of 0 turns the kernel off; if it is too large, small
# regions vanish.

# %% tags=["figure"]
changes("bilateral_weight", (0, 2, 6, 30))

# %% tags=["figure"]
changes("spatial_weight", (0, 2, 8, 30))

# %% [markdown]
# ## Iterations
#
# Each iteration computes messages from the marginals of the previous one. Use five for training, and five to
# ten otherwise.

# %%
crf = CRFRNN(len(scene.names), **START)
with torch.no_grad():
    by_iteration = [crf(unary[None], guide, iterations=T)[0].argmax(0).numpy() for T in range(11)]
shares = [100 * float((a != b).mean()) for a, b in zip(by_iteration, by_iteration[1:], strict=False)]
print("labels changed by iteration, %:", [f"{share:.2f}" for share in shares])

# %% [markdown]
# ## How to choose
#
# 1. **Start from the defaults.** Those of `CRFRNN(L)` were cross-validated on photographs at native
#    size (θ 34 / 5.6 / 1, weights 3.2 and 1.2, for unaries of a good network); `preset="crfasrnn"` has those
#    of the released model.
# 2. **Check the units.** $\theta_\alpha$ and $\theta_\gamma$ are in pixels of *this* image, $\theta_\beta$ is
#    on the 0..255 scale. Most bad results come from a guide in 0..1
#    ([what the input must be](../inputs.md)).
# 3. **Look at the result.** `crfrnn explain photo.jpg …` shows the messages to one pixel and the changes per
#    iteration; `crfrnn app`, if installed, has sliders.
# 4. **Measure, if you have masks.** `crfrnn tune` searches all five by cross-validation, `crfrnn fit` learns
#    them, per label, by back-propagation ([commands](../commands.md#fit-and-tune)). A few dozen images are
#    enough to start; evaluate on different ones.
#
# ```
# crfrnn tune data/ --labels 4 --unaries logits/ --layout lhw -o tuned.safetensors
# crfrnn refine photos/ --unary logits/ --kind logits --layout lhw --params tuned.safetensors -o refined/
# ```
