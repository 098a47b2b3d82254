# SPDX-License-Identifier: MIT
# %% [markdown]
# # Train on your own folder
#
# You have photographs and masks. This page trains a small network, then the network and the CRF together, in
# a plain PyTorch loop. It evaluates both and saves a segmenter that the command line can use. The images are
# synthetic, so that it runs in seconds; replace them with your own folder. `crfrnn train`, described at the
# end, adds recipes, exact resume and a log.
#
# ## The folder
#
# The folder has `images/` and `masks/`, paired by name. A mask is an indexed or grey PNG with the label of
# each pixel, or 255 if unknown ([all forms](../data.md#your-own-pictures)).

# %%
from pathlib import Path

import numpy as np
import torch
from PIL import Image

rng = np.random.default_rng(0)
COLOURS = np.array([[90, 120, 90], [200, 90, 60], [70, 90, 190]])  # background, discs, squares
for folder in ("shapes/images", "shapes/masks"):
    Path(folder).mkdir(parents=True)
y, x = np.mgrid[:64, :80]
for number in range(24):
    mask = np.zeros((64, 80), np.uint8)
    cx, cy, r = rng.integers(14, 66), rng.integers(14, 50), rng.integers(8, 14)
    mask[(x - cx) ** 2 + (y - cy) ** 2 < r * r] = 1
    left, top = rng.integers(2, 56), rng.integers(2, 40)
    mask[top : top + 18, left : left + 20] = 2
    colours = COLOURS + rng.normal(0, 10, (3, 3))
    picture = colours[mask] + rng.normal(0, 14, (64, 80, 3))
    Image.fromarray(picture.clip(0, 255).astype("uint8")).save(f"shapes/images/{number}.png")
    Image.fromarray(mask).save(f"shapes/masks/{number}.png")
names = [f"{number}" for number in range(24)]
for name, lines in (("labels", ["ground", "round", "square"]), ("train", names[:16]), ("val", names[16:])):
    Path(f"shapes/{name}.txt").write_text("\n".join(lines))

# %% [markdown]
# `prepare` reads everything once and reports all problems in one error: missing files, masks of the wrong
# size, labels out of range, images in both splits.

# %%
from crfrnn.datasets import Source, prepare

train, val = prepare([Source("folder", "shapes", "train")], [Source("folder", "shapes", "val")])
print(len(train), "for training,", len(val), "for evaluation; labels:", ", ".join(train.class_names))

# %% tags=["figure"]
from crfrnn.plots import tiles

shown = {}
for item in list(val)[:2]:
    shown[f"picture {item.id}"] = item.image
    shown[f"mask {item.id}"] = item.mask.astype(int)
tiles(shown, height=130)

# %% [markdown]
# ## Train the network
#
# Any module that returns logits works. This one is tiny, and like real networks it returns logits at a
# quarter of the image resolution. `Segmenter` upsamples them.

# %%
from torch import nn
from torch.utils.data import DataLoader

from crfrnn import CRFRNN, Segmenter
from crfrnn.datasets import RandomTransform, SegmentationDataset, collate

torch.manual_seed(0)
network = nn.Sequential(
    nn.Conv2d(3, 16, 5, stride=2, padding=2), nn.ReLU(),
    nn.Conv2d(16, 24, 5, stride=2, padding=2), nn.ReLU(),
    nn.Conv2d(24, 24, 3, padding=1), nn.ReLU(), nn.Conv2d(24, 3, 1),
)  # fmt: skip
crf = CRFRNN(3, theta_alpha=12.0, theta_beta=25.0, theta_gamma=1.5, spatial_weight=1.0, bilateral_weight=2.0)
segmenter = Segmenter(network, crf, class_names=train.class_names)
data = SegmentationDataset(train, RandomTransform(flip=0.5, brightness=0.1), seed=0)


def learn(epochs, rates, iterations):
    optimiser = torch.optim.Adam([{"params": list(module.parameters()), "lr": rate} for module, rate in rates])
    for epoch in range(epochs):
        data.set_epoch(epoch)
        for ids, image, labels, mask in DataLoader(data, batch_size=4, shuffle=True, collate_fn=collate):
            logits = segmenter(image, mask=mask, iterations=iterations)
            loss = nn.functional.cross_entropy(logits, labels, ignore_index=255)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    return float(loss)


print("loss of the network alone:", round(learn(12, [(network, 3e-3)], iterations=0), 3))  # T = 0: no CRF

# %% [markdown]
# ## Train both
#
# We follow the paper's order: first the network, then everything end to end. The CRF has few parameters and
# needs a higher learning rate than the network. We keep the plain network for the comparison.

# %%
import copy

plain = copy.deepcopy(segmenter).eval()
print("loss end to end:", round(learn(8, [(network, 1e-3), (crf, 2e-2)], iterations=5), 3))
_ = segmenter.eval()

# %% [markdown]
# ## Evaluate
#
# The scores use one confusion matrix over all images, as VOC does; the trimap score only counts pixels near
# borders. In a fair comparison the plain network is trained for the same number of further steps:
# `crfrnn experiment table1` does that and plots confidence intervals. Eight synthetic images prove nothing.

# %%
from crfrnn.evaluation import Evaluator

evaluator = Evaluator(3, class_names=train.class_names)
results = {}
with torch.no_grad():
    for item in val:
        image = torch.from_numpy(item.image.copy()).permute(2, 0, 1)[None]
        found = {
            "network alone": plain(image, iterations=0),
            "network, then CRF": plain(image),
            "end to end": segmenter(image),
        }
        results[item.id] = {name: logits.argmax(1)[0].numpy() for name, logits in found.items()}
        evaluator.update(item.id, item.mask, results[item.id])
result = evaluator.compute()
for method in result.methods:
    print(f"{method:17s} mean IU {100 * result.score(method, 'mean_iu'):.1f}")
assert result.score("end to end", "mean_iu") > result.score("network alone", "mean_iu")

# %% tags=["figure"]
first = val[0]
tiles({"picture": first.image, **results[first.id], "mask": first.mask.astype(int)}, height=120, columns=5)

# %% [markdown]
# ## Save and use it
#
# The result is a folder with safetensors and JSON; loading it runs no code. For a network class of your own,
# pass the network when loading.

# %%
from crfrnn.io.parameters import save_parameters

save_parameters("learned.safetensors", segmenter.crf, class_names=train.class_names)
torch.save(network.state_dict(), "network.pt")
print(sorted(path.name for path in Path().glob("*.*")))

# %% [markdown]
# The CRF alone can refine any scores:
# `crfrnn refine photos/ --unary logits/ --kind logits --layout lhw --params learned.safetensors -o out/`.
# Segmenters with one of the package's networks are saved complete with `segmenter.save_pretrained("folder")`.
#
# ## The same by one command
#
# With a pretrained network of the package and the folder above:
#
# ```yaml
# name: mine
# network: {name: lite, start: imagenet}
# crf: {iterations: 5, eval_iterations: 10}
# data:
#   root: shapes
#   train: [{kind: folder, root: ., split: train}]
#   val: [{kind: folder, root: ., split: val}]
# stages:
#   - {name: plain, crf: false, learn: [network, head], epochs: 20}
#   - {name: joint, epochs: 5, rates: {network: 1.0e-4}}
# ```
#
# ```
# crfrnn train --recipe mine.yaml -o run
# crfrnn segment photo.jpg --checkpoint run -o out/
# ```
#
# [Training](../training.md) documents every key, and what to do if the model does not learn.
