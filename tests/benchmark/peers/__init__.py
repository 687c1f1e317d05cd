"""One training or inference step of Xception in each framework, timed in a process of its own.

Run by tests.benchmark.speed, each with the Python of its framework's environment:

    python -m tests.benchmark.peers.pytorch --mode training --filters 64,64,128,364,512,768,1024

What every worker takes and prints is in worker.py.
"""
