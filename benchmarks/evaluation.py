"""What scoring costs beside drawing: an adapter's evaluation as the asset graph makes it.

    python -m benchmarks.evaluation --dataset DIR --adapter DIR [--model indigo] [--rounds 3]

DIR are artifacts (the assets' `path` in Dagster). The model's prompts and seeds are drawn with the
adapter and without, then scored --rounds times: first with a base that nothing is known of, then as
for the next adapter on that base. Drawing counts at the speed of the best batch size and without
what is measured of latency. The last line, of the median round, is

    evaluation: images=<n> drawing_seconds=<s> scoring_seconds=<s> ratio=<(drawing + scoring) / drawing>
"""  # noqa: E501

import argparse
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

from adire_assets.config.model import load_model
from adire_assets.core.project import Project
from adire_assets.core.store import read_json
from adire_assets.core.worker import print_progress
from adire_assets.families.diffusion.evaluation.drawing import drawing_of
from adire_assets.families.diffusion.evaluation.evaluate import score
from adire_assets.families.diffusion.evaluation.images import draw


def main() -> None:
    parser = argparse.ArgumentParser(description="What scoring costs beside drawing.")
    parser.add_argument("--dataset", type=Path, required=True)
    parser.add_argument("--adapter", type=Path, required=True)
    parser.add_argument("--model", default="indigo")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    project = Project.find()
    config = load_model(project, options.model)
    settings = config.evaluation_settings(project)
    with tempfile.TemporaryDirectory(prefix="adire-evaluation-") as name:
        root = Path(name)
        for folder, adapter in (("adapter_images", str(options.adapter)), ("base_images", None)):
            (root / folder).mkdir()
            draw(
                base=str(project.root / config.base_model.source),
                variant=config.base_model.variant,
                adapter=adapter,
                drawing=drawing_of(settings, options.dataset),
                output=str(root / folder),
                device="cpu",
                progress=print_progress,
            )
        timings = read_json(root / "adapter_images" / "timings.json")
        images = len(read_json(root / "adapter_images" / "images.json"))
        drawing = images / timings["images_per_second_maximum"]
        seconds = []
        for number in range(options.rounds + 1):
            output = root / f"evaluation-{number}"
            output.mkdir()
            found: dict[str, Any] = score(
                dataset=str(options.dataset),
                adapter_images=str(root / "adapter_images"),
                base_images=str(root / "base_images"),
                judge=str(project.root / config.evaluation.judge.source),
                evaluation=settings,
                output=str(output),
                device="cpu",
                progress=print_progress,
                base_statistics=str(root / "kept"),
            )
            seconds.append(found["scoring_seconds"])
    # Both sets were drawn for the first one.
    print(f"the first evaluation on a base: ratio {1 + seconds[0] / (2 * drawing):.3f}")
    scoring = median(seconds[1:])
    print(
        f"evaluation: images={images} drawing_seconds={drawing:.1f} scoring_seconds={scoring:.2f} "
        f"ratio={1 + scoring / drawing:.3f}"
    )


if __name__ == "__main__":
    main()
