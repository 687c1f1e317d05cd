"""A training run: what it is made of, how it resumes from a checkpoint, what it keeps."""
