"""The artifact store: complete, immutable folders named by their recipe key.

    <home>/store/<model>/<kind>/<first 32 digits of the recipe key>/
        ...             what the step wrote
        timings.json    optional; does not count for the content hash
        recipe/         the resolved config, and all sources that the step ran with, as
                        sources/<dotted module>.py; does not count either
        manifest.json   recipe, content hash, file hashes, code identity, versions, hardware

    <home>/manifests/<model>/<kind>/...     manifest.json and recipe/ of what `discard` deleted

`build` writes under a temporary name, syncs and renames: what stands under its final name is
complete. One flock per recipe key lets the second of two runs wait and then reuse; it dies with
its holder, and what a killed holder left is removed by the next.

What `find`, `open`, `recall` and `build` give is kept from being deleted for as long as `readers`
says. What `artifacts` lists is not: `open` what you choose of it.
"""

import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from adire_assets.core import lineage, readers
from adire_assets.core.disk import writing
from adire_assets.core.errors import UserError
from adire_assets.core.files import hard_link_or_copy as hard_link_or_copy
from adire_assets.core.files import read_json as read_json
from adire_assets.core.files import sync
from adire_assets.core.files import write_bytes as write_bytes
from adire_assets.core.files import write_json as write_json
from adire_assets.core.lineage import Recipe
from adire_assets.core.locks import Lease
from adire_assets.core.placement import computed_on
from adire_assets.core.project import Project

NOT_CONTENT = ("manifest.json", "timings.json", "recipe")
KEY_DIGITS = 32


@dataclass(frozen=True)
class Artifact:
    """A complete artifact in the store; `reference()` is what one asset hands to the next."""

    model: str
    kind: str
    key: str
    content_hash: str
    path: Path

    @property
    def manifest(self) -> dict[str, Any]:
        return read_json(self.path / "manifest.json")

    @property
    def name(self) -> str:
        """Its place in the store, <model>/<kind>/<key>; what `readers` hold."""
        return f"{self.model}/{self.kind}/{self.key[:KEY_DIGITS]}"

    def json(self, name: str) -> Any:
        return read_json(self.path / name)

    def reference(self) -> dict[str, str]:
        return {
            "model": self.model,
            "kind": self.kind,
            "key": self.key,
            "content_hash": self.content_hash,
        }


@dataclass(frozen=True)
class Built:
    """What `Store.build` gives back: the artifact, and whether it was there already."""

    artifact: Artifact
    reused: bool


