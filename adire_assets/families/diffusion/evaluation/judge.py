"""The judge: turns images and texts into unit vectors, which every metric but the pixels' reads.

Contract: `Judge(folder)` holds a CLIPModel or a SiglipModel of transformers in float32, from files
only. Vectors of one judge compare with each other and with no other judge's.

Imported by worker children only: this module loads torch and transformers.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional
from transformers import CLIPModel, CLIPTokenizer, PreTrainedTokenizerFast, SiglipModel

# The processors that need no torchvision; not exported at the top of transformers.
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil
from transformers.utils import logging

from adire_assets.core.errors import UserError

BATCH = 32
# By config.json's model_type. SigLIP's own tokenizer class would need sentencepiece; the
# tokenizer.json beside it says the same. The fixed-size SigLIP 2 are of type siglip, too.
PARTS: dict[str, tuple[Any, Any, Any]] = {
    "clip": (CLIPModel, CLIPTokenizer, CLIPImageProcessorPil),
    "siglip": (SiglipModel, PreTrainedTokenizerFast, SiglipImageProcessorPil),
}


class Judge:
    """A CLIP or SigLIP in a folder (model, tokenizer, preprocessor_config.json), in float32.

    The embedded tiny one fits as well as openai/clip-vit-* and google/siglip-*. UserError when the
    folder holds something else or lacks a part.
    """

    def __init__(self, folder: Path, device: str = "cpu") -> None:
        config_file = folder / "config.json"
        if not config_file.is_file():
            raise UserError(
                f"no judge in {folder}: config.json is missing; evaluation.judge must name a "
                "folder with a CLIP or SigLIP model, its tokenizer and preprocessor_config.json"
            )
        self.kind = json.loads(config_file.read_text(encoding="utf-8")).get("model_type")
        if self.kind not in PARTS:
            raise UserError(
                f"the judge in {folder} is a {self.kind!r} model; evaluation.judge needs a CLIP or "
                f"a SigLIP (model_type {' or '.join(PARTS)} in config.json)"
            )
        if self.kind == "siglip" and not (folder / "tokenizer.json").is_file():
            raise UserError(
                f"the judge in {folder} lacks tokenizer.json; a SigLIP is read by that file, "
                "spiece.model alone is not enough"
            )
        model, tokenizer, processor = PARTS[self.kind]
        self.device = torch.device(device)
        logging.disable_progress_bar()
        try:
            self.model = model.from_pretrained(
                folder, dtype=torch.float32, local_files_only=True, use_safetensors=True
            )
            self.tokenizer = tokenizer.from_pretrained(folder)
            self.processor = processor.from_pretrained(folder)
        except (OSError, ValueError) as error:
            reason = str(error).strip().partition("\n")[0]
            raise UserError(f"the judge in {folder} cannot be loaded: {reason}") from error
        if self.tokenizer.pad_token is None:
            raise UserError(
                f"the judge in {folder} has no padding token; name pad_token in its "
                "tokenizer_config.json"
            )
        self.model.to(self.device).eval()

    @torch.inference_mode()
    def embed_images(self, images: Sequence[np.ndarray]) -> np.ndarray:
        """Unit vectors, float32 [n, d], of uint8 [H, W, 3] images of any size."""
        parts = []
        for start in range(0, len(images), BATCH):
            batch = list(images[start : start + BATCH])
            pixels = self.processor(images=batch, return_tensors="pt").pixel_values
            seen = self.model.vision_model(pixels.to(self.device, torch.float32)).pooler_output
            if self.kind == "clip":
                seen = self.model.visual_projection(seen)
            parts.append(_unit(seen))
        return np.concatenate(parts) if parts else self._nothing()

    @torch.inference_mode()
    def embed_texts(self, texts: Sequence[str]) -> np.ndarray:
        """Unit vectors, float32 [n, d]; a text is cut at the judge's context length."""
        length = self.model.text_model.config.max_position_embeddings
        parts = []
        for start in range(0, len(texts), BATCH):
            batch = list(texts[start : start + BATCH])
            if self.kind == "siglip":  # trained on lower case, which SigLIP 2's file does not say
                batch = [text.lower() for text in batch]
            tokens = self.tokenizer(
                batch,
                padding="max_length",
                truncation=True,
                max_length=length,
                return_tensors="pt",
            ).input_ids
            # No attention mask: CLIP's tower is causal, so padding behind the end token is unseen,
            # and SigLIP's was trained to see it (it pools the last place of the full length).
            read = self.model.text_model(tokens.to(self.device)).pooler_output
            if self.kind == "clip":
                read = self.model.text_projection(read)
            parts.append(_unit(read))
        return np.concatenate(parts) if parts else self._nothing()

    def left_out(self, text: str) -> str:
        """The end of a text that `embed_texts` does not see; "" when it sees all of it."""
        length = self.model.text_model.config.max_position_embeddings
        length -= self.tokenizer.num_special_tokens_to_add()
        pieces = self.tokenizer(text, add_special_tokens=False, truncation=False).input_ids
        return str(self.tokenizer.decode(pieces[length:])).strip()

    def _nothing(self) -> np.ndarray:
        config = self.model.config
        clip = self.kind == "clip"
        return np.zeros(
            (0, config.projection_dim if clip else config.vision_config.hidden_size), np.float32
        )


def _unit(vectors: torch.Tensor) -> np.ndarray:
    return functional.normalize(vectors.float(), dim=1).cpu().numpy()
