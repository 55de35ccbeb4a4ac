"""No command brings a release to users that an entry of configs/takedowns.yaml covers.

The entries are made by hand, so that nothing is quarantined before the command.
"""

from collections.abc import Callable

import pytest

from adire_assets.config import takedowns
from adire_assets.config.takedowns import Takedown
from adire_assets.core.errors import UserError
from adire_assets.core.lineage import file_digest
from adire_assets.core.project import Project
from adire_assets.core.store import Store
from adire_assets.gates import promotion
from adire_assets.line import deploy
from adire_assets.serving import record
from tests.ops.pinned_data.conftest import Adire
from tests.support.pinned_data import IMAGE, build, make_live, pin, release_on

LIFT = ["lift-quarantine", "indigo", "1", "--reason", "they agreed"]


@pytest.fixture
def covered(project: Project, monkeypatch: pytest.MonkeyPatch) -> Project:
    """Release 2 of indigo is live; 1, which was before and stands by, is covered by an entry."""
    monkeypatch.setattr(promotion, "reconcile_aliases", lambda project, model: None)
    one = release_on(project, build(project, "indigo"))
    content = file_digest(project.root / IMAGE)
    (project.root / IMAGE).unlink()
    pin(project)
    two = release_on(project, build(project, "indigo"))
    make_live(project, one, {"blue": 1})
    make_live(project, two, {"blue": 1, "green": 2})
    entry = Takedown(sha256=content, file=IMAGE, reason="asked", by="ada", at="2026-11-30")
    takedowns.add(project, [entry])
    return project


def test_no_rollback_leads_to_it(covered: Project) -> None:
    with pytest.raises(UserError, match="all but 2 are quarantined"):
        deploy.roll_back(covered, "indigo", None, "too pale", print)
    with pytest.raises(UserError, match=f"quarantined: rests on {IMAGE}, which was taken down"):
        deploy.roll_back(covered, "indigo", 1, "too pale", print)


@pytest.mark.parametrize(
    "door",
    [
        lambda project: deploy.roll_back(project, "indigo", None, "too pale", print),
        lambda project: deploy.watch_rollout(project, "indigo", print),
        lambda project: deploy.promote(project, "indigo", "looked at it", print),
        lambda project: deploy.deployed_model(
            project, Store(project).artifacts("indigo", "lora_weights")[0], print, print, 1
        ),
    ],
    ids=["rollback", "rollout watch", "rollout promote", "deployed_model"],
)
def test_it_stands_by_no_more(covered: Project, door: Callable[[Project], object]) -> None:
    try:
        door(covered)
    except UserError as error:
        print(error)
    state = record.read(covered, "local", "indigo")
    assert state.live == 2 and set(state.slots.values()) == {2}
    assert f"rests on {IMAGE}" in (record.quarantine_reason(covered, "indigo", 1) or "")
    assert record.quarantine_reason(covered, "indigo", 2) is None


@pytest.mark.parametrize("text", [b"takedowns: [\n", b"takedowns:\n- file: x\n", b"\xff"])
def test_a_broken_list_keeps_nobody_from_going_back(covered: Project, text: bytes) -> None:
    (covered.root / takedowns.FILE).write_bytes(text)
    said: list[str] = []
    deploy.roll_back(covered, "indigo", 1, "too pale", said.append)
    assert record.read(covered, "local", "indigo").live == 1
    assert any(f"{takedowns.FILE} is not applied: " in line for line in said)


def test_its_quarantine_is_not_lifted_while_an_entry_covers_it(
    covered: Project, adire: Adire
) -> None:
    deploy.watch_rollout(covered, "indigo", print)
    status, _, said = adire(*LIFT)
    assert status == 1 and f"rests on {IMAGE}, which configs/takedowns.yaml excludes" in said
    store = Store(covered)
    list(store.delete_unheld(lambda: store.artifacts("indigo", "dataset")))
    status, _, said = adire(*LIFT)
    assert status == 1 and f"rests on {IMAGE}, which configs/takedowns.yaml excludes" in said
    (covered.root / takedowns.FILE).unlink()
    assert adire(*LIFT)[:2] == (0, ["indigo: release 1 may be deployed again"])
