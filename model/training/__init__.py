"""A training run: what it is made of, how it goes on from a checkpoint, what it keeps."""
