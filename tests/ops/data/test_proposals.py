"""Captions that the embedded judge proposes, from the attributes of the prompt set."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from adire_assets.core.errors import UserError
from adire_assets.core.project import Project
from adire_assets.embedded.cloth.sample_images import draw_adire
from adire_assets.ops import data_draft
from tests.ops.data.test_publish import place, quiet

MOTIFS = {"oniko": "circles", "eleko": "grid"}


def test_the_judge_proposes_what_it_sees(
    project: Project, embedded_judge: Path, tmp_path: Path
) -> None:
    shutil.copytree(embedded_judge, project.root / "base_models" / "tiny" / "judge")
    found, wanted = place(project), {}
    for technique, motif in MOTIFS.items():
        for number in range(3):
            pixels, _ = draw_adire(technique, np.random.default_rng([number, 7]))
            name = f"{technique}{number}.png"
            Image.fromarray(pixels).save(tmp_path / name)
            data_draft.add(found, name, tmp_path / name)
            wanted[name] = f"a cloth, indigo, {motif}"
    [kept, *_] = data_draft.check(found, quiet).items
    data_draft.set_text(found, kept["file"], "mine")
    wanted[kept["file"]] = "mine"
    draft = data_draft.propose_texts(found, quiet)
    names = [one["file"] for one in draft.items]
    assert len(names) >= 4 and draft.texts.keys() == {*names}
    right = [draft.texts[name] == wanted[name] for name in names]
    assert sum(right) >= len(right) - 1, draft.texts
    assert draft.texts[kept["file"]] == "mine"


def test_records_get_none(project: Project) -> None:
    with pytest.raises(UserError, match="the items of letters have no text of their own"):
        data_draft.propose_texts(place(project, "letters"), quiet)
