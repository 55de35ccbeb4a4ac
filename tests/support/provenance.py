"""What a release was made from, made up, as answers carry it."""

from typing import Any

FACTS: dict[str, Any] = {
    "code": {"commit": "a" * 40, "dirty": False},
    "dvc_hash": "feed.dir",
    "data_hash": "beef.dir",
    "base_model": {"source": "base", "revision": None, "hash": "ba5e" * 16},
    "adapter_recipe_key": "4ec1" * 16,
    "adapter_hash": "ada0" * 16,
    "hyperparameters": {"rank": 16, "learning_rate": 0.008},
    "evaluation": {"rouge_l_char": 0.965},
}
