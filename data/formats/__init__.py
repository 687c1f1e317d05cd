"""The files: record frames and the images in them."""
