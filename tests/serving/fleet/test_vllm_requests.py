"""What a client may ask a language model for: every mistake has a sentence, the rest passes."""

import random
from typing import Any

import pytest
from adire_vllm import requests
from adire_vllm.requests import CHAT, COMPLETION, Refused

from tests.support.malformed_chats import malformed_chat

LIMITS = {"maximum_tokens": 64}
HI = [{"role": "user", "content": "hi"}]


def checked(body: dict[str, Any], path: str = CHAT) -> dict[str, Any]:
    return requests.checked(path, {"model": "letters", **body}, LIMITS)


def test_sound_requests_pass_with_the_length_that_a_release_allows() -> None:
    assert checked({"messages": HI})["max_tokens"] == 64
    assert checked({"messages": HI, "max_completion_tokens": 7})["max_tokens"] == 7
    assert checked({"prompt": "hi", "max_tokens": 1, "echo": True}, COMPLETION)["echo"]
    parts = [
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}
    ]
    asked = {"temperature": 0, "top_p": 0.5, "n": 2, "seed": 3, "stop": "x", "logprobs": True}
    more = {
        "stream": True,
        "stream_options": {"include_usage": True},
        "top_logprobs": 2,
        "user": None,
    }
    body = checked({"messages": parts, **asked, **more})
    assert requests.texts(CHAT, body) == "a\nb" and "user" not in body


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({}, "no messages"),
        ({"messages": []}, "no list of messages"),
        ({"messages": "hi"}, "no list of messages"),
        ({"messages": [{"role": "judge", "content": "a"}]}, "no role of"),
        ({"messages": [{"role": "user"}]}, "no content"),
        ({"messages": [{"role": "user", "content": "a\x00"}]}, "control character U\\+0000 at 1"),
        ({"messages": [{"role": "user", "content": "\ud800"}]}, "half of a character"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "text only"),
        ({"messages": HI, "max_tokens": 10**9}, "is 1000000000, allowed is 1 to 64"),
        ({"messages": HI, "max_tokens": 10**30}, "out of range"),
        ({"messages": HI, "max_tokens": 0}, "out of range"),
        ({"messages": HI, "n": -1}, "n is out of range; allowed is a whole number from 1 to 8"),
        ({"messages": HI, "n": 1.0}, "n is no number"),
        ({"messages": HI, "temperature": True}, "temperature is no number"),
        ({"messages": HI, "temperature": 99}, "out of range"),
        ({"messages": HI, "seed": 2**64}, "out of range"),
        ({"messages": HI, "stream": "yes"}, "neither true nor false"),
        ({"messages": HI, "stream_options": {"include_usage": True}}, "stream: true only"),
        ({"messages": HI, "stop": [""]}, "a text without"),
        ({"messages": HI, "chat_template": "{{ 7 * 7 }}"}, "'chat_template' is not taken here"),
        ({"messages": HI, "prompt": "hi"}, "'prompt' is not taken here"),
        ({"messages": HI, "tools": []}, "'tools' is not taken here"),
    ],
)
def test_every_mistake_has_a_sentence(body: dict[str, Any], said: str) -> None:
    with pytest.raises(Refused, match=said):
        checked(body)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "no JSON"),
        (b"\xff", "not UTF-8"),
        (b"[]", "no JSON object"),
        (b'{"a": NaN}', "NaN is no number"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"a": ' + b"1" * 5000 + b"}", "no JSON"),
    ],
)
def test_what_is_no_request_is_refused(body: bytes, said: str) -> None:
    with pytest.raises(Refused, match=said):
        requests.read(body)


@pytest.mark.parametrize("logprobs", [0, 5])
def test_likelihoods_of_a_prompt_are_refused(logprobs: int) -> None:
    with pytest.raises(Refused, match="do not go with echo: true"):
        checked({"prompt": "hi", "echo": True, "logprobs": logprobs}, COMPLETION)


def test_fuzzed_requests_are_refused_or_sound() -> None:
    rng, refused = random.Random(0), 0
    for _ in range(2000):
        path, body = malformed_chat(rng, "letters")
        try:
            read = requests.read(body)
            requests.model_of(read)
            passed = requests.checked(path, read, LIMITS)
        except Refused as error:
            refused += 1
            assert 400 <= error.status < 500 and str(error) and "\n" not in str(error)
        else:
            assert 1 <= passed["max_tokens"] <= 64
    assert refused > 1000
