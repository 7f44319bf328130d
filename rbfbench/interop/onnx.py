"""ONNX files through onnxruntime: logits without gradients. Importing this page imports onnxruntime."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray
from torch import Tensor

from rbfbench.errors import LoadError, ModelError, raised

# What onnxruntime calls an input's numbers, and how pixels in [0,1] become them.
PIXELS: dict[str, Any] = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(double)": np.float64}
BYTES = "tensor(uint8)"
CHANNELS = (1, 3)


class OnnxModel:
    """Logits (N, classes) of images (N, C, H, W) in [0,1].

    Channels go last if the file's input has them there, pixels become bytes if it takes bytes, and batches are cut to
    the size that it is fixed to. The first output of two dimensions counts.

    Args:
        path: The file.
        device: Where the images are: a GPU is used for images on one.

    Raises:
        LoadError: It cannot be opened, or has no input for images.
    """

    def __init__(self, path: Path, device: torch.device) -> None:
        what = f"cannot use {path}"
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3  # errors only
        options.intra_op_num_threads = torch.get_num_threads()
        providers = onnxruntime.get_available_providers() if device.type == "cuda" else ["CPUExecutionProvider"]
        try:
            self.session = onnxruntime.InferenceSession(str(path), options, providers=providers)
        except Exception as error:  # onnxruntime has a class of errors for each cause, none of them its base
            raise LoadError(
                what, raised(error), "check it with onnx.checker, and its opset with onnxruntime's"
            ) from error
        inputs = self.session.get_inputs()
        if len(inputs) != 1 or len(inputs[0].shape) != 4 or inputs[0].type not in (*PIXELS, BYTES):
            shown = ", ".join(f"{each.name} {each.type} {each.shape}" for each in inputs)
            raise LoadError(what, f"it takes {shown}", "export a model of one (N,C,H,W) or (N,H,W,C) input of images")
        self.name, self.shape, self.kind = inputs[0].name, inputs[0].shape, inputs[0].type
        self.channels_last = self.shape[3] in CHANNELS and self.shape[1] not in CHANNELS
        self.takes_bytes = self.kind == BYTES
        # Weights may lie in a file beside it, which exporters name after it.
        files = sorted({path, *path.parent.glob(f"{path.name}.*"), *path.parent.glob(f"{path.name}_*")})
        self.identity = " ".join(hashlib.sha256(file.read_bytes()).hexdigest() for file in files if file.is_file())
        self.batch = self.shape[0] if isinstance(self.shape[0], int) and self.shape[0] > 0 else None

    def __call__(self, x: Tensor) -> Tensor:
        """Ask about a batch.

        Raises:
            ModelError: The file has no output of logits.
        """
        pixels = x.detach().cpu().numpy()
        pixels = (pixels * 255).round().astype(np.uint8) if self.takes_bytes else pixels.astype(PIXELS[self.kind])
        if self.channels_last:
            pixels = pixels.transpose(0, 2, 3, 1)
        size = self.batch or len(pixels)
        parts = [self._run(pixels[i : i + size], size) for i in range(0, len(pixels), size)]
        return torch.from_numpy(np.concatenate(parts).astype(np.float32)).to(x.device)

    def _run(self, pixels: NDArray[Any], size: int) -> NDArray[Any]:
        """The logits of at most `size` images, which are filled up to it if the file takes no fewer."""
        missing = size - len(pixels) if self.batch else 0
        full = np.concatenate([pixels, np.repeat(pixels[-1:], missing, axis=0)]) if missing else pixels
        for output in self.session.run(None, {self.name: np.ascontiguousarray(full)}):
            if isinstance(output, np.ndarray) and output.ndim == 2 and output.dtype.kind == "f":
                return output[: len(pixels)]
        raise ModelError(
            "the ONNX file gives no logits", "no output has shape (N, classes)", "export the classifier's last layer"
        )
