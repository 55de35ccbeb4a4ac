"""The schema of weights that a model's YAML names by `source`."""

import re
from typing import Annotated, Self

from pydantic import AfterValidator, Field, model_validator

from adire_assets.config.yaml_file import Strict

COMMIT = r"^[0-9a-f]{40}$"
LONGEST_NAME, LONGEST_PATH = 255, 4095  # bytes, NAME_MAX and PATH_MAX of Linux


def _can_be_a_path(path: str) -> str:
    """ValueError for a text that no file system takes as a path."""
    parts = path.encode(errors="surrogatepass").split(b"/")
    if "\0" in path:
        raise ValueError("holds a zero byte, which no path may")
    if len(path.encode()) > LONGEST_PATH or max(map(len, parts)) > LONGEST_NAME:
        raise ValueError(
            f"a path has at most {LONGEST_PATH} bytes, and {LONGEST_NAME} between two slashes"
        )
    return path


FilePath = Annotated[str, AfterValidator(_can_be_a_path)]


class Source(Strict):
    """Files: a folder (below the project or absolute) or a hub id at a fixed commit."""

    source: Annotated[FilePath, Field(min_length=1)]
    revision: Annotated[str, Field(pattern=COMMIT)] | None = None

    @property
    def is_hub(self) -> bool:
        """A hub id comes with a revision; nothing else does."""
        return self.revision is not None

    @model_validator(mode="after")
    def _hub_needs_revision(self) -> Self:
        if self.revision is not None and not re.fullmatch(r"[\w.-]+/[\w.-]+", self.source):
            raise ValueError("a revision goes with a hub id such as organisation/name, not a path")
        return self


class ModelSource(Source):
    """Weights, where a folder can be pinned to the SHA-256 of its names and bytes."""

    variant: Annotated[str, Field(pattern=r"^[a-z0-9_]+$")] | None = None
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = None

    @model_validator(mode="after")
    def _one_pin(self) -> Self:
        if self.is_hub and self.sha256 is not None:
            raise ValueError("sha256 pins a folder or a file; a hub id is pinned by its revision")
        return self
