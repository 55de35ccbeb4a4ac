"""What a client may ask a language model for, and why not: pure functions of a request's body.

Only the keys below reach the engine, which takes many more: some read files, some let a client
replace the chat template or bring tensors.
"""

import json
import unicodedata
from collections.abc import Callable, Mapping
from typing import Any

CHAT, COMPLETION = "/v1/chat/completions", "/v1/completions"
ROLES = ("system", "developer", "user", "assistant")
MOST_ANSWERS = 8  # of one request
MOST_MESSAGES = 1000
LARGEST_SEED = 2**63 - 1
ALLOWED_CONTROLS = "\n\r\t"

Check = Callable[[Any], str | None]  # the end of a sentence that says what is wrong


class Refused(ValueError):
    """The caller's mistake, in one sentence; `status` is of HTTP, `again`: another may know."""

    def __init__(self, sentence: str, status: int = 400, *, again: bool = False) -> None:
        super().__init__(sentence)
        self.status, self.again = status, again


def read(body: bytes) -> dict[str, Any]:
    """The object that a body is. `Refused` when it is none."""
    try:
        found = json.loads(body.decode("utf-8"), parse_constant=_no_number)
    except UnicodeDecodeError as error:
        raise Refused(f"the request is not UTF-8 (byte {error.start})") from None
    except json.JSONDecodeError as error:
        raise Refused(f"the request is no JSON: {error.msg} at character {error.pos}") from None
    except RecursionError:
        raise Refused("the request is nested too deeply") from None
    except ValueError as error:  # a number of thousands of digits
        raise Refused(f"the request is no JSON: {error}") from None
    if not isinstance(found, dict):
        raise Refused("the request is no JSON object; send one with `model` and what is asked")
    return found


def model_of(body: Mapping[str, Any]) -> tuple[str, int | None]:
    """(model, release) that a body names, as "letters" or "letters@2"."""
    named = body.get("model")
    if not isinstance(named, str) or not named:
        raise Refused('the request names no model: `model` is a text such as "letters"')
    model, at, number = named.partition("@")
    if at and not (number.isascii() and number.isdigit() and len(number) < 10):
        raise Refused(f"model {_shown(named)} does not exist", 404)
    return model, int(number) if at else None


def checked(path: str, body: Mapping[str, Any], limits: Mapping[str, Any]) -> dict[str, Any]:
    """The body as the engine is given it, but for `model`. `Refused` with what is wrong."""
    body = {name: value for name, value in body.items() if value is not None}
    allowed = {**SAMPLING, **(MESSAGES if path == CHAT else PROMPT)}
    for name, value in body.items():
        if name not in allowed:
            raise Refused(
                f"{_shown(name)} is not taken here; taken are {', '.join(sorted(allowed))}"
            )
        if wrong := allowed[name](value):
            raise Refused(f"{name} {wrong}")
    wanted = "messages" if path == CHAT else "prompt"
    if wanted not in body:
        raise Refused(f"the request has no {wanted}")
    most = int(limits["maximum_tokens"])
    for name in ("max_tokens", "max_completion_tokens"):
        if body.get(name, 1) > most:
            raise Refused(f"{name} is {body[name]}, allowed is 1 to {most}")
    if "stream_options" in body and not body.get("stream"):
        raise Refused("stream_options go with stream: true only")
    if path == CHAT and "top_logprobs" in body and not body.get("logprobs"):
        raise Refused("top_logprobs go with logprobs: true only")
    # The log-probabilities of a prompt kill a vLLM on a CPU (see `engine.PROBES`).
    if body.get("echo") and "logprobs" in body:
        raise Refused("logprobs do not go with echo: true; leave one of them out")
    length = body.pop("max_completion_tokens", None) or body.pop("max_tokens", None) or most
    return {**body, "max_tokens": length}


def texts(path: str, body: Mapping[str, Any]) -> str:
    """Everything that a checked request says to the model."""
    if path == COMPLETION:
        return str(body["prompt"])
    parts = [message.get("content") or "" for message in body["messages"]]
    return "\n".join(
        part if isinstance(part, str) else "\n".join(one["text"] for one in part) for part in parts
    )


# --- one value -----------------------------------------------------------------------------------


def _no_number(name: str) -> None:
    raise Refused(f"the request is no JSON: {name} is no number")


