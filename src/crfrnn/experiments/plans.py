# SPDX-License-Identifier: MIT
"""Plans of experiments: the runs to train, of networks or the CRF alone, and the rows of the table."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from crfrnn.training.recipe import FitConfig, Recipe, Stage

PLAIN, POST, JOINT = "plain", "post-processing", "end-to-end"
FURTHER, FROZEN = "plain-further", "frozen-crf"
LEARNED, POTTS = "crf-rnn", "potts"
DEFAULT, FURTHER_POST, MOVED = "default", "further-post-processing", "moved-crf"


@dataclass(frozen=True)
class Run:
    """One training.

    Attributes:
        name: name of its folder.
        how: a recipe, or, for the CRF alone, the configuration of a fit.
        start: the run whose network it starts from; None: the recipe's start.
        crf: settings of the CRF that differ from the experiment's; its numbers are the cross-validated ones.
    """

    name: str
    how: Any
    start: str | None = None
    crf: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        name, title: name of its folder, and title in tables.
        run: the run whose segmenter is evaluated.
        crf: "learned": as trained, "tuned": cross-validated on the network's output, "default": the package's
            numbers, "none": the network alone.
        iterations: T in test; None: the CRF's setting.
        crf_of: the run whose learned CRF is applied to the network of `run`; None: `run`.
        against: the row from which this one differs in one setting, if it is not the baseline.
    """

    name: str
    title: str
    run: str
    crf: str = "learned"
    iterations: int | None = None
    crf_of: str | None = None
    against: str | None = None


@dataclass(frozen=True)
class Plan:
    """Runs, ordered so that each follows its start, and rows. `baseline`, `main`: the rows to compare."""

    name: str
    runs: tuple[Run, ...]
    rows: tuple[Row, ...]
    baseline: str
    main: str

    @property
    def run_of(self) -> dict[str, Run]:
        return {run.name: run for run in self.runs}

    def only(self, names: Sequence[str]) -> Plan:
        """The same plan with only these rows; ValueError for an unknown row."""
        known = [row.name for row in self.rows]
        strange = [name for name in names if name not in known]
        if strange:
            raise ValueError(f"row: expected rows among {', '.join(known)}, got {', '.join(strange)}")
        return replace(self, rows=tuple(row for row in self.rows if row.name in names))


def table1(recipe: Recipe) -> Plan:
    """Table 1 of the paper, and its controls.

    The stages of the recipe before the first with a CRF train the plain network (with 0 epochs it keeps its
    initial weights); all later ones continue from it. Rows: plain; plain plus a CRF with the package's
    numbers, and with cross-validated ones; end to end. Controls: the plain network with the same number of
    further updates without a CRF, alone and with the cross-validated CRF; end to end with the CRF's
    parameters frozen; and the plain network with the CRF that was learned end to end, which separates the
    CRF's gain from the joint gain.

    Source: Zheng et al., ICCV 2015, doi:10.1109/ICCV.2015.179, Table 1.
    """
    before, after = _split(recipe)
    updates = [stage for stage in after if set(stage.learn) - {"crf"}]
    if not updates:
        raise ValueError("recipe: expected a stage that trains the network with the CRF, got none")
    further = [replace(stage, crf=False, learn=_without_crf(stage), auxiliary=0.0) for stage in updates]
    frozen = [replace(stage, learn=_without_crf(stage)) for stage in updates]
    return Plan(
        "table1",
        (
            Run(PLAIN, _part(recipe, PLAIN, before)),
            Run(FURTHER, _part(recipe, FURTHER, further), PLAIN),
            Run(FROZEN, _part(recipe, FROZEN, frozen), PLAIN),
            Run(JOINT, _part(recipe, JOINT, after), PLAIN),
        ),
        (
            Row(PLAIN, "plain network", PLAIN, "none"),
            Row(DEFAULT, "plain network, CRF with default parameters", PLAIN, "default"),
            Row(POST, "plain network, cross-validated CRF as post-processing", PLAIN, "tuned"),
            Row(JOINT, "end to end", JOINT),
            Row(FURTHER, "control: plain network, the same further updates", FURTHER, "none"),
            Row(FURTHER_POST, "control: the same further updates, cross-validated CRF", FURTHER, "tuned"),
            Row(FROZEN, "control: end to end, CRF parameters frozen", FROZEN),
            Row(MOVED, "control: plain network, CRF learned end to end", PLAIN, crf_of=JOINT),
        ),
        PLAIN,
        JOINT,
    )


