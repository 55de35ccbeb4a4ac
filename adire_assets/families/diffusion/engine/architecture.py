"""The plug of an architecture of diffusion models: all that trainer and sampler know of a base.

`Architecture` says which parts a base has and computes with them: texts become conditioning, pixels
become latents and back, the denoiser predicts. A new one is a module with a subclass, and its line
in `architectures`. Latents are [B, C, h, w] throughout; a denoiser that wants tokens packs them in
its `denoise`.

Each release takes this module along: it imports nothing of the project but its neighbours, and
torch only where it is used, because every Dagster process asks which parts a base has.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    import torch
    from torch import Tensor

PREDICTION_TYPES = ("epsilon", "v_prediction")
KEPT_SCHEDULES = 64
Conditioning = dict[str, "Tensor"]  # what the denoiser is told, one row per image


@dataclass(frozen=True)
class Latents:
    """What the autoencoder makes of an image: [channels, height / scale, width / scale].

    The sides of an image are multiples of `multiple` pixels. The denoiser takes
    (latents - shift_factor) * scaling_factor.
    """

    channels: int
    scale: int
    multiple: int
    scaling_factor: float
    shift_factor: float = 0.0

    def shape(self, width: int, height: int) -> tuple[int, int, int]:
        """[C, h, w] of an image of so many pixels."""
        return self.channels, height // self.scale, width // self.scale

    def normalized(self, latents: "Tensor") -> "Tensor":
        """The autoencoder's latents as the denoiser takes them."""
        shifted = latents - self.shift_factor if self.shift_factor else latents
        return shifted * self.scaling_factor

    def restored(self, latents: "Tensor") -> "Tensor":
        """The denoiser's latents as the autoencoder takes them."""
        scaled = latents / self.scaling_factor
        return scaled + self.shift_factor if self.shift_factor else scaled


class Noise:
    """How training noises latents, and what the denoiser is to predict.

    This one is the discrete diffusion of Ho et al. 2020, for bases that predict the noise or the
    velocity. `config` is that of the base's scheduler. ValueError when it predicts something else.
    """

    def __init__(self, config: Any) -> None:
        from diffusers import DDPMScheduler

        self.schedule: Any = DDPMScheduler.from_config(config)
        kind = self.schedule.config.prediction_type
        if kind not in PREDICTION_TYPES:
            raise ValueError(
                f"has a schedule of prediction_type {kind}; training knows "
                f"{', '.join(PREDICTION_TYPES)}"
            )
        self.velocity = kind == "v_prediction"
        self.count = self.schedule.config.num_train_timesteps

    def timesteps(self, count: int, rng: "torch.Generator") -> "Tensor":
        """Timesteps of training examples, int64 [count], drawn evenly."""
        import torch

        return torch.randint(0, self.count, (count,), generator=rng)

    def timestep(self, share: float) -> "Tensor":
        """The timestep after a share of the schedule, [1]."""
        import torch

        return torch.tensor([int(share * self.count)])

    def add(self, clean: "Tensor", noise: "Tensor", timesteps: "Tensor") -> "Tensor":
        """The noised latents, [B, C, h, w]."""
        return self.schedule.add_noise(clean, noise, timesteps)

    def target(self, clean: "Tensor", noise: "Tensor", timesteps: "Tensor") -> "Tensor":
        """What the denoiser should predict, [B, C, h, w].

        The velocity is sqrt(a) noise - sqrt(1 - a) clean (Salimans and Ho 2022).
        """
        return self.schedule.get_velocity(clean, noise, timesteps) if self.velocity else noise

    def weights(self, timesteps: "Tensor", snr_gamma: float) -> "Tensor":
        """Min-SNR weights, float32 [B].

        With s = a / (1 - a): min(s, gamma) / s for predicted noise, min(s, gamma) / (s + 1) for
        predicted velocity (Hang et al. 2023).
        """
        kept = self.schedule.alphas_cumprod.to(timesteps.device)[timesteps].float()
        ratio = kept / (1 - kept)
        return ratio.clamp(max=snr_gamma) / (ratio + 1 if self.velocity else ratio)


