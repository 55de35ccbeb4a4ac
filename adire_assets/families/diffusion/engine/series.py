"""What an engine has done for each release since it started, in Prometheus' format.

A request is counted when it has ended, with the parts of the engine's time that its images had:
those that were given up as well, which nobody sees, but which took time. A request that mixes
adapters is divided among their releases by the size of their weights.
"""

import threading
from collections import defaultdict
from collections.abc import Mapping

from .adapters import Mix
from .drawings import Drawing
from .engine import Engine

UNIT = "image"
STEPS = (4, 8, 16, 32, 64)  # upper bounds of the classes that images are counted in
MORE = "more"
Labels = tuple[tuple[str, str], ...]


class Series:
    """The counters; any thread may call any function."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._names: dict[str, str] = {}  # key of an adapter -> cloth@3
        self._loads: dict[str, float] = {}  # cloth@3 -> seconds
        # cloth@3 -> since the engine started; a name is never taken away.
        self._busy: defaultdict[str, float] = defaultdict(float)
        self._made: defaultdict[str, float] = defaultdict(float)
        by_steps = [*map(str, STEPS), MORE]
        self._images, self._computed, self._waited = (dict.fromkeys(by_steps, 0.0) for _ in "123")
        self._previews, self._preview_seconds = 0, 0.0

    def loaded(self, key: str, name: str, seconds: float) -> None:
        """The adapter `key` of the release `name` is held; reading it took so many seconds."""
        with self._lock:
            self._names[key] = name
            self._loads[name] = seconds
            # There from the beginning: a rate does not see the first value of a counter.
            self._busy[name] += 0
            self._made[name] += 0

    def previewed(self, seconds: float) -> None:
        """A request has its first preview so many seconds after it came."""
        with self._lock:
            self._previews += 1
            self._preview_seconds += seconds

    def ended(self, drawing: Drawing, mix: Mix, seconds: float) -> None:
        """A request has ended, so many seconds after it came; perhaps it was given up. Of such one
        the pass that is under way is not in it."""
        images, computed = drawing.request.num_images, sum(drawing.seconds.values())
        whole = not drawing.left and drawing.error is None
        with self._lock:
            for name, share in self._shares(mix):
                self._busy[name] += computed * share
                self._made[name] += images * share * whole
            if whole:
                steps = steps_class(drawing.request.num_inference_steps)
                self._images[steps] += images
                self._computed[steps] += computed
                self._waited[steps] += seconds * images

    def _shares(self, mix: Mix) -> list[tuple[str, float]]:
        total = sum(abs(weight) for _, weight in mix)
        return [(self._names[key], abs(weight) / total) for key, weight in mix]

    def lines(self, engine: str, now: Mapping[str, float]) -> str:
        """All of them, with what is as it is now: {series: value}."""
        with self._lock:
            found: list[tuple[str, Labels, float]] = [
                *((name, (), value) for name, value in now.items()),
                ("adire_first_previews_total", (), self._previews),
                ("adire_first_preview_seconds_total", (), self._preview_seconds),
            ]
            for name in self._busy:
                model, _, release = name.partition("@")
                own = (("model", model), ("release", release))
                found += [
                    ("adire_busy_seconds_total", own, self._busy[name]),
                    ("adire_made_total", (*own, ("unit", UNIT)), self._made[name]),
                    ("adire_load_seconds", own, self._loads[name]),
                ]
            for series, values in (
                ("adire_images_by_steps_total", self._images),
                ("adire_image_engine_seconds_by_steps_total", self._computed),
                ("adire_image_seconds_by_steps_total", self._waited),
            ):
                found += [(series, (("steps", one),), value) for one, value in values.items()]
        return "".join(_line(name, (("engine", engine), *own), value) for name, own, value in found)


def steps_class(steps: int) -> str:
    """The class of a number of steps: the least bound that it does not exceed."""
    return next((str(bound) for bound in STEPS if steps <= bound), MORE)


def current(engine: Engine, held: int, load_seconds: float) -> dict[str, float]:
    """What an engine that holds so many adapters, and loaded its base in so many seconds, shows."""
    return {
        "adire_images_waiting": engine.waiting,
        "adire_batch_images": engine.batch_images,
        "adire_adapters_held": held,
        "adire_image_steps_total": engine.steps,
        "adire_passes_total": engine.passes,
        "adire_engine_seconds_total": engine.seconds,
        "adire_engine_load_seconds": load_seconds,
        **device_memory(engine.device),
    }


def device_memory(device: str) -> dict[str, float]:
    """Bytes of the GPU's memory, whoever uses them; nothing without a GPU, or of one that does not
    tell."""
    if device != "cuda":
        return {}
    import torch

    try:
        free, total = torch.cuda.mem_get_info()
    except RuntimeError:  # the GPU is lost: what the engine counted is shown all the same
        return {}
    return {"adire_gpu_memory_used_bytes": total - free, "adire_gpu_memory_total_bytes": total}


def _line(name: str, labels: Labels, value: float) -> str:
    told = ",".join(f'{label}="{text}"' for label, text in labels)
    return f"{name}{{{told}}} {value!r}\n"
