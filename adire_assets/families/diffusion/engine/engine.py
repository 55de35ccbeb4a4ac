"""The engine: images of any requests, denoised together step by step.

A pass of the denoiser takes up to `batch_images` images, each at its own step, with its own
schedule, guidance, adapters and seed. An image joins at the next pass, and leaves when its steps
are done. Who has had the fewest turns is next, and who comes later starts with as many turns as the
one who has had the fewest: so all that wait advance alike, none starves, and an image of 4 steps is
done after about 4 rounds whatever the others want.

Decoding is apart from denoising: after a pass at most `decoded_images` finished ones are decoded.

`submit`, `cancel`, `left_out`, and `Adapters`' `read` and `add` may be called from any thread, all
else from one.
"""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch
from torch import Tensor

from .adapters import Adapters, Mix
from .architecture import Architecture, Conditioning
from .drawings import Drawing, Request, Row, Text
from .quantized import is_quantized
from .stepping import guided, rows_in_step, scaled, step_arguments, step_together

SEED_RANGE = 2**63  # seeds count modulo this, the range of torch's generators
CACHED_TEXTS = 512  # of each text once per mix of adapters that changes texts


class Engine:
    """A loaded base that draws; `say` is told in one sentence when memory ran out.

    A pass denoises at most `batch_images` images and decodes at most `decoded_images`; fewer once
    memory ran out.
    """

    def __init__(
        self,
        model: Architecture,
        device: str,
        batch_images: int,
        decoded_images: int | None = None,
        say: Callable[[str], None] = lambda sentence: None,
    ) -> None:
        self.model = model
        self.device = device
        self.adapters = Adapters(model)
        self.batch_images = batch_images
        self.decoded_images = decoded_images or batch_images
        self.size = (model.resolution, model.resolution)
        self.say = say
        self._fitting: dict[str, int] = {}  # what memory is enough for, once it ran out
        # Whether memory is enough for merged weights: they are whole, as quantized ones are not.
        self._merges = not is_quantized(model.component(model.denoiser))
        # Encoding changes settings of a tokenizer, which counting tokens must not meet.
        self._tokenizers = threading.Lock()
        self._arrived: list[Drawing] = []
        self._lock = threading.Lock()
        self._rows: list[Row] = []
        self._finished: list[Row] = []
        self._shown: list[Row] = []  # of which a preview is due
        self._texts: OrderedDict[Text, Conditioning] = OrderedDict()
        self._told: tuple[tuple[Row, ...], Conditioning] = ((), {})
        # Ever since: passes of the denoiser, steps of images in them, and what all took.
        self.passes = self.steps = 0
        self.seconds = self._began = 0.0

    # --- requests --------------------------------------------------------------------------------

    def submit(
        self,
        request: Request,
        mix: Mix = (),
        on_end: Callable[[Drawing], None] = lambda drawing: None,
        on_preview: Callable[[Drawing, int, np.ndarray], None] = lambda *_: None,
        preview_steps: int = 0,
        on_step: Callable[[Drawing], None] = lambda drawing: None,
    ) -> Drawing:
        """Have a request drawn by the passes to come. `on_step` is told of each pass that its
        images have had, but for those after which `on_preview` is."""
        images = np.empty((request.num_images, *reversed(self.size), 3), np.uint8)
        drawing = Drawing(
            request, mix, images, on_end, on_preview, preview_steps, on_step, request.num_images
        )
        with self._lock:
            self._arrived.append(drawing)
        return drawing

    def cancel(self, drawing: Drawing) -> None:
        """Let a request go; its images have no part in the next pass."""
        drawing.cancelled = True

    def left_out(self, text: str) -> str:
        """What is not seen of a text, see `Architecture.left_out`."""
        with self._tokenizers:
            return self.model.left_out(text)

    @property
    def waiting(self) -> int:
        """How many images are in the engine and not done."""
        with self._lock:
            arrived = sum(drawing.request.num_images for drawing in self._arrived)
        return arrived + len(self._rows) + len(self._finished)

    # --- passes ----------------------------------------------------------------------------------

    @torch.inference_mode()
    def step(self) -> bool:
        """Run a pass, and decode what is finished; whether anything is left to do."""
        self._admit()
        self._rows = [row for row in self._rows if not row.drawing.cancelled]
        self._finished = [row for row in self._finished if not row.drawing.cancelled]
        if rows := self._next(self._rows, "batch_images"):
            self._run(rows, self._denoise, "batch_images")
        if finished := self._next(self._finished, "decoded_images"):
            self._run(finished, self._decode, "decoded_images")
        while self._shown:
            shown, self._shown = self._shown[-1:], self._shown[:-1]
            self._run(shown, self._preview, "decoded_images")
        return bool(self._rows or self._finished or self._arrived)

    def _run(self, rows: list[Row], act: Callable[[list[Row]], None], bound: str) -> None:
        """Act on rows together. What fails in them fails alone: the next rows have their turn.

        When memory runs out, fewer are taken together from now on, and these again. A device that
        is lost is lost to all: its error is raised.
        """
        self._began = time.perf_counter()
        try:
            act(rows)
            return
        except Exception as error:
            if not _out_of_memory(error):
                self._fail(rows, error)
                if isinstance(error, torch.AcceleratorError):
                    raise
                return
        # Out here, where no traceback holds any more what was computed.
        self._told = ((), {})
        if self.device == "cuda":
            torch.cuda.empty_cache()
        if len(rows) == 1:
            self._fail(rows, MemoryError("one image takes more memory than there is"))
            return
        self._fitting[bound] = fewer = len(rows) // 2
        self.say(f"out of memory with {len(rows)} images together: {fewer} from now on")

    def _charge(self, rows: list[Row], work: str, parts: Sequence[int] | None = None) -> None:
        """Divide the time of what runs among its images, by parts or equally."""
        parts = parts or [1] * len(rows)
        taken = time.perf_counter() - self._began
        self.seconds += taken
        for row, part in zip(rows, parts, strict=True):
            row.drawing.seconds[work] += taken * part / sum(parts)

    def _fail(self, rows: Iterable[Row], error: Exception) -> None:
        for drawing in dict.fromkeys(row.drawing for row in rows):
            self._end(drawing, error)

    def _end(self, drawing: Drawing, error: Exception | None = None) -> None:
        if not drawing.cancelled:
            drawing.error = error
            drawing.cancelled = error is not None  # its other images are let go
            drawing.on_end(drawing)

    def _next(self, rows: list[Row], bound: str) -> list[Row]:
        """Those with the fewest turns, and with them others of their kind."""
        if not rows:
            return []
        most = min(getattr(self, bound), self._fitting.get(bound, len(rows)))
        in_turn = sorted(rows, key=lambda row: row.turns)  # stable: who came first is first
        return [row for row in in_turn if row.kind == in_turn[0].kind][:most]

    # --- beginning -------------------------------------------------------------------------------

    def _admit(self) -> None:
        with self._lock:
            arrived, self._arrived = self._arrived, []
        turns = min((row.turns for row in (*self._rows, *self._finished)), default=0)
        for drawing in arrived:
            if not drawing.cancelled:
                try:
                    self._rows += self._rows_of(drawing, turns)
                except Exception as error:
                    self._end(drawing, error)

    def _rows_of(self, drawing: Drawing, turns: int) -> list[Row]:
        model, request, size = self.model, drawing.request, self.size
        told = self._encoded(request.prompt, drawing.mix)
        distilled = model.guidance(request.guidance_scale, 1)
        away = None
        if request.guidance_scale > 1 and not distilled:
            away = self._encoded(request.negative_prompt, drawing.mix, told)
            away = model.for_size(away, *size)
        told = model.for_size({**told, **distilled}, *size)
        shapes = tuple((name, *tensor.shape) for name, tensor in sorted(told.items()))
        shape = (1, *model.latents.shape(*size))
        rows = []
        for image in range(request.num_images):
            generator = torch.Generator("cpu").manual_seed((request.seed + image) % SEED_RANGE)
            steps = request.num_inference_steps
            scheduler, timesteps = model.schedule(steps, *size, request.scheduler)
            # Schedulers that add noise at each step draw it per image too.
            options = {"generator": [generator], "eta": 0.0}
            taken = step_arguments(type(scheduler).step)
            noise = torch.randn(shape, generator=generator).to(self.device, model.dtype)
            rows.append(
                Row(
                    drawing,
                    image,
                    scheduler,
                    list(timesteps),
                    noise * getattr(scheduler, "init_noise_sigma", 1.0),
                    told,
                    away,
                    {name: value for name, value in options.items() if name in taken},
                    turns,
                    (shape, shapes),
                )
            )
        drawing.passes_in_all = sum(len(row.timesteps) for row in rows)
        return rows

    def _encoded(self, text: str, mix: Mix, positive: Conditioning | None = None) -> Conditioning:
        """One text, or with `positive` a negative one, encoded once.

        Alone, whatever else is asked for: the bits must not depend on it.
        """
        seen = self.adapters.of_texts(mix)
        shapes = None
        if positive is not None:
            shapes = tuple(tuple(tensor.shape) for tensor in positive.values())
        key = Text(text, seen, shapes)
        if key in self._texts:
            self._texts.move_to_end(key)
            return self._texts[key]
        self.adapters.use(self.model.text_encoders, [seen])
        with self._tokenizers:
            if positive is None:
                found = self.model.encode([text])
            else:
                found = self.model.encode_negative([text], positive)
        self._texts[key] = found
        if len(self._texts) > CACHED_TEXTS:
            self._texts.popitem(last=False)
        return found

    def let_go(self, adapter: str, error: Exception) -> None:
        """Take an adapter away; what is still to be drawn with it ends with `error`."""
        with self._lock:
            arrived = [drawing for drawing in self._arrived if adapter in dict(drawing.mix)]
        rows = [row.drawing for row in self._rows if adapter in dict(row.drawing.mix)]
        for drawing in dict.fromkeys([*arrived, *rows]):
            self._end(drawing, error)
        self._rows = [row for row in self._rows if not row.drawing.cancelled]
        for key in [key for key in self._texts if adapter in dict(key.mix)]:
            del self._texts[key]
        self.adapters.remove(adapter)

    # --- between ---------------------------------------------------------------------------------

    def _denoise(self, rows: list[Row]) -> None:
        """One step of each row."""
        # Rows of one mix beside each other; of each pair, [where it is led away from, where to].
        rows = sorted(rows, key=lambda row: row.drawing.mix)
        both = [row for row in rows for _ in range(1 + (row.away is not None))]
        self._take([row.drawing.mix for row in both])
        noisy = torch.cat([scaled(row) for row in both])
        timesteps = torch.stack([row.timestep.to(self.device) for row in both])
        predicted = self.model.denoise(noisy, timesteps, self._conditioning(rows))
        towards = guided(rows, predicted)
        for indices in rows_in_step(rows):
            group = [rows[index] for index in indices]
            try:
                found = step_together(group, torch.cat([towards[at : at + 1] for at in indices]))
            except Exception as error:  # a schedule has moved, and cannot be asked again
                self._fail(group, error)
            else:
                for row, stepped in zip(group, found, strict=True):
                    self._advance(row, stepped)
        self.passes += 1
        self.steps += len(rows)
        self._charge(rows, "denoising", [1 + (row.away is not None) for row in rows])
        shown = [row.drawing for row in self._shown]
        for drawing in dict.fromkeys(row.drawing for row in rows):
            if drawing not in shown and not drawing.cancelled:
                drawing.on_step(drawing)

    def _take(self, mixes: list[Mix]) -> None:
        """Have the denoiser take these mixes in the next pass, one a row.

        Merging takes a moment, and memory: it pays when those want the same too who wait for their
        turn.
        """
        if self._merges and len({row.drawing.mix for row in self._rows}) == 1:
            try:
                self.adapters.merge(mixes[0])
                return
            except Exception as error:
                if not _out_of_memory(error):
                    raise
            self._merges = False
            self.say("out of memory for merged weights: adapters stand beside the base from now on")
        self.adapters.use([self.model.denoiser], mixes)

    def _advance(self, row: Row, found: tuple[Tensor, ...]) -> None:
        row.latents = found[0]
        row.step += 1
        row.turns += 1
        drawing = row.drawing
        drawing.passes += 1
        if row.step == len(row.timesteps):
            self._rows.remove(row)
            self._finished.append(row)
        elif drawing.preview_steps and row.step % drawing.preview_steps == 0:
            # Many schedulers say too what they take for the clean image, which shows more.
            clean = found[1] if len(found) > 1 else None
            row.clean = row.latents if clean is None else clean
            self._shown.append(row)

    def _preview(self, rows: list[Row]) -> None:
        for row in rows:
            assert row.clean is not None
            row.drawing.on_preview(row.drawing, row.image, self._pixels(row.clean)[0])
            row.clean = None
        self._charge(rows, "decoding")

    def _conditioning(self, rows: Sequence[Row]) -> Conditioning:
        """[rows, guided ones twice, ...]; of the same rows as in the pass before made only once."""
        if self._told[0] != tuple(rows):
            told = [one for row in rows for one in (row.away, row.told) if one is not None]
            self._told = (
                tuple(rows),
                {name: torch.cat([one[name] for one in told]) for name in told[0]},
            )
        return self._told[1]

    # --- the end ---------------------------------------------------------------------------------

    def _decode(self, rows: list[Row]) -> None:
        images = self._pixels(torch.cat([row.latents for row in rows]))
        self._charge(rows, "decoding")
        for row, pixels in zip(rows, images, strict=True):
            row.drawing.images[row.image] = pixels
        for row in rows:
            self._finished.remove(row)
            row.drawing.left -= 1
            if not row.drawing.left:
                self._end(row.drawing)

    def _pixels(self, latents: Tensor) -> np.ndarray:
        """uint8 [B, H, W, 3] of the denoiser's latents."""
        pixels = (self.model.decode(latents) * 0.5 + 0.5).clamp(0, 1)
        images = pixels.cpu().permute(0, 2, 3, 1).float().numpy()
        return (images * 255).round().astype(np.uint8)


def _out_of_memory(error: Exception) -> bool:
    # On the CPU torch says so in words alone.
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError) and "DefaultCPUAllocator: can't allocate" in str(error)
    )
