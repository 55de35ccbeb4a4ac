"""The artifact store: complete, immutable folders named by their recipe key.

    <home>/store/<model>/<kind>/<first 32 digits of the recipe key>/
        ...             what the step wrote
        timings.json    optional; does not count for the content hash
        recipe/         the resolved config, and all sources that the step ran with, as
                        sources/<dotted module>.py; does not count either
        manifest.json   recipe, content hash, file hashes, code identity, versions, hardware

    <home>/manifests/<model>/<kind>/...     manifest.json and recipe/ of deleted artifacts

`build` writes under a temporary name, syncs and renames: what stands under its final name is
complete. One flock per recipe key lets the second of two runs wait and then reuse; it dies with
its holder, and what a killed holder left is removed by the next.

An artifact that `find`, `open`, `recall` or `build` gave is not deleted for as long as `readers`
says. Those that `artifacts` lists may be deleted: `open` the ones you use.
"""

import fnmatch
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from adire_assets.core import lineage
from adire_assets.core.disk import writing
from adire_assets.core.errors import UserError
from adire_assets.core.files import hard_link_or_copy as hard_link_or_copy
from adire_assets.core.files import read_json as read_json
from adire_assets.core.files import sync
from adire_assets.core.files import write_bytes as write_bytes
from adire_assets.core.files import write_json as write_json
from adire_assets.core.lineage import Recipe
from adire_assets.core.placement import computed_for, computed_on
from adire_assets.core.project import Project
from adire_assets.core.storage import WITHDRAWN

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
        """Its name in the storage."""
        return name_of(self.model, self.kind, self.key)

    def json(self, name: str) -> Any:
        return read_json(self.path / name)

    def reference(self) -> dict[str, str]:
        return {name: value for name, value in vars(self).items() if name != "path"}


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

    def find(self, recipe: Recipe) -> Artifact | None:
        """The artifact of this recipe, or None."""
        return self._found(name_of(recipe.model, recipe.kind, recipe.key))

    def open(self, reference: dict[str, str]) -> Artifact:
        """The artifact that a reference names. UserError when it is gone or is another one."""
        model, kind, key = (reference[part] for part in ("model", "kind", "key"))
        name = name_of(model, kind, key)
        artifact = self._found(name)
        if artifact is None:
            raise UserError(
                f"{kind} {key[:12]} of {model} is no longer in the store ({self.root / name}); "
                f"materialize {model}/{kind}"
            )
        if artifact.content_hash != reference["content_hash"]:
            raise UserError(
                f"{artifact.path} is not the content that was handed on; materialize it again"
            )
        return artifact

    def recall(self, reference: dict[str, str]) -> Artifact:
        """The artifact that a reference names, or its manifest and recipe/ alone (see `holds`).

        UserError when neither is left.
        """
        name = name_of(reference["model"], reference["kind"], reference["key"])
        for artifact in (self._found(name), self._read(self.memory / name)):
            if artifact and artifact.content_hash == reference["content_hash"]:
                return artifact
        raise UserError(
            f"{reference['kind']} {reference['key'][:12]} of {reference['model']} is known neither "
            f"in {self.root} nor in {self.memory}; without its manifest nobody can tell what it is "
            "made from"
        )

    def holds(self, artifact: Artifact) -> bool:
        """Whether the store has the content, not only the manifest."""
        return not artifact.path.is_relative_to(self.memory)

    def delete_unheld(
        self, needless: Callable[[], list[Artifact]], dry_run: bool = False
    ) -> Iterator[tuple[Artifact, Path]]:
        """`Storage.delete_unheld` of artifacts; their manifests and recipe/ are kept."""
        candidates = {artifact.name: artifact for artifact in needless()}
        if not dry_run:
            for artifact in candidates.values():
                self.remember(artifact)

        def still() -> list[str]:
            return [artifact.name for artifact in needless()]

        for name, folder in self.project.storage.delete_unheld(candidates, still, dry_run):
            yield candidates[name], folder

    def remember(self, artifact: Artifact) -> None:
        """Keep manifest and recipe/ of an artifact that is about to be deleted."""
        kept = self.memory / artifact.name
        unfinished = kept.with_name(f".{kept.name}")
        shutil.rmtree(unfinished, ignore_errors=True)
        # Links need no space, and who deletes things may have none.
        shutil.copytree(
            artifact.path / "recipe", unfinished / "recipe", copy_function=hard_link_or_copy
        )
        hard_link_or_copy(artifact.path / "manifest.json", unfinished / "manifest.json")
        shutil.rmtree(kept, ignore_errors=True)
        unfinished.rename(kept)

    def unfinished(self) -> Iterator[tuple[Path, str | None]]:
        """(folder, the lock of who makes it) of what is not complete; no lock: it is withdrawn."""
        for folder in sorted((self.root / ".tmp").glob("*/")):
            withdrawn = folder.name.startswith(WITHDRAWN)
            yield folder, None if withdrawn else folder.name.removesuffix("-recipe")

    def artifacts(self, model: str | None = None, kind: str | None = None) -> list[Artifact]:
        """All complete artifacts, in the order of their names."""
        names = fnmatch.filter(self.project.storage.names(), f"{model or '*'}/{kind or '*'}/*")
        return [artifact for name in names if (artifact := self._read(self.root / name))]

    def known(self, model: str, kind: str) -> list[Artifact]:
        """All artifacts of a kind, those included of which manifest and recipe/ alone are left."""
        roots = (self.memory, self.root)
        paths = (path for root in roots for path in sorted((root / model / kind).glob("*/")))
        found = {path.name: artifact for path in paths if (artifact := self._read(path))}
        return list(found.values())

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
        place = name_of(recipe.model, recipe.kind, recipe.key)
        name = place.replace("/", "-")
        with self.project.locks.acquire(name):
            if found := self.find(recipe):
                return Built(found, reused=True)
            folder = self.root / ".tmp" / name
            made_with = self.root / ".tmp" / f"{name}-recipe"
            try:
                with writing(folder):
                    for unfinished in (folder, made_with):
                        shutil.rmtree(unfinished, ignore_errors=True)
                        unfinished.mkdir(parents=True)
                    started = time.monotonic()
                    self._keep_recipe(made_with, recipe)
                    computed_on.set(None)
                    computed_for.set(None)
                    facts = make(folder) or {}
                    made_with.rename(folder / "recipe")
                    self._finish(folder, recipe, facts, time.monotonic() - started)
                    first = self.project.storage.put_if_absent(place, folder)
            finally:
                shutil.rmtree(folder, ignore_errors=True)
                shutil.rmtree(made_with, ignore_errors=True)
        artifact = self._found(place)
        if artifact is None:
            raise UserError(f"{place} vanished while it was written; materialize again")
        return Built(artifact, reused=not first)

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
        manifest = {
            "recipe": recipe.as_dict(),
            "key": recipe.key,
            "content_hash": content,
            "files": files,
            "recipe_hash": lineage.folder_digest(folder / "recipe")[0],
            "code": lineage.code_identity(self.project.root),
            "created": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "seconds": round(seconds, 3),
            "hardware": computed_on.get() or (recipe.facts or lineage.facts()).hardware,
        }
        write_json(folder / "manifest.json", {**manifest, **facts})
        for path in folder.rglob("*"):
            if path.is_file():
                path.chmod(0o444)
                sync(path)

    def _found(self, name: str) -> Artifact | None:
        """The artifact of a name, from now on kept from being deleted."""
        folder = self.project.storage.find(name)
        return self._read(folder) if folder else None

    def _read(self, folder: Path) -> Artifact | None:
        try:
            manifest = read_json(folder / "manifest.json")
        except FileNotFoundError:
            return None
        model, kind = (manifest["recipe"][name] for name in ("model", "kind"))
        return Artifact(model, kind, manifest["key"], manifest["content_hash"], folder)


def name_of(model: str, kind: str, key: str) -> str:
    """The name of an artifact in the storage."""
    return f"{model}/{kind}/{key[:KEY_DIGITS]}"
