"""What a UNet is told besides noisy latents and timesteps: the texts, and on SDXL the sizes.

`encode_captions` computes it as the stock pipelines' own calls do, for Stable Diffusion 1 and 2
(one text encoder) and XL (two, with a pooled embedding and six sizes in pixels).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

TEXT_ENCODERS = ("text_encoder", "text_encoder_2")


def encode_captions(pipe: Any, captions: Sequence[str], resolution: int) -> dict[str, Any]:
    """Keyword arguments for `pipe.unet.forward`, one row per caption, on the UNet's device; for
    square images of `resolution` pixels. See `unet_arguments`."""
    return unet_arguments(encode_texts(pipe, captions), (resolution, resolution))


def encode_texts(pipe: Any, captions: Sequence[str]) -> dict[str, Tensor]:
    """encoder_hidden_states [B, tokens, width]; where the UNet takes it (SDXL) text_embeds [B, P].

    The type is that of the (last) text encoder. Gradients flow into text encoders that are trained;
    for frozen ones call this under `torch.no_grad()`.
    """
    text, _, *pooled = pipe.encode_prompt(
        list(captions),
        device=pipe.unet.device,
        num_images_per_prompt=1,
        do_classifier_free_guidance=False,
    )
    if pipe.unet.config.addition_embed_type != "text_time":
        return {"encoder_hidden_states": text}
    return {"encoder_hidden_states": text, "text_embeds": pooled[0]}


def unet_arguments(texts: Mapping[str, Tensor], size: tuple[int, int]) -> dict[str, Any]:
    """Keyword arguments for the UNet's forward from encoded texts, for images of (height, width).

        encoder_hidden_states   [B, tokens, width]
        added_cond_kwargs       with text_embeds: these [B, P] and time_ids [B, 6]: original height
                                and width, top and left of the crop, target height and width

    An image counts as taken whole, in the size in which it is seen: what the stock pipelines ask
    for when they draw.
    """
    text = texts["encoder_hidden_states"]
    if "text_embeds" not in texts:
        return {"encoder_hidden_states": text}
    sizes = torch.tensor([[*size, 0, 0, *size]], dtype=text.dtype, device=text.device)
    added = {"text_embeds": texts["text_embeds"], "time_ids": sizes.repeat(len(text), 1)}
    return {"encoder_hidden_states": text, "added_cond_kwargs": added}
