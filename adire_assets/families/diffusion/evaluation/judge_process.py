"""The judge as a child process, which answers until its parent closes it.

    with open_judge(judge, evaluation, device) as judge:
        judge(prompts, contents)    # CLIP-S of each pair

The parent imports neither torch nor transformers, and a crash of the child is an error there.

    python -m adire_assets.families.diffusion.evaluation.judge_process FOLDER DEVICE

reads {"prompts": [...], "images": path of an .npz} a line and writes the scores as JSON a line.
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from adire_assets.core.child_environment import child_environment
from adire_assets.core.errors import UserError

MODULE = "adire_assets.families.diffusion.evaluation.judge_process"


def open_judge(judge: Path, evaluation: Path, device: str) -> "JudgeProcess":
    """By the artifact of a judge; `device` is "cpu" or "cuda". A prompt alone is judged by."""
    return JudgeProcess(judge / "pipeline", device)


class JudgeProcess:
    """Starts loading at once; the first call waits until that is done."""

    def __init__(self, folder: Path, device: str, *more: str, module: str = MODULE) -> None:
        """`folder` holds a CLIP or SigLIP; `device` is "cpu" or "cuda"; `module` answers, by these
        arguments and `more`."""
        self.process = subprocess.Popen(
            [sys.executable, "-m", module, str(folder), device, *more],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            # It looks at images while releases are being watched, and must not slow them.
            env=child_environment(OMP_NUM_THREADS="1"),
        )

    def __enter__(self) -> "JudgeProcess":
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()

    def __call__(self, prompts: Sequence[str], contents: Sequence[np.ndarray]) -> list[Any]:
        """What the module says of the first image of each uint8 [n, H, W, 3] and its prompt, such
        as CLIP-S. UserError when it fails."""
        assert self.process.stdin and self.process.stdout and self.process.stderr
        with tempfile.TemporaryDirectory() as name:
            path = Path(name) / "images.npz"
            np.savez(path, *(images[0] for images in contents))
            try:
                line = json.dumps({"prompts": list(prompts), "images": str(path)})
                self.process.stdin.write(line + "\n")
                self.process.stdin.flush()
                answer = self.process.stdout.readline()
            except (OSError, ValueError):
                answer = ""
        if not answer:
            last = self.process.stderr.read().strip().splitlines()[-1:]
            raise UserError(f"the judge ended without an answer: {' '.join(last)}")
        return list(json.loads(answer))


def main() -> None:
    from adire_assets.core.worker import die_with_parent, importing

    die_with_parent()
    with importing():
        import torch

        from adire_assets.families.diffusion.evaluation.judge import Judge
        from adire_assets.families.diffusion.evaluation.metrics import clip_s

    torch.set_num_threads(1)
    judge = Judge(Path(sys.argv[1]), sys.argv[2])
    for prompts, images in jobs():
        scores = clip_s.scores(judge.embed_images(images), judge.embed_texts(prompts))
        print(json.dumps([float(score) for score in scores]), flush=True)


def jobs() -> Iterator[tuple[list[str], list[np.ndarray]]]:
    """What the parent asks, in the child: prompts, and an image uint8 [H, W, 3] for each."""
    for line in sys.stdin:
        job: dict[str, Any] = json.loads(line)
        with np.load(job["images"]) as stored:
            yield job["prompts"], [stored[f"arr_{place}"] for place in range(len(job["prompts"]))]


if __name__ == "__main__":
    main()
