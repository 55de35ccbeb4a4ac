"""A family of character n-gram models: a LoRA is the counts of more texts. No image, no torch.

It shows that a package outside brings a family by an entry point, and takes it the whole way.
"""

from pathlib import Path

from adire_assets.core.answer import RequestOption, Served
from adire_assets.core.family import Family, Step

STEPS, NGRAM, SERVE = (Step((f"{__name__}.{name}",)) for name in ("steps", "ngram", "serve"))
FAMILY = Family(
    name="ngram",
    config=f"{__name__}.config:Config",
    gates=f"{__name__}.config:Gates",
    answer="text",
    packages=("numpy",),
    plumbing=(f"{__name__}.config",),
    backend=Path(__file__).with_name("backend"),
    adapter_files=("counts.json",),
    served=Served(".json", "likeness", options=(RequestOption("seed", int),)),
    release=NGRAM,
    **dict.fromkeys(("weights", "dataset", "train", "drawing", "generate", "evaluate"), STEPS),
    **dict.fromkeys(("samples", "shows"), STEPS),
    **dict.fromkeys(("serve", "answers", "judge_process"), SERVE),
)
