"""What users say of answers: which tokens are taken, what is kept, and how it is counted."""

import json
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from adire_assets.core import answer_token
from adire_assets.core.errors import UserError
from adire_assets.families.diffusion.answers import save_png
from adire_assets.monitoring import feedback, feedback_review
from adire_assets.monitoring.feedback import keep
from adire_assets.serving import answer_keys
from tests.support.feedback import token_of, wait_for_a_day
from tests.support.shop import MODEL, YAML, Shop

DAY = 86_400


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    """Release 1 is known."""
    wait_for_a_day()
    made = Shop(tmp_path / "d'été")
    evaluation = made.evaluation("1", 1.5)
    made.release(1, evaluation)
    return made


def day_files(shop: Shop) -> list[Path]:
    return sorted((shop.project.home / "feedback" / MODEL).glob("????-??-??.jsonl"))


def test_a_word_is_kept_and_replaced_by_the_same_user_alone(shop: Shop) -> None:
    token = token_of(shop.project, MODEL)
    first = keep(shop.project, token, "ada", rating=2, text=" too pale\0\u202e ")
    assert (first.replaced, first.given.text) == (False, "too pale")
    again = keep(shop.project, token, "ada", rating=5)
    assert again.replaced and "changed" in again.told()
    other = keep(shop.project, token, "obi", flags=["artefact"])
    assert not other.replaced
    [one, two] = feedback.all_given(shop.project, MODEL)
    assert [(one.user, one.rating), (two.user, two.flags)] == [("ada", 5), ("obi", ("artefact",))]
    [file] = day_files(shop)
    assert len(file.read_text().splitlines()) == 3  # what was replaced stays in the file
    assert file.stat().st_mode & 0o777 == 0o600 and file.parent.stat().st_mode & 0o777 == 0o700
    said = feedback.of_day(shop.project, MODEL, file.stem)
    assert said == [one, two]


def test_a_token_that_was_not_signed_here_is_refused(shop: Shop, tmp_path: Path) -> None:
    token = token_of(shop.project, MODEL)
    version, key, claims, signature = token.split(".")
    other = "B" if signature[0] == "A" else "A"
    others = Shop(tmp_path / "elsewhere")
    forged = {
        "nonsense": "is none that an answer carries",
        "": "is none that an answer carries",
        token + "é": "is none that an answer carries",
        f"{version}.{key}.{claims}": "is none that an answer carries",
        f"{version}.{key}.{claims}.{other}{signature[1:]}": "was not signed here",
        f"{version}.{key}.{claims[:-4]}AAAA.{signature}": "was not signed here",
        f"{version}.0000.{claims}.{signature}": "is not known here any more",
        token_of(others.project, MODEL): "is not known here any more",
        "v1." + "a" * 20_000 + ".b.c": "is none that an answer carries",
    }
    for one, why in forged.items():
        with pytest.raises(UserError, match=f"the feedback token .*{why}"):
            keep(shop.project, one, "ada", rating=3)
    assert not day_files(shop)


@pytest.mark.parametrize(
    "claims, why",
    [
        ({"time": time.time() - 31 * DAY}, "has expired: an answer can be rated for 30 days"),
        ({"time": time.time() + DAY}, "still to come"),
        ({"release": 9}, "names release 9 of cloth, of which this project has no record"),
        ({"model": "silk"}, "names release 1 of silk, of which this project has no record"),
    ],
)
def test_a_token_of_another_time_or_release_is_refused(shop: Shop, claims: dict, why: str) -> None:
    token = token_of(shop.project, **{"model": MODEL, **claims})
    with pytest.raises(UserError, match=why):
        keep(shop.project, token, "ada", rating=3)
    assert not day_files(shop)


