# SPDX-License-Identifier: MIT
# %% [markdown]
# # Weak labels
#
# Masks are expensive; scribbles and image-level labels are cheap. The CRF can use them in three ways: to
# extend strokes to a mask, to make pseudo-labels from activation maps, and as a loss that needs no mask.
#
# ## From strokes to a mask
#
# Strokes on a photograph (chelsea.png of scikit-image, CC0): 1 on the cat, 0 on the background. A colour
# model is fitted to the strokes of each label, and the CRF finds the borders. Pixels under a stroke keep its
# label.

# %%
import numpy as np
import torch
from skimage import data

from crfrnn.inference.interact import segment_box, segment_scribbles
from crfrnn.plots import overlay, safe_palette, tiles

image = data.chelsea()[::2, ::2].copy()
strokes = np.full(image.shape[:2], -1)
strokes[62:65, 30:165] = strokes[75:120, 98:101] = strokes[100:103, 20:70] = 1
strokes[20:23, 60:120] = strokes[130:133, 60:120] = 1
strokes[50:120, 200:203] = strokes[8:11, 150:215] = strokes[130:142, 180:215] = strokes[4:40, 6:9] = 0
found = segment_scribbles(image, strokes)
held = strokes >= 0
print(f"{100 * held.mean():.1f} % of the pixels are stroked; all keep their label:", bool((found.labels[held] == strokes[held]).all()))

# %% tags=["figure"]
def seen(labels):
    return overlay(image, labels, safe_palette())


drawn = image.copy()
drawn[held] = safe_palette()[strokes[held] + 1]
tiles(
    {"strokes": drawn, "by colour alone": seen(found.before), "with the CRF": seen(found.labels)},
    height=170,
)

# %% [markdown]
# `segment_seeds` takes points, and `segment_box` takes a rectangle around the object
# ([all options](../interaction.md)). They cannot separate regions of the same colour.
#
# ## From activation maps to pseudo-labels
#
# A classifier's activation maps locate each class roughly. The usual recipes (IRN, AffinityNet, SEAM and
# others) turn them into unaries, run a CRF, and set uncertain pixels to 255. Here is a map such as a
# classifier might return, blurred around the head:

# %%
from crfrnn.inference.pseudo import refine_labels
from crfrnn.io import Cams

yy, xx = np.mgrid[: image.shape[0], : image.shape[1]]
cam = np.exp(-((((xx - 95) / 85) ** 2 + ((yy - 75) / 70) ** 2) ** 2)).astype("float32")
maps = Cams(torch.from_numpy(cam)[None], np.array([8]))  # label 8 is VOC's cat
(labels,) = refine_labels([image], [maps], "irn")
shares = {name: f"{100 * float((labels == value).mean()):.0f} %" for name, value in (("cat", 8), ("background", 0), ("unsure", 255))}
print(shares)

# %% tags=["figure"]
colours = safe_palette()
colours[255] = 128
tiles(
    {"photograph": image, "activation map": cam, "pseudo-label, grey: 255": colours[labels]},
    height=170,
)

# %% [markdown]
# For folders: `crfrnn pseudo-labels JPEGImages/ --maps cams/ --recipe irn -o labels/`, in several processes,
# resumable ([weak supervision](../weak-supervision.md)).
#
# ## A loss without masks
#
# The dense-CRF loss encourages similar pixels to have similar probabilities, as the CRF does for labels. With
# $S = \mathrm{softmax}$ of the logits,
#
# $$R(S) = \sum_l S_l^T \, K \, (1 - S_l)$$
#
# Cross-entropy on the strokes plus this term on all pixels is a training objective. To see its effect,
# optimise the logits directly by gradient descent:

# %%
from torch.nn.functional import cross_entropy

from crfrnn import GaussianKernel, dense_crf_loss

small, marks = image[::2, ::2].copy(), strokes[::2, ::2]
guide = torch.from_numpy(small).permute(2, 0, 1)[None].float()
kernel = GaussianKernel.bilateral(guide, 15.0, 15.0, normalization="none")
known = torch.from_numpy(np.where(marks < 0, 255, marks))[None]
logits = torch.zeros(1, 2, *small.shape[:2], requires_grad=True)
optimiser = torch.optim.Adam([logits], lr=0.3)
states = {}
for step in range(61):
    loss = cross_entropy(logits, known, ignore_index=255) + 5e-7 * dense_crf_loss(logits, [kernel], [1.0])
    if step in (0, 10, 60):
        states[f"P(cat), step {step}"] = logits.detach().softmax(1)[0, 1].numpy()
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()
print("stroked pixels right:", float((logits.argmax(1) == known)[known < 255].float().mean()))

# %% tags=["figure"]
tiles(states, height=170)

# %% [markdown]
# In training, a network computes the logits, and what it learns from strokes on many images generalises to
# images without strokes. Code that imports `bilateralfilter` (rloss and its descendants) runs unchanged with
# `crfrnn.compat.bilateralfilter.install()`.
