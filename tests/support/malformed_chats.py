"""Requests of OpenAI's form as no sound client sends them, the same for the same random numbers."""

import json
import random
from typing import Any

CHAT, COMPLETION = "/v1/chat/completions", "/v1/completions"
KEYS = [
    "model", "messages", "prompt", "max_tokens", "max_completion_tokens", "n", "temperature",
    "top_p", "top_k", "min_p", "seed", "stop", "stream", "stream_options", "logprobs", "echo",
    "top_logprobs", "logit_bias", "user", "tools", "tool_choice", "response_format", "bad_words",
    "chat_template", "guided_regex", "structured_outputs", "prompt_embeds", "priority", "best_of",
    "kv_transfer_params", "vllm_xargs", "truncate_prompt_tokens", "prompt_logprobs", "anything",
    "allowed_token_ids",
]  # fmt: skip
VALUES: list[Any] = [
    None, True, False, -1, 0, 1, 3, 1.5, -1e308, 2**31, 2**63, 2**64, 10**30, "", "x", "\x00",
    "\x1b[2J", "\ud800", "x" * 5000, [], {}, [1], ["a", 1], {"a": 1}, [[["x"]]], [{}],
    [{"role": "user"}], [{"role": "user", "content": None}], [{"role": "user", "content": 7}],
    [{"role": 1, "content": "a"}],
    [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "file:///etc/passwd"}}]}],
    "letters@", "letters@2@3", "letters@-1", "silk", "../letters", "letters@99999999999999999999",
]  # fmt: skip


def malformed_chat(rng: random.Random, model: str) -> tuple[str, bytes]:
    """(path, body) of a request that something is mostly wrong with."""
    path = rng.choice([CHAT, COMPLETION])
    if rng.random() < 0.05:
        return path, rng.randbytes(rng.randrange(80))
    body: dict[str, Any] = {"model": model, "max_tokens": 2}
    if path == CHAT:
        body["messages"] = [{"role": "user", "content": "indigo"}]
    else:
        body["prompt"] = "indigo"
    for _ in range(rng.randrange(1, 4)):
        body[rng.choice(KEYS)] = rng.choice(VALUES)
    if rng.random() < 0.1:
        body.pop(rng.choice(sorted(body)))
    content = bytearray(json.dumps(body).encode())
    if rng.random() < 0.3:
        for _ in range(rng.randrange(1, 4)):
            place = rng.randrange(len(content))
            match rng.randrange(3):
                case 0:
                    content[place] = rng.randrange(256)
                case 1:
                    del content[place:]
                    content = content or bytearray(b"{")
                case _:
                    content[place:place] = rng.randbytes(2)
    return path, bytes(content)
