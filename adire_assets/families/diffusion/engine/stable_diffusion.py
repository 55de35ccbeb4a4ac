"""Stable Diffusion 1, 2 and XL (Rombach et al. 2022, Podell et al. 2023) as architectures.

Computes what diffusers' pipelines compute.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from .architecture import Architecture, Conditioning, Latents

if TYPE_CHECKING:
    from torch import Tensor


class StableDiffusion(Architecture):
    """Stable Diffusion 1 and 2: a UNet and one text encoder."""

    name = "Stable Diffusion 1 and 2"
    denoiser = "unet"
    text_encoders: ClassVar[tuple[str, ...]] = ("text_encoder",)
    target_modules = ("to_k", "to_q", "to_v", "to_out.0")
    load_options: ClassVar = {"requires_safety_checker": False}

    @property
    def latents(self) -> Latents:
        unet, vae, scale = self.pipe.unet, self.pipe.vae, self.pipe.vae_scale_factor
        halvings = len(unet.config.block_out_channels) - 1
        return Latents(
            channels=unet.config.in_channels,
            scale=scale,
            multiple=scale * 2**halvings,
            scaling_factor=vae.config.scaling_factor,
        )

    def encode(self, texts: Sequence[str]) -> Conditioning:
        """encoder_hidden_states [B, tokens, width], in the type of the (last) text encoder; of XL
        text_embeds [B, P] too."""
        text, _, *pooled = self.pipe.encode_prompt(
            list(texts),
            device=self.pipe.unet.device,
            num_images_per_prompt=1,
            do_classifier_free_guidance=False,
        )
        return {"encoder_hidden_states": text, **({"text_embeds": pooled[0]} if pooled else {})}

    def guidance(self, scale: float, rows: int) -> Conditioning:
        """timestep_cond [B, P] where the UNet takes it (Meng et al. 2023)."""
        import torch

        unet = self.pipe.unet
        if (width := unet.config.time_cond_proj_dim) is None:
            return {}
        scales = torch.tensor(scale - 1).repeat(rows)
        found = self.pipe.get_guidance_scale_embedding(scales, embedding_dim=width)
        return {"timestep_cond": found.to(unet.device, unet.dtype)}

    def denoise(self, noisy: "Tensor", timesteps: "Tensor", conditioning: Conditioning) -> "Tensor":
        return self.pipe.unet(noisy, timesteps, return_dict=False, **conditioning)[0]


class StableDiffusionXL(StableDiffusion):
    """Stable Diffusion XL: two text encoders, a pooled embedding, and sizes in pixels."""

    name = "Stable Diffusion XL"
    text_encoders = ("text_encoder", "text_encoder_2")
    # Else images change where the package invisible-watermark happens to be installed.
    load_options: ClassVar = {"add_watermarker": False}

    def encode_negative(self, texts: Sequence[str], positive: Conditioning) -> Conditioning:
        """Of an empty text zeros, where the pipeline asks for them."""
        if not getattr(self.pipe.config, "force_zeros_for_empty_prompt", False):
            return self.encode(texts)
        if not any(texts):
            return {name: tensor.new_zeros(tensor.shape) for name, tensor in positive.items()}
        found = self.encode(texts)
        for row in (row for row, text in enumerate(texts) if not text):
            for tensor in found.values():
                tensor[row] = 0
        return found

    def for_size(self, conditioning: Conditioning, width: int, height: int) -> Conditioning:
        """Adds time_ids [B, 6]: original height and width, top and left of the crop, target height
        and width. An image counts as taken whole, in the size in which it is seen: what the stock
        pipeline asks for when it draws."""
        text = conditioning["encoder_hidden_states"]
        sizes = text.new_tensor([[height, width, 0, 0, height, width]])
        return {**conditioning, "time_ids": sizes.repeat(len(text), 1)}

    def denoise(self, noisy: "Tensor", timesteps: "Tensor", conditioning: Conditioning) -> "Tensor":
        names = ("text_embeds", "time_ids")
        added = {name: conditioning[name] for name in names}
        others = {name: value for name, value in conditioning.items() if name not in names}
        found = self.pipe.unet(
            noisy, timesteps, return_dict=False, added_cond_kwargs=added, **others
        )
        return found[0]

    def decode(self, latents: "Tensor") -> "Tensor":
        import torch

        vae = self.pipe.vae
        if vae.dtype == torch.float16 and vae.config.force_upcast:  # it would overflow
            try:
                vae.to(torch.float32)
                return self._decoded(latents.float())
            finally:
                vae.to(torch.float16)
        return self._decoded(latents)

    def _decoded(self, latents: "Tensor") -> "Tensor":
        vae = self.pipe.vae
        mean, deviation = (
            getattr(vae.config, name, None) for name in ("latents_mean", "latents_std")
        )
        if mean is not None and deviation is not None:
            mean, deviation = (
                latents.new_tensor(value).view(1, -1, 1, 1) for value in (mean, deviation)
            )
            latents = latents * deviation / vae.config.scaling_factor + mean
        else:
            latents = latents / vae.config.scaling_factor
        return vae.decode(latents, return_dict=False)[0]
