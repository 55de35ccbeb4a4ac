"""Where MLflow keeps things, made usable: the tracking URI, its database, and a client for it.

The tracking URI is MLFLOW_TRACKING_URI, else the SQLite database <home>/mlflow.db with artifacts
below <home>/mlartifacts. A new database appears whole under its name, so no process ever meets one
without its tables, and a kill while it is made leaves nothing in the way.

MLflow is imported on first use, quiet and without telemetry. What a user can mend (no server, no
right to use it, a foreign or locked database) is a `UserError`.
"""

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from adire_assets.core.errors import UserError
from adire_assets.core.project import Project

if TYPE_CHECKING:
    from mlflow import MlflowClient

LOCK = "mlflow"

# Set before MLflow is imported, unless the user has set them.
ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    # MLflow retries for about four minutes; this gives up on a dead server after some seconds.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",  # seconds
}
PROBE_SECONDS = 5.0
SQLITE = "sqlite:///"
SQLITE_MAGIC = b"SQLite format 3\0"
REFUSED = ("PERMISSION_DENIED", "UNAUTHENTICATED", "CUSTOMER_UNAUTHORIZED")

_prepared: set[str] = set()


def tracking_uri(project: Project) -> str:
    return os.environ.get("MLFLOW_TRACKING_URI") or f"{SQLITE}{project.home / 'mlflow.db'}"


def artifact_folder(project: Project) -> Path:
    """Where runs keep their files when this process writes to the database itself."""
    return project.home / "mlartifacts"


def is_server(project: Project) -> bool:
    """Whether an MLflow server, and not this process, writes to the database."""
    return urlsplit(tracking_uri(project)).scheme in ("http", "https")


def own_database(project: Project) -> Path | None:
    """The SQLite file that this process writes to; None for a server or another database."""
    uri = tracking_uri(project)
    return Path(uri.removeprefix(SQLITE)).absolute() if uri.startswith(SQLITE) else None


def prepare(project: Project) -> None:
    """Make the tracking store usable; costs microseconds the second time in a process.

    A database is created or migrated under the lock. A server is only asked whether it answers.
    """
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    uri = tracking_uri(project)
    path = own_database(project)
    if uri in _prepared and (path is None or path.exists()):
        return
    if is_server(project):
        _probe(uri)
    elif path is not None:
        import mlflow  # noqa: F401  a second or two, not to be spent under the lock

        with project.locks.acquire(LOCK):
            _prepare_sqlite(project, path, uri)
    elif urlsplit(uri).scheme in ("", "file"):
        raise UserError(
            f"MLFLOW_TRACKING_URI is {uri}: MLflow no longer keeps runs in plain folders; name a "
            "server (http://host:port) or a database (sqlite:////absolute/path/mlflow.db)"
        )
    else:
        from mlflow import MlflowClient

        with project.locks.acquire(LOCK), answers(project):
            MlflowClient(uri, uri).search_experiments(max_results=1)
    _prepared.add(uri)


@contextmanager
def client(project: Project) -> "Iterator[MlflowClient]":
    """MLflow's client for this project."""
    prepare(project)
    from mlflow import MlflowClient

    uri = tracking_uri(project)
    with answers(project):
        yield MlflowClient(tracking_uri=uri, registry_uri=uri)


@contextmanager
def answers(project: Project) -> Iterator[None]:
    """Turn what MLflow raises in the block because of its server or database into a UserError."""
    from mlflow.exceptions import MlflowException

    uri = tracking_uri(project)
    try:
        yield
    except MlflowException as error:
        text = (str(error).splitlines() or [""])[0]
        if error.error_code in REFUSED:
            raise _unusable(uri, text) from error
        if text.startswith("API request to") and "failed with" in text:
            raise _unusable(uri, "no usable answer") from error
        if error.error_code == "TEMPORARILY_UNAVAILABLE":
            raise UserError(
                f"the MLflow database {_address(uri)} cannot be used: {text}; see that it is "
                "writable and that no other program keeps it locked"
            ) from error
        raise


def _prepare_sqlite(project: Project, path: Path, uri: str) -> None:
    if path.exists() and path.stat().st_size:
        with path.open("rb") as file:
            if file.read(len(SQLITE_MAGIC)) != SQLITE_MAGIC:
                raise UserError(
                    f"{path} is not an SQLite database; restore it from a backup, or move it away "
                    "and an empty one is made"
                )
        _migrate(project, path, uri)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.name}.new")
    for leftover in (fresh, fresh.with_name(f"{fresh.name}-journal")):
        leftover.unlink(missing_ok=True)
    _create_sqlite(fresh, artifact_folder(project))
    fresh.replace(path)


def _create_sqlite(path: Path, artifacts: Path) -> None:
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
    from sqlalchemy import Engine, event

    def hurry(link: sqlite3.Connection, _: object) -> None:
        # Nobody sees this file before it is whole: one sync at its end instead of one per migration
        # makes it in a second instead of six.
        if any(file == str(path) for _, _, file in link.execute("PRAGMA database_list")):
            link.execute("PRAGMA synchronous = OFF")

    event.listen(Engine, "connect", hurry)
    try:
        # As an address: MLflow writes it into SQL between quotes of its own.
        SqlAlchemyStore(f"{SQLITE}{path}", artifacts.as_uri()).engine.dispose()
    finally:
        event.remove(Engine, "connect", hurry)
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def _migrate(project: Project, path: Path, uri: str) -> None:
    """Bring a database of an older MLflow to this one's schema, with a copy kept beside it."""
    import mlflow
    from alembic.script import ScriptDirectory
    from alembic.util import CommandError
    from mlflow.db import commands

    scripts = ScriptDirectory(str(Path(mlflow.__file__).with_name("store") / "db_migrations"))
    with closing(sqlite3.connect(path)) as old:
        named = old.execute("SELECT name FROM sqlite_master WHERE name = 'alembic_version'")
        found = None
        if named.fetchone():
            [found] = old.execute("SELECT version_num FROM alembic_version").fetchone() or [None]
        if found == scripts.get_current_head():
            return
        try:
            scripts.get_revision(found or "base")
        except CommandError as error:
            raise UserError(
                f"{path} has the schema {found}, which MLflow {mlflow.__version__} does not know; "
                "install the newer MLflow that made it, or move the file away"
            ) from error
        backup = path.with_name(f"{path.name}.before-{mlflow.__version__}")
        with closing(sqlite3.connect(backup)) as new:
            old.backup(new)
    if found:
        commands.main(["upgrade", uri], standalone_mode=False)
    else:
        _create_sqlite(path, artifact_folder(project))


def _probe(uri: str) -> None:
    """Any answer will do: the point is to say within seconds that nobody is there."""
    import requests

    try:
        requests.get(uri, timeout=PROBE_SECONDS, stream=True).close()
    except requests.RequestException as error:
        raise _unusable(uri, type(error).__name__) from error


def _unusable(uri: str, reason: str) -> UserError:
    return UserError(
        f"the MLflow server at {_address(uri)} cannot be used ({reason}); start it, correct "
        "MLFLOW_TRACKING_URI, or unset it to log into the project's own database"
    )


def _address(uri: str) -> str:
    """The URI without a user's name and password."""
    parts = urlsplit(uri)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