def ablations(
    recipe: Recipe,
    train_iterations: Sequence[int] = (1, 5, 10),
    test_iterations: Sequence[int] = (1, 5, 10),
    robustness: float = 0.01,
) -> Plan:
    """The contribution of each part of the CRF: end-to-end runs that differ in one setting, from one network.

    T in training × T in test; Potts against learned compatibility; one weight per kernel against one per
    label; fixed against learned bandwidths; ReLU against softmax; the robust log-likelihood against the
    cross-entropy. The base is the recipe unchanged.
    """
    check_iterations(train_iterations, test_iterations)
    before, after = _split(recipe)
    base_t = int(recipe.crf.get("iterations", 5))
    learnt = any(stage.rates.crf_theta > 0 for stage in after)
    mixes = any(stage.compatibility != "fixed" for stage in after)

    def changed(**values: Any) -> list[Stage]:
        return [replace(stage, **values) for stage in after]

    def thetas() -> list[Stage]:
        return [
            replace(s, rates=replace(s.rates, crf_theta=0.0 if learnt else s.rates.crf_weights))
            for s in after
        ]

    variants: list[tuple[str, str, list[Stage], dict[str, Any]]] = [
        ("potts", "Potts compatibility", changed(compatibility="fixed"), {}) if mixes
        else ("learned-compatibility", "learned compatibility", changed(compatibility="free"), {}),
        ("shared-weights", "one weight per kernel for all labels", changed(share_labels=True),
         {"label_weights": "vector"}),
        ("fixed-bandwidths" if learnt else "learned-bandwidths",
         "fixed bandwidths" if learnt else "learned bandwidths", thetas(), {}),
        ("relu", "ReLU normalisation", list(after), {"activation": "relu"}),
        ("robust", f"robust loss, ε = {robustness:g}", changed(robustness=robustness), {}),
    ]  # fmt: skip
    runs = [Run(PLAIN, _part(recipe, PLAIN, before)), Run(JOINT, _part(recipe, JOINT, after), PLAIN)]
    rows = [Row(PLAIN, "plain network", PLAIN, "none"), Row(JOINT, "end to end, by the recipe", JOINT)]
    for steps in dict.fromkeys(train_iterations):
        name = JOINT if steps == base_t else f"t{steps}"
        if name != JOINT:
            runs.append(Run(name, _part(recipe, name, after), PLAIN, {"iterations": steps}))
        rows += [
            Row(f"train{steps}-test{test}", f"T = {steps} in training, {test} in test", name, "learned", test)
            for test in dict.fromkeys(test_iterations)
        ]
    for name, title, stages, settings in variants:
        runs.append(Run(name, _part(recipe, name, stages), PLAIN, settings))
        rows.append(Row(name, title, name))
    return Plan("ablations", tuple(runs), tuple(rows), JOINT, JOINT)


def unaries(config: FitConfig) -> Plan:
    """Table 1 of the paper without the network: the unaries, a CRF on them, and a learned CRF.

    Rows: argmax of the unaries; default parameters; cross-validated parameters; learned, starting
        from those. Control: learned with a fixed Potts compatibility.
    """
    return Plan(
        "unaries",
        (Run(LEARNED, config), Run(POTTS, replace(config, compatibility="fixed"))),
        (
            Row(PLAIN, "argmax of the unaries", PLAIN, "none"),
            Row(DEFAULT, "CRF with default parameters", DEFAULT, "default"),
            Row(POST, "CRF with cross-validated parameters, as post-processing", POST, "tuned"),
            Row(LEARNED, "CRF-RNN, learned from the cross-validated parameters", LEARNED),
            Row(POTTS, "control: learned, Potts compatibility fixed", POTTS),
        ),
        PLAIN,
        LEARNED,
    )


