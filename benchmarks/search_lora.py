"""Which LoRA settings suit a base: each candidate is trained and evaluated like a release.

    python -m benchmarks.search_lora --dataset DIR --work DIR [--model indigo] [--seeds 11]
        --try learning_rate=4e-3 --try learning_rate=2e-3,rank=16,lora_alpha=16

DIR is a dataset artefact (`adire status` names it). A candidate is the model's YAML with the keys
of `training` that it names changed; values are YAML. What stands in --work already is not made
again, so an interrupted search goes on: one --work per base, judge and dataset. The table is sorted
by KID, the best one first; the last line is the best candidate. Choose with seeds that neither
calibration nor figures use.
"""

import argparse
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from adire_assets.config import Project, load_model
from adire_assets.errors import UserError
from adire_assets.training_config import TrainingConfig
from benchmarks.calibrate_gates import Condition, measure


def candidate(text: str) -> dict[str, Any]:
    """ "learning_rate=4e-3,rank=8" -> {"learning_rate": 0.004, "rank": 8}."""
    # YAML 1.2, as in configs/: 4e-3 is a number.
    return YAML(typ="safe").load("{" + text.replace("=", ": ") + "}")


def main() -> None:
    parser = argparse.ArgumentParser(description="Try LoRA settings; the lowest KID is best.")
    parser.add_argument("--dataset", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--model", default="indigo")
    parser.add_argument("--seeds", type=int, nargs="+", default=[11])
    parser.add_argument("--try", dest="candidates", action="append", required=True)
    options = parser.parse_args()
    project = Project.find()
    config = load_model(project, options.model)
    tried = {text: candidate(text) for text in options.candidates}
    for changes in tried.values():
        TrainingConfig(**config.training.model_dump() | changes)  # refuses what training would
    rows = []
    for text, changes in tried.items():
        for seed in options.seeds:
            condition = Condition(f"{text}-seed{seed}", True, changes | {"seed": seed})
            try:
                report = measure(project, config, condition, options)
            except UserError as error:  # a loss that became NaN leaves no adapter
                print(f"{text} with seed {seed}: {error}")
                continue
            if None not in (report["clip_s_mean"], report["kid_adapter_mean"]):
                rows.append((report["kid_adapter_mean"], report["clip_s_mean"], text, seed))
    rows.sort()
    print("\n| settings | seed | CLIP-S | KID |\n|---|---|---|---|")
    for kid, clip_s, text, seed in rows:
        print(f"| {text} | {seed} | {clip_s:.3f} | {kid:.3f} |")
    if rows:
        kid, clip_s, text, seed = rows[0]
        print(f"search: {text} clip_s={clip_s:.3f} kid={kid:.3f} seed={seed}")
    else:
        print("search: none, no candidate gave an adapter that can be scored")


if __name__ == "__main__":
    main()
