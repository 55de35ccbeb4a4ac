"""What is live on a target: one record per model, and the ways to change it.

The record <home>/deployments/<target>/<model>.json is the truth; the slot's folder, Triton and
MLflow's aliases are brought to it. It is replaced whole, under a lock, only by a writer that knows
its revision. A release that was rolled back lies in <home>/quarantine/<model>/<N>.json and is
refused until that is lifted with a reason.

`deploy` and `rollback` load a release beside the running one, which serves until the new one is
ready; when anything fails, Triton is brought back to what the record says.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from adire_assets.config import Project
from adire_assets.errors import UserError
from adire_assets.fleet_config import FleetConfig
from adire_assets.serving import release, slot
from adire_assets.serving.fleet import is_supervised
from adire_assets.serving.release import ReleaseRecord
from adire_assets.serving.triton import Control, wait_until
from adire_assets.store import Store, lock, read_json, write_json

Progress = Callable[[str], None]


@dataclass(frozen=True)
class DeploymentRecord:
    """`live` is the release that serves, None before the first; `history` ends with the newest.

    An entry of `history`: {"number", "at", "action": "deploy" | "rollback", "reason", "from"}.
    """

    model: str
    target: str
    revision: int = 0
    live: int | None = None
    since: str | None = None
    verdict: dict[str, str] | None = None
    history: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True)
class Live:
    """The record, what Triton serves ({version: state}; None when it does not answer), and
    one sentence for each difference between them."""

    record: DeploymentRecord
    serving: dict[int, str] | None
    differences: list[str]


def read(project: Project, target: str, model: str) -> DeploymentRecord:
    """The record, revision 0 when nothing was ever deployed."""
    path = _path(project, target, model)
    return (
        DeploymentRecord(**read_json(path)) if path.is_file() else DeploymentRecord(model, target)
    )


def write(project: Project, record: DeploymentRecord) -> DeploymentRecord:
    """Replace revision `record.revision` by `record`, as the next revision.

    UserError when somebody else has replaced that revision meanwhile.
    """
    with lock(project, f"deployment-{record.target}-{record.model}"):
        current = read(project, record.target, record.model)
        if current.revision != record.revision:
            raise UserError(
                f"{record.model} was deployed by somebody else meanwhile: release {current.live} "
                f"is live on {record.target} since {current.since}; look at `adire status` and try "
                "again"
            )
        record = replace(record, revision=record.revision + 1)
        write_json(_path(project, record.target, record.model), asdict(record))
    return record


def deploy(
    project: Project,
    fleet: FleetConfig,
    model: str,
    number: int,
    *,
    verify: Callable[[ReleaseRecord], None],
    progress: Progress,
) -> DeploymentRecord:
    """Make release `number` the live one. `verify(record)` raises UserError to refuse it.

    A release that is live and serving already is left alone. UserError when it is refused,
    quarantined, does not load or does not answer; what was live before then goes on serving.
    """
    wanted = release.read_record(project, model, number)
    _refuse_quarantined(project, model, number)
    verify(wanted)
    with _alone(project, fleet, model):
        _refuse_quarantined(project, model, number)
        current = read(project, fleet.target, model)
        if current.live == number and not _differences(project, fleet, current)[1]:
            progress(f"release {number} of {model} is already live on {fleet.target}")
            return current
        if current.live == number:
            progress(f"release {number} of {model} is live by the record only: loading it again")
            # Triton takes a version whose files are new for changed, also when its stub has died.
            release.remove(slot.folder(project, *fleet.slot), model, number)
            _switch(project, fleet, current, wanted, progress, lambda: None)
            return current
        after = _moved(current, wanted, "deploy", None)
        return _switch(project, fleet, current, wanted, progress, lambda: write(project, after))


def rollback(
    project: Project,
    fleet: FleetConfig,
    model: str,
    to: int | None,
    reason: str,
    progress: Progress,
) -> DeploymentRecord:
    """Make an earlier live release live again, by default the last one that is not quarantined.

    The release that is left is quarantined with `reason`. UserError when there is nothing to go
    back to, or the earlier release does not load; what is live then goes on serving.
    """
    if not reason.strip():
        raise UserError("a rollback needs a reason, which is kept with the release that is left")
    with _alone(project, fleet, model):
        current = read(project, fleet.target, model)
        if current.live is None:
            raise UserError(f"nothing of {model} is live on {fleet.target}")
        number = _earlier(project, current) if to is None else to
        if number == current.live:
            raise UserError(f"release {number} of {model} is the one that is live")
        if number not in {entry["number"] for entry in current.history}:
            raise UserError(
                f"release {number} of {model} was never live on {fleet.target}, so there is no way "
                f"back to it; releases that were: {_listed(current)}"
            )
        _refuse_quarantined(project, model, number)
        wanted = release.read_record(project, model, number)
        for part in (wanted.repository, wanted.base_model):
            Store(project).open(part)
        # Before the switch: whatever happens from here on, no sensor deploys it again.
        quarantine(project, model, current.live, reason)
        after = _moved(current, wanted, "rollback", reason)
        return _switch(project, fleet, current, wanted, progress, lambda: write(project, after))


def live(project: Project, fleet: FleetConfig, model: str) -> Live:
    """What should serve, what does, and how they differ."""
    record = read(project, fleet.target, model)
    serving, differences = _differences(project, fleet, record)
    return Live(record, serving, differences)


def champion_evaluation(project: Project, fleet: FleetConfig, model: str) -> str | None:
    """The content hash of the live release's evaluation, None when nothing is live."""
    number = read(project, fleet.target, model).live
    if number is None:
        return None
    return release.read_record(project, model, number).evaluation["content_hash"]


