"""Trains the tiny base model from nothing: drawn corpus, judge, autoencoder, UNet, export.

Usage: python -m adire_assets.embedded.base.train --output DIR --work DIR [--smoke]

Contract: `work` holds what each stage left behind; a run that was killed goes on where its last
checkpoint was and ends in the same bits (same thread count). `output` receives `pipeline/` (a
StableDiffusionPipeline, fp16 variant), `judge/` (CLIPModel, tokenizer, image processor) and
`training.json`; safetensors only.
"""

import argparse
import platform
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor
from transformers import CLIPModel, CLIPTokenizer

from adire_assets.core.errors import UserError
from adire_assets.core.folders import exclusive_folder
from adire_assets.core.lineage import Recipe
from adire_assets.embedded.base.autoencoder import (
    AutoencoderSettings,
    build_autoencoder,
    encode_images,
    normalise_latents,
    train_autoencoder,
)
from adire_assets.embedded.base.corpus import (
    Corpus,
    draw_generic,
    draw_palettes,
    draw_style,
    join,
    load_corpus,
    save_corpus,
)
from adire_assets.embedded.base.export import write_export
from adire_assets.embedded.base.judge import (
    JudgeSettings,
    build_judge,
    build_tokenizer,
    encode,
    train_judge,
)
from adire_assets.embedded.base.scores import measure
from adire_assets.embedded.base.stages import AveragedWeights, Loop
from adire_assets.embedded.base.unet import (
    UnetSettings,
    build_unet,
    train_unet,
)


@dataclass(frozen=True)
class TinyBaseSettings:
    """Sizes of the corpus and of each stage; the defaults take about three and a half CPU hours."""

    resolution: int = 128  # pixels per side
    generic: int = 36_000  # patterns that the judge and the UNet learn from
    style: int = 6_000  # drawn adire that only the judge sees, a fifth of it in other colours
    indigo: int = 2_000  # generic patterns in indigo and white that only the judge sees
    palettes: int = 9_000  # adire line work in any colours, for the autoencoder
    held_out: int = 400  # images that the scores are taken over
    judge: JudgeSettings = field(default_factory=JudgeSettings)
    autoencoder: AutoencoderSettings = field(default_factory=AutoencoderSettings)
    decoder: AutoencoderSettings = field(
        default_factory=lambda: AutoencoderSettings(steps=4000, learning_rate=1e-3)
    )
    unet: UnetSettings = field(default_factory=UnetSettings)


def smoke_settings() -> TinyBaseSettings:
    """Everything once and nothing learnt: for tests, in seconds."""
    return TinyBaseSettings(
        generic=96,
        style=24,
        indigo=8,
        palettes=16,
        held_out=6,
        judge=JudgeSettings(steps=4, batch_size=16, palettes=4, warmup=2),
        autoencoder=AutoencoderSettings(steps=4, batch_size=8, warmup=2),
        decoder=AutoencoderSettings(steps=4, batch_size=8, warmup=2),
        unet=UnetSettings(steps=4, batch_size=8, warmup=2),
    )


def train(
    output: Path,
    work: Path,
    seed: int = 0,
    settings: TinyBaseSettings | None = None,
    device: str = "auto",
    save_every: float = 60.0,
) -> None:
    """Run the stages that `work` does not hold yet, then export. Prints progress.

    `device` is auto, cpu or cuda; `save_every` is the time between checkpoints in seconds.
    """
    settings = settings or TinyBaseSettings()
    place = _device(device)
    with (
        exclusive_folder(work, f"{work} is used by another training; name another --work"),
        exclusive_folder(output, f"{output} is used by another training; name another --output"),
    ):
        stages = Stages(work, seed, settings, place, save_every)
        stages.train_judge()
        stages.train_autoencoder()
        stages.train_decoder()
        stages.train_unet()
        stages.export(output)


def export_checkpoints(
    output: Path, work: Path, seed: int = 0, settings: TinyBaseSettings | None = None
) -> None:
    """Export what the checkpoints in `work` hold now, trained to the end or not."""
    stages = Stages(work, seed, settings or TinyBaseSettings(), torch.device("cpu"), 60.0)
    stages.export(output)


