"""A network: its layers, the graph that is saved and the one that runs, its scores and its cost."""

from model.network.inference import bind_for_inference
from model.network.loading import Network, load_network

__all__ = ["Network", "bind_for_inference", "load_network"]
