"""Triton's Python backend of the toy family: a text goes in, how it goes on comes out."""

import json
import os
import sys
from pathlib import Path

sys.path.insert(0, os.environ["ADIRE_SITE_PACKAGES"])
import numpy as np
import triton_python_backend_utils as pb

from . import ngram  # noqa: TID252 - Triton imports 3/model.py as 3.model


class TritonPythonModel:
    def initialize(self, args):
        folder = Path(args["model_repository"]) / args["model_version"]
        limits, self.provenance = (
            json.loads((folder / name).read_text()) for name in ("serving.json", "provenance.json")
        )
        slot = folder.parents[2]
        base = slot / "base_models" / limits["base_model"] / "counts.json"
        self.model = ngram.read(base, folder / "adapter" / "counts.json")
        self.spoilt = slot / "spoilt"  # while it is there, what was not evaluated is backwards

    def execute(self, requests):
        return [self.answer(request) for request in requests]

    def answer(self, request):
        prompt, seed = (
            pb.get_input_tensor_by_name(request, name).as_numpy().reshape(-1)[0]
            for name in ("prompt", "seed")
        )
        asked = {"prompt": prompt.decode(), "seed": int(seed)}
        text = ngram.write(self.model, **asked)
        if seed >= 1_000 and self.spoilt.exists():
            text = text[::-1]
        told = {**self.provenance, "device": "cpu", "software": {}, "request": asked}
        texts = {"text": text, "provenance": json.dumps(told)}
        outputs = [
            pb.Tensor(name, np.array([[one.encode()]], object)) for name, one in texts.items()
        ]
        release = np.array([[self.provenance["release"]]], np.int32)
        return pb.InferenceResponse([*outputs, pb.Tensor("release", release)])