def test_how_long_an_answer_can_be_rated_is_configured(shop: Shop) -> None:
    token = token_of(shop.project, MODEL, time=time.time() - 40 * DAY)
    file = shop.project.model_file(MODEL)
    file.write_text(f"{YAML}monitoring: {{feedback: {{token_days: 60}}}}\n")
    assert keep(shop.project, token, "ada", rating=3).given.rating == 3


def test_a_token_of_another_model_is_refused_where_a_model_is_named(shop: Shop) -> None:
    with pytest.raises(UserError, match="that of an answer of release 1 of cloth, not of silk"):
        keep(shop.project, token_of(shop.project, MODEL), "ada", rating=3, model="silk")


@pytest.mark.parametrize(
    "said, why",
    [
        ({}, "give a rating"),
        ({"rating": 0}, "the rating is 0, allowed is 1 to 5"),
        ({"rating": 6}, "the rating is 6"),
        ({"rating": True}, "the rating is True"),
        ({"rating": 3, "flags": ["ugly"]}, "no flag 'ugly'; flags are off-style, artefact"),
        ({"rating": 3, "text": "x" * 2001}, "the text has 2001 characters, at most 2000"),
        ({"rating": 3, "part": 2}, "the answer has 2 part"),
        ({"rating": 3, "part": -1}, "the answer has 2 part"),
    ],
)
def test_what_is_out_of_bounds_is_refused(shop: Shop, said: dict, why: str) -> None:
    token = token_of(shop.project, MODEL, contents=(b"x", b"y"))
    with pytest.raises(UserError, match=why):
        keep(shop.project, token, "ada", **said)
    assert not day_files(shop)


def test_a_day_has_room_for_so_many_words_of_one_user(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feedback, "RATINGS_A_DAY", 2)
    for _ in range(2):
        keep(shop.project, token_of(shop.project, MODEL), "ada", rating=3)
    with pytest.raises(UserError, match="you have rated 2 answers of this model today"):
        keep(shop.project, token_of(shop.project, MODEL), "ada", rating=3)
    keep(shop.project, token_of(shop.project, MODEL), "obi", rating=3)


def test_earlier_keys_go_on_being_accepted_until_they_are_dropped(shop: Shop) -> None:
    token = token_of(shop.project, MODEL)
    path = answer_keys.place(shop.project)
    assert path.stat().st_mode & 0o777 == 0o600
    made = [answer_keys.rotate(shop.project) for _ in range(answer_keys.KEPT - 1)]
    assert keep(shop.project, token, "ada", rating=3).given.release == 1
    assert [one["id"] for one in answer_keys.read(shop.project)][:4] == made[::-1]
    answer_keys.rotate(shop.project)
    with pytest.raises(UserError, match="not known here any more"):
        keep(shop.project, token, "ada", rating=3)
    now = token_of(shop.project, MODEL)
    answer_keys.rotate(shop.project, drop_old=True)
    with pytest.raises(UserError, match="not known here any more"):
        keep(shop.project, now, "ada", rating=3)


