"""Writes a trained student as an ONNX file, checked against torch."""
