"""The judge: a small CLIP that scores images against captions and lends the UNet its text tower.

Contract: stock classes of transformers throughout (CLIPModel, CLIPTokenizer, the PIL image
processor), so that an exported judge loads with `from_pretrained` like any CLIP. It knows drawn
adire as well as the generic patterns. While it trains, linear heads on the image features name
motif and colours too: contrast alone learns shapes much more slowly. The heads are not exported.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers
from torch import Tensor, nn
from torch.nn import functional
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

from adire_assets.embedded.base.corpus import LABELS, Corpus
from adire_assets.embedded.base.optimizer import SplitOptimizer
from adire_assets.embedded.base.stages import Loop, as_input, batch_rng, cosine

START, END = "<|startoftext|>", "<|endoftext|>"
TEXT_LENGTH = 32  # tokens, with start and end
STYLE_TOKEN = "nigerian_adire_style"
WHOLE_WORDS = ("oniko", "alabere", "eleko", "adire", "indigo", "cloth", "nigerian", "style", "tied")
SPLIT = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"  # as in CLIPTokenizer
AUXILIARY_WEIGHT = 0.5


def build_tokenizer(captions: Sequence[str], size: int = 1000) -> CLIPTokenizer:
    """A byte-level BPE of at most `size` tokens trained on captions; every byte is known."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer_model = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    trainer_model.normalizer = normalizers.Lowercase()
    trainer_model.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    words = [" ".join(WHOLE_WORDS)] * max(50, len(captions) // 10)
    trainer = trainers.BpeTrainer(
        vocab_size=size - len(alphabet) - 3,
        initial_alphabet=alphabet,
        end_of_word_suffix="</w>",
        show_progress=False,
    )
    trainer_model.train_from_iterator([*captions, *words], trainer)
    merges = _merges_of(trainer_model)
    vocabulary: dict[str, int] = {}
    pieces = [*alphabet, *(byte + "</w>" for byte in alphabet)]
    pieces += ["".join(pair) for pair in merges]
    for piece in [*dict.fromkeys(pieces), START, END]:
        vocabulary[piece] = len(vocabulary)
    tokenizer = CLIPTokenizer(
        vocab=vocabulary,
        merges=merges,
        unk_token=END,
        bos_token=START,
        eos_token=END,
        pad_token=END,
        model_max_length=TEXT_LENGTH,
    )
    tokenizer.add_tokens([AddedToken(STYLE_TOKEN, normalized=True, single_word=True)])
    return tokenizer


def _merges_of(tokenizer: Tokenizer) -> list[tuple[str, str]]:
    merges = json.loads(tokenizer.to_str())["model"]["merges"]
    pairs = (pair.split(" ") if isinstance(pair, str) else pair for pair in merges)
    return [(left, right) for left, right in pairs]


def encode(tokenizer: CLIPTokenizer, captions: Sequence[str]) -> Tensor:
    """Token ids, int64 [N, TEXT_LENGTH], padded and cut as the pipelines do."""
    return tokenizer(
        list(captions),
        padding="max_length",
        truncation=True,
        max_length=TEXT_LENGTH,
        return_tensors="pt",
    ).input_ids


def build_judge(tokenizer: CLIPTokenizer, resolution: int = 128) -> CLIPModel:
    """An untrained CLIP: ViT of 8 x 8 patches, 3-layer text tower, projection to 64."""
    special = {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    shared = {"hidden_size": 128, "intermediate_size": 512, "num_attention_heads": 4}
    text = (
        shared
        | special
        | {
            "vocab_size": len(tokenizer),
            "num_hidden_layers": 3,
            "max_position_embeddings": TEXT_LENGTH,
            "projection_dim": 64,
        }
    )
    vision = shared | {
        "num_hidden_layers": 4,
        "image_size": resolution,
        "patch_size": resolution // 8,
        "projection_dim": 64,
    }
    config = CLIPConfig(text_config=text, vision_config=vision, projection_dim=64)
    return CLIPModel(config)


@dataclass(frozen=True)
class JudgeSettings:
    """How the judge is trained."""

    steps: int = 2400
    batch_size: int = 128
    palettes: int = 8  # pairs of colours in a batch, except in every fourth
    learning_rate: float = 1e-3
    matrix_learning_rate: float = 0.02
    warmup: int = 100


def train_judge(
    model: CLIPModel,
    tokenizer: CLIPTokenizer,
    corpus: Corpus,
    settings: JudgeSettings,
    loop: Loop,
    seed: int,
    device: torch.device,
) -> float:
    """Train in place; returns CPU seconds. Captions that occur twice in a batch are both right."""
    heads = nn.ModuleList([nn.Linear(128, len(names)) for names in LABELS])
    model.to(device).train()
    model.set_attn_implementation("eager")  # on CPU its backward takes half the time of SDPA's
    heads.to(device)
    trained = nn.ModuleDict({"model": model, "heads": heads})
    weights = list(trained.parameters())
    optimizer = SplitOptimizer(
        trained, settings.learning_rate, settings.matrix_learning_rate, weight_decay=0.02
    )
    tokens = encode(tokenizer, corpus.captions)
    unique = {caption: number for number, caption in enumerate(dict.fromkeys(corpus.captions))}
    caption_number = np.array([unique[caption] for caption in corpus.captions])
    labels = torch.from_numpy(corpus.labels)
    groups = _palettes(corpus)

    def step(number: int) -> Tensor:
        rng = batch_rng(seed, 1, number)
        if number % 4 == 3:
            chosen = rng.choice(len(corpus.captions), settings.batch_size, replace=False)
        else:
            chosen = _choose_alike(groups, settings.palettes, settings.batch_size, rng)
        images = as_input(corpus.images[chosen], device)
        mirrored = torch.from_numpy(rng.random(len(chosen)) < 0.5).to(device)
        images = torch.where(mirrored[:, None, None, None], images.flip(3), images)
        images = images + 0.05 * torch.from_numpy(
            rng.standard_normal((len(chosen), 3, 1, 1), dtype=np.float32)
        ).to(device)
        same = torch.from_numpy(caption_number[chosen][:, None] == caption_number[chosen])
        target = same.float().to(device)
        target = target / target.sum(1, keepdim=True)
        with torch.autocast(device.type, torch.bfloat16):
            seen = model.vision_model(images).pooler_output
            read = model.text_model(tokens[chosen].to(device)).pooler_output
            image = model.visual_projection(seen)
            text = model.text_projection(read)
            named = [head(seen).float() for head in heads]
        image = functional.normalize(image.float(), dim=1)
        text = functional.normalize(text.float(), dim=1)
        logits = model.logit_scale.exp() * image @ text.T
        loss = (
            functional.cross_entropy(logits, target) + functional.cross_entropy(logits.T, target)
        ) / 2
        for place, answer in enumerate(named):
            truth = labels[chosen, place].to(device)
            loss = loss + AUXILIARY_WEIGHT * functional.cross_entropy(answer, truth) / len(named)
        trained.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step(cosine(number, settings.steps, 1.0, settings.warmup))
        with torch.no_grad():
            model.logit_scale.clamp_(max=float(np.log(50)))
        return loss.detach()

    spent = loop.run({"model": model, "heads": heads, "optimizer": optimizer}, step)
    model.set_attn_implementation("sdpa")
    model.eval()
    return spent


def _palettes(corpus: Corpus) -> list[NDArray[np.int64]]:
    """The images of each pair of foreground and background, as indices into the corpus."""
    pairs = corpus.labels[:, 1] * len(LABELS[2]) + corpus.labels[:, 2]
    return [np.flatnonzero(pairs == pair) for pair in np.unique(pairs)]


def _choose_alike(
    groups: list[NDArray[np.int64]], palettes: int, count: int, rng: np.random.Generator
) -> NDArray[np.int64]:
    """`count` images in a few pairs of colours: told apart by what they show, not by colour.

    Large groups (adire) come more often, but less than in proportion.
    """
    weights = np.array([len(group) for group in groups]) ** 0.7
    chosen = rng.choice(len(groups), palettes, replace=False, p=weights / weights.sum())
    share = count // palettes
    return np.concatenate(
        [rng.choice(groups[place], share, len(groups[place]) < share) for place in chosen]
    )


@torch.no_grad()
def similarity(
    model: CLIPModel, tokenizer: CLIPTokenizer, images: np.ndarray, captions: Sequence[str]
) -> Tensor:
    """Cosines between images (uint8 [N, H, W, 3]) and captions [M], float32 [N, M]."""
    device = model.device
    image = model.visual_projection(model.vision_model(as_input(images, device)).pooler_output)
    tokens = encode(tokenizer, captions).to(device)
    text = model.text_projection(model.text_model(tokens).pooler_output)
    return functional.normalize(image, dim=1) @ functional.normalize(text, dim=1).T
