"""Trains the tiny language model from nothing: a tokenizer and a Qwen3 that copies what it is told.

Contract: `work` holds the tokenizer and the last checkpoint; a run that was killed goes on there
and ends in the same bits (same thread count). `output` receives the folder `model`, which
transformers and vLLM read as it is (config, tokenizer with its chat template, model.safetensors in
float16), and training.json.
"""

import json
import platform
from importlib.metadata import version
from pathlib import Path
from random import Random

import numpy as np
import torch
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from torch import Tensor
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from adire_assets.core.folders import exclusive_folder
from adire_assets.core.lineage import Recipe
from adire_assets.embedded.base.optimizer import SplitOptimizer
from adire_assets.embedded.base.stages import Loop, cosine
from adire_assets.embedded.letters.corpus import exercise
from adire_assets.embedded.letters.letters import letters

MODULE = "adire_assets.embedded.letters.train"  # whatever name it runs under
END, START, STOP = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
# Digits and Chinese characters stand alone, so that a number or a name is copied piece by piece.
PIECES = r"\p{Han}|\p{N}|[^\S\n]?[\p{L}\p{M}]+|\n|[^\S\n]?[^\s\p{L}\p{M}\p{N}]+|\s+"
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' }}"
    "{% if message['role'] == 'assistant' %}"
    "{% generation %}{{ message['content'] + '<|im_end|>' }}{% endgeneration %}"
    "{% else %}{{ message['content'] + '<|im_end|>' }}{% endif %}{{ '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
VOCABULARY = 3_072
ROW = 320  # tokens
ROWS = 16  # of a step
STEPS = 1_500
LEARNING_RATE, MATRIX_LEARNING_RATE, WARMUP = 3e-3, 0.02, 100


def build_tokenizer(
    seed: int, vocabulary: int = VOCABULARY, exercises: int = 30_000, records: int = 1_500
) -> PreTrainedTokenizerFast:
    """Byte-level BPE of so many exercises and letters."""
    random = Random(seed)
    texts = ["\n".join(exercise(random)) for _ in range(exercises)]
    for record in letters(records, seed + 1):
        texts += [f"{record['instruction']}\n{record['input']}\n{record['output']}"] * 2
    raw = Tokenizer(models.BPE())
    raw.normalizer = normalizers.NFC()
    raw.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PIECES), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    raw.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[END, START, STOP],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    raw.train_from_iterator(texts, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw, eos_token=STOP, pad_token=END, model_max_length=1024
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def build_model(tokenizer: PreTrainedTokenizerFast, seed: int) -> Qwen3ForCausalLM:
    """3.6 million parameters in float32."""
    torch.manual_seed(seed)
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=256,
        intermediate_size=640,
        num_hidden_layers=4,
        num_attention_heads=8,
        num_key_value_heads=4,
        head_dim=32,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return Qwen3ForCausalLM(config)


def batch(tokenizer: PreTrainedTokenizerFast, seed: int, step: int) -> dict[str, Tensor]:
    """ROWS rows of ROW tokens: exercises side by side, that do not see each other."""
    random = Random(f"{seed} {step}")
    ids = np.full((ROWS, ROW), tokenizer.pad_token_id)
    labels, owner = np.full((ROWS, ROW), -100), np.zeros((ROWS, ROW), int)
    positions = np.zeros((ROWS, ROW), int)
    used, misses, number = [0] * ROWS, 0, 0
    while misses < 4:
        asked, answered = exercise(random)
        prompt = tokenizer(f"{START}user\n{asked}{STOP}\n{START}assistant\n")["input_ids"]
        answer = tokenizer(f"{answered}{STOP}")["input_ids"]
        length = len(prompt) + len(answer)
        row = next((row for row in range(ROWS) if used[row] + length <= ROW), None)
        if row is None:
            misses += 1
            continue
        number += 1
        place = slice(used[row], used[row] + length)
        ids[row, place], owner[row, place] = prompt + answer, number
        positions[row, place] = np.arange(length)
        labels[row, place.start + len(prompt) : place.stop] = answer
        used[row] += length
    found = {"ids": ids, "labels": labels, "owner": owner, "positions": positions}
    return {name: torch.from_numpy(values) for name, values in found.items()}


def loss_of(model: Qwen3ForCausalLM, given: dict[str, Tensor]) -> Tensor:
    """Mean cross-entropy of the answers' tokens, in nats."""
    owner = given["owner"]
    own = owner[:, None, :, None] == owner[:, None, None, :]
    mask = own & torch.ones(ROW, ROW, dtype=torch.bool).tril()
    hidden = model.model(
        input_ids=given["ids"],
        attention_mask={"full_attention": mask},
        position_ids=given["positions"],
        use_cache=False,
    ).last_hidden_state
    target = given["labels"][:, 1:]
    learnt = target != -100
    return torch.nn.functional.cross_entropy(model.lm_head(hidden[:, :-1][learnt]), target[learnt])


def recipe_of(steps: int, seed: int) -> Recipe:
    """What the checkpoint of such a training is made from."""
    return Recipe("letters_base", "tiny", (MODULE,), config={"steps": steps, "seed": seed})


def train(output: Path, work: Path, steps: int = STEPS, seed: int = 0) -> None:
    """Train, going on from `work`, and export into `output`."""
    with exclusive_folder(work, f"{work} is used by another training; name another --work"):
        if not (work / "tokenizer" / "tokenizer.json").is_file():
            build_tokenizer(seed).save_pretrained(work / "tokenizer")
        tokenizer = PreTrainedTokenizerFast.from_pretrained(work / "tokenizer")
        model = build_model(tokenizer, seed)
        optimizer = SplitOptimizer(model, LEARNING_RATE, MATRIX_LEARNING_RATE, 0.01)

        def step(number: int) -> Tensor:
            loss = loss_of(model, batch(tokenizer, seed, number))
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step(cosine(number, steps, 1.0, WARMUP))
            model.zero_grad()
            return loss.detach()

        loop = Loop("letters", work, steps, recipe_of(steps, seed).key)
        spent = loop.run({"model": model, "optimizer": optimizer}, step)
    model.half().save_pretrained(output / "model")
    tokenizer.save_pretrained(output / "model")
    facts = {
        "steps": steps,
        "tokens": steps * ROWS * ROW,
        "seed": seed,
        "cpu_seconds": round(spent),
        "parameters": model.num_parameters(),
        "torch": version("torch"),
        "transformers": version("transformers"),
        "machine": platform.machine(),
    }
    (output / "training.json").write_text(json.dumps(facts, indent=1) + "\n")
