"""What a run saves, whole or not at all, and verified when it is read."""

from model.checkpoint.generations import Checkpoints, Generation, Place

__all__ = ["Checkpoints", "Generation", "Place"]
