"""Does the house example look like adire? Contact sheets, technique accuracy and KID, uncurated.

    python benchmarks/house_example.py --adapter DIR [--sheets docs/images]
        [--first-base DIR --first-adapter DIR]

DIR is a lora_weights artifact. Draws 16 images of each technique with the base and the judge that
the model's YAML names, from seeds that nothing was trained or tuned on. The technique
is told by a logistic classifier on the judge's image features, trained on drawn adire that neither
judge nor LoRA has seen. With --first-base, another base and an adapter for it draw the same prompts
and are judged by the same judge (their images are enlarged to its size). The last line is
`house example: technique=<share> kid=<x> [first_kid=<y> ratio=<x/y>]`.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from adire_assets.config.model import load_model
from adire_assets.core.project import Project
from adire_assets.embedded.cloth.sample_images import TECHNIQUES, draw_adire
from adire_assets.families.diffusion.engine.sampling import Request, Sampler
from adire_assets.families.diffusion.evaluation.judge import Judge
from adire_assets.families.diffusion.evaluation.metrics import kid

PER_TECHNIQUE = 16
RESOLUTION = 128
TRAINING, TEST, PROMPTS = 2_000_000, 3_000_000, 4_000_000  # seeds, far from all others in use
CLASSIFIER_IMAGES = 300  # per technique


def drawn(seed: int, count: int, resolution: int = RESOLUTION) -> tuple[list, list[str], list[int]]:
    """`count` drawn pieces of each technique: (images, captions, indices into TECHNIQUES)."""
    images, captions, labels = [], [], []
    for label, technique in enumerate(TECHNIQUES):
        for number in range(count):
            rng = np.random.default_rng([seed, label, number])
            pixels, caption = draw_adire(technique, rng, resolution)
            images.append(pixels)
            captions.append(caption)
            labels.append(label)
    return images, captions, labels


def technique_classifier(judge: Judge) -> torch.nn.Linear:
    """A logistic regression on unit image features [n, d], trained on drawn adire."""
    images, _, labels = drawn(TRAINING, CLASSIFIER_IMAGES)
    features, truth = torch.from_numpy(judge.embed_images(images)), torch.tensor(labels)
    torch.manual_seed(0)
    model = torch.nn.Linear(features.shape[1], len(TECHNIQUES))
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=200)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        penalty = 1e-4 * model.weight.square().sum()
        loss = torch.nn.functional.cross_entropy(model(features), truth) + penalty
        loss.backward()
        return loss

    optimizer.step(closure)
    return model


def accuracy(model: torch.nn.Linear, features: np.ndarray, labels: list[int]) -> list[float]:
    """Share told right, for each technique."""
    with torch.no_grad():
        right = model(torch.from_numpy(features)).argmax(1) == torch.tensor(labels)
    return [float(right[np.array(labels) == label].float().mean()) for label in range(3)]


def generate(
    base: Path, variant: str | None, adapter: Path, prompts: list[str], steps: int, guidance: float
) -> list[np.ndarray]:
    """One image per prompt, seeds 0, 1, ...; enlarged where the base draws smaller."""
    sampler = Sampler(base, variant=variant, adapter=adapter)
    requests = [
        Request(prompt, seed=seed, num_inference_steps=steps, guidance_scale=guidance)
        for seed, prompt in enumerate(prompts)
    ]
    size = (RESOLUTION, RESOLUTION)
    images = [Image.fromarray(images[0]) for images in sampler.generate(requests)]
    return [np.asarray(image.resize(size, Image.Resampling.LANCZOS)) for image in images]


def main() -> None:
    parser = argparse.ArgumentParser(description="Look at the house example, and measure it.")
    parser.add_argument("--adapter", type=Path, required=True)
    parser.add_argument("--first-base", type=Path)
    parser.add_argument("--first-adapter", type=Path)
    parser.add_argument("--sheets", type=Path, help="folder for one contact sheet per technique")
    parser.add_argument("--model", default="indigo")
    options = parser.parse_args()
    if bool(options.first_base) != bool(options.first_adapter):
        parser.error("--first-base and --first-adapter go together")
    if options.sheets:
        options.sheets.mkdir(parents=True, exist_ok=True)
    project = Project.find()
    config = load_model(project, options.model)
    judge = Judge(project.root / config.evaluation.judge.source)
    classifier = technique_classifier(judge)
    real, _, truth = drawn(TEST, 64)
    real_features = judge.embed_images(real)
    _, prompts, labels = drawn(PROMPTS, PER_TECHNIQUE, resolution=16)
    steps, guidance = config.evaluation.num_inference_steps, config.evaluation.guidance_scale
    base = project.root / config.base_model.source
    images = generate(base, config.base_model.variant, options.adapter, prompts, steps, guidance)
    features = judge.embed_images(images)
    shares = accuracy(classifier, features, labels)
    for name, of_drawn, share in zip(
        TECHNIQUES, accuracy(classifier, real_features, truth), shares, strict=True
    ):
        print(f"{name}: told right in {of_drawn:.2f} of drawn, {share:.2f} of generated images")
    distance = kid.distance(real_features, features)
    line = f"house example: technique={np.mean(shares):.3f} kid={distance:.3f}"
    if options.first_base:
        first = generate(
            options.first_base, "fp16", options.first_adapter, prompts, steps, guidance
        )
        first_distance = kid.distance(real_features, judge.embed_images(first))
        line += f" first_kid={first_distance:.3f} ratio={distance / first_distance:.3f}"
    if options.sheets:
        for label, technique in enumerate(TECHNIQUES):
            tiles = images[label * PER_TECHNIQUE :][:PER_TECHNIQUE]
            rows = [np.hstack(tiles[start : start + 8]) for start in (0, 8)]
            Image.fromarray(np.vstack(rows)).save(options.sheets / f"{technique}.png")
            print(
                f"{technique}.png:", *prompts[label * PER_TECHNIQUE :][:PER_TECHNIQUE], sep="\n  "
            )
    print(line)


if __name__ == "__main__":
    main()