def quarantine(project: Project, model: str, number: int, reason: str) -> None:
    """Keep a release from being deployed, by every door, until it is lifted."""
    write_json(
        _quarantine_path(project, model, number), {"reason": reason, "at": _now(), "lifted": None}
    )


def lift_quarantine(project: Project, model: str, number: int, reason: str) -> None:
    """Allow a quarantined release again. UserError without a reason, or when it is not one."""
    if not reason.strip():
        raise UserError("lifting a quarantine needs a reason, which is kept with the release")
    if quarantined(project, model, number) is None:
        raise UserError(f"release {number} of {model} is not quarantined")
    path = _quarantine_path(project, model, number)
    write_json(path, {**read_json(path), "lifted": {"reason": reason, "at": _now()}})


def quarantined(project: Project, model: str, number: int) -> str | None:
    """Why a release is quarantined, None when it is not."""
    path = _quarantine_path(project, model, number)
    if not path.is_file():
        return None
    found = read_json(path)
    return None if found["lifted"] else f"{found['reason']} ({found['at']})"


# --- the switch --------------------------------------------------------------------------------


def _switch(
    project: Project,
    fleet: FleetConfig,
    current: DeploymentRecord,
    wanted: ReleaseRecord,
    progress: Progress,
    commit: Callable[[], Any],
) -> Any:
    """Bring the slot from `current` to `wanted` and return `commit()`; on any failure, back."""
    name, config = fleet.slot
    folder, control = slot.folder(project, name, config), Control(slot.address(config))
    model, number, seconds = wanted.model, wanted.number, fleet.load_timeout_seconds
    _wait_for(project, control, fleet)
    _refuse_foreign(control, current, folder)
    try:
        progress(f"loading release {number} of {model} into slot {name}")
        release.install(project, wanted, folder)
        control.load(model, seconds)
        _require_answer(project, control, wanted, number)
        # Unversioned requests go to the highest number, so a lower one takes over by their going.
        if any(other > number for other in release.installed(folder, model)):
            _keep_only(folder, model, number)
            control.load(model, seconds)
        _require_answer(project, control, wanted, None)
        result = commit()
    except BaseException as failure:
        progress(f"release {number} of {model} is not deployed: {failure}")
        try:
            _restore(project, fleet, current, number, folder)
        except UserError as second:
            raise UserError(
                f"{failure}; release {current.live} is live by the record, but could not be loaded "
                f"again: {second}; `adire down` and `adire up` bring it back"
            ) from failure
        raise
    progress(f"release {number} of {model} is live on {fleet.target}")
    try:
        _keep_only(folder, model, number)
        control.load(model, seconds)
    except UserError as leftover:
        progress(f"an earlier release of {model} is still loaded: {leftover}")
    return result


def _refuse_foreign(control: Control, current: DeploymentRecord, folder: Path) -> None:
    """UserError when the Triton serves this model for another project or home."""
    ready = {
        number
        for number, state in control.versions(current.model).get(current.model, {}).items()
        if state == "READY"
    }
    if current.live is None and ready - set(release.installed(folder, current.model)):
        raise UserError(
            f"the Triton at {control.address} already serves release {max(ready)} of "
            f"{current.model}, which this project did not deploy; choose other ports in "
            "configs/fleet.yaml, or stop that Triton where it was started"
        )


