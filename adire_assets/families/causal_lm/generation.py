"""Answers of a base, with or without an adapter: written token by token, greedy or drawn.

An answer is a function of its request, the weights and the batch's size alone: each draws from a
generator of its own, and no batch is sorted. Rows of a batch are padded on the left and do not see
the padding.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM, DynamicCache

from adire_assets.families.causal_lm.chat import encode, load_tokenizer, question_ids
from adire_assets.families.training.fused_lora import fuse


@dataclass(frozen=True)
class Request:
    """`temperature` 0 takes the likeliest token; above, tokens are drawn by `seed` from the
    smallest set whose probabilities sum to `top_p` (nucleus sampling, Holtzman et al. 2020)."""

    messages: Sequence[Mapping[str, str]]
    max_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None


@dataclass(frozen=True)
class Written:
    """`finish_reason` is "stop" where the model ended its turn, else "length"."""

    text: str
    tokens: int
    finish_reason: str
    first_token_seconds: float


class Writer:
    """A base model in the folder `base`, with the adapter in the folder `adapter`."""

    def __init__(self, base: Path, adapter: Path | None, device: str) -> None:
        self.device, self.has_adapter = device, adapter is not None
        self.tokenizer = load_tokenizer(base)
        dtype = torch.float32 if device == "cpu" else "auto"
        self.model: Any = AutoModelForCausalLM.from_pretrained(base, dtype=dtype)
        if adapter:
            self.model.load_adapter(str(adapter))
            fuse(self.model)
        self.model.to(device).eval()
        eos = self.model.generation_config.eos_token_id or self.tokenizer.eos_token_id
        self.ends = {self.tokenizer.eos_token_id, *([eos] if isinstance(eos, int) else eos)}
        self.padding = self.tokenizer.pad_token_id or self.tokenizer.eos_token_id

    @torch.no_grad()
    def answer(self, requests: Sequence[Request]) -> list[Written]:
        """The answers to one batch."""
        started = time.perf_counter()
        asked = [question_ids(self.tokenizer, one.messages) for one in requests]
        longest = max(map(len, asked))
        padded = [[self.padding] * (longest - len(ids)) + ids for ids in asked]
        seen = [[0] * (longest - len(ids)) + [1] * len(ids) for ids in asked]
        tokens, mask = torch.tensor(padded), torch.tensor(seen)
        draws = [_generator(one) for one in requests]
        written: list[list[int]] = [[] for _ in requests]
        done = [False] * len(requests)
        cache, first = DynamicCache(), 0.0
        for _ in range(max(one.max_tokens for one in requests)):
            logits = self._forward(tokens, mask, cache)
            if not first:
                first = time.perf_counter() - started
            following = [_choose(row, *draw) for row, draw in zip(logits, draws, strict=True)]
            for number, (token, request) in enumerate(zip(following, requests, strict=True)):
                if done[number]:
                    continue
                written[number].append(token)
                full = len(written[number]) >= request.max_tokens
                done[number] = token in self.ends or full
            if all(done):
                break
            tokens = torch.tensor(following)[:, None]
            mask = torch.cat([mask, torch.ones(len(requests), 1, dtype=mask.dtype)], 1)
        return [self._written(ids, first) for ids in written]

    @torch.no_grad()
    def loss(self, messages: Sequence[Mapping[str, str]], reference: str) -> tuple[float, int]:
        """(mean negative log-likelihood in nats, tokens) of a reference as the answer."""
        whole = encode(self.tokenizer, [*messages, {"role": "assistant", "content": reference}])
        start = len(question_ids(self.tokenizer, messages))
        ids = torch.tensor([whole.ids], device=self.device)
        learnt = [said and place >= start for place, said in enumerate(whole.said)]
        targets = torch.where(torch.tensor([learnt], device=self.device), ids, -100)[:, 1:]
        logits = self.model(input_ids=ids, use_cache=False).logits[:, :-1]
        mean = cross_entropy(logits.flatten(0, 1).float(), targets.flatten())
        return float(mean), sum(learnt)

    def question_tokens(self, messages: Sequence[Mapping[str, str]]) -> int:
        """How many tokens the model is given before it answers."""
        return len(question_ids(self.tokenizer, messages))

    def _forward(self, tokens: Tensor, mask: Tensor, cache: DynamicCache) -> Tensor:
        """float32 [B, vocabulary] of what follows, on the CPU."""
        positions = (mask.cumsum(1) - 1).clamp(min=0)[:, -tokens.shape[1] :]
        return (
            self.model(
                input_ids=tokens.to(self.device),
                attention_mask=mask.to(self.device),
                position_ids=positions.to(self.device),
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            )
            .logits[:, -1]
            .float()
            .cpu()
        )

    def _written(self, ids: list[int], first: float) -> Written:
        stopped = ids[-1] in self.ends
        text = self.tokenizer.decode(ids[:-1] if stopped else ids, skip_special_tokens=True)
        return Written(text, len(ids), "stop" if stopped else "length", first)


def _generator(request: Request) -> tuple[Request, torch.Generator]:
    return request, torch.Generator().manual_seed(request.seed or 0)


def _choose(logits: Tensor, request: Request, draw: torch.Generator) -> int:
    if not request.temperature:
        return int(logits.argmax())
    ordered, tokens = (logits / request.temperature).softmax(-1).sort(descending=True)
    kept = ordered.cumsum(-1) - ordered < request.top_p
    place = torch.multinomial(ordered * kept, 1, generator=draw)
    return int(tokens[place])
