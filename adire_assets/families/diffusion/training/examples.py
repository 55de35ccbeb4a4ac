"""Training examples: a dataset artifact as noised latents and captions, drawn exactly again.

What optimizer step k sees is a function of the seed and k alone: nothing has to be remembered for a
run to go on after a kill. A step's examples are drawn for all processes together, and each takes
its share. An image is seen in a finite number of views (bucket, crop, augmentation); each view is
encoded alone, so that a latent depends neither on its batch nor on when it was made. `prepare`
encodes what a run will see, after which the encoders can go.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from adire_assets.core.errors import UserError
from adire_assets.core.lineage import digest, file_digest
from adire_assets.families.diffusion.engine.architecture import Latents, Noise
from adire_assets.families.diffusion.training.augmentations import VERSIONS, names_of
from adire_assets.families.diffusion.training.buckets import Order, Shape, nearest, shapes
from adire_assets.families.diffusion.training.cache import TensorCache
from adire_assets.families.diffusion.training.settings import TrainingConfig
from adire_assets.families.diffusion.training.views import Row, View, key_of, read_rows
from adire_assets.families.training.draws import stream

OPTION_STREAM, CLASS_STREAM, VALIDATION_STREAM = 4, 5, 6  # kinds of draws, see `draws.stream`
STEP_STREAM = 1
CROPS = 5  # places of a random crop along a side
# Accumulated batches are computed in one pass while they have no more latent positions than this:
# the gradient is the same, and small passes leave a processor idle.
LATENT_POSITIONS_PER_PASS = 8192
VALIDATION_IMAGES = 16
VALIDATION_TIMES = (1 / 8, 3 / 8, 5 / 8, 7 / 8)  # shares of the schedule

ChosenExamples = list[tuple[View, str]]  # examples: how an image is seen, and its caption


@dataclass(frozen=True)
class Batch:
    """B examples of one shape on the training device; float32 [B, C, h, w] latents and noise.

    `weights`, [B], make their sum over a step the step's loss; see `Examples.batches`.
    """

    clean: Tensor
    noise: Tensor
    timesteps: Tensor  # [B]
    weights: Tensor
    captions: list[str]
    views: list[View]


class Examples:
    """The training split of the dataset artifact at `folder`, for process `rank` of `processes`.

    Images are seen in `resolution` pixels; `geometry` says what the base makes of them, `noise` how
    they are noised. `latents` makes and keeps what `encoding.encode_view` gives, `texts` what
    `encode_caption` does; no `texts` when the text encoder learns. `class_images` are for prior
    preservation.
    """

    def __init__(
        self,
        folder: Path,
        settings: TrainingConfig,
        *,
        resolution: int,
        geometry: Latents,
        noise: Noise,
        latents: TensorCache,
        texts: TensorCache | None,
        device: torch.device,
        class_images: Sequence[Path] = (),
        rank: int = 0,
        processes: int = 1,
    ) -> None:
        self.settings, self.geometry, self.noise = settings, geometry, noise
        self.augmentations = names_of(settings)
        self.latents, self.texts, self.device = latents, texts, device
        self.rank, self.processes = rank, processes
        self.rows = read_rows(folder, "train")
        if not self.rows:
            raise UserError(f"{folder / 'train.jsonl'} names no images; materialize dataset again")
        square = (resolution, resolution)
        self.shapes = [square]
        if settings.aspect_ratio_buckets:
            self.shapes = shapes(resolution, geometry.multiple)
        self.order = self._order(folder)
        trained = len(self.rows)
        self.validation_rows = read_rows(folder, "validation")[:VALIDATION_IMAGES]
        if settings.keep_checkpoint == "best" and not self.validation_rows:
            raise UserError(
                "training.keep_checkpoint: best needs validation images, and none of the dataset's "
                "fell there; raise data.validation_fraction"
            )
        prompt = settings.class_prompt or ""
        self.rows += [Row(path, file_digest(path), prompt) for path in class_images]
        self.class_shape = self._class_shape(class_images, square)
        of_class = tuple(range(trained, len(self.rows)))
        self.class_order = Order(
            (of_class,), settings.train_batch_size, stream(settings.seed, CLASS_STREAM, 0)
        )
        self.rows += self.validation_rows  # which decide the checkpoint that is kept
        self.digest = digest(
            [trained, [[self._name(folder, row), row.text, row.content] for row in self.rows]]
        )

    @staticmethod
    def _name(folder: Path, row: Row) -> str:
        """Where an image lies in the dataset, which `repeats` goes by; class images are drawn."""
        inside = row.file.is_relative_to(folder)
        return row.file.relative_to(folder).as_posix() if inside else row.file.name

    @staticmethod
    def _class_shape(images: Sequence[Path], square: Shape) -> Shape:
        """Class images keep the base's own square, which buckets and resolution need not have."""
        if not images:
            return square
        with Image.open(images[0]) as image:
            side = min(*image.size, *square)
        return side, side

    def _order(self, folder: Path) -> Order:
        groups: dict[Shape, list[int]] = {}
        for number, row in enumerate(self.rows):
            repeated = [number] * self._repeats(folder, row)
            groups.setdefault(self._shape_of(row), []).extend(repeated)
        self._refuse_unknown_repeats(folder)
        self.shapes = sorted(groups)
        rows = tuple(tuple(groups[shape]) for shape in self.shapes)
        return Order(rows, self.settings.train_batch_size, self.settings.seed)

    def _shape_of(self, row: Row) -> Shape:
        if len(self.shapes) == 1:
            return self.shapes[0]
        with Image.open(row.file) as image:
            return nearest(image.size, self.shapes)

    def _repeats(self, folder: Path, row: Row) -> int:
        """As the nearest of the folders around the image says."""
        inside = row.file.relative_to(folder / "images").parents
        return next((n for p in inside if (n := self.settings.repeats.get(str(p)))), 1)

    def _refuse_unknown_repeats(self, folder: Path) -> None:
        there = {
            str(p) for row in self.rows for p in row.file.relative_to(folder / "images").parents
        }
        if unknown := sorted(set(self.settings.repeats) - there):
            raise UserError(
                f"training.repeats: no image is in the folder {', '.join(unknown)}; folders: "
                f"{', '.join(sorted(there - {'.'})) or 'none'} (. is all)"
            )

    # --- what a step sees ----------------------------------------------------------------------

    @property
    def examples_per_step(self) -> int:
        """Of one process, class images not counted."""
        return self.settings.train_batch_size * self.settings.gradient_accumulation_steps

    def _drawn(
        self, step: int
    ) -> tuple[list[list[ChosenExamples]], torch.Generator, torch.Generator]:
        """The batches of optimizer step `step` (from 0) of all processes, and what draws on.

        A batch is its images of the dataset, then those of the class; each are of one shape.
        Options draw from a generator of their own, so that one more changes no other draw.
        """
        settings = self.settings
        rng = torch.Generator().manual_seed(stream(settings.seed, STEP_STREAM, step))
        options = torch.Generator().manual_seed(stream(settings.seed, OPTION_STREAM, step))
        batches = settings.gradient_accumulation_steps * self.processes
        kinds = [self.order, *([self.class_order] if settings.with_prior_preservation else [])]
        count = batches * settings.train_batch_size * len(kinds)
        places = iter(torch.rand((count, 3), generator=rng).tolist())
        found: list[list[ChosenExamples]] = []
        for number in range(step * batches, (step + 1) * batches):
            batch = []
            for order in kinds:
                bucket, rows = order.batch(number)
                shape = self.shapes[bucket] if order is self.order else self.class_shape
                examples: ChosenExamples = []
                for row in rows:
                    versions = tuple(
                        int(torch.randint(VERSIONS[name], (), generator=options))
                        for name in self.augmentations
                    )
                    across, down, empty = next(places)
                    text = "" if empty < settings.proportion_empty_prompts else self.rows[row].text
                    examples.append((self._view(row, shape, across, down, versions), text))
                batch.append(examples)
            found.append(batch)
        return found, rng, options

    def _view(
        self, row: int, shape: Shape, across: float, down: float, versions: tuple[int, ...]
    ) -> View:
        if self.settings.center_crop:
            return View(row, shape, 0.5, 0.5, versions)
        place = [int(share * CROPS) / (CROPS - 1) for share in (across, down)]
        return View(row, shape, place[0], place[1], versions)

    def batches(self, step: int) -> Iterator[Batch]:
        """This process's examples of optimizer step `step` (from 0), in as few passes as is good.

        The loss of the step is the sum of weight * loss over all of them. Equal weights make it the
        mean; class images have `prior_loss_weight` times the weight of others.
        """
        drawn, rng, options = self._drawn(step)
        settings = self.settings
        count = sum(len(examples) for batch in drawn for examples in batch)
        times = self.noise.timesteps(count, rng)
        made, seen = [], 0
        for number, batch in enumerate(drawn):
            mine = number // settings.gradient_accumulation_steps == self.rank
            for examples, weight in zip(batch, (1.0, settings.prior_loss_weight), strict=False):
                views, captions = zip(*examples, strict=True)
                timesteps = times[seen : seen + len(views)]
                seen += len(views)
                # Drawn example by example: how a step is cut into batches changes nothing.
                shape = self.geometry.shape(*views[0].shape)
                drawn_noise = [torch.randn((2, *shape), generator=rng) for _ in views]
                offsets = [torch.randn((shape[0], 1, 1), generator=options) for _ in views]
                if not mine:
                    continue
                spread, noise = torch.stack(drawn_noise).to(self.device).unbind(1)
                if settings.noise_offset:  # so that a whole image's brightness is learned as well
                    noise = noise + settings.noise_offset * torch.stack(offsets).to(self.device)
                mean, deviation = self._moments(views)
                weights = torch.full((len(views),), weight, device=self.device)
                made.append(
                    Batch(
                        self.geometry.normalized(mean + deviation * spread),
                        noise,
                        timesteps.to(self.device),
                        weights / self.examples_per_step,
                        list(captions),
                        list(views),
                    )
                )
        yield from _merged(made)

    def texts_of(self, batch: Batch) -> dict[str, Tensor] | list[str]:
        """The encoded captions; the captions themselves when the text encoder learns."""
        if self.texts is None:
            return batch.captions
        found = [self.texts.get(caption, self.device) for caption in batch.captions]
        return {name: torch.stack([one[name] for one in found]) for name in found[0]}

    def validation(self) -> Iterator[Batch]:
        """The same noised validation images whatever the run; their weights make the mean loss."""
        made = []
        for number, view, text in self._validation_views():
            mean = self.geometry.normalized(self._moments([view])[0])
            rng = torch.Generator().manual_seed(stream(0, VALIDATION_STREAM, number))
            for share in VALIDATION_TIMES:
                noise = torch.randn(mean.shape, generator=rng).to(self.device)
                time = self.noise.timestep(share).to(self.device)
                count = len(self.validation_rows) * len(VALIDATION_TIMES)
                weight = torch.full((1,), 1 / count, device=self.device)
                made.append(Batch(mean, noise, time, weight, [text], [view]))
        made.sort(key=lambda batch: batch.views[0].shape)
        yield from _merged(made)

    def _validation_views(self) -> list[tuple[int, View, str]]:
        first = len(self.rows) - len(self.validation_rows)
        return [
            (number, View(first + number, self._shape_of(row), 0.5, 0.5), row.text)
            for number, row in enumerate(self.validation_rows)
        ]

    # --- encoding ------------------------------------------------------------------------------

    def prepare(self, first: int, share: slice = slice(None)) -> int:
        """Encode what the steps from `first` and the validation will see; how much was missing.

        `share`: of it all, what this process makes.
        """
        views, captions = self._needed(first)
        made = self.latents.fill(
            (self._key(view), (self.rows[view.row].file, view, self.augmentations))
            for view in views[share]
        )
        if self.texts:
            made += self.texts.fill((caption, (caption,)) for caption in captions[share])
        return made

    def _needed(self, first: int) -> tuple[list[View], list[str]]:
        """In a fixed order."""
        views: dict[View, None] = {}
        captions: dict[str, None] = {}
        for step in range(first, self.settings.max_train_steps):
            for batch in self._drawn(step)[0]:
                for view, text in chain(*batch):
                    views[view] = captions[text] = None
        for _, view, text in self._validation_views():
            views[view] = captions[text] = None
        return list(views), list(captions)

    def _moments(self, views: Sequence[View]) -> tuple[Tensor, Tensor]:
        """Mean and deviation of the latents, float32 [B, C, h, w]."""
        found = [self.latents.get(self._key(view), self.device) for view in views]
        return (
            torch.stack([one["mean"] for one in found]),
            torch.stack([one["deviation"] for one in found]),
        )

    def _key(self, view: View) -> tuple:
        return key_of(self.rows[view.row], view, self.augmentations)


def _merged(batches: Sequence[Batch]) -> Iterator[Batch]:
    """Neighbours of one shape in one pass, as far as POSITIONS_TOGETHER allows."""
    waiting: list[Batch] = []
    for batch in batches:
        together = [*waiting, batch]
        height, width = batch.clean.shape[-2:]
        positions = sum(len(one.clean) for one in together) * height * width
        same = waiting and waiting[0].clean.shape[1:] == batch.clean.shape[1:]
        if waiting and not (same and positions <= LATENT_POSITIONS_PER_PASS):
            yield _one(waiting)
            together = [batch]
        waiting = together
    if waiting:
        yield _one(waiting)


def _one(batches: Sequence[Batch]) -> Batch:
    if len(batches) == 1:
        return batches[0]
    return Batch(
        torch.cat([batch.clean for batch in batches]),
        torch.cat([batch.noise for batch in batches]),
        torch.cat([batch.timesteps for batch in batches]),
        torch.cat([batch.weights for batch in batches]),
        [caption for batch in batches for caption in batch.captions],
        [view for batch in batches for view in batch.views],
    )
