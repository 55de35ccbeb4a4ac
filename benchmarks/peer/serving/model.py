"""A diffusers pipeline behind Triton as one writes it first: one request, one image at a time.

The pipeline, merged with its LoRA or not, is named by serving.json beside this file.
"""

import json
import os
import sys
from pathlib import Path

sys.path[:0] = filter(None, [os.environ.get("ADIRE_SITE_PACKAGES")])

import numpy as np  # noqa: E402
import torch  # noqa: E402
import triton_python_backend_utils as pb  # noqa: E402


def open_pipeline(base: str, adapter: str, merged: bool, threads: int):
    """The stock pipeline of a base with a LoRA."""
    from diffusers import DiffusionPipeline

    torch.set_num_threads(threads)
    pipe = DiffusionPipeline.from_pretrained(base, variant="fp16", dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    pipe.load_lora_weights(adapter)
    if merged:
        pipe.fuse_lora()
        pipe.unload_lora_weights()
    return pipe


class TritonPythonModel:
    def initialize(self, args):
        folder = Path(args["model_repository"]) / args["model_version"]
        self.pipe = open_pipeline(**json.loads((folder / "serving.json").read_text()))

    def execute(self, requests):
        return [self._answer(request) for request in requests]

    def _answer(self, request):
        def value(name, otherwise):
            tensor = pb.get_input_tensor_by_name(request, name)
            return otherwise if tensor is None else tensor.as_numpy().reshape(-1)[0]

        images = self.pipe(
            value("prompt", b"").decode(),
            num_inference_steps=int(value("num_inference_steps", 20)),
            guidance_scale=float(value("guidance_scale", 2.0)),
            generator=torch.Generator().manual_seed(int(value("seed", 0))),
            output_type="np",
        ).images
        return pb.InferenceResponse(
            [
                pb.Tensor("images", (images * 255).round().astype(np.uint8)),
                pb.Tensor("release", np.array([1], np.int32)),
                pb.Tensor("provenance", np.array([b"{}"], object)),
            ]
        )
