# SPDX-License-Identifier: MIT
# %% [markdown]
# # Choose the thetas
#
# Five numbers decide what the CRF does. This page shows what each of them does to one photograph, and ends with how to choose them for yours.
#
# $$k^{(1)} = \exp\left(-\frac{|p_i - p_j|^2}{2\theta_\gamma^2}\right), \qquad k^{(2)} = \exp\left(-\frac{|p_i - p_j|^2}{2\theta_\alpha^2} - \frac{|I_i - I_j|^2}{2\theta_\beta^2}\right)$$
#
# | | unit | question that it answers |
# |---|---|---|
# | $\theta_\alpha$ | pixels | from how far away do pixels of the same colour count? |
# | $\theta_\beta$ | steps of 0..255 | how different may their colours be? |
# | $\theta_\gamma$ | pixels | how far does plain smoothing reach? |
# | $w^{(2)}$, bilateral | | how much do pixels of like colour count against the unary? |
# | $w^{(1)}$, spatial | | how much do mere neighbours count? |
#
# The picture is scikit-learn's china.jpg (CC BY 2.0) at half size, with unaries guessed from a few scribbles' colours and made worse by noise.

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
    {"photograph": image, "unary alone": seen(unary.argmax(0).numpy()), "with the numbers above": seen(labels())},
    height=150,
)

# %% [markdown]
# ## $\theta_\beta$: colour
#
# The first to set. Too small, and the noise of the camera is an edge: every pixel is alone, and nothing is refined. Too large, and edges
# between objects are none: labels run over. Look for the largest number at which the borders still hold.

# %% tags=["figure"]
changes("theta_beta", (2, 8, 20, 80))

# %% [markdown]
# ## $\theta_\alpha$: reach
#
# Small: only what is near helps, and wrong islands larger than $\theta_\alpha$ stay. Large: like colours agree through the whole picture. At 150
# the pagoda's dark walls receive from so many dark trees that they take their label. It scales with the picture: at twice the size, twice
# the number.

# %% tags=["figure"]
changes("theta_alpha", (3, 10, 30, 150))

# %% [markdown]
# ## $\theta_\gamma$: smoothing
#
# The kernel without colours removes specks. At 0.5 it reaches no neighbour with a weight worth the name, and specks stay. How far it reaches beyond that matters
# little while its weight is small; with a large one it rounds corners and swallows thin things (the last row of this page's pictures).

# %% tags=["figure"]
changes("theta_gamma", (0.5, 2, 5, 15))

# %% [markdown]
# ## The weights
#
# Against unaries in logits: a weight of 6 means that if all that a pixel receives is of one label, this label gains 6 over the others.
# 0 is the unary alone (beside the other kernel); too much, and small labels vanish.

# %% tags=["figure"]
changes("bilateral_weight", (0, 2, 6, 30))

# %% tags=["figure"]
changes("spatial_weight", (0, 2, 8, 30))

# %% [markdown]
# ## Iterations
#
# Each iteration sends messages from the labels that the one before has changed. Five for training, five to ten otherwise.

# %%
crf = CRFRNN(len(scene.names), **START)
with torch.no_grad():
    by_iteration = [crf(unary[None], guide, iterations=T)[0].argmax(0).numpy() for T in range(11)]
shares = [100 * float((a != b).mean()) for a, b in zip(by_iteration, by_iteration[1:], strict=False)]
print("labels changed by iteration, %:", [f"{share:.2f}" for share in shares])

# %% [markdown]
# ## How to choose
#
# 1. **Take a start.** `CRFRNN(L)` has numbers cross-validated on photographs at native size (θ 34 / 5.6 / 1, weights 3.2 and 1.2, for
#    unaries of a good network); `preset="crfasrnn"` has those of the released model.
# 2. **Mind the units.** $\theta_\alpha$ and $\theta_\gamma$ in pixels of *this* picture, $\theta_\beta$ in 0..255. Most bad results are a
#    guide in 0..1 ([what the input must be](../inputs.md)).
# 3. **Look.** `crfrnn explain photo.jpg …` draws what one pixel receives and what changes by iteration; `crfrnn app`, where installed, has sliders.
# 4. **Measure, if you have masks.** `crfrnn tune` searches all five by cross-validation, `crfrnn fit` learns them, per label, by
#    back-propagation ([commands](../commands.md#fit-and-tune)). A few dozen pictures are a start; judge on others.
#
# ```
# crfrnn tune data/ --labels 4 --unaries logits/ --layout lhw -o tuned.safetensors
# crfrnn refine photos/ --unary logits/ --kind logits --layout lhw --params tuned.safetensors -o refined/
# ```