class Stages:
    """The stages over one work folder; each returns the CPU seconds that it took in all."""

    def __init__(
        self,
        work: Path,
        seed: int,
        settings: TinyBaseSettings,
        device: torch.device,
        save_every: float,
    ) -> None:
        self.work, self.seed, self.settings, self.device = work, seed, settings, device
        self.save_every = save_every
        drawn = {
            name: getattr(settings, name)
            for name in ("resolution", "generic", "style", "indigo", "palettes")
        }
        self.drawn = _fingerprint(("corpus",), seed, drawn)

    def corpus(self) -> tuple[Corpus, Corpus]:
        """(what the UNet sees, what only the judge sees besides), drawn once and kept."""
        sizes, resolution = self.settings, self.settings.resolution
        generic_path = self.work / f"generic-{self.drawn}.npz"
        special_path = self.work / f"special-{self.drawn}.npz"
        if not generic_path.exists():
            print(f"corpus: drawing {sizes.generic} patterns", flush=True)
            save_corpus(draw_generic(sizes.generic, self.seed, resolution), generic_path)
        if not special_path.exists():
            style = draw_style(sizes.style, self.seed + 1, resolution, recoloured=0.2)
            indigo = draw_generic(sizes.indigo, self.seed, resolution, indigo=True)
            save_corpus(join(style, indigo), special_path)
        return load_corpus(generic_path), load_corpus(special_path)

    def tokenizer(self) -> CLIPTokenizer:
        """The judge's tokenizer, trained on all captions once and kept."""
        folder = self.work / f"tokenizer-{self.drawn}"
        if not folder.exists():
            captions = [caption for part in self.corpus() for caption in part.captions]
            temporary = self.work / "tokenizer.tmp"
            build_tokenizer(captions).save_pretrained(temporary)
            temporary.replace(folder)
        return CLIPTokenizer.from_pretrained(folder)

    def train_judge(self) -> float:
        """Judge stage."""
        settings = self.settings.judge
        loop = self._loop("judge", settings.steps)
        tokenizer = self.tokenizer()
        torch.manual_seed(self.seed)
        model = build_judge(tokenizer, self.settings.resolution)
        corpus = join(*self.corpus())
        return train_judge(model, tokenizer, corpus, settings, loop, self.seed, self.device)

    def train_autoencoder(self) -> float:
        """Autoencoder stage."""
        settings = self.settings.autoencoder
        torch.manual_seed(self.seed + 1)
        model = build_autoencoder(self.settings.resolution)
        loop = self._loop("autoencoder", settings.steps)
        return train_autoencoder(model, self._pictures(), settings, loop, self.seed, self.device)

    def train_decoder(self) -> float:
        """Decoder stage: the latents stay as they are, the pictures get sharper."""
        settings = self.settings.decoder
        model = build_autoencoder(self.settings.resolution)
        model.load_state_dict(self._checkpoint("autoencoder")["model"])
        loop = self._loop("decoder", settings.steps)
        return train_autoencoder(
            model, self._pictures(), settings, loop, self.seed, self.device, decoder_only=True
        )

    def _pictures(self) -> np.ndarray:
        """What the autoencoder learns from: half of it patterns, half adire line work."""
        generic = self.corpus()[0].images[: self.settings.palettes]
        sizes, path = self.settings, self.work / f"palettes-{self.drawn}.npy"
        palettes = _kept(
            path, lambda: draw_palettes(sizes.palettes, self.seed + 2, sizes.resolution)
        )
        return np.concatenate([generic, palettes])

    def train_unet(self) -> float:
        """Latents and texts of the corpus, then the UNet stage."""
        generic = self.corpus()[0]
        judge, tokenizer = self.load_judge(), self.tokenizer()
        texts, text_of = _text_states(judge, tokenizer, generic.captions, self.device)
        settings = self.settings.unet
        loop = self._loop("unet", settings.steps)
        path = self.work / f"latents-{loop.fingerprint}.npy"
        latents = torch.from_numpy(_kept(path, lambda: self._encoded(generic)))
        torch.manual_seed(self.seed + 2)
        model = build_unet(self.settings.resolution)
        return train_unet(model, latents, texts, text_of, settings, loop, self.seed, self.device)

    def _encoded(self, generic: Corpus) -> np.ndarray:
        print(f"latents: encoding {len(generic.images)} patterns", flush=True)
        return encode_images(self.load_autoencoder().to(self.device), generic.images).numpy()

    def load_judge(self) -> CLIPModel:
        """The judge as its checkpoint has it."""
        model = build_judge(self.tokenizer(), self.settings.resolution)
        model.load_state_dict(self._checkpoint("judge")["model"])
        return model.eval()

    def load_autoencoder(self) -> AutoencoderKL:
        """The autoencoder as its checkpoint has it, with normalised latents."""
        model = build_autoencoder(self.settings.resolution)
        name = "decoder" if (self.work / "decoder.pt").exists() else "autoencoder"
        model.load_state_dict(self._checkpoint(name)["model"])
        normalise_latents(model.eval(), self.corpus()[0].images[:1000])
        return model

    def load_unet(self) -> UNet2DConditionModel:
        """The averaged UNet as its checkpoint has it."""
        model = build_unet(self.settings.resolution)
        average = AveragedWeights(model, 0.0)
        average.load_state_dict(self._checkpoint("unet")["average"])
        average.copy_to(model)
        return model.eval()

    def export(self, output: Path) -> None:
        """Write pipeline/, judge/ and training.json under `output`, replacing what is there."""
        judge, tokenizer = self.load_judge(), self.tokenizer()
        autoencoder, unet = self.load_autoencoder(), self.load_unet()
        progress = {
            name: self._checkpoint(name)["progress"]
            for name in ("judge", "autoencoder", "decoder", "unet")
            if (self.work / f"{name}.pt").exists()
        }
        facts = {
            "seed": self.seed,
            "settings": asdict(self.settings),
            "steps": {name: part["done"] for name, part in progress.items()},
            "cpu_seconds": {name: round(part["cpu_seconds"]) for name, part in progress.items()},
            "device": self.device.type,
            "threads": torch.get_num_threads(),
            "python": platform.python_version(),
            "versions": {
                name: version(name)
                for name in ("torch", "diffusers", "transformers", "tokenizers", "numpy")
            },
        }

        def record(pipeline: Path) -> dict:
            scores = measure(
                judge.float(),
                tokenizer,
                autoencoder.float(),
                pipeline,
                self.seed,
                self.settings.held_out,
                self.settings.resolution,
                self.device.type,
            )
            return facts | {"scores": scores}

        facts = write_export(output, judge, tokenizer, autoencoder, unet, record)
        print(f"export: {output}, scores {facts['scores']}", flush=True)

    def _loop(self, name: str, steps: int) -> Loop:
        """The loop of a stage; its checkpoint is void if what it was made from changes (but not
        if there are more steps to take)."""
        parts = {
            "judge": ("judge",),
            "autoencoder": ("autoencoder",),
            "decoder": ("autoencoder", "decoder"),
            "unet": ("judge", "autoencoder", "unet"),
        }[name]
        made_from = {part: asdict(getattr(self.settings, part)) for part in parts}
        del made_from[name]["steps"]
        fingerprint = _fingerprint(parts, self.drawn, made_from)
        return Loop(name, self.work, steps, fingerprint, self.save_every)

    def _checkpoint(self, name: str) -> dict:
        path = self.work / f"{name}.pt"
        if not path.exists():
            raise UserError(f"{path} is missing: that stage has not written a checkpoint yet.")
        content = torch.load(path, map_location="cpu", weights_only=True)
        self._loop(name, steps=0).require_own(content["progress"])
        return content


