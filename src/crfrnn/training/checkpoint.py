# SPDX-License-Identifier: MIT
"""Checkpoints while a stage runs, its log, and Ctrl-C."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Checkpoint

from crfrnn.training.run_files import Interrupted, StopRequest, write_log


class StageFiles(Checkpoint):
    """Writes ``last.ckpt`` and ``log.csv`` of a stage: after each epoch, and every few minutes.

    Args:
        folder: of the stage.
        minutes: between two checkpoints within an epoch.
        stop: asked behind each step.
    """

    def __init__(self, folder: Path, minutes: float, stop: StopRequest) -> None:
        self.folder, self.seconds, self.stop = folder, 60 * minutes, stop
        self._saved = time.monotonic()

    @property
    def path(self) -> Path:
        return self.folder / "last.ckpt"

    def on_fit_start(self, trainer: Trainer, pl_module: Any) -> None:
        # The checkpoint says how much of the stage is done; Lightning counts from here.
        trainer.fit_loop.max_epochs = max(0, pl_module.stage.epochs - pl_module.place.epoch)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        place = pl_module.place
        place.batches += 1
        self.stop.count()
        # In the middle of an accumulated step gradients would be lost; the end of the epoch comes by itself.
        if place.batches % pl_module.stage.accumulate or place.batches >= pl_module.epoch_batches:
            return
        late = time.monotonic() - self._saved > self.seconds
        if trainer.strategy.reduce_boolean_decision(late or self.stop.asked, all=False):
            self._save(trainer)
        self._leave_if_asked(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
        self._save(trainer)
        if trainer.is_global_zero:
            write_log(self.folder / "log.csv", pl_module.place.history)
        if pl_module.place.epoch < pl_module.stage.epochs:
            self._leave_if_asked(trainer)

    def _leave_if_asked(self, trainer: Trainer) -> None:
        if trainer.strategy.reduce_boolean_decision(self.stop.asked, all=False):
            raise Interrupted(self.path)

    def _save(self, trainer: Trainer) -> None:
        part = self.path.with_suffix(".part")  # one name for all processes: only the first one writes
        trainer.save_checkpoint(part, weights_only=False)
        if trainer.is_global_zero:
            os.replace(part, self.path)
        self._saved = time.monotonic()
