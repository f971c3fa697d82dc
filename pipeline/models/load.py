"""Loads a student from any file that holds one."""

from __future__ import annotations

from pathlib import Path

from pipeline.models.student import Student


def load_student(path: str | Path, device: str = "auto") -> Student:
    """Loads the student of a checkpoint of the train stage, or of an `.onnx` file of the export stage.

    The file may come from anywhere: nothing in it is executed. `x.onnx` needs its `x.json` and onnxruntime, not torch.
    `device` is `auto` (CUDA if available), `cpu`, `cuda` or `cuda:1`.

    Raises `UserError` if the file is missing, carries code, holds no student, or the device is not available.
    """
    if Path(path).suffix.lower() == ".onnx":
        from pipeline.models.onnx_student import OnnxStudent

        return OnnxStudent(path, device)
    from pipeline.models.torch_student import load_torch_student

    return load_torch_student(path, device)
