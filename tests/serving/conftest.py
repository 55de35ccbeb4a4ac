"""A project with real releases of a randomly initialised base, and a fleet that serves them.

Making them takes a few seconds and Triton's starts more, so one project and one fleet are shared by
all tests here; each test brings the deployment to where it needs it.
"""

import json
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import psutil
import pytest
from PIL import Image

from adire_assets import lineage
from adire_assets.config import Project, ServingConfig
from adire_assets.fleet_config import FleetConfig, SlotConfig, WebConfig
from adire_assets.lineage import Recipe
from adire_assets.serving import deployment, fleet, release, slot, triton
from adire_assets.serving.client import generate
from adire_assets.serving.deployment import DeploymentRecord
from adire_assets.serving.release import ReleaseRecord
from adire_assets.store import Artefact, Store, write_json

ROOT = Path(__file__).parents[2]
MODEL = "cloth"
SERVING = ServingConfig(
    maximum_images=3,
    maximum_inference_steps=20,
    maximum_prompt_characters=100,
    default_inference_steps=4,
    parity_images=2,
)
PROMPTS = ("indigo circles", "white crosses on indigo")
STEPS = 4


@dataclass
class House:
    """The project, its fleet, and its releases by number."""

    project: Project
    fleet: FleetConfig
    releases: dict[int, ReleaseRecord] = field(default_factory=dict)

    @property
    def address(self) -> str:
        return slot.address(self.fleet.slot[1])

    @property
    def slot_folder(self) -> Path:
        name, config = self.fleet.slot
        return slot.folder(self.project, name, config)

    @property
    def shared_memory(self) -> list[Path]:
        return list(Path("/dev/shm").glob(f"{triton.shm_prefix(self.slot_folder)}*"))

    def deploy(self, number: int) -> DeploymentRecord:
        return deployment.deploy(
            self.project, self.fleet, MODEL, number, verify=lambda record: None, progress=print
        )

    def ensure_live(self, number: int) -> None:
        """Release `number` live, whatever an earlier test has left."""
        for other in self.releases:
            if deployment.quarantined(self.project, MODEL, other):
                deployment.lift_quarantine(self.project, MODEL, other, "the next test")
        self.deploy(number)

    def serving(self) -> int:
        """The release that answers a request without a version."""
        return generate(self.address, MODEL, "cloth", num_inference_steps=1).release

    def processes(self) -> list[psutil.Process]:
        """The tritonservers and stubs of this fleet's slot."""
        prefix = triton.shm_prefix(self.slot_folder)
        found = []
        for process in psutil.process_iter(["cmdline"]):
            words = process.info["cmdline"] or [""]
            if Path(words[0]).name in ("tritonserver", "triton_python_backend_stub") and any(
                prefix in word for word in words
            ):
                found.append(process)
        return found

    def tritonserver(self) -> psutil.Process:
        [found] = [p for p in self.processes() if p.name() == "tritonserver"]
        return found

    @contextmanager
    def requests_all_along(self) -> Iterator[Counter]:
        """Clients that send all along; afterwards no request may have failed.

        Yields how many answers each release has given.
        """
        answers: Counter = Counter()
        failures: list[str] = []
        over = threading.Event()

        def send() -> None:
            # The pause leaves the cores to what is being loaded.
            while not over.wait(0.05):
                try:
                    answers[self.serving()] += 1
                except Exception as error:
                    failures.append(str(error))

        clients = [threading.Thread(target=send) for _ in range(2)]
        for client in clients:
            client.start()
        try:
            assert triton.wait_until(lambda: answers.total() >= 3 or bool(failures), 60)
            yield answers
            sent = answers.total()
            assert triton.wait_until(lambda: answers.total() >= sent + 3 or bool(failures), 60)
        finally:
            over.set()
            for client in clients:
                client.join()
        assert not failures, failures[:3]

    def add_release(
        self,
        adapter_seed: int,
        *,
        evaluated_seed: int | None = None,
        spoil: Callable[[Path], None] | None = None,
    ) -> int:
        """Another release. `evaluated_seed`: the adapter that its evaluation really drew with;
        `spoil(folder)` damages the content before it is stored."""
        number = len(self.releases) + 1
        adapter = _adapter(self.project, adapter_seed)
        base = _base(self.project)
        evaluated = _adapter(
            self.project, adapter_seed if evaluated_seed is None else evaluated_seed
        )

        def make(folder: Path) -> None:
            release.write_release(
                self.project, folder, model=MODEL, adapter=adapter.path, base=base, serving=SERVING
            )
            if spoil:
                spoil(folder)

        recipe = Recipe(
            "triton_repository",
            MODEL,
            inputs={"adapter": adapter.content_hash, "number": str(number)},
        )
        content = Store(self.project).build(recipe, make).artefact
        evaluation = _evaluation(self.project, base, evaluated)
        self.releases[number] = release.write_record(
            self.project,
            ReleaseRecord(
                model=MODEL,
                number=number,
                repository=content.reference(),
                adapter=adapter.reference(),
                base_model=base.reference(),
                evaluation=evaluation.reference(),
                verdict=evaluation.reference(),
                mlflow_run_id=f"run-{number}",
                provenance={"code": {"commit": "c" * 40}, "dvc_hash": "d.dir"},
            ),
        )
        return number


