"""What is measured of answers that users got, by the release's own judge, in a child process.

with open_signals(judge, evaluation, device) as signals:
    signals(prompts, contents)    # {name: number} of each

clip_s            CLIP-S of the first image with its prompt, higher is better
nsfw              the probability that the first image is not safe for work, 0 to 1
prompt_distance   1 - the largest cosine of the prompt with a prompt of the evaluation, by the
                  judge; 0 for one that was evaluated, larger the less it is like any
image_distance    the same of the first image and the evaluated ones

python -m adire_assets.families.diffusion.evaluation.signals FOLDER DEVICE EVALUATION
"""

import json
import sys
from pathlib import Path

import numpy as np

from adire_assets.core.files import read_json
from adire_assets.families.diffusion.evaluation.judge_process import JudgeProcess, jobs

COMPONENTS = 4  # of prompts and of images
NOTHING = 1e-4  # a component along which the evaluated ones differ less is none


def open_signals(judge: Path, evaluation: Path, device: str) -> JudgeProcess:
    """By the artifacts of a release's judge and evaluation; `device` is "cpu" or "cuda"."""
    return JudgeProcess(judge / "pipeline", device, str(evaluation), module=__name__)


def main() -> None:
    from adire_assets.core.worker import die_with_parent, importing

    die_with_parent()
    with importing():
        import torch

        from adire_assets.families.diffusion.evaluation.image_files import ImageFiles
        from adire_assets.families.diffusion.evaluation.judge import Judge
        from adire_assets.families.diffusion.evaluation.metrics import clip_s
        from adire_assets.families.diffusion.evaluation.safety import nsfw_probabilities

    torch.set_num_threads(1)
    judge, evaluation = Judge(Path(sys.argv[1]), sys.argv[2]), Path(sys.argv[3])
    entries = read_json(evaluation / "images.json")
    texts = judge.embed_texts(sorted({entry["prompt"] for entry in entries}))
    known = Known("prompt", texts)
    seen = Known("image", judge.embed_images(ImageFiles([evaluation / e["file"] for e in entries])))
    for prompts, images in jobs():
        texts, pictures = judge.embed_texts(prompts), judge.embed_images(images)
        measured = {
            "clip_s": clip_s.scores(pictures, texts),
            "nsfw": np.array(nsfw_probabilities(images)),
            **known.places(texts),
            **seen.places(pictures),
        }
        told = [
            {name: float(values[place]) for name, values in measured.items()}
            for place in range(len(prompts))
        ]
        print(json.dumps(told), flush=True)


class Known:
    """The unit vectors [m, d] of what was evaluated, prompts or images."""

    def __init__(self, kind: str, vectors: np.ndarray) -> None:
        self.kind, self.vectors, self.mean = kind, vectors, vectors.mean(0)
        _, sizes, components = np.linalg.svd(vectors - self.mean, full_matrices=False)
        components = components[:COMPONENTS][sizes[:COMPONENTS] > NOTHING]
        # Which way a component points is for the library to choose: its largest entry decides.
        largest = np.abs(components).argmax(1)
        signs = np.sign(components[np.arange(len(components)), largest])
        self.components = components * signs[:, None]

    def places(self, vectors: np.ndarray) -> dict[str, np.ndarray]:
        """Where unit vectors [n, d] lie among them: {signal: [n]}."""
        along = (vectors - self.mean) @ self.components.T
        distance = {f"{self.kind}_distance": 1 - (vectors @ self.vectors.T).max(1)}
        return distance | {f"{self.kind}_{n + 1}": along[:, n] for n in range(along.shape[1])}


if __name__ == "__main__":
    main()