def test_damaged_keys_are_said_and_cost_no_answer(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = token_of(shop.project, MODEL)
    path = answer_keys.place(shop.project)
    monkeypatch.setenv(answer_token.KEYS, str(path))
    signed = answer_token.told(MODEL, 1, ["0" * 64])[answer_token.FIELD]
    assert keep(shop.project, signed, "ada", rating=3).given.release == 1
    [key] = answer_keys.read(shop.project)
    for damaged in (
        [],
        [{**key, "key": ""}],
        [{**key, "key": key["key"][2:]}],
        [{**key, "id": "clé"}],
        [{**key, "id": "a.b"}],
    ):
        path.write_text(json.dumps({"keys": damaged}))
        with pytest.raises(UserError, match=r"answer_keys\.json is damaged"):
            answer_keys.read(shop.project)
    path.write_text("{")
    for use in (answer_keys.ensure, lambda project: keep(project, token, "ada", rating=3)):
        with pytest.raises(UserError, match=r"answer_keys\.json is damaged"):
            use(shop.project)
    assert answer_token.told(MODEL, 1, ["0" * 64]) == {}
    path.unlink()
    with pytest.raises(UserError, match="start the fleet with `adire up`"):
        keep(shop.project, token, "ada", rating=3)


def test_the_half_of_a_line_is_passed_over_and_said(shop: Shop) -> None:
    """A process may be killed while it writes."""
    keep(shop.project, token_of(shop.project, MODEL), "ada", rating=4)
    [file] = day_files(shop)
    with file.open("a") as torn:
        torn.write('{"at": "2026-01')
    assert [one.rating for one in feedback.all_given(shop.project, MODEL)] == [4]
    keep(shop.project, token_of(shop.project, MODEL), "obi", rating=1)
    assert [one.rating for one in feedback.all_given(shop.project, MODEL)] == [4, 1]
    assert any("1 line(s) below" in line for line in feedback_review.listed(shop.project, MODEL))


def test_a_line_that_finds_no_room_is_not_taken_for_kept(tmp_path: Path) -> None:
    """The disk, here a limit of the process, takes the half of it."""
    path = tmp_path / "2026-01-01.jsonl"
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))
    try:
        with pytest.raises((UserError, OSError), match="large"):
            feedback.append(path, {"text": "x" * 200})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert path.stat().st_size == 100
    feedback.append(path, {"text": "y"})
    assert feedback.lines(path) == (({"text": "y"},), 1)


WRITER = """
import sys
from pathlib import Path
from adire_assets.core.project import Project
from adire_assets.monitoring.feedback import keep

root, home, user, *tokens = sys.argv[1:]
for token in tokens:
    keep(Project(Path(root), Path(home)), token, user, rating=3, text="é" * 900)
"""


def test_two_processes_lose_nothing_of_each_other(shop: Shop) -> None:
    tokens = [token_of(shop.project, MODEL) for _ in range(15)]
    places = str(shop.project.root), str(shop.project.home)
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITER, *places, user, *tokens])
        for user in ("ada", "obi")
    ]
    assert [one.wait(300) for one in writers] == [0, 0]
    [file] = day_files(shop)
    found = [json.loads(line) for line in file.read_text().splitlines()]
    assert len(found) == len({(one["answer"], one["user"]) for one in found}) == 30


def picture(path: Path, level: int, **more: object) -> bytes:
    """A saved answer with this one colour; its content."""
    pixels = np.full((8, 8, 3), level, np.uint8)
    facts = {"model": MODEL, "release": 1, "request": {"prompt": "rings", "seed": 7}, **more}
    save_png(pixels, path, facts)
    return pixels.tobytes()


def test_an_answer_is_attached_when_it_is_the_rated_one(shop: Shop, tmp_path: Path) -> None:
    file = tmp_path / "a.png"
    token = token_of(shop.project, MODEL, contents=(b"other", picture(file, 7)))
    file.write_bytes(file.read_bytes() + b"<script>alert(1)</script>")
    given = keep(shop.project, token, "ada", rating=1, part=1, attached=file).given
    kept = feedback.attachment(shop.project, MODEL, given.name)
    assert kept and b"script" not in kept.read_bytes() and kept.stat().st_mode & 0o777 == 0o600
    with Image.open(kept) as image:
        assert image.getpixel((0, 0)) == (7, 7, 7)
        assert json.loads(image.text["adire"])["request"]["prompt"] == "rings"
    assert feedback.attachment(shop.project, MODEL, "../../answer_keys.json") is None
    keep(shop.project, token, "ada", rating=1, part=1)
    assert not kept.exists() and feedback.attachment(shop.project, MODEL, given.name) is None


