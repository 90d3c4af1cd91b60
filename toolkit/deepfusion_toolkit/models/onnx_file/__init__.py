"""A user's ONNX file as a classifier: read, checked, called by torch, held against ONNX Runtime."""

from deepfusion_toolkit.models.onnx_file.file import load_onnx, split_spec

__all__ = ["load_onnx", "split_spec"]
