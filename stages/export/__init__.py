"""A trained student as an ONNX file, checked against torch."""
