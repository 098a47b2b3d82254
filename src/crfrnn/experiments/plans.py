# SPDX-License-Identifier: MIT
"""Which networks an experiment trains, and which rows of a table they give."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Generic, Protocol, TypeVar

from crfrnn.training.recipe import Recipe, Stage

PLAIN, POST, JOINT = "plain", "post-processing", "end-to-end"
FURTHER, FROZEN = "plain-further", "frozen-crf"
DEFAULT, FURTHER_POST, MOVED = "default", "further-post-processing", "moved-crf"


@dataclass(frozen=True)
class Run:
    """One training.

    Attributes:
        name: of its folder.
        recipe: what is done.
        start: the run whose network it goes on with; None: the recipe's own start.
        crf: settings of the CRF that differ from the recipe's; its numbers are the cross-validated ones.
    """

    name: str
    recipe: Recipe
    start: str | None = None
    crf: Mapping[str, Any] = field(default_factory=dict)


class Named(Protocol):
    """What a plan trains: `Run`, or `crfrnn.experiments.unaries.Fit`."""

    @property
    def name(self) -> str: ...


Work = TypeVar("Work", bound=Named)


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        name, title: of its folder, and for people.
        run: whose segmenter is judged.
        crf: "learned" as trained, "tuned": cross-validated behind the network, "default": the package's
            numbers, "none": the network alone.
        iterations: T in test; None: the CRF's own.
        crf_of: the run whose learned CRF is put behind the network of `run`; None: `run`.
        against: a row from which this one differs in one thing, where that is not the baseline.
    """

    name: str
    title: str
    run: str
    crf: str = "learned"
    iterations: int | None = None
    crf_of: str | None = None
    against: str | None = None


@dataclass(frozen=True)
class Plan(Generic[Work]):
    """Runs, in an order in which each finds its start, and rows. `baseline`, `main`: what is compared."""

    name: str
    runs: tuple[Work, ...]
    rows: tuple[Row, ...]
    baseline: str
    main: str

    @property
    def run_of(self) -> dict[str, Work]:
        return {run.name: run for run in self.runs}

    def only(self, names: Sequence[str]) -> Plan[Work]:
        """The same plan with these rows alone; ValueError for a row that it does not have."""
        known = [row.name for row in self.rows]
        strange = [name for name in names if name not in known]
        if strange:
            raise ValueError(f"row: expected rows among {', '.join(known)}, got {', '.join(strange)}")
        return replace(self, rows=tuple(row for row in self.rows if row.name in names))


def table1(recipe: Recipe) -> Plan[Run]:
    """Table 1 of the paper, and its controls.

    The stages of the recipe before the first with a CRF train the plain network (0 epochs leave it as it
    starts); all later ones go on from it. Rows: plain; a CRF behind it with the package's numbers, and with
    cross-validated ones; end to end. Controls: the plain network given the same further updates of the
    network without a CRF, alone and with the cross-validated CRF behind it; end to end with the CRF's
    parameters frozen; and the CRF that was learned end to end behind the plain network, which tells what
    the CRF has learned from what both have.

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
            Row(DEFAULT, "plain network, CRF with the package's numbers behind it", PLAIN, "default"),
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
) -> Plan[Run]:
    """What each part of the CRF brings: end-to-end runs that differ in one thing, from one plain network.

    T in training × T in test; Potts against learned compatibility; one weight a kernel against one a label;
    fixed against learned bandwidths; ReLU against softmax; the robust log-likelihood against the
    cross-entropy. The base is the recipe as it stands.
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
        ("shared-weights", "one weight a kernel for all labels", changed(share_labels=True),
         {"label_weights": "vector"}),
        ("fixed-bandwidths" if learnt else "learned-bandwidths",
         "fixed bandwidths" if learnt else "learned bandwidths", thetas(), {}),
        ("relu", "ReLU normalisation", list(after), {"activation": "relu"}),
        ("robust", f"robust loss, ε = {robustness:g}", changed(robustness=robustness), {}),
    ]  # fmt: skip
    runs = [Run(PLAIN, _part(recipe, PLAIN, before)), Run(JOINT, _part(recipe, JOINT, after), PLAIN)]
    rows = [Row(PLAIN, "plain network", PLAIN, "none"), Row(JOINT, "end to end, as the recipe says", JOINT)]
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