class Store:
    def __init__(self, project: Project) -> None:
        self.project = project
        self.root = project.home / "store"
        self.memory = project.home / "manifests"

    def folder(self, model: str, kind: str, key: str) -> Path:
        return self.root / model / kind / key[:KEY_DIGITS]

    def find(self, recipe: Recipe) -> Artifact | None:
        """The artifact of this recipe, or None."""
        return self._hold(self.folder(recipe.model, recipe.kind, recipe.key))

    def open(self, reference: dict[str, str]) -> Artifact:
        """The artifact that a reference names. UserError when it is gone or is another one."""
        folder = self.folder(reference["model"], reference["kind"], reference["key"])
        artifact = self._hold(folder)
        if artifact is None:
            raise UserError(
                f"{reference['kind']} {reference['key'][:12]} of {reference['model']} is no longer "
                f"in the store ({folder}); materialize {reference['model']}/{reference['kind']}"
            )
        if artifact.content_hash != reference["content_hash"]:
            raise UserError(f"{folder} is not the content that was handed on; materialize it again")
        return artifact

    def recall(self, reference: dict[str, str]) -> Artifact:
        """What a reference names, if need be its manifest and recipe/ alone (see `holds`)."""
        folder = self.folder(reference["model"], reference["kind"], reference["key"])
        for artifact in (self._hold(folder), self._read(self._memory_of(folder))):
            if artifact and artifact.content_hash == reference["content_hash"]:
                return artifact
        raise UserError(
            f"{reference['kind']} {reference['key'][:12]} of {reference['model']} is known neither "
            f"in {self.root} nor in {self.memory}; without its manifest nobody can tell what it is "
            "made from"
        )

    def holds(self, artifact: Artifact) -> bool:
        """Whether the store has the content, not only the manifest."""
        return artifact.path.is_relative_to(self.root)

    def discard(self, artifact: Artifact) -> None:
        """Delete an artifact except for its manifest and recipe/, by which it can be made again.

        The caller has it alone (`readers.exclusive`), or knows that nobody reads it.
        """
        self.remember(artifact)
        shutil.rmtree(self.withdraw(artifact))

    def remember(self, artifact: Artifact) -> None:
        """Keep manifest and recipe/ of an artifact that is about to be discarded."""
        kept = self._memory_of(artifact.path)
        unfinished = kept.with_name(f".{kept.name}")
        shutil.rmtree(unfinished, ignore_errors=True)
        # Links need no space, and who deletes things may have none.
        shutil.copytree(
            artifact.path / "recipe", unfinished / "recipe", copy_function=hard_link_or_copy
        )
        hard_link_or_copy(artifact.path / "manifest.json", unfinished / "manifest.json")
        shutil.rmtree(kept, ignore_errors=True)
        unfinished.rename(kept)

    def withdraw(self, artifact: Artifact) -> Path:
        """Move an artifact out of sight, at once and whole; where it can be deleted at leisure."""
        doomed = self.root / ".tmp" / f"gc-{artifact.key}"
        doomed.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(doomed, ignore_errors=True)
        artifact.path.rename(doomed)
        return doomed

    def unfinished(self) -> Iterator[tuple[Path, str | None]]:
        """(folder, the lock of who makes it) of what is not complete; no lock: it is withdrawn."""
        for folder in sorted((self.root / ".tmp").glob("*")):
            if not folder.is_dir():
                continue
            withdrawn = folder.name.startswith("gc-")
            yield folder, None if withdrawn else folder.name.removesuffix("-recipe")

    def artifacts(self, model: str | None = None, kind: str | None = None) -> list[Artifact]:
        """All complete artifacts, in the order of their names."""
        pattern = f"{model or '*'}/{kind or '*'}/*/manifest.json"
        found = (self._read(path.parent) for path in sorted(self.root.glob(pattern)))
        return [artifact for artifact in found if artifact is not None]

    def known(self, model: str, kind: str) -> list[Artifact]:
        """Those of a kind, and those whose manifest and recipe/ alone are left."""
        pattern = f"{model}/{kind}/*/manifest.json"
        paths = {
            path.parent.name: path.parent
            for root in (self.memory, self.root)
            for path in sorted(root.glob(pattern))
        }
        found = (self._read(path) for path in paths.values())
        return [artifact for artifact in found if artifact is not None]

    def verify(self, artifact: Artifact) -> None:
        """Read every byte again. UserError when the content is not what its manifest says."""
        recorded = artifact.manifest["files"]
        content, files = lineage.folder_digest(artifact.path, NOT_CONTENT, recorded)
        if content != artifact.content_hash:
            changed = sorted(
                name for name in {*recorded, *files} if recorded.get(name) != files.get(name)
            )
            raise UserError(
                f"{artifact.path} was changed after it was made ({', '.join(changed[:3])}); "
                f"delete the folder and materialize {artifact.model}/{artifact.kind} again"
            )

    def build(self, recipe: Recipe, make: Callable[[Path], dict[str, Any] | None]) -> Built:
        """The artifact of `recipe`: found, or made by `make(folder)` and put in place whole.

        `make` writes into the empty `folder` and may return facts for the manifest. When it raises,
        nothing is left.
        """
        if found := self.find(recipe):
            return Built(found, reused=True)
        name = lock_name(recipe.model, recipe.kind, recipe.key)
        with self.project.locks.acquire(name):
            if found := self.find(recipe):
                return Built(found, reused=True)
            folder = self.root / ".tmp" / name
            made_with = self.root / ".tmp" / f"{name}-recipe"
            final = self.folder(recipe.model, recipe.kind, recipe.key)
            try:
                with writing(folder):
                    for unfinished in (folder, made_with):
                        shutil.rmtree(unfinished, ignore_errors=True)
                        unfinished.mkdir(parents=True)
                    started = time.monotonic()
                    self._keep_recipe(made_with, recipe)
                    computed_on.set(None)
                    facts = make(folder) or {}
                    made_with.rename(folder / "recipe")
                    self._finish(folder, recipe, facts, time.monotonic() - started)
                    final.parent.mkdir(parents=True, exist_ok=True)
                    folder.rename(final)
                    sync(final.parent)
            finally:
                shutil.rmtree(folder, ignore_errors=True)
                shutil.rmtree(made_with, ignore_errors=True)
        artifact = self._read(final)
        if artifact is None:
            raise UserError(f"{final} vanished while it was written; materialize again")
        return Built(artifact, reused=False)

    def _keep_recipe(self, folder: Path, recipe: Recipe) -> None:
        """Before the step runs, since a long one may outlast an edit of its sources."""
        write_json(folder / "config.json", recipe.config)
        if not recipe.modules:
            return
        kept = folder / "sources"
        kept.mkdir()
        for name, path in lineage.all_sources(recipe.modules).items():
            shutil.copyfile(path, kept / f"{name}.py")
        step = {name: kept / f"{name}.py" for name in lineage.sources(recipe.modules)}
        if lineage.code_hash_of(step) != recipe.code:
            raise UserError(
                f"the code of {recipe.model}/{recipe.kind} was changed after this process had read "
                "it; start it again"
            )

    def _finish(self, folder: Path, recipe: Recipe, facts: dict, seconds: float) -> None:
        content, files = lineage.folder_digest(folder, NOT_CONTENT)
        here = recipe.facts or lineage.facts()
        write_json(
            folder / "manifest.json",
            {
                "recipe": recipe.as_dict(),
                "key": recipe.key,
                "content_hash": content,
                "files": files,
                "recipe_hash": lineage.folder_digest(folder / "recipe")[0],
                "code": lineage.code_identity(self.project.root),
                "created": datetime.now(UTC).isoformat(timespec="milliseconds"),
                "seconds": round(seconds, 3),
                "hardware": computed_on.get() or here.hardware,
                **facts,
            },
        )
        for path in folder.rglob("*"):
            if path.is_file():
                path.chmod(0o444)
                sync(path)

    def _memory_of(self, folder: Path) -> Path:
        return self.memory / folder.relative_to(self.root)

    def _hold(self, folder: Path) -> Artifact | None:
        """The artifact in `folder`, from now on kept from being deleted."""
        readers.hold(self.project, folder.relative_to(self.root).as_posix())
        return self._read(folder)

    def _read(self, folder: Path) -> Artifact | None:
        try:
            manifest = read_json(folder / "manifest.json")
        except FileNotFoundError:
            return None
        return Artifact(
            manifest["recipe"]["model"],
            manifest["recipe"]["kind"],
            manifest["key"],
            manifest["content_hash"],
            folder,
        )


def lock_name(model: str, kind: str, key: str) -> str:
    """The lock under which an artifact is made."""
    return f"{model}-{kind}-{key[:KEY_DIGITS]}"


def lock(project: Project, name: str) -> AbstractContextManager[Lease]:
    return project.locks.acquire(name)