class Architecture:
    """A loaded base. The defaults suit a pipeline of diffusers with an AutoencoderKL; a subclass
    says what is different."""

    name: ClassVar[str]  # for messages
    denoiser: ClassVar[str]  # the component that gets the adapter
    autoencoder: ClassVar[str] = "vae"
    text_encoders: ClassVar[tuple[str, ...]]  # those that can get one too
    target_modules: ClassVar[tuple[str, ...]]  # default LoRA targets: ends of modules' names
    text_encoder_target_modules: ClassVar[tuple[str, ...]] = (
        "q_proj", "k_proj", "v_proj", "out_proj",
    )  # fmt: skip
    load_options: ClassVar[dict[str, Any]] = {}  # for the pipeline's `from_pretrained`

    def __init__(self, pipe: Any) -> None:
        self.pipe = pipe

    @property
    def scheduler(self) -> Any:
        """The base's own; images are drawn by copies of it, see `schedule`."""
        return self.pipe.scheduler

    @classmethod
    def trainable(cls) -> tuple[str, ...]:
        """The components that can get an adapter, in a fixed order."""
        return cls.denoiser, *cls.text_encoders

    def component(self, name: str) -> Any:
        """A part of the pipeline; None when the base has none, or it was let go."""
        return getattr(self.pipe, name, None)

    def replace(self, name: str, part: Any) -> None:
        """Put another part in a component's place; None lets it go."""
        setattr(self.pipe, name, part)

    @property
    def dtype(self) -> Any:
        """The torch type that the denoiser computes in."""
        return self._weight.dtype

    @property
    def _weight(self) -> "Tensor":
        """One of the denoiser's. Its own `dtype` and `device` take milliseconds: they look at each
        module."""
        return next(self.component(self.denoiser).parameters())

    # --- texts ---------------------------------------------------------------------------------

    def encode(self, texts: Sequence[str]) -> Conditioning:
        """What the denoiser is told of each text, whatever the size of its image.

        Gradients flow into text encoders that are trained; call it under `torch.no_grad()` for
        frozen ones.
        """
        raise NotImplementedError

    def encode_negative(self, texts: Sequence[str], positive: Conditioning) -> Conditioning:
        """What guidance leads away from; `positive` is the conditioning of the same images."""
        return self.encode(texts)

    def guidance(self, scale: float, rows: int) -> Conditioning:
        """What tells a distilled denoiser its guidance. Others are told nothing, and are guided by
        a second prediction, for the negative text."""
        return {}

    def for_size(self, conditioning: Conditioning, width: int, height: int) -> Conditioning:
        """The conditioning of images of so many pixels."""
        return conditioning

    def left_out(self, text: str) -> str:
        """The end of a text that the text encoders do not see; "" when they see all of it.

        Stock pipelines cut a text at the length that its tokenizer names. Of several encoders the
        one that sees less counts.
        """
        found = ""
        for name in self.text_encoders:
            tokenizer = self.component(name.replace("text_encoder", "tokenizer"))
            longest = tokenizer.model_max_length - tokenizer.num_special_tokens_to_add()
            pieces = tokenizer(text, add_special_tokens=False, truncation=False).input_ids
            if len(pieces) > longest:
                found = max(found, str(tokenizer.decode(pieces[longest:])).strip(), key=len)
        return found

    # --- pixels and latents --------------------------------------------------------------------

    @property
    def latents(self) -> Latents:
        """The shape and scale of latents."""
        raise NotImplementedError

    @property
    def resolution(self) -> int:
        """The side of the square image that the base draws, in pixels."""
        return int(self.component(self.denoiser).config.sample_size * self.latents.scale)

    def encode_pixels(self, pixels: "Tensor") -> tuple["Tensor", "Tensor"]:
        """Mean and deviation of the autoencoder's latents, [B, C, h, w], of [B, 3, H, W] in -1..1.

        They are not yet `Latents.normalized`.
        """
        vae = self.component(self.autoencoder)
        found = vae.encode(pixels.to(vae.device, vae.dtype)).latent_dist
        return found.mean, found.std

    def decode(self, latents: "Tensor") -> "Tensor":
        """The pixels [B, 3, H, W], about -1..1, of the denoiser's latents."""
        vae = self.component(self.autoencoder)
        return vae.decode(self.latents.restored(latents), return_dict=False)[0]

    # --- the denoiser --------------------------------------------------------------------------

    def denoise(self, noisy: "Tensor", timesteps: "Tensor", conditioning: Conditioning) -> "Tensor":
        """The denoiser's prediction, [B, C, h, w], for noised latents at `timesteps`, [B]."""
        raise NotImplementedError

    def noise(self) -> Any:
        """How training noises latents: a `Noise`, or what has its methods."""
        return Noise(self.scheduler.config)

    def schedule(
        self, steps: int, width: int, height: int, scheduler: str | None = None
    ) -> tuple[Any, "Tensor"]:
        """(a scheduler of its own for an image of so many pixels, its timesteps, shifted or not).

        An image's steps are its own: others that share its passes are at other ones. `scheduler` is
        the name of diffusers' class, None that of the base.
        """
        own = _copied(_prepared(self.scheduler, scheduler, steps, self._weight.device))
        return own, own.timesteps


@lru_cache(KEPT_SCHEDULES)
def _prepared(base: Any, name: str | None, steps: int, device: "torch.device") -> Any:
    """A scheduler before its first step, to be copied; `base` is the base's own."""
    import diffusers

    if name is None:
        scheduler = copy.deepcopy(base)
    else:
        scheduler = getattr(diffusers, name).from_config(base.config)
    scheduler.set_timesteps(steps, device=device)
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(0)
    return scheduler


def _copied(scheduler: Any) -> Any:
    """A deep copy that shares the config, which nothing changes; tensors are copied as such, in a
    tenth of the time."""
    import torch

    known: dict[int, Any] = {id(scheduler.config): scheduler.config}
    for value in vars(scheduler).values():
        if isinstance(value, torch.Tensor):
            known[id(value)] = value.clone()
    return copy.deepcopy(scheduler, known)