@pytest.mark.parametrize(
    "content, why",
    [
        (b"no image", "is no image of a served model"),
        (b"\x89PNG\r\n\x1a\n", "is no image of a served model"),
        (None, "the attached image is not the one that is rated"),
        ({"request": [1]}, "its provenance is none that was saved"),
    ],
)
def test_what_is_not_the_rated_answer_is_not_kept(
    shop: Shop, tmp_path: Path, content: object, why: str
) -> None:
    file = tmp_path / "a.png"
    drawn = picture(file, 7)
    token = token_of(shop.project, MODEL, contents=(drawn,))
    if isinstance(content, bytes):
        file.write_bytes(content)
    elif content is None:
        picture(file, 8)
    else:
        with Image.open(file) as image:
            from PIL import PngImagePlugin

            chunks = PngImagePlugin.PngInfo()
            chunks.add_text("adire", json.dumps(content))
            image.save(file, pnginfo=chunks)
    with pytest.raises(UserError, match=why):
        keep(shop.project, token, "ada", rating=1, attached=file)
    assert not day_files(shop)
    assert not list((shop.project.home / "feedback").rglob("*.png"))


def test_the_figures_of_a_release_count_users(shop: Shop) -> None:
    evaluation = shop.evaluation("2", 1.5)
    shop.release(2, evaluation)
    for user, ratings in {"ada": (5, 5, 5, 5), "obi": (1,), "eze": (3,)}.items():
        for rating in ratings:
            keep(shop.project, token_of(shop.project, MODEL), user, rating=rating)
    keep(shop.project, token_of(shop.project, MODEL, 2), "ada", flags=["unsafe", "unsafe"])
    second, first = feedback_review.figures(feedback.all_given(shop.project, MODEL))
    assert (first.count, first.users, first.bad, first.mean) == (6, 3, 1, 3.0)
    assert first.low == 1.0 and first.high == 5.0  # three users show little
    assert (second.mean, second.flags["unsafe"], second.bad) == (None, 1, 1)
    assert feedback_review.figures([]) == []


def test_what_was_reviewed_leaves_the_list_until_it_is_said_anew(shop: Shop) -> None:
    token = token_of(shop.project, MODEL)
    fine = keep(shop.project, token_of(shop.project, MODEL), "ada", rating=5).given
    bad = keep(shop.project, token, "ada", rating=1, text="no rings").given
    assert [one.name for one in feedback_review.to_review(shop.project, MODEL)] == [bad.name]
    for one, outcome, note, why in (
        (fine, "prompt", "x", "is not on that list"),
        (bad, "applause", "x", "there is no outcome 'applause'"),
        (bad, "prompt", " ", "needs a note"),
    ):
        with pytest.raises(UserError, match=why):
            feedback_review.review(shop.project, MODEL, one.name, one.at, outcome, note, "obi")
    prompt = "prompt", "indigo rings", "obi"
    feedback_review.review(shop.project, MODEL, bad.name, bad.at, *prompt)
    assert feedback_review.to_review(shop.project, MODEL) == []
    assert [*feedback_review.listed(shop.project, MODEL, "prompt")] == ["indigo rings"]
    keep(shop.project, token, "ada", rating=2, text="still none")
    assert [one.name for one in feedback_review.to_review(shop.project, MODEL)] == [bad.name]


def test_a_review_closes_no_words_that_the_reviewer_has_not_seen(shop: Shop) -> None:
    token = token_of(shop.project, MODEL)
    seen = keep(shop.project, token, "ada", rating=1, text="no rings").given
    while feedback.iso(time.time()) == seen.at:
        pass
    now = keep(shop.project, token, "ada", rating=1, flags=["unsafe"]).given
    closed = "nothing", "a matter of taste", "obi"
    with pytest.raises(UserError, match="was changed by its user at"):
        feedback_review.review(shop.project, MODEL, seen.name, seen.at, *closed)
    assert feedback_review.to_review(shop.project, MODEL) == [now]
    feedback_review.review(shop.project, MODEL, now.name, now.at, *closed)
    assert feedback_review.to_review(shop.project, MODEL) == []
