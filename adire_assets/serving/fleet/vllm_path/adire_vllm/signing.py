"""The signed token of an answer: `told` of the module whose source ADIRE_ANSWER_TOKEN names.

It is the project's `core.answer_token`, which imports nothing else of it; this environment does not
have the project. Without one, answers have no token.
"""

import os
import sys
from collections.abc import Callable, Sequence
from functools import cache
from importlib.util import module_from_spec, spec_from_file_location

SIGNER = "ADIRE_ANSWER_TOKEN"


def told(model: str, release: int, digests: Sequence[str]) -> dict[str, str]:
    """What the provenance of an answer has besides: its token, or nothing."""
    path = os.environ.get(SIGNER)
    return _signer(path)(model, release, digests) if path else {}


@cache
def _signer(path: str) -> Callable[[str, int, Sequence[str]], dict[str, str]]:
    spec = spec_from_file_location("adire_answer_token", path)
    assert spec and spec.loader
    module = module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look for it
    spec.loader.exec_module(module)
    return module.told
