"""Every link of the README and of docs/ leads to a file of the repository, and a heading in it."""

import re
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from urllib.parse import unquote

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted({*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")})
LINK = re.compile(r"\[[^\]]*\]\(\s*<?([^)\s>]+)")
FENCED = re.compile(r"^(```|~~~).*?^\1", re.MULTILINE | re.DOTALL)
IN_A_LINE = re.compile(r"`[^`\n]*`")
HEADING = re.compile(r"^#{1,6} (.+?)\s*#*$", re.MULTILINE)


@cache
def anchors(page: Path) -> set[str]:
    """The headings' anchors, as GitHub makes them: lower case, words and hyphens alone."""
    text = FENCED.sub("", page.read_text(encoding="utf-8"))
    found: set[str] = set()
    for heading in HEADING.findall(text):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        slug = re.sub(r"[^\w\- ]", "", plain.lower()).replace(" ", "-")
        again = (f"{slug}-{count}" for count in range(1, 100))
        found.add(slug if slug not in found else next(one for one in again if one not in found))
    return found


@cache
def held() -> set[Path]:
    """The files and folders of the repository; those that git ignores are none."""
    if not (ROOT / ".git").exists():  # an export
        return set(ROOT.rglob("*"))
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    done = subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True)
    files = {ROOT / name for name in done.stdout.split("\0") if name}
    return files | {folder for file in files for folder in file.parents}


def broken(page: Path, text: str) -> Iterator[str]:
    for target in LINK.findall(IN_A_LINE.sub("", FENCED.sub("", text))):
        path, _, anchor = target.partition("#")
        if re.match(r"[a-z]+:", target):
            continue
        file = (page.parent / unquote(path)).resolve() if path else page
        if file not in held():
            yield f"{target}: no such file of the repository"
        elif anchor and anchor not in anchors(file):
            yield f"{target}: {file.name} has no such heading"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_link_leads_somewhere(page: Path) -> None:
    assert list(broken(page, page.read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize(
    "target", ["docs/gone.md", "docs/serving.md#no-door", "#no-graph", ".adire/mlflow.db", "Docs"]
)
def test_a_broken_link_is_found(target: str) -> None:
    page = ROOT / "README.md"
    assert len(list(broken(page, f"see [there]({target})"))) == 1
    heading = sorted(anchors(ROOT / "docs" / "serving.md"))[0]
    assert not list(broken(page, f"[there](docs/serving.md#{heading}), `[a](b)`"))


def test_every_page_of_docs_is_on_the_site() -> None:
    site = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    assert not [page.name for page in (ROOT / "docs").glob("*.md") if page.name not in site]
