"""What a run saves, whole or not at all, and verified when it is read."""

from model.checkpoint.format import Generation, Place
from model.checkpoint.store import Checkpoints

__all__ = ["Checkpoints", "Generation", "Place"]
