# SPDX-License-Identifier: MIT
"""One stage of a training run as a Lightning module; needs the extra ``train``."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningModule
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.data import DataLoader

from crfrnn.crf import CRFRNN, robust_log_likelihood
from crfrnn.crf.likeliest import likeliest
from crfrnn.datasets import Batch, Sample, SegmentationDataset, UnaryDataset, collate
from crfrnn.evaluation import confusion_matrix, mean_iu_of_truth
from crfrnn.io import VOID
from crfrnn.models import Segmenter
from crfrnn.training.guard import Guard
from crfrnn.training.loader import EpochBatches, batch_loader, mixed
from crfrnn.training.losses import soft_iou
from crfrnn.training.objective import Objective, border_weights, constrain_gradients
from crfrnn.training.rates import backbone_of, build_optimiser, parameter_groups, rate_factor
from crfrnn.training.recipe import FitConfig, Stage
from crfrnn.training.score import Counts, fit_line, score

STATE = "crfrnn"


@dataclass
class Place:
    """Progress of a stage: finished epochs, finished batches of the current one, its sums, a line per epoch.

    All random numbers of a batch are determined by the seed, the epoch and the batch's number.
    """

    epoch: int = 0
    batches: int = 0
    loss: float = 0.0
    pictures: int = 0
    matrix: Any = None  # nested list [L, L]
    history: tuple[dict[str, Any], ...] = ()


class SegmentationModule(LightningModule):
    """Trains the parts of a segmenter that a stage names.

    Args:
        segmenter: trained in place.
        stage: see `Stage`.
        data: a data set of samples with truths.
        val: a data set evaluated after each epoch, whole pictures one by one; None: no validation.
        num_labels: L.
        seed: seed of order, augmentation and dropout.
        backbone: see `NetworkChoice`.
    """

    collate: Callable[[Any], Any] = staticmethod(collate)

    def __init__(
        self, segmenter: Segmenter, stage: Stage, data: Any, val: Any, *,
        num_labels: int, seed: int = 0, backbone: tuple[str, ...] | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        if stage.crf and segmenter.crf is None:
            raise ValueError(f"stage {stage.name!r}: expected a segmenter with a CRF, got crf=None")
        self.segmenter, self.stage, self.num_labels, self.seed = segmenter, stage, num_labels, seed
        # Convolutions of a light network are a third faster with channels last, on CPUs and GPUs.
        segmenter.network.to(memory_format=torch.channels_last)  # type: ignore
        self.groups = parameter_groups(segmenter, stage, backbone)
        self.log_temperature: torch.nn.Parameter | None = None
        if stage.crf and stage.rates.temperature > 0:
            self.log_temperature = torch.nn.Parameter(torch.tensor(math.log(stage.temperature)))
            self.groups.append({
                "name": "temperature", "params": [self.log_temperature], "lr": stage.rates.temperature,
                "weight_decay": 0.0,
            })  # fmt: skip
        self.data, self.val = data, val
        self.guard = Guard(segmenter.named_parameters(), num_labels)
        self.place = Place(matrix=np.zeros((num_labels, num_labels), np.int64))
        self._backbone = backbone_of(segmenter.network) if backbone is None else backbone
        self._learns_network = any(p.requires_grad for p in segmenter.network.parameters())
        self._seen = np.zeros((num_labels, num_labels), np.int64)
        self._began = time.perf_counter()

    # -- data ------------------------------------------------------------------------------------------

    def _order(self, epoch: int, first: int) -> EpochBatches:
        rank, world = (self.trainer.global_rank, self.trainer.world_size) if self._trainer else (0, 1)
        return EpochBatches(
            len(self.data), self.stage.batch, seed=self.seed, epoch=epoch, first=first, rank=rank, world=world
        )

    def train_dataloader(self) -> DataLoader:
        """The remaining batches of the current epoch."""
        order = self._order(self.place.epoch, self.place.batches)
        if isinstance(self.data, SegmentationDataset):
            self.data.set_epoch(self.place.epoch)
        return batch_loader(self.data, self.stage.workers, self.collate, batch_sampler=order)

    def val_dataloader(self) -> Any:
        if self.val is None:
            return []
        own = list(range(len(self.val)))[self.trainer.global_rank :: self.trainer.world_size]
        part = torch.utils.data.Subset(self.val, own)
        return batch_loader(part, self.stage.workers, self.collate, batch_size=1)

    @property
    def epoch_batches(self) -> int:
        return len(self._order(0, 0))

    @property
    def trained(self) -> bool:
        """Whether all batches of the current epoch are done and only its validation remains."""
        return self.place.batches >= self.epoch_batches

    @property
    def total_steps(self) -> int:
        return self.stage.epochs * -(-self.epoch_batches // self.stage.accumulate)

    # -- training --------------------------------------------------------------------------------------

    def configure_optimizers(self) -> Any:
        optimiser = build_optimiser(self.groups, self.stage)
        steps = self.total_steps
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimiser, lambda step: rate_factor(self.stage, step, steps)
        )
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_train_epoch_start(self) -> None:
        self._began = time.perf_counter()
        self.segmenter.train()
        # A frozen network stays in evaluation mode, so that the CRF sees the same unaries as in use.
        self.segmenter.network.train(self._learns_network)
        for name, layer in self.segmenter.network.named_modules():
            if isinstance(layer, _BatchNorm):
                kept = self.stage.freeze_norms and name.startswith(self._backbone)
                if kept or not any(p.requires_grad for p in layer.parameters()):
                    layer.eval()

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        torch.manual_seed(mixed(self.seed, self.place.epoch, self.place.batches, self.trainer.global_rank))

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        batch, where = Batch(*batch), f"at batch {self.place.batches} of epoch {self.place.epoch}"
        self.guard.data(batch.ids, batch.image, batch.labels, where)
        with torch.set_grad_enabled(self._learns_network):
            unary = self.segmenter.unary(batch.image, batch.mask)
        self.guard.output("unary", unary, batch.ids, where)
        logits = unary
        if self.stage.crf and self.segmenter.crf is not None:
            self.guard.parameters(where, "crf.")  # the CRF rejects them too, but without naming them
            logits = self.segmenter.crf(unary, self.segmenter.guide(batch.image), mask=batch.mask)
            self.guard.output("CRF", logits, batch.ids, where)
        weights = border_weights(batch.labels, batch.mask, self.stage) if self.stage.boundary else None
        loss = self._loss(logits, batch.labels, weights, self.temperature)
        if self.stage.auxiliary and self.stage.crf and self._learns_network:
            loss = loss + self.stage.auxiliary * self._loss(unary, batch.labels, weights)
        self.guard.output("loss", loss, batch.ids, where)
        self._last = (batch.ids, where)
        self._tally(logits, batch.labels, float(loss.detach()))
        if self.stage.loss == "sum":
            # Lightning averages over accumulated batches and processes; the loss "sum" needs the sum.
            loss = loss * self.stage.accumulate * self.trainer.world_size
        return loss

    @property
    def temperature(self) -> Tensor | float:
        """Divisor of the CRF's logits in the cross-entropy; 1 for a network's logits."""
        if self.log_temperature is not None:
            return self.log_temperature.exp()
        return self.stage.temperature if self.stage.crf else 1.0

    def _loss(
        self, logits: Tensor, labels: Tensor, weights: Tensor | None, temperature: Tensor | float = 1.0
    ) -> Tensor:
        stage = self.stage
        how = {"robustness": stage.robustness, "reduction": stage.loss if weights is None else "none"}
        cooled = logits if isinstance(temperature, float) and temperature == 1 else logits / temperature
        loss = robust_log_likelihood(cooled, labels, **how)
        if weights is not None:
            loss = (loss * weights).sum()
            if stage.loss == "mean":
                loss = loss / weights[labels != VOID].sum().clamp(min=1)
        if stage.soft_iou:
            loss = loss + stage.soft_iou * soft_iou(logits, labels)
        return loss

    def _tally(self, logits: Tensor, labels: Tensor, loss: float) -> None:
        guess = likeliest(logits, 1)
        self.place.matrix = self.place.matrix + confusion_matrix(labels.cpu().numpy(), guess, self.num_labels)
        self.place.loss += loss
        self.place.pictures += len(labels)
        shown = {"loss": loss, "train_mean_iu": float(mean_iu_of_truth(self.place.matrix))}
        self.log_dict(shown, prog_bar=True, batch_size=len(labels))

    def on_after_backward(self) -> None:
        if self.stage.precision != "16":  # with "16" the scaler skips steps with infinities
            self.guard.gradients(*self._last)

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        if self.segmenter.crf is not None:
            constrain_gradients(self.segmenter.crf, self.stage)

    # -- validation ------------------------------------------------------------------------------------

    def on_validation_epoch_start(self) -> None:
        self._seen = np.zeros((self.num_labels, self.num_labels), np.int64)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        batch = Batch(*batch)
        run = self.segmenter if self.stage.crf else self.segmenter.unary
        guess = likeliest(run(batch.image, batch.mask), 1)
        self._seen += confusion_matrix(batch.labels.cpu().numpy(), guess, self.num_labels)

    def on_validation_epoch_end(self) -> None:
        self._seen = self._summed(self._seen)
        # Every process now has all the counts.
        self.log("mean_iu", float(mean_iu_of_truth(self._seen)), prog_bar=True, rank_zero_only=True)

    def _summed(self, values: Any) -> Any:
        """The sum of a value over all processes."""
        counts = torch.as_tensor(values, device=self.device)
        return np.asarray(self.trainer.strategy.reduce(counts, reduce_op="sum").cpu())

    def on_train_epoch_end(self) -> None:
        self.finish_epoch()

    def finish_epoch(self) -> None:
        """Store the line of a finished epoch and start the next one."""
        place, line = self.place, self.line()
        self.place = Place(
            place.epoch + 1, matrix=np.zeros_like(place.matrix), history=(*place.history, line)
        )

    def line(self) -> dict[str, Any]:
        """The log's line for the current epoch."""
        place = self.place
        batches = max(1, self.epoch_batches) * self.trainer.world_size
        matrix = self._summed(place.matrix)
        loss, pictures = self._summed(place.loss), self._summed(place.pictures)
        line = {
            "stage": self.stage.name,
            "epoch": place.epoch + 1,
            "loss": float(loss) / batches,
            "train_mean_iu": float(mean_iu_of_truth(matrix)),
            "val_mean_iu": float(mean_iu_of_truth(self._seen)) if self.val is not None else float("nan"),
            "pictures": int(pictures),
            "seconds": self.seconds,
        }
        if self.log_temperature is not None:
            line["temperature"] = round(float(self.log_temperature.detach().exp()), 4)
        return line

    @property
    def seconds(self) -> float:
        """Seconds since the epoch began."""
        return round(time.perf_counter() - self._began, 2)

    # -- checkpoints -----------------------------------------------------------------------------------

    def trained_in(self, checkpoint: Path) -> bool:
        """Whether a checkpoint was written between the last batch of an epoch and its validation."""
        held = torch.load(checkpoint, map_location="cpu", mmap=True, weights_only=True)
        return held[STATE]["batches"] >= self.epoch_batches

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        # Lightning's counters cannot resume in the middle of an epoch; `Place` can.
        checkpoint.pop("loops", None)
        checkpoint[STATE] = {**vars(self.place), "matrix": self.place.matrix.tolist()}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        state = dict(checkpoint[STATE])
        matrix = np.asarray(state.pop("matrix"), np.int64)
        self.place = Place(**{**state, "matrix": matrix, "history": tuple(state["history"])})


