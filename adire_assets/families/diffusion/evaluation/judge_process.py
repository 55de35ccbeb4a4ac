"""The judge as a child process, which answers until its parent closes it.

    with open_judge(judge, evaluation, device) as judge:
        judge(prompts, contents)    # CLIP-S of each pair

The parent imports neither torch nor transformers, and a crash of the child is an error there.

    python -m adire_assets.families.diffusion.evaluation.judge_process FOLDER DEVICE

reads {"prompts": [...], "shapes": [[H, W, 3], ...]} a line, followed by the bytes of these images,
and writes the scores as JSON a line. Images come from users too: none is written to a disk.
"""

import json
import math
import subprocess
import sys
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
        shown = [np.ascontiguousarray(images[0]) for images in contents]
        head = {"prompts": list(prompts), "shapes": [image.shape for image in shown]}
        try:
            self.process.stdin.write(json.dumps(head).encode() + b"\n")
            for image in shown:
                self.process.stdin.write(image.data)
            self.process.stdin.flush()
            answer = self.process.stdout.readline()
        except (OSError, ValueError):
            answer = b""
        if not answer:
            last = self.process.stderr.read().decode(errors="replace").strip().splitlines()[-1:]
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
    for line in sys.stdin.buffer:
        head: dict[str, Any] = json.loads(line)
        images = []
        for shape in head["shapes"]:
            content = sys.stdin.buffer.read(math.prod(shape))
            images.append(np.frombuffer(content, np.uint8).reshape(shape))
        yield head["prompts"], images


if __name__ == "__main__":
    main()
