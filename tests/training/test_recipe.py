# SPDX-License-Identifier: MIT
"""Recipes: the packaged ones, settings from the command line, round trips, and rejections."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from crfrnn import CRFRNN, FCN8s, Segmenter
from crfrnn.models import DeepLab, LiteFPN
from crfrnn.training.config import text_of
from crfrnn.training.loader import EpochBatches
from crfrnn.training.rates import build_optimiser, kinds, parameter_groups, rate_factor
from crfrnn.training.recipe import Rates, Recipe, Stage, load_recipe, recipe_from, recipe_names, save_recipe
from crfrnn.training.train import build_segmenter


def test_names() -> None:
    assert recipe_names() == ("cpu-fcn8s", "cpu-small", "deeplab", "deeplab-fresh", "default", "paper")


@pytest.mark.parametrize("name", recipe_names())
def test_round_trip(name: str, tmp_path: Path) -> None:
    recipe = load_recipe(name)
    save_recipe(recipe, tmp_path / "again.yaml")
    again = load_recipe(tmp_path / "again.yaml")
    assert again == recipe and text_of(again) == text_of(recipe)


def test_the_papers_recipe_holds_the_papers_numbers() -> None:
    recipe = load_recipe("paper")
    last = recipe.stages[-1]
    assert (last.loss, last.momentum, last.batch, last.weight_decay) == ("sum", 0.99, 1, 5e-4)
    assert last.rates.network == last.rates.head == 1e-13
    assert last.rates.crf_weights == pytest.approx(1e-13 * 1e4)
    assert last.rates.crf_compatibility == pytest.approx(1e-13 * 1e3)
    assert last.rates.crf_theta == 0
    assert recipe.crf["iterations"] == 5 and recipe.crf["eval_iterations"] == 10
    assert [recipe.group(stage) for stage in recipe.stages] == ["coco", "voc", "voc", "voc"]
    assert [stage.rates.network for stage in recipe.stages[:3]] == [1e-10, 1e-12, 1e-14]
    crf = CRFRNN(21, **recipe.crf)
    assert crf.log_theta_alpha.exp().item() == pytest.approx(160)


def test_every_value_can_be_replaced() -> None:
    recipe = load_recipe(
        "cpu-small",
        [
            "seed=7", "stages.joint.rates.crf_theta=1e-13", "stages.1.epochs=3", "defaults.batch=3",
            "stages.*.workers=1", "data.validate=null", "crf.iterations=3", "network.arguments.channels=64",
            "stages.plain.transform.crop=null",
        ],
    )  # fmt: skip
    _, plain, crf, joint, last = recipe.stages
    assert recipe.seed == 7 and recipe.crf["iterations"] == 3 and recipe.data.validate is None
    assert joint.rates.crf_theta == 1e-13 and joint.rates.head == 2e-3  # the rest of the mapping is kept
    assert last.rates.crf_theta == 1e-2 and last.rates.network == 5e-5
    assert plain.epochs == 3 and {s.batch for s in recipe.stages} == {3} == {3}
    assert [s.workers for s in (plain, crf, joint)] == [1, 1, 1]
    assert plain.transform.crop is None and crf.transform.crop == (176, 176)
    assert recipe.network.arguments == {"channels": 64}


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("speed=3", "configuration: expected keys among name, seed"),
        ("defaults.epoch=3", "stages.0: expected keys among .* got epoch, did you mean epochs"),
        ("stages.plain.workers=true", "stages.1.workers: expected int, got True"),
        ("stages.plain.rates.crf=1", "rates: expected keys among network, head"),
        ("stages.final.epochs=1", "expected one of head, plain, crf, joint, last"),
        ("stages.plain.epochs=many", "epochs: expected int, got 'many'"),
        ("stages.plain.epochs=-1", "epochs: expected a finite number of at least 0"),
        ("stages.plain.loss=median", "loss: expected one of mean, sum"),
        ("stages.plain.learn=[crf]", "crf: false"),
        ("stages.plain.data=coco", "expected one of all, voc in stage 'plain'"),
        ("data.train=voc", "expected keys and values"),
        ("stages.plain.transform.crop=[3]", "expected 2 values, got 1"),
        ("stages.plain.transform.flip=2", "flip: expected a probability"),
        ("nothing", "KEY=VALUE"),
    ],
)
def test_errors_of_invalid_settings_name_the_key(setting: str, said: str) -> None:
    with pytest.raises(ValueError, match=said.replace("[", r"\[")):
        load_recipe("cpu-small", [setting])


def test_invalid_recipe_files(tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text("a: [1")
    with pytest.raises(ValueError, match="expected YAML"):
        load_recipe(path)
    path.write_text("!!python/object/apply:os.system ['touch /tmp/never']")
    with pytest.raises(ValueError, match="expected YAML"):
        load_recipe(path)
    with pytest.raises(
        ValueError, match="one of cpu-fcn8s, cpu-small, deeplab, deeplab-fresh, default, paper"
    ):
        load_recipe("fast")
    with pytest.raises(ValueError, match="stages: expected at least one"):
        recipe_from({"name": "empty"})


@pytest.mark.parametrize("optimiser", ["sgd", "adamw"])
def test_the_crf_is_never_decayed_and_each_kind_has_its_rate(optimiser: str) -> None:
    segmenter = Segmenter(LiteFPN(3), CRFRNN(3, temperature=1.0))
    stage = Stage("all", optimiser=optimiser, weight_decay=0.1, bias_rate=2.0)
    groups = parameter_groups(segmenter, stage)
    found = {id(p): (g["lr"], g["weight_decay"]) for g in groups for p in g["params"]}
    assert len(found) == len(list(segmenter.parameters()))
    for name, parameter, kind in kinds(segmenter):
        rate, decay = found[id(parameter)]
        bias = name.startswith("network.") and name.endswith(".bias")
        assert rate == pytest.approx(getattr(stage.rates, kind) * (2 if bias else 1)), name
        assert decay == (0.1 if name.startswith("network.") and parameter.ndim > 1 else 0), name
    # Without a gradient, only weight decay could change parameters.
    before = {name: p.detach().clone() for name, p in segmenter.named_parameters()}
    for parameter in segmenter.parameters():
        parameter.grad = torch.zeros_like(parameter)
    build_optimiser(groups, stage).step()
    moved = {n for n, p in segmenter.named_parameters() if not torch.equal(p, before[n])}
    assert moved and not any(name.startswith("crf.") for name in moved)


def test_backbones() -> None:
    fcn = FCN8s(2, widths=(1, 1, 1, 1, 1), hidden=2)
    heads = {name for name, _, kind in kinds(Segmenter(fcn)) if kind == "head"}
    assert {name.split(".")[1] for name in heads} == {
        "score_fr", "score_pool4", "score_pool3", "upscore2", "upscore_pool4", "upscore8",
    }  # fmt: skip
    assert {k for _, _, k in kinds(Segmenter(nn.Conv2d(3, 2, 1)))} == {"network"}
    assert {k for _, _, k in kinds(Segmenter(nn.Conv2d(3, 2, 1)), ("weight",))} == {"network", "head"}


def test_layers_learn_at_rates_of_their_own() -> None:
    segmenter = Segmenter(DeepLab(3, width=0.5), CRFRNN(3))
    factors = {"*.expand.*": 0.1, "backbone.blocks.1[456].*": 4.0, "backbone.stem.*": 0.0}
    groups = parameter_groups(segmenter, Stage("all", layers=factors, bias_rate=2.0))
    found = {id(p): g["lr"] for g in groups for p in g["params"]}
    network = dict(segmenter.network.named_parameters())
    for name, rate in {
        "backbone.blocks.3.expand.weight": 1e-5, "backbone.blocks.3.expand.bias": 2e-5,
        "backbone.blocks.15.expand.weight": 4e-5, "backbone.blocks.16.project.weight": 4e-4,
        "backbone.blocks.1.project.weight": 1e-4, "head.classifier.weight": 1e-3,
    }.items():  # fmt: skip
        assert found[id(network[name])] == pytest.approx(rate), name
    frozen = {name for name, value in network.items() if id(value) not in found}
    assert frozen == {"backbone.stem.weight", "backbone.stem.bias"}
    assert not any(network[name].requires_grad for name in frozen)
    with pytest.raises(ValueError, match=r"layers: .* got \*\.widen\.\* in stage 'all'"):
        parameter_groups(segmenter, Stage("all", layers={"*.widen.*": 2.0}))
    with pytest.raises(ValueError, match=r"layers\.\*: expected a finite number of at least 0, got -1"):
        Stage("all", layers={"*": -1.0})


def test_a_network_starts_from_a_file_except_its_fresh_layers(tmp_path: Path) -> None:
    given = DeepLab(21, width=0.5)
    save_file({name: value.half() for name, value in given.state_dict().items()}, tmp_path / "w.safetensors")
    network = {"name": "deeplab", "arguments": {"width": 0.5}, "start": str(tmp_path / "w.safetensors")}
    stages = [{"name": "all"}]

    def built(**more: object) -> dict[str, torch.Tensor]:
        recipe = recipe_from({"name": "r", "network": {**network, **more}, "stages": stages})
        return build_segmenter(recipe, 21).network.state_dict()

    whole, fresh, seed = built(), built(fresh=["head."]), built(start="none")
    for name, value in given.state_dict().items():
        assert torch.equal(whole[name], value.half().float())
        assert torch.equal(fresh[name], seed[name] if name.startswith("head.") else whole[name]), name
    assert not torch.equal(fresh["head.aspp0.weight"], whole["head.aspp0.weight"])
    Segmenter(given, CRFRNN(21)).save_pretrained(tmp_path / "saved.safetensors")
    recipe = recipe_from(
        {"name": "r", "network": {**network, "start": str(tmp_path / "saved.safetensors")}, "stages": stages}
    )
    other = build_segmenter(recipe, 4).network.state_dict()  # other labels: new classifier
    assert torch.equal(other["head.aspp0.weight"], given.head.aspp0.weight)
    assert other["head.classifier.weight"].shape[0] == 4
    with pytest.raises(ValueError, match=r"network\.fresh: .* got tail\."):
        built(fresh=["tail."])


def test_the_crf_may_have_an_optimiser_of_its_own() -> None:
    """Equal to two separate optimisers, also after saving and loading, with one learning-rate schedule."""
    stage = Stage("all", optimiser="sgd", crf_optimiser="adamw", rates=Rates(network=1e-2, crf_weights=0.1))
    segmenter = Segmenter(nn.Conv2d(3, 3, 1), CRFRNN(3))
    twin = copy.deepcopy(segmenter)
    both = build_optimiser(parameter_groups(segmenter, stage), stage)
    schedule = torch.optim.lr_scheduler.LambdaLR(both, lambda step: 0.5**step)
    parameter_groups(twin, stage)  # freezes parameters without a learning rate
    theta = [twin.crf.log_theta_alpha, twin.crf.log_theta_beta, twin.crf.log_theta_gamma]
    alone = [
        torch.optim.SGD(twin.network.parameters(), lr=1e-2, momentum=0.9),
        torch.optim.AdamW([twin.crf.spatial_weights, twin.crf.bilateral_weights], lr=0.1, weight_decay=0.0),
        torch.optim.AdamW([twin.crf.compatibility, *theta], lr=1e-2, weight_decay=0.0),
    ]
    for number in range(4):
        for first, second in zip(segmenter.parameters(), twin.parameters(), strict=True):
            first.grad = torch.randn_like(first)
            second.grad = first.grad.clone()
        both.step()
        schedule.step()
        for optimiser in alone:
            optimiser.step()
            optimiser.param_groups[0]["lr"] *= 0.5
        if number == 1:  # continue with a new optimiser that has loaded the state
            saved, before = copy.deepcopy(both.state_dict()), schedule.state_dict()
            both = build_optimiser(parameter_groups(segmenter, stage), stage)
            schedule = torch.optim.lr_scheduler.LambdaLR(both, lambda step: 0.5**step)
            schedule.load_state_dict(before)
            both.load_state_dict(saved)
    for (name, first), second in zip(segmenter.named_parameters(), twin.parameters(), strict=True):
        assert torch.equal(first, second), name
    with pytest.raises(ValueError, match="crf_optimiser: expected one of adamw, sgd, got 'adam'"):
        Stage("all", crf_optimiser="adam")


def test_schedules_reach_what_they_promise() -> None:
    poly = Stage("s", schedule="poly", power=0.9, warm_up=3)
    assert rate_factor(poly, 0, 10) == pytest.approx(0.25)
    assert rate_factor(poly, 5, 10) == pytest.approx(0.5**0.9)
    assert rate_factor(poly, 10, 10) == 0
    assert rate_factor(Stage("s"), 99, 10) == 1


def test_batches_of_an_epoch() -> None:
    whole = list(EpochBatches(7, 2, seed=1, epoch=4))
    assert sorted(i for b in whole for i in b) == list(range(7)) and [len(b) for b in whole] == [2, 2, 2, 1]
    assert list(EpochBatches(7, 2, seed=1, epoch=4, first=2)) == whole[2:]
    assert list(EpochBatches(7, 2, seed=1, epoch=5)) != whole != list(EpochBatches(7, 2, seed=2, epoch=4))
    ranks = [list(EpochBatches(7, 2, seed=1, epoch=4, rank=r, world=2)) for r in (0, 1)]
    assert len(ranks[0]) == len(ranks[1]) and {i for r in ranks for b in r for i in b} == set(range(7))


def test_a_recipe_is_a_value() -> None:
    recipe = Recipe("r", stages=(Stage("a"), Stage("b")))
    assert recipe == Recipe("r", stages=(Stage("a"), Stage("b"))) and recipe.stage("b").name == "b"
    with pytest.raises(ValueError, match="unique names"):
        Recipe("r", stages=(Stage("a"), Stage("a")))
