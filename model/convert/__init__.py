"""Weights from and to other formats: Keras, the 2017 script, ONNX."""