@pytest.fixture(scope="session")
def house(tmp_path_factory: pytest.TempPathFactory) -> House:
    """Releases 1 and 2, sound and different, and a fleet description with free ports."""
    root = tmp_path_factory.mktemp("house")
    (root / "configs" / "models").mkdir(parents=True)
    (root / "triton_models").symlink_to(ROOT / "triton_models")
    home = root / "home"
    ports = {triton.free_port() for _ in range(20)}
    http, grpc, metrics, web = list(ports)[:4]
    config = FleetConfig(
        slots={"blue": SlotConfig(http_port=http, grpc_port=grpc, metrics_port=metrics)},
        dagster=WebConfig(port=web),
        device="cpu",
    )
    made = House(Project(root, home), config)
    made.add_release(1)
    made.add_release(2)
    return made


@pytest.fixture(scope="session")
def served(house: House) -> Iterator[House]:
    """The house with its slot running under supervisord."""
    try:
        fleet.up(house.project, house.fleet, only="triton", progress=print)
        yield house
    finally:
        fleet.down(house.project, house.fleet)
    assert not house.processes()
    assert not house.shared_memory


def _base(project: Project) -> Artefact:
    from tests.support import tiny

    def make(folder: Path) -> None:
        tiny.make_random_base(folder / "pipeline")
        write_json(folder / "base.json", {"variant": None})

    return Store(project).build(Recipe("base_model", MODEL), make).artefact


def _adapter(project: Project, seed: int) -> Artefact:
    """A LoRA with random weights, large enough that two of them draw different images."""
    recipe = Recipe("lora_weights", MODEL, config={"seed": seed})
    base = _base(project).path / "pipeline"

    def make(folder: Path) -> None:
        import torch
        from diffusers import StableDiffusionPipeline, UNet2DConditionModel
        from peft import LoraConfig, get_peft_model_state_dict

        torch.manual_seed(seed)
        unet = UNet2DConditionModel.from_pretrained(base, subfolder="unet")
        unet.add_adapter(LoraConfig(r=4, lora_alpha=4, target_modules=["to_k", "to_q", "to_v"]))
        for name, weights in unet.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(weights, std=1.0)
        StableDiffusionPipeline.save_lora_weights(folder, get_peft_model_state_dict(unet))

    return Store(project).build(recipe, make).artefact


def _evaluation(project: Project, base: Artefact, adapter: Artefact) -> Artefact:
    recipe = Recipe(
        "evaluation_report",
        MODEL,
        inputs={"adapter": adapter.content_hash},
        environment={"device": "cpu"},
    )

    def make(folder: Path) -> None:
        from adire_assets.diffusion.sampling import Request, Sampler

        sampler = Sampler(
            base.path / "pipeline",
            adapter=adapter.path,
            device="cpu",
            threads=lineage.threads(),
        )
        requests = [
            Request(prompt, seed=seed, num_inference_steps=STEPS)
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

    return Store(project).build(recipe, make).artefact


def awaited(condition: Callable[[], bool], seconds: float) -> None:
    """Wait until `condition` holds; fails when it does not within `seconds`."""
    assert triton.wait_until(condition, seconds), f"not within {seconds} s"


def different(first: np.ndarray, second: np.ndarray) -> int:
    """The largest difference of two images in levels of 255."""
    return int(np.abs(first.astype(int) - second.astype(int)).max())