def _restore(
    project: Project, fleet: FleetConfig, current: DeploymentRecord, failed: int, folder: Path
) -> None:
    """Serve what the record says. The folder is always brought back, Triton when it answers."""
    control, seconds = Control(slot.address(fleet.slot[1])), fleet.load_timeout_seconds
    if current.live is None:
        release.remove(folder, current.model, failed)
        if control.live():
            control.unload(current.model, seconds)
        return
    release.install(project, release.read_record(project, current.model, current.live), folder)
    if current.live < failed:
        # Unversioned requests reach the higher number: it goes before anything else.
        _keep_only(folder, current.model, current.live)
    if control.live():
        control.load(current.model, seconds)
    if current.live > failed:
        _keep_only(folder, current.model, current.live)
        if control.live():
            control.load(current.model, seconds)


def _keep_only(folder: Path, model: str, number: int) -> None:
    for other in release.installed(folder, model):
        if other != number:
            release.remove(folder, model, other)


def _require_answer(
    project: Project, control: Control, wanted: ReleaseRecord, version: int | None
) -> None:
    """UserError unless `version` (None: whoever answers) is the wanted release and draws."""
    from adire_assets.serving.parity import ask  # numpy: not in every Dagster process

    entry = Store(project).open(wanted.evaluation).json("images.json")[0]
    answer = ask(control.address, wanted.model, {**entry, "num_inference_steps": 1}, version)
    found = (answer.release, answer.provenance["release_hash"])
    if found != (wanted.number, wanted.repository["content_hash"]):
        raise UserError(
            f"the Triton at {control.address} answers with release {found[0]} of {wanted.model} "
            f"({found[1][:12]}), not with {wanted.number} "
            f"({wanted.repository['content_hash'][:12]})"
        )


def _differences(
    project: Project, fleet: FleetConfig, record: DeploymentRecord
) -> tuple[dict[int, str] | None, list[str]]:
    name, config = fleet.slot
    control, model, number = Control(slot.address(config)), record.model, record.live
    try:
        serving = control.versions().get(model, {})
    except UserError as error:
        return None, [str(error)] if number is not None else []
    ready = {version for version, state in serving.items() if state == "READY"}
    found = [
        f"slot {name} also serves release {version} of {model}"
        + (", which gets the requests" if version > (number or 0) else "")
        for version in sorted(ready - {number})
    ]
    if number is None:
        return serving, found
    if number not in ready:
        found.append(f"slot {name} does not serve release {number} of {model}, which is live")
    else:
        try:
            _require_answer(project, control, release.read_record(project, model, number), number)
        except UserError as error:
            found.append(f"release {number} of {model} is live and does not draw: {error}")
    if reason := quarantined(project, model, number):
        found.append(f"release {number} of {model} is live and quarantined: {reason}")
    return serving, found


def _wait_for(project: Project, control: Control, fleet: FleetConfig) -> None:
    """A supervised slot that was just killed comes back by itself; any other must answer now."""
    if not control.live():
        name, config = fleet.slot
        supervised = config.launch == "local" and is_supervised(project, f"slot-{name}")
        wait_until(control.live, fleet.load_timeout_seconds if supervised else 0)
        control.require()


@contextmanager
def _alone(project: Project, fleet: FleetConfig, model: str) -> Iterator[None]:
    """One change of a model's deployment at a time; others wait."""
    with lock(project, f"rollout-{fleet.target}-{model}"):
        yield


def _refuse_quarantined(project: Project, model: str, number: int) -> None:
    if reason := quarantined(project, model, number):
        raise UserError(
            f"release {number} of {model} is quarantined: {reason}; lift that with "
            f'`adire lift-quarantine {model} {number} --reason "..."`, or deploy another release'
        )


def _earlier(project: Project, current: DeploymentRecord) -> int:
    for entry in reversed(current.history):
        number = entry["number"]
        if number != current.live and quarantined(project, current.model, number) is None:
            return number
    raise UserError(
        f"there is no release of {current.model} to go back to on {current.target}: "
        f"{_listed(current)} were live, and all but {current.live} are quarantined"
    )


def _moved(
    current: DeploymentRecord, wanted: ReleaseRecord, action: str, reason: str | None
) -> DeploymentRecord:
    now = _now()
    entry = {
        "number": wanted.number,
        "at": now,
        "action": action,
        "reason": reason,
        "from": current.live,
    }
    return replace(
        current,
        live=wanted.number,
        since=now,
        verdict=wanted.verdict,
        history=[*current.history, entry],
    )


def _listed(record: DeploymentRecord) -> str:
    return ", ".join(str(number) for number in sorted({e["number"] for e in record.history}))


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _path(project: Project, target: str, model: str) -> Path:
    return project.home / "deployments" / target / f"{model}.json"


def _quarantine_path(project: Project, model: str, number: int) -> Path:
    return project.home / "quarantine" / model / f"{number}.json"
