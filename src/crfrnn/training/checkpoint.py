# SPDX-License-Identifier: MIT
"""Checkpoints during a stage, its log, and requests to stop."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Checkpoint

from crfrnn.crf import CRFRNN
from crfrnn.datasets.sources import Steps
from crfrnn.io.files import atomic
from crfrnn.training.recipe import FitConfig
from crfrnn.training.run_files import BEST, Interrupted, StopRequest, Watch, best_epoch, write_log
from crfrnn.training.score import Counts, fit_line


class StageFiles(Checkpoint):
    """Writes ``last.ckpt`` and ``log.csv`` of a stage before and after each validation and every few minutes.

    Args:
        folder: the stage's folder.
        minutes: time between two checkpoints within an epoch.
        stop: checked after each step and each picture of a validation.
        say, progress: called with a line per epoch, and with (what, done, total).
        keep_best: also write the segmenter of the best epoch so far into ``best/``.
    """

    def __init__(
        self, folder: Path, minutes: float, stop: StopRequest, *, say: Callable[[str], None] | None = None,
        progress: Steps | None = None, keep_best: bool = True,
    ) -> None:  # fmt: skip
        self.say, self.progress, self.keep_best = say, progress, keep_best
        self.folder, self.seconds, self.stop = folder, 60 * minutes, stop
        self._saved = time.monotonic()
        self._in_step = False
        stop.checkpoint = self.path

    @property
    def path(self) -> Path:
        return self.folder / "last.ckpt"

    def on_fit_start(self, trainer: Trainer, pl_module: Any) -> None:
        if pl_module.trained:  # interrupted during validation, which is now finished
            pl_module.finish_epoch()
            self._keep(trainer, pl_module)
        # The checkpoint states how much of the stage is done; Lightning counts from here.
        left = 0 if self._enough(pl_module) else pl_module.stage.epochs - pl_module.place.epoch
        trainer.fit_loop.max_epochs = max(0, left)

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        # Lightning has just installed its own handler, which would exit the program with status 0.
        self.stop.listen()

    on_validation_start = on_train_start

    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self._in_step = True

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        place = pl_module.place
        place.batches += 1
        self._in_step = False
        self.stop.count()
        self._tell(pl_module, "train", place.batches, pl_module.epoch_batches)
        if pl_module.trained:
            if pl_module.val is None:
                return  # the end of the epoch follows immediately
        elif place.batches % pl_module.stage.accumulate:
            return  # a checkpoint within an accumulated step would lose its gradients
        late = pl_module.trained or time.monotonic() - self._saved > self.seconds
        if trainer.strategy.reduce_boolean_decision(late or self.stop.asked, all=False):
            self._save(trainer)
        self._leave_if_asked(trainer)

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int, *_: Any
    ) -> None:
        self._tell(pl_module, "validate", batch_idx + 1, -(-len(pl_module.val) // trainer.world_size))
        # All processes must synchronise equally often, but some of them have one picture more.
        if batch_idx < len(pl_module.val) // trainer.world_size:
            self._leave_if_asked(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
        # Write the checkpoint last: a run killed before that repeats the validation and reaches this point.
        self._keep(trainer, pl_module)
        self._save(trainer)
        trainer.should_stop = self._enough(pl_module)
        if pl_module.place.epoch < pl_module.stage.epochs and not trainer.should_stop:
            self._leave_if_asked(trainer)

    def on_exception(self, trainer: Trainer, pl_module: Any, exception: BaseException) -> None:
        # A signal to every process also kills the loader's workers, which raises an error here.
        lost = self.stop.asked and not isinstance(exception, Interrupted)
        whole = not self._in_step and pl_module.place.batches % pl_module.stage.accumulate == 0
        if lost and whole and trainer.training and trainer.world_size == 1:
            self._save(trainer)

    def _keep(self, trainer: Trainer, pl_module: Any) -> None:
        """Write the files of an epoch other than its checkpoint."""
        if not trainer.is_global_zero:
            return
        history = pl_module.place.history
        best = best_epoch([line["val_mean_iu"] for line in history]) == len(history) - 1
        if best and self.keep_best:
            pl_module.segmenter.save_pretrained(self.folder / BEST)
        write_log(self.folder / "log.csv", history)
        if self.say:
            line = history[-1]
            val = "" if pl_module.val is None else f", {100 * line['val_mean_iu']:.2f} (val)"
            self.say(
                f"  epoch {line['epoch']} of {pl_module.stage.epochs}: loss {line['loss']:.4f}, "
                f"mean IU {100 * line['train_mean_iu']:.2f} (train){val}"
                f"{', the best of this stage so far' if best else ''}"
            )

    def _enough(self, pl_module: Any) -> bool:
        """Whether the stage stops early, after `patience` epochs without improvement."""
        figures, patience = (
            [line["val_mean_iu"] for line in pl_module.place.history],
            pl_module.stage.patience,
        )
        best = best_epoch(figures)
        return patience is not None and best is not None and len(figures) - 1 - best >= patience

    def _tell(self, pl_module: Any, what: str, done: int, total: int) -> None:
        if self.progress:
            stage, epoch = pl_module.stage, pl_module.place.epoch + 1
            self.progress(f"{stage.name}: {what}, epoch {epoch} of {stage.epochs}", done, total)

    def _leave_if_asked(self, trainer: Trainer) -> None:
        if trainer.strategy.reduce_boolean_decision(self.stop.asked, all=False):
            raise Interrupted(self.path)

    def _save(self, trainer: Trainer) -> None:
        # Every process takes part in gathering what the first one writes.
        writing = atomic(self.path) if trainer.is_global_zero else nullcontext(self.path)
        with writing as temporary:
            trainer.save_checkpoint(temporary, weights_only=False)
        self._saved = time.monotonic()


class FitFiles(StageFiles):
    """Keeps the best parameters of a fit in memory, and its log in a file.

    Args:
        log: CSV file, or None.
        config: states which figure selects the epoch, and the patience.
        first: counts of the parameters that the fit starts from.
        report: called after every picture, see `crfrnn.training.run_files.Watch`; a `KeyboardInterrupt` from
            it requests a stop.
    """

    def __init__(
        self, log: Path | None, config: FitConfig, stop: StopRequest, crf: CRFRNN, first: Counts,
        report: Watch | None,
    ) -> None:  # fmt: skip
        super().__init__(Path(), math.inf, stop)
        self.log_file, self.config, self.crf, self.report = log, config, crf, report
        self.best, self.best_epoch, self.state = first, 0, copy.deepcopy(crf.state_dict())
        self.history = [fit_line(0, math.nan, first, crf, 0.0)]
        self._write()

    def _write(self) -> None:
        if self.log_file is not None:
            write_log(self.log_file, self.history)

    def _keep(self, trainer: Trainer, pl_module: Any) -> None:
        now, epoch, select = pl_module.counts, pl_module.place.epoch, self.config.select
        self.history.append(pl_module.place.history[-1])
        self._write()
        if select == "last" or now.selection(select) > self.best.selection(select):
            self.best, self.best_epoch, self.state = now, epoch, copy.deepcopy(self.crf.state_dict())

    def _enough(self, pl_module: Any) -> bool:
        return pl_module.place.epoch - self.best_epoch >= self.config.patience

    def _tell(self, pl_module: Any, what: str, done: int, total: int) -> None:
        if self.report is None:
            return
        place, counts = pl_module.place, pl_module.counts
        training = what == "train"
        value = place.loss / place.pictures if training else counts.loss / counts.pictures
        try:
            self.report("fit" if training else what, place.epoch + 1, done, total, value)
        except KeyboardInterrupt:
            self.stop.asked = True

    def _save(self, trainer: Trainer) -> None:
        pass  # the learned parameters are only in memory
