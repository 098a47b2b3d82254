# SPDX-License-Identifier: MIT
"""Training runs on tiny pictures: resuming, freezing, the two losses, and whether it learns."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from crfrnn.crf.presets import PRESETS
from crfrnn.io import read_label_png, write_label_png
from crfrnn.models import Segmenter
from crfrnn.training.loader import EpochBatches
from crfrnn.training.losses import soft_iou
from crfrnn.training.module import SegmentationModule
from crfrnn.training.objective import border_weights, near_borders
from crfrnn.training.recipe import Recipe, recipe_from
from crfrnn.training.run_files import Interrupted
from crfrnn.training.train import Training, build_segmenter, read_sets, train
from toy_training import content, make, one_stage

CPU = {"accelerator": "cpu"}


def same(a: Segmenter, b: Segmenter) -> bool:
    ours, theirs = a.state_dict(), b.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def plain(done: Training) -> list[dict[str, Any]]:
    return [{k: v for k, v in line.items() if k != "seconds"} for line in done.history]


def run(recipe: Recipe, folder: Path, **options: Any) -> Segmenter:
    return train(recipe, folder, trainer=CPU, **options).segmenter


@pytest.mark.slow
@pytest.mark.parametrize("stop_after", [1, 3, 4, 6, 8, 9, 14])
def test_a_run_that_is_interrupted_and_resumed_is_bit_identical(tmp_path: Path, stop_after: int) -> None:
    recipe = make(tmp_path)  # 5 pictures in batches of 2: 3 steps per epoch, 15 in total
    whole = train(recipe, tmp_path / "whole", trainer=CPU)
    with pytest.raises(Interrupted) as caught:
        run(recipe, tmp_path / "parts", stop_after=stop_after)
    assert caught.value.checkpoint.exists()
    again = train(recipe, tmp_path / "parts", trainer=CPU)
    assert same(whole.segmenter, again.segmenter)
    assert plain(whole) == plain(again) and len(again.history) == 5
    assert same(whole.segmenter, Segmenter.from_pretrained(tmp_path / "parts"))


@pytest.mark.slow
@pytest.mark.parametrize("picture", [1, 2, 3])
def test_an_interruption_in_validation_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, picture: int
) -> None:
    recipe = make(tmp_path, stages=one_stage(epochs=2))  # two validation pictures per epoch
    whole = train(recipe, tmp_path / "whole", trainer=CPU)
    seen, step = [], SegmentationModule.validation_step

    def interrupted(*arguments: Any) -> None:
        step(*arguments)
        seen.append(1)
        if len(seen) == picture:
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patched:
        patched.setattr(SegmentationModule, "validation_step", interrupted)
        with pytest.raises(Interrupted) as caught:
            run(recipe, tmp_path / "parts")
    saved = torch.load(caught.value.checkpoint, weights_only=True)["crfrnn"]
    # A stop at the second picture takes effect after the epoch; at the others, before it ends.
    assert (saved["epoch"], saved["batches"]) == {1: (0, 3), 2: (0, 3), 3: (1, 3)}[picture]
    again = train(recipe, tmp_path / "parts", trainer=CPU)
    assert same(whole.segmenter, again.segmenter) and plain(whole) == plain(again)
    assert (tmp_path / "parts" / "log.csv").read_text().count("\n") == 3


@pytest.mark.slow
def test_a_worker_that_the_signal_killed_is_part_of_the_interruption(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = make(tmp_path, stages=one_stage(epochs=2))
    whole, order = run(recipe, tmp_path / "whole"), EpochBatches.__iter__

    def killed(batches: EpochBatches) -> Any:
        yield from list(order(batches))[:2]
        os.kill(os.getpid(), signal.SIGTERM)
        raise RuntimeError("DataLoader worker (pid 1) is killed by signal: Terminated.")

    with monkeypatch.context() as patched:
        patched.setattr(EpochBatches, "__iter__", killed)
        with pytest.raises(Interrupted) as caught:
            run(recipe, tmp_path / "parts")
    assert torch.load(caught.value.checkpoint, weights_only=True)["crfrnn"]["batches"] in (1, 2)
    assert same(whole, run(recipe, tmp_path / "parts"))


@pytest.mark.slow
def test_interruption_does_not_lose_accumulated_gradients(tmp_path: Path) -> None:
    stages = one_stage(accumulate=2, batch=1, epochs=2, clip=0.5, schedule="poly", warm_up=1)
    recipe = make(tmp_path, stages=stages)
    whole = run(recipe, tmp_path / "whole")
    with pytest.raises(Interrupted):
        run(recipe, tmp_path / "parts", stop_after=3)  # the third is half a step, so stop after the fourth
    saved = torch.load(tmp_path / "parts" / "only" / "last.ckpt", weights_only=True)
    assert saved["crfrnn"]["batches"] == 4
    assert same(whole, run(recipe, tmp_path / "parts"))


def test_another_recipe_is_refused_in_the_same_folder(tmp_path: Path) -> None:
    recipe = make(tmp_path, stages=one_stage(epochs=1))
    run(recipe, tmp_path / "out")
    with pytest.raises(ValueError, match=r"recipe\.yaml differs"):
        run(replace(recipe, seed=5), tmp_path / "out")
    written = tmp_path / "out" / "recipe.yaml"
    written.write_text(written.read_text().replace("  layers: {}\n", ""))  # from before this key existed
    run(recipe, tmp_path / "out")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "model.safetensors").write_bytes(b"converted weights")
    with pytest.raises(ValueError, match=r"'model\.safetensors' from elsewhere; name another"):
        run(recipe, tmp_path / "other")
    assert (tmp_path / "other" / "model.safetensors").read_bytes() == b"converted weights"


def test_other_pictures_are_refused_in_the_same_folder(tmp_path: Path) -> None:
    recipe = make(tmp_path, stages=one_stage(epochs=1))
    run(recipe, tmp_path / "out")
    (tmp_path / "out" / "data.json").unlink()  # as in a run of an earlier version
    run(recipe, tmp_path / "out")
    picture = tmp_path / "train" / "images" / "p1.png"
    whole = picture.read_bytes()
    picture.write_bytes(whole + b"another size")
    with pytest.raises(
        ValueError, match=r"data: expected the 5 pictures of 'train' .* got 5 .* restore those"
    ):
        run(recipe, tmp_path / "out")
    picture.write_bytes(whole)
    run(recipe, tmp_path / "out")
    picture.unlink()
    (tmp_path / "train" / "masks" / "p1.png").unlink()
    with pytest.raises(ValueError, match=r"data: expected the 5 pictures of 'train' .* got 4 "):
        run(recipe, tmp_path / "out")


@pytest.mark.slow
def test_the_segmenter_stores_the_size_of_its_pictures(tmp_path: Path) -> None:
    recipe = make(tmp_path, stages=[*one_stage(epochs=1), {"name": "more", "epochs": 0}])
    run(replace(recipe, data=replace(recipe.data, long_side=16)), tmp_path / "out")
    for folder in ("out", "out/only/segmenter", "out/more/segmenter"):
        assert Segmenter.from_pretrained(tmp_path / folder).long_side == 16
    assert run(recipe, tmp_path / "whole").long_side is None


@pytest.mark.slow
def test_frozen_parts_stay_and_only_named_parts_learn(tmp_path: Path) -> None:
    recipe = make(tmp_path, stages=one_stage(learn=["head"]))
    start = build_segmenter(recipe, 3)
    after = run(recipe, tmp_path / "head").state_dict()
    moved = {name for name, value in start.state_dict().items() if not torch.equal(value, after[name])}
    assert moved == {"network.4.weight", "network.4.bias"}
    crf_only = make(tmp_path, stages=one_stage(learn=["crf"], rates={"crf_theta": 0.0}))
    after = run(crf_only, tmp_path / "crf").state_dict()
    moved = {name for name, value in start.state_dict().items() if not torch.equal(value, after[name])}
    assert moved == {"crf.spatial_weights", "crf.bilateral_weights", "crf.compatibility"}  # no running means


@pytest.mark.slow
def test_norms_of_the_pretrained_part_may_keep_their_statistics(tmp_path: Path) -> None:
    moved = {}
    for frozen in (False, True):
        recipe = make(tmp_path, stages=one_stage(epochs=1, freeze_norms=frozen))
        before = build_segmenter(recipe, 3).state_dict()
        after = run(recipe, tmp_path / str(frozen)).state_dict()
        moved[frozen] = {name for name, value in before.items() if not torch.equal(value, after[name])}
    statistics = {f"network.1.{name}" for name in ("running_mean", "running_var", "num_batches_tracked")}
    assert statistics <= moved[False] and moved[True] == moved[False] - statistics  # the rest is trained


def test_a_stage_applies_its_settings_of_the_crf(tmp_path: Path) -> None:
    stages = one_stage(learn=["crf"], compatibility="fixed", share_labels=True, freeze=["log_theta_gamma"])
    crf = run(make(tmp_path, stages=stages), tmp_path / "out").crf
    assert crf is not None
    assert torch.equal(crf.compatibility, -torch.eye(3))
    assert crf.log_theta_gamma.exp().item() == pytest.approx(PRESETS["default"].theta_gamma)
    assert crf.log_theta_beta.exp().item() != pytest.approx(20.0)
    for weights in (crf.spatial_weights, crf.bilateral_weights):
        assert torch.equal(weights, weights[:1].expand(3))
    start = torch.tensor(PRESETS["default"].bilateral_weight).item()  # float32, like the weights
    assert crf.bilateral_weights[0].item() != start


@pytest.mark.slow
def test_summed_and_mean_loss_are_translated_by_the_number_of_pixels(tmp_path: Path) -> None:
    """SGD with rate η, decay λ, summed loss equals rate ηN, decay λ/N, mean loss, for N pixels per step."""
    make(tmp_path)
    masks = sorted((tmp_path / "train" / "masks").glob("*.png"))
    for mask in masks:  # no void, so N is the same for every picture
        labels = read_label_png(mask).copy()
        labels[labels == 255] = 0
        write_label_png(mask, labels)
    common = {"optimiser": "sgd", "momentum": 0.9, "batch": 1, "bias_rate": 2.0, "transform": {}}
    base = {"network": 1e-5, "head": 1e-5, "crf_weights": 1e-6, "crf_compatibility": 1e-6, "crf_theta": 0.0}
    pixels = 18 * 22
    results = []
    for loss, factor in (("sum", 1), ("mean", pixels)):
        rates = {name: value * factor for name, value in base.items()}
        stages = one_stage(**common, loss=loss, weight_decay=0.5 / factor, rates=rates)
        body = content(tmp_path, stages=stages)
        body["defaults"]["transform"] = {}
        results.append(run(recipe_from(body), tmp_path / loss).state_dict())
    start = build_segmenter(recipe_from(content(tmp_path)), 3).state_dict()
    for name, value in results[0].items():
        torch.testing.assert_close(value, results[1][name], rtol=1e-4, atol=1e-6)
    assert not torch.allclose(start["network.4.weight"], results[0]["network.4.weight"], atol=1e-5)


@pytest.mark.slow
def test_a_stage_ends_early_without_improvement(tmp_path: Path) -> None:
    nothing = {"network": 0, "head": 0, "crf_weights": 1e-9, "crf_compatibility": 0, "crf_theta": 0}
    recipe = make(tmp_path, stages=one_stage(epochs=9, patience=2, rates=nothing, learn=["crf"]))
    with pytest.raises(Interrupted):
        run(recipe, tmp_path / "out", stop_after=8)
    done = train(recipe, tmp_path / "out", trainer=CPU)
    assert [line["epoch"] for line in done.history] == [1, 2, 3]  # the first was the best


@pytest.mark.slow
def test_mean_iu_rises_on_four_pictures(tmp_path: Path) -> None:
    stages = one_stage(epochs=25, batch=2, transform={}, crf=True)
    done = train(make(tmp_path, 4, stages=stages), tmp_path / "out", trainer=CPU)
    figures = [line["train_mean_iu"] for line in done.history]
    assert figures[-1] > 0.9 > figures[0] + 0.2
    assert done.history[-1]["val_mean_iu"] > 0.8
    log = (tmp_path / "out" / "log.csv").read_text().splitlines()
    assert len(log) == 26 and log[0].startswith("stage,epoch,loss,train_mean_iu,val_mean_iu")


def test_the_best_epoch_is_kept_beside_the_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe, told, kept = make(tmp_path, stages=one_stage(epochs=3)), [], []
    finish = SegmentationModule.finish_epoch

    def better_in_the_second(module: SegmentationModule) -> None:
        finish(module)
        line = {**module.place.history[-1], "val_mean_iu": {1: 0.2, 2: 0.6, 3: 0.6}[module.place.epoch]}
        module.place.history = (*module.place.history[:-1], line)
        kept.append({name: value.clone() for name, value in module.segmenter.state_dict().items()})

    with monkeypatch.context() as patched:
        patched.setattr(SegmentationModule, "finish_epoch", better_in_the_second)
        done = train(recipe, tmp_path / "out", trainer=CPU, say=told.append)
    assert done.best == tmp_path / "out" / "best" and done.best_line is not None
    assert done.best_line["epoch"] == 2
    best = Segmenter.from_pretrained(done.best).state_dict()
    assert all(torch.equal(best[name], kept[1][name]) for name in best)
    assert same(done.segmenter, Segmenter.from_pretrained(tmp_path / "out")) and not same(
        done.segmenter, Segmenter.from_pretrained(done.best)
    )
    assert [line.endswith("the best of this stage so far") for line in told if "epoch" in line][-3:] == [
        True,
        True,
        False,
    ]
    again = train(recipe, tmp_path / "out", trainer=CPU)  # nothing left to do
    assert again.best_line == done.best_line
    train(recipe, tmp_path / "less", trainer=CPU, keep_best=False)
    assert not list((tmp_path / "less").rglob("best"))


def test_different_iterations_in_training_and_in_test(tmp_path: Path) -> None:
    recipe = make(tmp_path, stages=one_stage(epochs=1), crf={"iterations": 1, "eval_iterations": 4})
    segmenter = run(recipe, tmp_path / "out")
    picture = torch.rand(1, 3, 18, 22) * 255
    with torch.no_grad():
        assert torch.equal(segmenter(picture), segmenter(picture, iterations=4))
        assert torch.equal(segmenter.train()(picture), segmenter(picture, iterations=1)) is False  # dropout
        unary = segmenter.eval().unary(picture)
        crf = segmenter.crf
        assert crf is not None
        trained = crf.train()(unary, picture)
        assert torch.equal(trained, crf(unary, picture, iterations=1))
    assert not torch.equal(trained, crf.eval()(unary, picture))


@pytest.mark.slow
def test_the_loss_is_what_its_options_say(tmp_path: Path) -> None:
    """Matches the explicit formula on a batch of two sizes; the temperature is trained too."""
    options = {"boundary": 3.0, "boundary_width": 2, "soft_iou": 0.5, "temperature": 2.0, "robustness": 0.01}
    stages = one_stage(
        **options, auxiliary=0.25, rates={"temperature": 0.1}, optimiser="sgd", crf_optimiser="adamw"
    )
    recipe = make(tmp_path, stages=stages)
    sets = read_sets(recipe)
    module = SegmentationModule(
        build_segmenter(recipe, 3), recipe.stages[0], sets.train["train"], None, num_labels=3
    )
    labels, mask = torch.randint(3, (2, 9, 11)), torch.ones(2, 9, 11, dtype=torch.bool)
    labels[:, :, 4:7], labels[1, 3] = 1, 255
    mask[1, :, 8:], labels[1, :, 8:] = False, 255
    weights = border_weights(labels, mask, recipe.stages[0])
    for picture, width in enumerate((11, 8)):  # padding is not a border
        near = near_borders(labels[picture, :, :width], 2).float()
        assert torch.equal(weights[picture, :, :width], 1 + 3 * near)
    logits = torch.randn(2, 3, 9, 11)
    q = torch.softmax(logits / 2, 1).gather(1, labels.clamp(max=2)[:, None])[:, 0]
    counted = (labels != 255) * weights
    entropy = float(-((q + 0.01).log() * counted).sum() / counted.sum())
    got = module._loss(logits, labels, weights, module.temperature)
    assert float(got.detach()) == pytest.approx(entropy + 0.5 * float(soft_iou(logits, labels)), rel=1e-5)
    whole = train(recipe, tmp_path / "whole", trainer=CPU)
    assert 1 < whole.history[-1]["temperature"] < 4 and whole.history[0]["temperature"] != 2
    with pytest.raises(Interrupted):
        run(recipe, tmp_path / "parts", stop_after=2)
    again = train(recipe, tmp_path / "parts", trainer=CPU)
    assert same(whole.segmenter, again.segmenter) and plain(whole) == plain(again)
    assert (tmp_path / "parts" / "log.csv").read_text().splitlines()[0].endswith(",temperature")


def test_mixed_precision_trains(tmp_path: Path) -> None:
    recipe = make(tmp_path, stages=one_stage(epochs=1, precision="bf16", auxiliary=0.5, robustness=0.01))
    done = train(recipe, tmp_path / "out", trainer=CPU)
    assert done.history[0]["loss"] < 10
    assert all(value.dtype == torch.float32 for value in done.segmenter.parameters())


def test_invalid_data_are_named_before_training(tmp_path: Path) -> None:
    recipe = make(tmp_path)
    (tmp_path / "train" / "images" / "p1.png").write_bytes(b"no picture")
    (tmp_path / "train" / "masks" / "p2.png").write_bytes(b"no mask")
    with pytest.raises(ValueError, match=r"2 problems[\s\S]*p1\.png[\s\S]*p2\.png"):
        read_sets(recipe)
