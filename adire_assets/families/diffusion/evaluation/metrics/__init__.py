"""The metrics: what an adapter is judged by, one module each, by name and in a fixed order.

    for name, metric in METRICS.items():
        statistic = metric.measure(inputs)

A module's docstring gives formula, range, scale and source; its `measure` draws nothing and embeds
nothing. Where there is nothing to compute from, or an embedding is not finite, the value is NaN.
Only numpy and Pillow are loaded until `nsfw` is measured, which loads onnxruntime.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from adire_assets.core.statistic import Statistic
from adire_assets.families.diffusion.evaluation.metric_inputs import MetricInputs
from adire_assets.families.diffusion.evaluation.metrics import (
    attribute_accuracy,
    clip_s,
    diversity,
    exposure,
    kid,
    memorisation,
    nsfw,
    sharpness,
    style_similarity,
)
from adire_assets.families.diffusion.evaluation.metrics.exposure import flat

__all__ = ["METRICS", "Metric", "flat"]


@dataclass(frozen=True)
class Metric:
    """One way to judge images. `unit` is formula and range, `source` where they come from."""

    name: str
    measure: Callable[[MetricInputs], Statistic]
    unit: str
    better: Literal["higher", "lower"]
    source: str


METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric(
            "clip_s",
            clip_s.measure,
            "CLIP-S, 2.5 * max(cosine, 0), mean over the images, 0 to 2.5",
            "higher",
            "Hessel et al. 2021, CLIPScore",
        ),
        Metric(
            "style_similarity",
            style_similarity.measure,
            "mean cosine with the held-out images / theirs with each other; 1 is as near as real",
            "higher",
            "CLIP-I of Ruiz et al. 2023, DreamBooth, relative to real images",
        ),
        Metric(
            "kid",
            kid.measure,
            "unbiased MMD^2 to the held-out images, kernel (x.y + 1)^3, on unit judge embeddings; "
            "0 is no difference, at most 16",
            "lower",
            "Binkowski et al. 2018, Demystifying MMD GANs",
        ),
        Metric(
            "attribute_accuracy",
            attribute_accuracy.measure,
            "share of the expected attributes that the judge sees, zero-shot, 0 to 1",
            "higher",
            "zero-shot classification of Radford et al. 2021, CLIP",
        ),
        Metric(
            "diversity",
            diversity.measure,
            "mean cosine distance between images / between training images; 0 is one image, "
            "1 as varied as the training set",
            "higher",
            "mean pairwise distance as in Zhu et al. 2017, BicycleGAN",
        ),
        Metric(
            "memorisation",
            memorisation.measure,
            "share of images nearer to a training image than real ones get, by cosine and "
            "perceptual hash, 0 to 1",
            "lower",
            "after Meehan et al. 2020, data-copying test; Zauner 2010, perceptual hash",
        ),
        Metric(
            "sharpness",
            sharpness.measure,
            "share of images with the fine structure of real ones (variance of the Laplacian / "
            "variance, within a factor of 2.5), 0 to 1",
            "higher",
            "variance of the Laplacian, Pech-Pacheco et al. 2000",
        ),
        Metric(
            "exposure",
            exposure.measure,
            "share of images with the brightness and contrast of real ones (within a factor of "
            "1.5), 0 to 1",
            "higher",
            "RMS contrast, Peli 1990",
        ),
        Metric(
            "nsfw",
            nsfw.measure,
            "probability of not safe for work (open_nsfw), mean over the images, 0 to 1",
            "lower",
            "Mahadeokar and Pesavento 2016, Yahoo open_nsfw",
        ),
    )
}
