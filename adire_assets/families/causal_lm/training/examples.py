"""Training examples: a dataset artifact as token ids, drawn exactly again and packed into rows.

What optimizer step k sees is a function of the seed and k alone. A step's examples are drawn for
all processes together, and each takes its share. Where `packing` is on, examples lie one after
another in one row; attention stays inside each and its positions begin at 0, so the losses are
those of rows of their own, without padding. Else those of about one length share a pass.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from adire_assets.core.errors import UserError
from adire_assets.core.files import read_json_lines
from adire_assets.core.lineage import digest
from adire_assets.families.causal_lm.chat import Encoded, encode
from adire_assets.families.causal_lm.training.attention import packed
from adire_assets.families.causal_lm.training.settings import TrainingConfig
from adire_assets.families.training.draws import permutation

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

ROW_STREAM = 2  # kind of draw, see `draws.stream`
VALIDATION_EXAMPLES = 64
NOT_LEARNT = -100  # the target of a token that no loss is taken of


@dataclass(frozen=True)
class Batch:
    """R rows of L tokens on the training device; int64 [R, L] each.

    `targets` are the tokens that follow, or NOT_LEARNT; padding stands behind an example, and its
    targets are that too. `told` is what the model is told besides the tokens. `weight` times the
    sum of the targets' losses is this batch's part of the loss.
    """

    ids: Tensor
    targets: Tensor
    weight: float
    told: dict[str, Any] = field(default_factory=dict)


class Examples:
    """The splits of the dataset artifact at `folder`, for process `rank` of `processes`."""

    def __init__(
        self,
        folder: Path,
        settings: TrainingConfig,
        tokenizer: "PreTrainedTokenizerFast",
        *,
        device: torch.device,
        rank: int = 0,
        processes: int = 1,
    ) -> None:
        self.settings, self.device, self.rank, self.processes = settings, device, rank, processes
        self.padding = tokenizer.pad_token_id or tokenizer.eos_token_id
        self.cut: list[str] = []  # where the examples come from that are longer than max_length
        self.rows = list(self._read(folder / "train.jsonl", tokenizer))
        if not self.rows:
            raise UserError(
                f"training.max_length: no answer of {folder / 'train.jsonl'} begins within "
                f"{settings.max_length} tokens; raise it"
            )
        validation = self._read(folder / "validation.jsonl", tokenizer)
        self.validation_rows = list(islice(validation, VALIDATION_EXAMPLES))
        if settings.keep_checkpoint == "best" and not self.validation_rows:
            raise UserError(
                "training.keep_checkpoint: best needs validation examples, and none of the "
                "dataset's fell there; raise data.validation_fraction"
            )
        self.digest = digest([[row.ids, row.said] for row in (*self.rows, *self.validation_rows)])

    def _read(self, file: Path, tokenizer: "PreTrainedTokenizerFast") -> Iterator[Encoded]:
        """The examples of a split, cut to max_length; those without an answer are left out."""
        most = self.settings.max_length
        for record in read_json_lines(file):
            whole = encode(tokenizer, record["messages"])
            if len(whole.ids) > most:
                self.cut.append(record["source"])
            said = whole.said if self.settings.assistant_only_loss else [True] * len(whole.ids)
            one = Encoded(whole.ids[:most], said[:most])
            if any(one.said[1:]):
                yield one

    def batches(self, step: int) -> Iterator[Batch]:
        """This process's examples of optimizer step `step` (from 0), in as few passes as is good.

        The loss of the step is the mean over the answers' tokens of all processes, whose gradients
        are averaged: so each weighs its tokens by the number of processes.
        """
        settings = self.settings
        mine = settings.train_batch_size * settings.gradient_accumulation_steps
        drawn = [self._drawn(place) for place in range(*self._places(step, mine))]
        tokens = sum(map(_learnt, drawn))
        # The longest first, in turn: all processes have about as much to do.
        drawn.sort(key=_length, reverse=True)
        return self._passes(drawn[self.rank :: self.processes], self.processes / max(tokens, 1))

    def validation(self) -> Iterator[Batch]:
        """The validation examples, always the same; the weights make the mean over their tokens."""
        rows = sorted(self.validation_rows, key=_length, reverse=True)
        return self._passes(rows, 1 / max(sum(map(_learnt, rows)), 1))

    def _places(self, step: int, mine: int) -> tuple[int, int]:
        return step * mine * self.processes, (step + 1) * mine * self.processes

    def _drawn(self, place: int) -> Encoded:
        """The example at a place of the endless stream of permutations of all."""
        epoch, number = divmod(place, len(self.rows))
        order = permutation(len(self.rows), self.settings.seed, ROW_STREAM, epoch)
        return self.rows[order[number]]

    def _passes(self, examples: Sequence[Encoded], weight: float) -> Iterator[Batch]:
        """As few as hold at most train_batch_size times max_length tokens, padding included."""
        packing = self.settings.packing
        room = left = self.settings.train_batch_size * self.settings.max_length
        some: list[Encoded] = []
        for example in examples:
            size = _length(example if packing or not some else some[0])
            if size > left:
                yield self._batch(some, weight)
                some, left, size = [], room, _length(example)
            some.append(example)
            left -= size
        if some:
            yield self._batch(some, weight)

    def _batch(self, examples: Sequence[Encoded], weight: float) -> Batch:
        ids = [torch.tensor(one.ids) for one in examples]
        # The token after each; behind the last one is none.
        following = [
            torch.where(torch.tensor([*one.said[1:], False]), tokens.roll(-1), NOT_LEARNT)
            for one, tokens in zip(examples, ids, strict=True)
        ]
        if self.settings.packing:
            row, targets = torch.cat(ids)[None], torch.cat(following)[None]
            told = packed([len(tokens) for tokens in ids], self.device)
        else:
            row = pad_sequence(ids, batch_first=True, padding_value=self.padding)
            targets = pad_sequence(following, batch_first=True, padding_value=NOT_LEARNT)
            told = {}
        return Batch(row.to(self.device), targets.to(self.device), weight, told)


def _length(example: Encoded) -> int:
    return len(example.ids)


def _learnt(example: Encoded) -> int:
    """Of how many tokens a loss is taken; nothing predicts the first one."""
    return sum(example.said[1:])
