"""What a diffusion training learns: to say what noise is in a latent.

The `Task` of the training loop: the denoiser's prediction against its target, by example.
"""

from collections.abc import Iterable, Sequence

from accelerate import Accelerator
from torch import Tensor, nn

from adire_assets.families.diffusion.engine.architecture import Architecture, Conditioning
from adire_assets.families.diffusion.training.examples import Batch, Examples
from adire_assets.families.diffusion.training.layers import trained_parts, trained_weights
from adire_assets.families.diffusion.training.objectives import OBJECTIVES
from adire_assets.families.diffusion.training.settings import TrainingConfig


class Denoiser(nn.Module):
    """What learns, in one module, so that FSDP can spread it."""

    def __init__(self, model: Architecture, settings: TrainingConfig, scale: int) -> None:
        super().__init__()
        self.model, self.scale = model, scale
        self.parts = nn.ModuleList(trained_parts(model, settings).values())

    def forward(self, noisy: Tensor, timesteps: Tensor, texts: Conditioning | list[str]) -> Tensor:
        """The prediction for encoded texts, or for captions that are encoded here."""
        if isinstance(texts, list):
            texts = self.model.encode(texts)
        height, width = (side * self.scale for side in noisy.shape[-2:])
        told = self.model.for_size(texts, width, height)
        return self.model.denoise(noisy, timesteps, told)


def shard(denoiser: Denoiser, trained: Sequence[nn.Parameter]) -> None:
    """Spread the frozen weights over the processes (FSDP); the few that learn stay whole."""
    from torch.distributed.fsdp import fully_shard

    ignored = set(trained)
    lists = [part for model in denoiser.parts.children() for part in model.children()]
    for block in (one for part in lists if isinstance(part, nn.ModuleList) for one in part):
        fully_shard(block, ignored_params=ignored)
    fully_shard(denoiser, ignored_params=ignored)


class Denoising:
    """The denoiser, and the examples that it learns from."""

    def __init__(
        self,
        model: Architecture,
        examples: Examples,
        settings: TrainingConfig,
        accelerator: Accelerator,
    ) -> None:
        self.examples, self.noise, self.settings = examples, examples.noise, settings
        self.accelerator, self.objective = accelerator, OBJECTIVES[settings.objective]
        self.weights = trained_weights(model)
        if settings.torch_compile:
            model.component(model.denoiser).compile()
        self.module = Denoiser(model, settings, examples.geometry.scale)
        if settings.distribution == "fsdp" and accelerator.num_processes > 1:
            shard(self.module, list(self.weights.values()))

    def batches(self, step: int) -> Iterable[Batch]:
        """See `Examples.batches`."""
        return self.examples.batches(step)

    def validation(self) -> Iterable[Batch]:
        """Validation images at fixed timesteps and noise."""
        return self.examples.validation()

    def loss(self, batch: Batch, learning: bool) -> Tensor:
        """The weighted sum of the examples' losses; Min-SNR only for what is learned from."""
        noisy = self.noise.add(batch.clean, batch.noise, batch.timesteps)
        target = self.noise.target(batch.clean, batch.noise, batch.timesteps)
        with self.accelerator.autocast():
            predicted = self.module(noisy, batch.timesteps, self.examples.texts_of(batch))
        losses = self.objective(predicted.float(), target.float())
        weights = batch.weights
        if learning and self.settings.snr_gamma is not None:
            weights = weights * self.noise.weights(batch.timesteps, self.settings.snr_gamma)
        return (weights * losses).sum()
