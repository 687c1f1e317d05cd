"""Early stopping (--patience): a run ends when validation has not improved for some epochs."""

from typing import Any, Dict, Optional

from model.checkpoint import Place


class OutOfPatience(Exception):
    """Ends Module.fit before its last epoch."""


class Patience:
    """Knows the best epoch of a run so far, and whether the run is to end.

    epochs : a run ends after so many epochs in a row without a better validation accuracy; None:
        never.
    best : {"epoch", "accuracy"} of the best epoch, with a checkpoint or without; None if none was
        validated. Every checkpoint keeps it, so that a resumed run ends after the same epoch.
    """

    def __init__(self, epochs: Optional[int]):
        self._epochs = epochs
        self.best: Optional[Dict[str, Any]] = None

    def resume(self, run: Dict[str, Any]) -> None:
        """Resume from what a checkpoint says of its run."""
        # Older ones know the best epoch with a checkpoint alone.
        self.best = run.get("best_validation", run.get("best"))

    def add(self, place: Place, accuracy: float) -> None:
        """Take note of an epoch's validation."""
        if not self.best or accuracy > self.best["accuracy"]:
            self.best = {"epoch": place.epoch, "accuracy": accuracy}

    def is_over(self, place: Place) -> bool:
        """Return whether the run is to end at `place`."""
        if self._epochs is None or not self.best:
            return False
        return place.epoch - self.best["epoch"] >= self._epochs

    @property
    def reason(self) -> str:
        """Why a run ends, for the log."""
        assert self.best, "without a validation no patience ends"
        return (
            f"--patience {self._epochs}: no epoch after epoch {self.best['epoch']} had a better "
            f"validation accuracy than its {self.best['accuracy']:.4f}"
        )
