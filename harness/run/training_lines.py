"""What a training cell prints while it runs, one line an epoch."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from harness.measure.training.loop import Observer, Outcome, Settings
from models.base import SequenceModel

_SECONDS_BETWEEN_LINES = 20.0


class Lines(Observer):
    """Lines on stderr, for the cell's log."""

    def __init__(self) -> None:
        self._began = self._said = time.perf_counter()

    def resumed(self, epochs: int, checkpoint: Path) -> None:
        """Say where it goes on."""
        _say(f"continues after epoch {epochs} from {checkpoint}")

    def step(self, epoch: int, step: int, steps: int) -> None:
        """Say how far a long epoch is."""
        now = time.perf_counter()
        if step == 1:
            self._began = self._said = now
        elif now - self._said > _SECONDS_BETWEEN_LINES:
            self._said = now
            _say(f"epoch {epoch}: step {step}/{steps}, {now - self._began:.0f} s")

    def epoch(self, model: SequenceModel, outcome: Outcome, settings: Settings) -> None:
        """Say what the epoch gave and how long the rest can take."""
        epoch = outcome.epochs[-1]
        left = (settings.epochs - epoch.epoch) * sum(e.train_seconds + e.evaluation_seconds for e in outcome.epochs)
        validation = "" if epoch.validation_ndcg10 is None else f", validation NDCG@10 {epoch.validation_ndcg10:.4f}"
        _say(
            f"epoch {epoch.epoch}/{settings.epochs}: loss {epoch.loss:.4f}{validation}, "
            f"{epoch.tokens / epoch.train_seconds:,.0f} tokens/s, {epoch.train_seconds:.1f} s, "
            f"at most {left / len(outcome.epochs) / 60:.1f} min left"
        )

    def diverged(self, epoch: int, reason: str) -> None:
        """Say why it ends."""
        _say(f"epoch {epoch}: {reason}; training ends here")


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
