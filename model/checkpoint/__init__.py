"""Checkpoints: written whole or not at all, and verified when they are read."""

from model.checkpoint.format import Generation, Place
from model.checkpoint.store import Checkpoints

__all__ = ["Checkpoints", "Generation", "Place"]