def _shown(value: str) -> str:
    """A client's text in a sentence of ours."""
    return repr(value if len(value) <= 60 else value[:60] + "...")


def _number(lowest: float, highest: float, *, whole: bool = False) -> Check:
    kind = "a whole number" if whole else "a number"

    def check(value: Any) -> str | None:
        if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)):
            return f"is no number; allowed is {kind} from {lowest:g} to {highest:.12g}"
        if not lowest <= value <= highest:
            return f"is out of range; allowed is {kind} from {lowest:g} to {highest:.12g}"
        return None

    return check


def _flag(value: Any) -> str | None:
    return None if isinstance(value, bool) else "is neither true nor false"


def _text(value: Any) -> str | None:
    if not isinstance(value, str):
        return "is no text"
    for place, sign in enumerate(value):
        if (sign < " " and sign not in ALLOWED_CONTROLS) or sign == "\x7f":
            name = f"U+{ord(sign):04X}"
            return f"has the control character {name} at {place}; leave it out"
        if unicodedata.category(sign) == "Cs":
            return f"has half of a character at {place}, which is no Unicode text"
    return None


def _name(value: Any) -> str | None:
    return _text(value) or (None if len(value) <= 1024 else "is longer than 1024 characters")


def _stops(value: Any) -> str | None:
    stops = value if isinstance(value, list) else [value]
    if not 1 <= len(stops) <= 16:
        return "has none, or more than 16 texts"
    for one in stops:
        if wrong := _text(one):
            return f"{wrong}; it is a text, or a list of texts"
        if not 1 <= len(one) <= 1024:
            return "has a text without, or with more than 1024 characters"
    return None


def _stream_options(value: Any) -> str | None:
    if not isinstance(value, dict) or set(value) - {"include_usage"}:
        return 'is not {"include_usage": true}'
    return _flag(value.get("include_usage", True))


def _content(value: Any) -> str | None:
    """A text, or parts of type text as the protocol also has them."""
    if not isinstance(value, list):
        return _text(value)
    for part in value:
        if (
            not isinstance(part, dict)
            or part.get("type") != "text"
            or set(part) != {"type", "text"}
        ):
            return "has a part that is no text; this model reads text only"
        if wrong := _text(part["text"]):
            return wrong
    return None if value else "has no part"


def _messages(value: Any) -> str | None:
    if not isinstance(value, list) or not value:
        return "is no list of messages"
    if len(value) > MOST_MESSAGES:
        return f"has more than {MOST_MESSAGES} messages"
    for place, message in enumerate(value):
        if not isinstance(message, dict):
            return f"has at {place} what is no message"
        if unknown := sorted(set(message) - {"role", "content", "name"}):
            return f"has at {place} the key {_shown(unknown[0])}, which is not taken here"
        if message.get("role") not in ROLES:
            return f"has at {place} no role of {', '.join(ROLES)}"
        if "content" not in message:
            return f"has at {place} no content"
        if wrong := _content(message["content"]) or _name(message.get("name", "")):
            return f"at {place} {wrong}"
    return None


def _prompt(value: Any) -> str | None:
    return _text(value) or (None if value else "is empty")


SAMPLING: dict[str, Check] = {
    "model": _name,
    "max_tokens": _number(1, 2**31 - 1, whole=True),
    "n": _number(1, MOST_ANSWERS, whole=True),
    "temperature": _number(0, 2),
    "top_p": _number(1e-6, 1),
    "top_k": _number(0, 1_000_000, whole=True),
    "min_p": _number(0, 1),
    "frequency_penalty": _number(-2, 2),
    "presence_penalty": _number(-2, 2),
    "repetition_penalty": _number(0.01, 10),
    "seed": _number(0, LARGEST_SEED, whole=True),
    "stop": _stops,
    "stream": _flag,
    "stream_options": _stream_options,
    "user": _name,
}
MESSAGES: dict[str, Check] = {
    "messages": _messages,
    "max_completion_tokens": _number(1, 2**31 - 1, whole=True),
    "logprobs": _flag,
    "top_logprobs": _number(0, 20, whole=True),
}
PROMPT: dict[str, Check] = {
    "prompt": _prompt,
    "logprobs": _number(0, 20, whole=True),
    "echo": _flag,
}
