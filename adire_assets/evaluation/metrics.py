"""Scores of images: CLIP-S against a prompt and KID against real images, both by one judge.

Contract: a `Judge` turns uint8 images and texts into unit vectors, and the metrics are plain
functions of those vectors, so a new metric needs neither new images nor another pass of the judge.
One number has three scales (a cosine of 0.30 is 30 for torchmetrics and 0.75 as CLIP-S), hence
every name here carries its own.

Imported by worker children only: this module loads torch and transformers.
"""

import json
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional
from torchmetrics.image.kid import KernelInceptionDistance
from transformers import CLIPModel, CLIPTokenizer

# The processor that needs no torchvision; not exported at the top of transformers.
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.utils import logging

from adire_assets.errors import UserError

CLIP_S_SCALE = "2.5 * max(cosine, 0), 0 to 2.5"
KID_UNIT = "unbiased MMD^2, kernel (x.y + 1)^3, on unit judge embeddings"
BATCH = 32


class Judge:
    """A CLIP in a folder (model, tokenizer, preprocessor_config.json), in float32.

    Any CLIPModel of transformers fits, the embedded tiny one as well as openai/clip-vit-*.
    UserError when the folder holds something else.
    """

    def __init__(self, folder: Path, device: str = "cpu") -> None:
        config_file = folder / "config.json"
        if not config_file.is_file():
            raise UserError(
                f"no judge in {folder}: config.json is missing; evaluation.judge must name a "
                "folder with a CLIP model, its tokenizer and preprocessor_config.json"
            )
        kind = json.loads(config_file.read_text(encoding="utf-8")).get("model_type")
        if kind != "clip":
            raise UserError(
                f"the judge in {folder} is a {kind!r} model; evaluation.judge needs a CLIP"
            )
        self.device = torch.device(device)
        logging.disable_progress_bar()
        self.model = CLIPModel.from_pretrained(
            folder, dtype=torch.float32, local_files_only=True, use_safetensors=True
        )
        self.model.to(self.device).eval()  # type: ignore[arg-type]
        self.tokenizer = CLIPTokenizer.from_pretrained(folder)
        self.processor = CLIPImageProcessorPil.from_pretrained(folder)

    @torch.inference_mode()
    def embed_images(self, images: Sequence[np.ndarray]) -> np.ndarray:
        """Unit vectors, float32 [n, d], of uint8 [H, W, 3] images of any size."""
        parts = []
        for start in range(0, len(images), BATCH):
            batch = list(images[start : start + BATCH])
            pixels = self.processor(images=batch, return_tensors="pt").pixel_values
            seen = self.model.vision_model(pixels.to(self.device, torch.float32)).pooler_output
            parts.append(_unit(self.model.visual_projection(seen)))
        return np.concatenate(parts) if parts else self._nothing()

    @torch.inference_mode()
    def embed_texts(self, texts: Sequence[str]) -> np.ndarray:
        """Unit vectors, float32 [n, d]; a text is cut at the judge's context length."""
        length = self.model.text_model.config.max_position_embeddings
        parts = []
        for start in range(0, len(texts), BATCH):
            tokens = self.tokenizer(
                list(texts[start : start + BATCH]),
                padding="max_length",
                truncation=True,
                max_length=length,
                return_tensors="pt",
            ).input_ids
            # No attention mask: the tower is causal, so padding behind the end token is unseen.
            read = self.model.text_model(tokens.to(self.device)).pooler_output
            parts.append(_unit(self.model.text_projection(read)))
        return np.concatenate(parts) if parts else self._nothing()

    def _nothing(self) -> np.ndarray:
        return np.zeros((0, self.model.visual_projection.out_features), np.float32)


def _unit(vectors: torch.Tensor) -> np.ndarray:
    return functional.normalize(vectors.float(), dim=1).cpu().numpy()


def clip_s(images: np.ndarray, texts: np.ndarray) -> np.ndarray:
    """CLIP-S of each pair, float64 [n], 0 to 2.5: w * max(cosine, 0) with w = 2.5.

    `images` and `texts` are unit vectors [n, d], row by row a pair. Without a reference, equation 1
    of Hessel et al. 2021, "CLIPScore: A Reference-free Evaluation Metric for Image Captioning".
    """
    if images.shape != texts.shape:
        raise ValueError(f"pairs need equal shapes, got {images.shape} and {texts.shape}")
    cosine = (images.astype(np.float64) * texts.astype(np.float64)).sum(1)
    return 2.5 * np.maximum(cosine, 0.0)


def kid(real: np.ndarray, generated: np.ndarray, subsets: int = 100, seed: int = 0) -> float | None:
    """Kernel distance between two sets of unit vectors [n, d] and [m, d]; lower is closer.

    KID of Binkowski et al. 2018, "Demystifying MMD GANs", by torchmetrics: the mean over `subsets`
    random subsets of min(n, m) rows from each set of the unbiased estimate of MMD^2 with the kernel
    (x.y + 1)^3. Being unbiased it may come out slightly below 0 for equal sets; unit vectors bound
    it by about 16. The paper scales x.y by 1/d because Inception features grow with d; the judge's
    have length 1, so 1 is the scale that makes judges of different width comparable. Inception is
    not used, hence figures from papers do not compare. None when a set has fewer than two rows or
    a value that is not finite.
    """
    size = min(len(real), len(generated))
    if size < 2 or not (np.isfinite(real).all() and np.isfinite(generated).all()):
        return None
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.filterwarnings("ignore", message="Metric `Kernel Inception Distance`")
        torch.manual_seed(seed)
        # The vectors are the features already. The dtype matters: the estimate is a difference of
        # sums, and float32 would cost it most of its digits.
        metric = KernelInceptionDistance(
            torch.nn.Identity(), subsets=subsets, subset_size=size, degree=3, gamma=1.0, coef=1.0
        )
        metric.update(torch.from_numpy(real.astype(np.float64)), real=True)
        metric.update(torch.from_numpy(generated.astype(np.float64)), real=False)
        mean, _ = metric.compute()
    return float(mean)


def flat(image: np.ndarray) -> bool:
    """Whether a uint8 [H, W, 3] image is one colour throughout (no channel spans 3 levels).

    What a pipeline paints when its numbers overflowed: NaN becomes a single black.
    """
    span = image.max((0, 1)).astype(int) - image.min((0, 1))
    return bool((span < 3).all())
