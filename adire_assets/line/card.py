"""The model card of a release: what it was made from and what was measured, for people.

MLflow shows it as the description of the model's version. Equal input gives equal text.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from adire_assets.core.shown import Shown, table

LONGEST = 5_000  # characters, MLflow's limit


def model_card(
    number: int,
    provenance: Mapping[str, Any],
    dataset: Sequence[Shown],
    report: Mapping[str, Any],
    verdict: str,
) -> str:
    """Markdown. `dataset` is what the family shows of the data; `report` is report.json of the
    evaluation, and `verdict` a sentence about it."""
    base, code = provenance["base_model"], provenance["code"]
    revision = f" at {base['revision']}" if base.get("revision") else ""
    known = [one for one in dataset if one.kind == "value" and one.content not in (None, [], {})]
    rows = [
        {"metric": name, "with the LoRA": value, "without": report["base_scores"].get(name)}
        for name, value in report["scores"].items()
        if value is not None
    ]
    lines = [
        f"# {provenance['model']}, release {number}",
        "",
        f"- base: {base['source']}{revision}",
        f"- data: DVC {provenance['dvc_hash']}",
        *(f"- {one.name.replace('_', ' ')}: {_plain(one.content)}" for one in known),
        f"- code: {code.get('commit') or code.get('build')}",
        f"- trained: {provenance['trained']}",
        "",
        f"It {verdict}." if verdict else "",
        "",
        table(("metric", "with the LoRA", "without"), rows),
    ]
    text = "\n".join(lines) + "\n"
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 4]} ..."


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