class UnaryModule(SegmentationModule):
    """Trains a CRF on given unaries of a fixed network, one picture at a time.

    Args:
        crf: trained in place.
        config: the parameters to learn, and the loss.
        data: pictures with unaries and truths; held_out: those evaluated after each epoch.
    """

    collate = staticmethod(itemgetter(0))

    def __init__(self, crf: CRFRNN, config: FitConfig, data: UnaryDataset, held_out: UnaryDataset) -> None:
        segmenter = Segmenter(torch.nn.Identity(), crf)  # never called
        super().__init__(
            segmenter, config.stage, data, held_out, num_labels=data.num_labels, seed=config.seed
        )
        self.crf, self.held_out = crf, held_out
        self.objective = Objective(data, crf, config)
        self.counts: Counts | None = None

    def training_step(self, batch: Sample, batch_idx: int) -> Tensor:
        (x, y), done = torch.rand(2).tolist(), self.place.batches
        sample, target = self.objective.prepare(Sample(*batch), (x, y))
        ids, where = (sample.id,), f"at picture {done} of epoch {self.place.epoch + 1}"
        self.guard.parameters(where, "crf.")
        logits = self.crf(sample.unary[None], sample.image[None])
        self.guard.output("CRF", logits, ids, where)
        loss = self.objective(logits[0], target)
        self.guard.output("loss", loss, ids, where)
        self._last = (ids, where)
        self._tally(logits, sample.truth[None], float(loss.detach()))
        # Lightning divides by `accumulate`; the last step of an epoch is the mean over the rest.
        each, first = self.stage.accumulate, done - done % self.stage.accumulate
        return loss * (each / min(each, self.epoch_batches - first))

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        self.objective.anchor()
        super().on_before_optimizer_step(optimizer)

    def on_validation_epoch_start(self) -> None:
        self.counts = None

    def validation_step(self, batch: Sample, batch_idx: int) -> None:
        part = score(self.crf, self.held_out, Sample(*batch))
        self.counts = part if self.counts is None else self.counts + part

    def on_validation_epoch_end(self) -> None:
        pass

    def line(self) -> dict[str, Any]:
        assert self.counts is not None
        return fit_line(
            self.place.epoch + 1, self.place.loss / self.place.pictures, self.counts, self.crf, self.seconds
        )
