"""What models on one base cost in memory, and an adapter more those who wait for an image.

    python -m benchmarks.serving_memory [--models 8] [--adapters 64]

The base has Stable Diffusion 1.5's sizes with random weights and draws 256 pixels; the adapters are
LoRAs of rank 16 on the attention. Memory is the PSS of all processes of a slot's Triton, after an
image of each model. The last adapters are loaded while an image is drawn. Last

    memory: pss_ratio=<with --models / with one> load_s=<the last adapter> steps_lost=<of the image>
"""

import argparse
import os
import shutil
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

import numpy as np

from adire_assets.core.project import Project
from adire_assets.core.store import write_json
from adire_assets.families.diffusion import FAMILY
from adire_assets.families.diffusion.config import ServingConfig
from adire_assets.families.diffusion.engine import client
from adire_assets.families.diffusion.engine.drawings import Request
from adire_assets.serving import release
from adire_assets.serving.fleet import guard
from adire_assets.serving.fleet.parity import scratch_server
from adire_assets.serving.fleet.triton import Control
from benchmarks.large_base import large_base
from tests.support.asking import generate
from tests.support.light import ROOT

STEPS = 6


def make_base(folder: Path) -> None:
    large_base(256, "cpu").save_pretrained(folder / "pipeline", variant="fp16")
    write_json(folder / "base.json", {"variant": "fp16"})


def make_adapter(base: Path, folder: Path) -> None:
    """A LoRA with random weights."""
    import torch
    from peft import LoraConfig

    from adire_assets.families.diffusion.engine import architectures
    from adire_assets.families.diffusion.formats.adapter_file import save_adapter

    model = architectures.load(base / "pipeline", "fp16", torch.float16)
    modules = list(model.target_modules)
    model.pipe.unet.add_adapter(LoraConfig(r=16, lora_alpha=16, target_modules=modules))
    for name, weight in model.pipe.unet.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.02)
    save_adapter(model, folder)


class Shelf:
    """Release contents of any number on one base, ready to be laid into slots."""

    def __init__(self, folder: Path) -> None:
        from adire_assets.core.lineage import Recipe
        from adire_assets.core.store import Store

        (folder / "project" / "configs" / "models").mkdir(parents=True)
        (folder / "project" / "triton_models").symlink_to(ROOT / "triton_models")
        self.project = Project(folder / "project", folder / "home")
        recipe = Recipe("base_model", "base")
        self.base = Store(self.project).build(recipe, make_base).artifact
        self.adapter = folder / "adapter"
        self.adapter.mkdir()
        make_adapter(self.base.path, self.adapter)

    def lay(self, slot: Path, model: str) -> Path:
        """Version 1 of a model in a slot's folder."""
        version = slot / "models" / model / "1"
        version.mkdir(parents=True)
        serving = ServingConfig(parity_images=1).model_dump()
        release.write_release(
            self.project,
            FAMILY,
            version,
            model=model,
            adapter=self.adapter,
            base=self.base,
            serving=serving,
        )
        (version / release.CONFIG).rename(version.parent / release.CONFIG)
        write_json(version / "provenance.json", {"release": 1, "model": model})
        (version / release.NO_CACHE).touch()
        laid = slot / "base_models" / self.base.content_hash[: release.BASE_DIGITS]
        if not laid.is_dir():
            shutil.copytree(self.base.path, laid, copy_function=shutil.copyfile)
        return version


def pss(folder: Path) -> int:
    """Bytes of all processes of a slot."""
    found = 0
    for process in guard.with_variable(guard.MARK, guard.mark(folder)):
        text = Path(f"/proc/{process.pid}/smaps_rollup").read_text()
        line = next(line for line in text.splitlines() if line.startswith("Pss:"))
        found += int(line.split()[1]) * 1024
    return found


def memory(shelf: Shelf, models: int) -> float:
    """PSS with so many models over PSS with one."""
    names = [f"model_{number}" for number in range(models)]
    slots: list[Path] = []

    def fill(slot: Path) -> str:
        slots.append(slot)
        shelf.lay(slot, names[0])
        return names[0]

    with scratch_server(shelf.project, "triton", "cpu", fill, 600) as address:
        found = []
        for name in names:
            if name != names[0]:
                shelf.lay(slots[0], name)
                Control(address).load(name, 600)
            generate(address, name, "rings", num_inference_steps=1)
            found.append(pss(slots[0]))
            print(f"{name}: {found[-1] / 2**20:.0f} MiB", flush=True)
    return found[-1] / found[0]


def loading(shelf: Shelf, folder: Path, adapters: int) -> tuple[float, float]:
    """(seconds of the last adapter's loading, steps that an image lost meanwhile)."""
    slot, held = folder / "slot", []
    base = slot / "base_models" / shelf.base.content_hash[: release.BASE_DIGITS]
    version = shelf.lay(slot, "cloth")

    def attach(number: int) -> float:
        began = time.perf_counter()
        one = client.EngineClient(version, base, f"cloth@{number}", 8)
        one.attach(lambda error: None)
        held.append(one)
        return time.perf_counter() - began

    def draw() -> float:
        request = asdict(Request("rings", num_inference_steps=STEPS))
        began = time.perf_counter()
        for _ in held[0].draw(request, lambda: False):
            pass
        return time.perf_counter() - began

    try:
        for number in range(adapters - 1):
            attach(number)
        draw()
        alone = float(np.median([draw() for _ in range(3)]))
        took, meanwhile = [], []
        for number in range(3):  # each time the same number of adapters are there
            with ThreadPoolExecutor() as pool:
                drawing = pool.submit(draw)
                time.sleep(alone / 3)
                took.append(attach(adapters + number))
                meanwhile.append(drawing.result())
            held.pop().close()
        lost = (float(np.median(meanwhile)) - alone) / (alone / STEPS)
        return float(np.median(took)), lost
    finally:
        for one in held:
            one.close()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--models", type=int, default=8)
    parser.add_argument("--adapters", type=int, default=64)
    options = parser.parse_args()
    os.environ[client.PYTHON] = sys.executable
    with tempfile.TemporaryDirectory() as name:
        shelf = Shelf(Path(name))
        ratio = memory(shelf, options.models)
        seconds, lost = loading(shelf, Path(name), options.adapters)
    print(f"memory: pss_ratio={ratio:.2f} load_s={seconds:.2f} steps_lost={lost:.2f}")


if __name__ == "__main__":
    main()
