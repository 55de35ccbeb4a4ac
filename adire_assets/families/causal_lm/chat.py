"""A conversation as token ids, and which of them the assistant said.

The base's own chat template writes it. Where the template marks what the assistant says
(`{% generation %}`, as TRL's `assistant_only_loss` asks for), the marks decide; where it does not,
an answer is what the template adds to the conversation before it, up to the token that ends a turn.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adire_assets.core.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

Messages = Sequence[Mapping[str, str]]  # role and content each


@dataclass(frozen=True)
class Encoded:
    """Token ids, and whether the assistant said each of them."""

    ids: list[int]
    said: list[bool]


def load_tokenizer(base: Path) -> "PreTrainedTokenizerFast":
    """The tokenizer of a base's folder. UserError where it cannot write a conversation.

    Everything that loads a model comes by here, so that the log stays free of progress bars.
    """
    from transformers import AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()
    tokenizer = AutoTokenizer.from_pretrained(base)
    if not tokenizer.chat_template:
        raise UserError(
            f"base_model: the tokenizer of {base} has no chat template; take an instruction-tuned "
            "base, or put its template into the folder as chat_template.jinja"
        )
    if not tokenizer.is_fast:
        raise UserError(f"base_model: {base} has no tokenizer.json; convert its tokenizer first")
    return tokenizer


def question_ids(tokenizer: "PreTrainedTokenizerFast", messages: Messages) -> list[int]:
    """What the model is given so that the assistant answers."""
    return _template(tokenizer, messages, add_generation_prompt=True)["input_ids"]


def encode(tokenizer: "PreTrainedTokenizerFast", messages: Messages) -> Encoded:
    """The whole conversation."""
    if "{% generation" in tokenizer.chat_template or "{%- generation" in tokenizer.chat_template:
        marked = _template(tokenizer, messages, return_assistant_tokens_mask=True)
        return Encoded(marked["input_ids"], [bool(one) for one in marked["assistant_masks"]])
    ids = _template(tokenizer, messages)["input_ids"]
    said = [False] * len(ids)
    for number, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        asked = question_ids(tokenizer, messages[:number])
        until = _template(tokenizer, messages[: number + 1])["input_ids"]
        if ids[: len(until)] != until or until[: len(asked)] != asked:
            raise UserError(
                "base_model: its chat template writes a conversation otherwise than turn by turn, "
                "so that the assistant's tokens cannot be told; mark them in the template by "
                "{% generation %} and {% endgeneration %}"
            )
        for place in range(len(asked), len(until)):
            said[place] = True
            if ids[place] == tokenizer.eos_token_id:
                break
    return Encoded(ids, said)


def _template(tokenizer: "PreTrainedTokenizerFast", messages: Messages, **options: Any) -> Any:
    from jinja2 import TemplateError

    try:
        return tokenizer.apply_chat_template(
            [dict(message) for message in messages], tokenize=True, return_dict=True, **options
        )
    except TemplateError as error:
        raise UserError(
            f"base_model: its chat template refuses a conversation of the dataset: {error}; "
            "change the conversation's roles, or the template"
        ) from None
