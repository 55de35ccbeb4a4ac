"""What lies in the artifacts of a language model, and how it is found there."""

from pathlib import Path

from adire_assets.core.lineage import digest, file_digest

BASE = "base"  # folder of the base model's files in its artifact
ASKED = "asked.json"  # of an evaluation: how its answers were asked for
WORDS = "words.json"  # of the judge: what no answer may say


def base_hash(folder: Path) -> str:
    """The content hash of a base's folder: names and bytes of its files."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return digest(
        {path.relative_to(folder).as_posix(): file_digest(path) for path in sorted(files)}
    )
