"""Attribute accuracy: does the image show circles when circles were asked for?

    E_i = share of the attributes that prompt i expects for which the text of the expected value is
          nearer to image i (higher cosine) than the text of every other value of that attribute

Range 0 to 1, higher is better; guessing gets one over the number of values. A tie counts as wrong.
An image whose prompt expects nothing does not take part; an attribute with a single value tells
nothing apart and is left out. NaN when no image takes part. The judge errs as well: its accuracy
on the real images of the style bounds what a figure means.

Source: zero-shot classification as in section 3.1 of Radford et al. 2021, "Learning Transferable
Visual Models From Natural Language Supervision" (arXiv:2103.00020).
"""

import math
from collections.abc import Mapping

import numpy as np

from adire_assets.core.statistic import Statistic
from adire_assets.families.diffusion.evaluation.metric_inputs import MetricInputs
from adire_assets.families.diffusion.evaluation.metrics.vectors import cosines, zero_or_nan


def measure(inputs: MetricInputs) -> Statistic:
    """The share of the expected attributes that the judge sees in each image, 0 to 1."""
    count = len(inputs.embeddings)
    if len(inputs.expected) not in (0, count):
        raise ValueError(f"{len(inputs.expected)} expectations for {count} images")
    each = np.full(count, math.nan)
    for place, expected in enumerate(inputs.expected):
        seen = [
            _nearest(inputs.embeddings[place], inputs.attributes[name], value)
            for name, value in expected.items()
            if len(inputs.attributes[name]) > 1
        ]
        if seen:
            each[place] = np.mean(seen)
    texts = [vector for values in inputs.attributes.values() for vector in values.values()]
    return Statistic(each=each, constant=zero_or_nan(inputs.embeddings, *texts))


def _nearest(image: np.ndarray, texts: Mapping[str, np.ndarray], value: str) -> bool:
    names = list(texts)
    found = cosines(image[None], np.stack([texts[name] for name in names]))[0]
    own = names.index(value)
    return bool((np.delete(found, own) < found[own]).all())
