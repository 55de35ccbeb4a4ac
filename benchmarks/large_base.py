"""Stable Diffusion 1.5 in its published sizes with random weights: pictures are noise, but time and
memory are those of a trained one."""

from typing import Any

from tests.support import tiny


def large_base(resolution: int, device: str) -> Any:
    """The pipeline in half precision, for images of `resolution` pixels."""
    import torch
    from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline
    from diffusers import UNet2DConditionModel as UNet
    from transformers import CLIPTextConfig, CLIPTextModel

    torch.manual_seed(0)
    words = tiny.tokenizer()
    text = {"intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
    with torch.device(device):
        pipe = StableDiffusionPipeline(
            vae=AutoencoderKL(
                block_out_channels=(128, 256, 512, 512),
                down_block_types=("DownEncoderBlock2D",) * 4,
                up_block_types=("UpDecoderBlock2D",) * 4,
                layers_per_block=2,
                sample_size=resolution,
            ),
            text_encoder=CLIPTextModel(CLIPTextConfig(**tiny.text_config(words, 768) | text)),
            tokenizer=words,
            unet=UNet(sample_size=resolution // 8, cross_attention_dim=768),
            scheduler=DDIMScheduler(**tiny.SCHEDULE, clip_sample=False, steps_offset=1),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
    return pipe.to(dtype=torch.float16)
