"""PyTorch's Xception, ``legacy_xception`` of timm and ``xception`` of pretrainedmodels, read and
written with numpy alone: neither PyTorch nor timm is needed."""
