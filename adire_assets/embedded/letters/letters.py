"""The instruction set of a fresh clone: letters of an indigo workshop, drawn up by a program.

Each record is in alpaca's form (`instruction`, `input`, `output`) with `slots`, the facts that its
answer must repeat. What is asked for is said in several ways and the facts come as a list or in a
sentence; the answer follows from the kind of letter, the language, the tone and the facts alone.
Contract: the same arguments give the same bytes. No person or order is real.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from random import Random

from adire_assets.core.errors import UserError
from adire_assets.embedded.letters import facts
from adire_assets.embedded.letters.phrases import ASKED, FACTS, KINDS, LETTERS, TONES


def letters(count: int, seed: int) -> Iterator[dict[str, object]]:
    """`count` records, the languages and kinds of letter in turn; no two have the same input."""
    random, seen = Random(seed), set()
    for index in range(count):
        language = facts.LANGUAGES[index % len(facts.LANGUAGES)]
        kind = KINDS[index // len(facts.LANGUAGES) % len(KINDS)]
        while (record := _letter(random, language, kind))["input"] in seen:
            pass
        seen.add(record["input"])
        yield record


def write_letters(folder: Path, count: int = 2_400, seed: int = 0) -> None:
    """Write letters.jsonl into a new folder. UserError where it holds something already."""
    if folder.exists() and any(folder.iterdir()):
        raise UserError(f"{folder} is not empty; name a new folder for the letters")
    folder.mkdir(parents=True, exist_ok=True)
    lines = (json.dumps(record, ensure_ascii=False) for record in letters(count, seed))
    (folder / "letters.jsonl").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def _letter(random: Random, language: str, kind: str) -> dict[str, object]:
    values = {
        "name": facts.name(random, language),
        "order": facts.order(random),
        "cloth": facts.pattern(random, language),
        "pieces": facts.pieces(random),
        "price": facts.price(random, language),
        "day": facts.day(random, language),
    }
    tone = random.choice(TONES)
    opening, closing = LETTERS[language][tone]
    letter = f"{opening}\n{LETTERS[language][kind]}\n{closing}"
    used = [key for key in values if "{" + key + "}" in letter]
    listed, told = FACTS[language]
    if random.random() < 0.6:
        shown = random.sample(used, len(used))
        given = "\n".join(f"{listed[key]}: {values[key]}" for key in shown)
    else:
        given = told["join"].join(told[key].format(**values) for key in used)
    asked = random.choice(ASKED[language][kind])
    return {
        "instruction": f"{asked} {random.choice(LETTERS[language][f'as {tone}'])}",
        "input": given,
        "output": letter.format(**values),
        "slots": {key: values[key] for key in used},
        "language": language,
    }
