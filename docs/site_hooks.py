"""The pages that lie beside docs/ become part of the site, with their links."""

import re
from pathlib import Path
from posixpath import normpath

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
PAGES = {  # page of the site -> file of the repository
    "index.md": "README.md",
    **{name: name for name in ("CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md")},
}
LINK = re.compile(r"(!?)\[([^\]]*)\]\((?!\w+:|#)([^)#\s]+)(#[^)\s]*)?\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    for page, name in PAGES.items():
        files.append(File.generated(config, page, abs_src_path=str(ROOT / name)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Links between the repository's files become links between pages; to code, plain words."""
    folder = "." if page.file.src_uri in PAGES else "docs"
    pages = {name: page for page, name in PAGES.items()}

    def on_site(match: re.Match[str]) -> str:
        picture, words, path, anchor = match[1], match[2], match[3], match[4] or ""
        name = normpath(f"{folder}/{path}")
        target = pages.get(name) or (name.removeprefix("docs/") if name.startswith("docs/") else "")
        return f"{picture}[{words}]({target}{anchor})" if target else words

    return LINK.sub(on_site, markdown)