def _kept(path: Path, make: Callable[[], np.ndarray]) -> np.ndarray:
    """The array in `path`, made when it is missing: what takes minutes is not made again."""
    if not path.exists():
        temporary = path.with_suffix(".tmp")
        with temporary.open("wb") as stream:
            np.save(stream, make())
        temporary.replace(path)
    return np.load(path)


def _fingerprint(parts: tuple[str, ...], *made_from: object) -> str:
    """Of what was made from this by the code of these parts of the model."""
    names = {part: "autoencoder" if part == "decoder" else part for part in parts}
    modules = tuple(f"{__package__}.{name}" for name in names.values())
    return Recipe("tiny_base", "", modules, config={"made_from": made_from}).key[:16]


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: this machine has no CUDA device; use --device cpu.")
    return torch.device(name)


@torch.no_grad()
def _text_states(
    judge: CLIPModel, tokenizer: CLIPTokenizer, captions: list[str], device: torch.device
) -> tuple[Tensor, np.ndarray]:
    """Text tower outputs of the distinct captions, float16 [M + 1, L, 128] with the empty caption
    last, and for each caption the index of its text."""
    distinct = {caption: number for number, caption in enumerate(dict.fromkeys(captions))}
    judge.to(device)
    tokens = encode(tokenizer, [*distinct, ""])
    parts = [
        judge.text_model(part.to(device)).last_hidden_state.to("cpu", torch.float16)
        for part in tokens.split(512)
    ]
    return torch.cat(parts), np.array([distinct[caption] for caption in captions])


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(description="Train the tiny base model from scratch.")
    parser.add_argument("--output", type=Path, required=True, help="receives pipeline/ and judge/")
    parser.add_argument("--work", type=Path, required=True, help="corpus and checkpoints")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"])
    parser.add_argument("--smoke", action="store_true", help="a few steps only, to try the path")
    parser.add_argument(
        "--export-only", action="store_true", help="export the checkpoints as they are"
    )
    options = parser.parse_args(arguments)
    settings = smoke_settings() if options.smoke else TinyBaseSettings()
    try:
        if options.export_only:
            export_checkpoints(options.output, options.work, options.seed, settings)
        else:
            train(options.output, options.work, options.seed, settings, options.device)
    except UserError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
