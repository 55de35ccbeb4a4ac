"""Real diffusion releases of a randomly initialised base, made in a few seconds."""

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from adire_assets.core import lineage
from adire_assets.core.lineage import Recipe
from adire_assets.core.store import Artifact, Store, write_json
from adire_assets.families.diffusion import FAMILY
from adire_assets.families.diffusion.config import ServingConfig
from adire_assets.serving import release
from tests.support.house import House

if TYPE_CHECKING:
    from tests.support.tiny import Architecture

SERVING = ServingConfig(
    maximum_images=3,
    maximum_inference_steps=20,
    maximum_prompt_characters=100,
    default_inference_steps=4,
    parity_images=2,
    mixes_with=["paper"],
)
PROMPTS = ("indigo circles", "white crosses on indigo")
STEPS = 4


def add_diffusion(
    house: House,
    adapter_seed: int,
    *,
    evaluated_seed: int | None = None,
    spoil: Callable[[Path], None] | None = None,
    architecture: "Architecture" = "sd15",
    scheduler: str | None = None,
    quantization: str = "none",
) -> int:
    """Another release. `evaluated_seed`: the adapter that its evaluation really drew with;
    `spoil(folder)` damages the content before it is stored."""
    base = make_base(house, architecture)
    adapter = make_adapter_of(house, base, adapter_seed)
    evaluated = make_adapter_of(
        house, base, adapter_seed if evaluated_seed is None else evaluated_seed
    )
    serving = SERVING.model_copy(update={"scheduler": scheduler, "quantization": quantization})
    return add_release(house, base, adapter, evaluated, serving=serving, spoil=spoil)


def add_release(
    house: House,
    base: Artifact,
    adapter: Artifact,
    evaluated: Artifact,
    *,
    serving: ServingConfig = SERVING,
    spoil: Callable[[Path], None] | None = None,
) -> int:
    """Another release, of an adapter on a base, whose evaluation has drawn with `evaluated`."""

    def make(folder: Path) -> None:
        release.write_release(
            house.project,
            FAMILY,
            folder,
            model=house.model,
            adapter=adapter.path,
            base=base,
            serving=serving.model_dump(),
        )
        if spoil:
            spoil(folder)

    number = str(len(house.releases) + 1)
    inputs = {"adapter": adapter.content_hash, "number": number}
    content = Store(house.project).build(
        Recipe("triton_repository", house.model, inputs=inputs), make
    )
    evaluation = _evaluation(house, base, evaluated, serving.scheduler, serving.quantization)
    return house.keep(content.artifact, adapter, base, evaluation)


def make_base(house: House, architecture: "Architecture") -> Artifact:
    from tests.support import tiny

    def make(folder: Path) -> None:
        tiny.make_random_base(folder / "pipeline", architecture=architecture)
        write_json(folder / "base.json", {"variant": None})

    recipe = Recipe("base_model", house.model, config={"architecture": architecture})
    return Store(house.project).build(recipe, make).artifact


def make_adapter_of(house: House, base: Artifact, seed: int) -> Artifact:
    from tests.support import tiny

    inputs = {"base": base.content_hash}
    recipe = Recipe("lora_weights", house.model, inputs=inputs, config={"seed": seed})

    def make(folder: Path) -> None:
        tiny.make_adapter(folder, base.path / "pipeline", seed)

    return Store(house.project).build(recipe, make).artifact


def _judge(house: House) -> Artifact:
    from tests.support import tiny

    def make(folder: Path) -> None:
        tiny.make_random_judge(folder / "pipeline")

    return Store(house.project).build(Recipe("judge", house.model), make).artifact


def _evaluation(
    house: House, base: Artifact, adapter: Artifact, scheduler: str | None, quantization: str
) -> Artifact:
    recipe = Recipe(
        "evaluation_report",
        house.model,
        inputs={"adapter": adapter.content_hash},
        config={"scheduler": scheduler, "quantization": quantization},
        environment={"device": "cpu"},
    )

    def make(folder: Path) -> dict[str, Any]:
        from adire_assets.families.diffusion.engine.sampling import Request, Sampler

        variant = json.loads((base.path / "base.json").read_text())["variant"]
        sampler = Sampler(
            base.path / "pipeline",
            variant,
            adapter=adapter.path,
            device="cpu",
            threads=lineage.threads(),
            quantization=quantization,
        )
        requests = [
            Request(prompt, seed=seed, num_inference_steps=STEPS, scheduler=scheduler)
            for prompt in PROMPTS
            for seed in (0, 1)
        ]
        entries = []
        for position, (request, images) in enumerate(
            zip(requests, sampler.generate(requests), strict=True)
        ):
            file = f"images/adapter/{position:02}.png"
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(images[0]).save(folder / file)
            kept = {key: value for key, value in asdict(request).items() if key != "num_images"}
            entries.append({"file": file, **kept})
        (folder / "images.json").write_text(json.dumps(entries))
        scores = [{"clip_s": 1.0 + 0.01 * place} for place in range(len(entries))]
        (folder / "report.json").write_text(json.dumps({"per_image": scores}))
        return {"judge": _judge(house).reference()}

    return Store(house.project).build(recipe, make).artifact
