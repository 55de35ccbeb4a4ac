"""What a UNet is told besides noisy latents and timesteps: the texts, and on SDXL the sizes.

`encode_captions` computes it as the stock pipelines' own calls do, for Stable Diffusion 1 and 2
(one text encoder) and XL (two, with a pooled embedding and six sizes in pixels).
"""

from collections.abc import Sequence
from typing import Any

import torch


def encode_captions(pipe: Any, captions: Sequence[str], resolution: int) -> dict[str, Any]:
    """Keyword arguments for `pipe.unet.forward`, one row per caption, on the UNet's device.

        encoder_hidden_states   [B, tokens, width]
        added_cond_kwargs       only where the UNet takes it (SDXL): text_embeds [B, P] and time_ids
                                [B, 6]: original height and width, top and left of the crop, target
                                height and width, all for a square image of `resolution` pixels

    The type is that of the (last) text encoder. Gradients flow into text encoders that are trained;
    for frozen ones call this under `torch.no_grad()`.
    """
    device = pipe.unet.device
    text, _, *pooled = pipe.encode_prompt(
        list(captions), device=device, num_images_per_prompt=1, do_classifier_free_guidance=False
    )
    if pipe.unet.config.addition_embed_type != "text_time":
        return {"encoder_hidden_states": text}
    size = (resolution, resolution)
    sizes = torch.tensor([[*size, 0, 0, *size]], dtype=text.dtype, device=device)
    added = {"text_embeds": pooled[0], "time_ids": sizes.repeat(len(captions), 1)}
    return {"encoder_hidden_states": text, "added_cond_kwargs": added}