def unary_ablations(
    config: FitConfig,
    iterations: int = 5,
    train_iterations: Sequence[int] = (1, 5, 10),
    test_iterations: Sequence[int] = (1, 5, 10),
    robustness: float = 0.01,
) -> Plan:
    """The contribution of each part of the CRF on fixed unaries: fits that differ in one setting.

    T in training × T in test; Potts against learned compatibility; one weight per kernel, and matrices,
    against one weight per label; fixed against learned bandwidths; ReLU against softmax; pixel cross-entropy
    against the loss of `config`, and the robust log-likelihood against cross-entropy. `iterations` is the
    base's T.
    """
    check_iterations(train_iterations, test_iterations)
    entropy = replace(config, set_iou=0.0, set_iou_trimap=0.0, lovasz=0.0, cross_entropy=1.0, robustness=0.0)
    variants: list[tuple[Row, FitConfig, dict[str, Any]]] = [
        (Row(POTTS, "Potts compatibility", POTTS), replace(config, compatibility="fixed"), {}),
        (Row("shared-weights", "one weight per kernel for all labels", "shared-weights"),
         replace(config, share_labels=True), {}),
        (Row("matrix-weights", "a matrix of weights per kernel", "matrix-weights"), config,
         {"label_weights": "matrix"}),
        (Row("fixed-bandwidths", "fixed bandwidths", "fixed-bandwidths"), replace(config, rate_theta=0.0),
         {}),
        (Row("relu", "ReLU normalisation", "relu"), config, {"activation": "relu"}),
        (Row("cross-entropy", "only cross-entropy over pixels", "cross-entropy"), entropy, {}),
        (Row("robust", f"robust cross-entropy, ε = {robustness:g}", "robust", against="cross-entropy"),
         replace(entropy, robustness=robustness), {}),
    ]  # fmt: skip
    fits = [Run(LEARNED, config)]
    rows = [Row(PLAIN, "argmax of the unaries", PLAIN, "none"),
            Row(POST, "the start of every fit: cross-validated parameters", POST, "tuned"),
            Row(LEARNED, "the base: learned", LEARNED)]  # fmt: skip
    for steps in dict.fromkeys(train_iterations):
        name = LEARNED if steps == iterations else f"t{steps}"
        if name != LEARNED:
            fits.append(Run(name, config, crf={"iterations": steps}))
        rows += [
            Row(f"train{steps}-test{test}", f"T = {steps} in training, {test} in test", name, "learned", test)
            for test in dict.fromkeys(test_iterations)
            if (steps, test) != (iterations, iterations)
        ]
    for row, how, settings in variants:
        fits.append(Run(row.name, how, crf=settings))
        rows.append(row)
    return Plan("unary-ablations", tuple(fits), tuple(rows), LEARNED, LEARNED)


def check_iterations(train: Sequence[int], test: Sequence[int]) -> None:
    """ValueError unless both name at least one T ≥ 1."""
    if not train or not test or min(*train, *test) < 1:
        raise ValueError(f"iterations: expected at least one T ≥ 1 each, got {train}, {test}")


def plain_stages(recipe: Recipe) -> list[Stage]:
    """The stages before the first with a CRF."""
    return list(itertools.takewhile(lambda stage: not stage.crf, recipe.stages))


def _split(recipe: Recipe) -> tuple[list[Stage], list[Stage]]:
    before = plain_stages(recipe)
    after = list(recipe.stages[len(before) :])
    if not before or not after:
        raise ValueError(
            "recipe: expected stages with crf: false and then stages with crf: true, got "
            f"{len(before)} and {len(after)}; the experiments compare the two"
        )
    return before, after


def _without_crf(stage: Stage) -> tuple[str, ...]:
    return tuple(part for part in stage.learn if part != "crf")


def _part(recipe: Recipe, name: str, stages: Sequence[Stage]) -> Recipe:
    return recipe.changed(name=f"{recipe.name}/{name}", stages=tuple(stages))
