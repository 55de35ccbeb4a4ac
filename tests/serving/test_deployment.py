"""Deployments of real releases on a real Triton, with clients that send all along."""

import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from adire_assets.errors import UserError
from adire_assets.serving import deployment, parity, release
from adire_assets.serving.client import generate
from adire_assets.serving.deployment import DeploymentRecord
from adire_assets.store import Store
from tests.serving.conftest import MODEL, House, awaited, different


def folders(house: House) -> list[int]:
    return release.installed(house.slot_folder, MODEL)


def stubs(house: House) -> set[int]:
    return {process.pid for process in house.processes() if "stub" in process.name()}


def initialized(house: House) -> int:
    """How many versions the slot's Triton has initialized so far."""
    log = (house.project.home / "fleet" / "logs" / "slot-blue.log").read_text(errors="replace")
    return log.count(f"ModelInstanceInitialize: {MODEL}_")


def damage_weights(folder: Path) -> None:
    file = folder / "adapter" / release.ADAPTER
    file.write_bytes(file.read_bytes()[:100])


def test_up_and_back_without_one_failed_request(served: House) -> None:
    served.ensure_live(1)
    with served.requests_all_along() as answers:
        before = initialized(served)
        record = served.deploy(2)
        assert initialized(served) == before + 1, "a version was initialized twice"
        assert (record.live, served.serving(), folders(served)) == (2, 2, [2])
        awaited(lambda: answers[2] > 0, 30)
        first = answers[1]
        record = deployment.rollback(served.project, served.fleet, MODEL, None, "too pale", print)
        assert (record.live, served.serving(), folders(served)) == (1, 1, [1])
        awaited(lambda: answers[1] > first, 30)
    assert [entry["action"] for entry in record.history][-2:] == ["deploy", "rollback"]
    assert record.history[-1]["from"] == 2
    assert record.history[-1]["reason"] == "too pale"
    state = deployment.live(served.project, served.fleet, MODEL)
    assert (state.record, state.differences) == (record, [])
    with pytest.raises(UserError, match="quarantined: too pale"):
        served.deploy(2)


def test_a_release_that_does_not_load_leaves_the_old_one_serving(served: House) -> None:
    served.ensure_live(1)
    before, running = deployment.read(served.project, "local", MODEL), stubs(served)
    number = served.add_release(1, spoil=damage_weights)
    with served.requests_all_along() as answers:
        with pytest.raises(UserError, match=f"could not load {MODEL}.*version {number}"):
            served.deploy(number)
        assert set(answers) == {1}
    assert deployment.read(served.project, "local", MODEL) == before
    assert (served.serving(), folders(served)) == (1, [1])
    # An earlier test's release may still have been on its way out.
    assert stubs(served) <= running, "the running release was initialized again"
    assert deployment.live(served.project, served.fleet, MODEL).differences == []


def test_a_release_that_loses_the_race_for_the_record_is_taken_back(
    served: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    served.ensure_live(1)
    number = served.add_release(2)

    def refuse(*arguments: object) -> None:
        raise UserError("deployed by somebody else meanwhile")

    monkeypatch.setattr(deployment, "write", refuse)
    with served.requests_all_along(), pytest.raises(UserError, match="somebody else"):
        served.deploy(number)
    assert (served.serving(), folders(served)) == (1, [1])


def test_a_refused_release_touches_nothing(served: House) -> None:
    served.ensure_live(1)

    def refuse(record: release.ReleaseRecord) -> None:
        raise UserError(f"release {record.number} fails the gates of today")

    with pytest.raises(UserError, match="release 2 fails the gates"):
        deployment.deploy(served.project, served.fleet, MODEL, 2, verify=refuse, progress=print)
    assert (served.serving(), folders(served)) == (1, [1])


def test_a_killed_triton_comes_back_with_what_is_live(served: House) -> None:
    served.ensure_live(1)
    server, running = served.tritonserver(), stubs(served)
    busy = threading.Thread(target=_ignore_failure, args=(served.address,))
    busy.start()
    server.kill()
    # A deployment right after the crash waits for the supervisor instead of failing.
    assert served.deploy(1).live == 1
    busy.join()
    assert served.serving() == 1
    assert not running & stubs(served), "a stub outlived its server"
    assert len(served.processes()) == 2
    prefix_count = len(served.shared_memory)
    assert prefix_count <= 2, "shared memory of the killed server is left"


def test_a_release_whose_stub_died_is_loaded_again(served: House) -> None:
    served.ensure_live(1)
    for process in served.processes():
        if "stub" in process.name():
            process.kill()
    assert served.deploy(1).live == 1
    assert served.serving() == 1
    assert deployment.live(served.project, served.fleet, MODEL).differences == []


def _ignore_failure(address: str) -> None:
    try:
        generate(address, MODEL, "x", num_images=3, num_inference_steps=20)
    except UserError:
        return


def test_the_live_release_draws_what_was_evaluated(served: House) -> None:
    served.ensure_live(1)
    evaluation = Store(served.project).open(served.releases[1].evaluation)
    for entry in evaluation.json("images.json"):
        answer = parity.ask(served.address, MODEL, entry, None)
        evaluated = np.asarray(Image.open(evaluation.path / entry["file"]))
        assert different(answer.images[0], evaluated) <= parity.LARGEST_DIFFERENCE


def test_parity_tells_a_release_that_draws_something_else(house: House) -> None:
    stranger = house.releases[house.add_release(1, evaluated_seed=2)]
    facts = parity.compare(house.project, stranger, "cpu", print)
    assert not facts["passed"]
    assert (facts["images"], facts["device"]) == (2, "cpu")
    assert facts["largest_difference"] > parity.LARGEST_DIFFERENCE
    assert "allowed are 2" in facts["explanation"]
    assert not list((house.project.home / "fleet" / "scratch").iterdir())


# --- without a server --------------------------------------------------------------------------


def test_of_two_writers_of_one_revision_the_second_is_refused(house: House) -> None:
    record = deployment.read(house.project, "elsewhere", MODEL)
    written = deployment.write(house.project, record)
    assert written.revision == 1
    with pytest.raises(UserError, match="by somebody else"):
        deployment.write(house.project, record)
    assert deployment.write(house.project, written).revision == 2


def test_a_quarantine_holds_until_it_is_lifted_with_a_reason(house: House) -> None:
    project, fleet = house.project, house.fleet.model_copy(update={"target": "quarantines"})

    def deploy() -> DeploymentRecord:
        return deployment.deploy(
            project, fleet, MODEL, 1, verify=lambda record: None, progress=print
        )

    deployment.quarantine(project, MODEL, 1, "images of noise")
    with pytest.raises(UserError, match=r"quarantined: images of noise.*lift"):
        deploy()
    with pytest.raises(UserError, match="needs a reason"):
        deployment.lift_quarantine(project, MODEL, 1, " ")
    deployment.lift_quarantine(project, MODEL, 1, "looked at again")
    with pytest.raises(UserError, match="not quarantined"):
        deployment.lift_quarantine(project, MODEL, 1, "twice")


@pytest.mark.parametrize(
    ("history", "to", "sentence"),
    [
        ([], None, "nothing of cloth is live"),
        ([1], None, "no release of cloth to go back to"),
        ([2, 1], 1, "is the one that is live"),
        ([2, 1], 9, "was never live"),
    ],
)
def test_a_rollback_that_leads_nowhere_says_why(
    house: House, history: list[int], to: int | None, sentence: str
) -> None:
    target = f"target_{len(history)}_{to}"
    fleet = house.fleet.model_copy(update={"target": target})
    entries = [{"number": number} for number in history]
    last = history[-1] if history else None
    record = DeploymentRecord(MODEL, target, live=last, history=entries)
    deployment.write(house.project, record)
    with pytest.raises(UserError, match=sentence):
        deployment.rollback(house.project, fleet, MODEL, to, "a reason", print)
    assert deployment.quarantined(house.project, MODEL, 1) is None


def test_a_release_number_stays_bound_to_its_content(house: House) -> None:
    with pytest.raises(UserError, match="release 1 of cloth is already"):
        release.write_record(
            house.project, replace(house.releases[1], repository=house.releases[2].repository)
        )
    assert release.read_record(house.project, MODEL, 1) == house.releases[1]
    with pytest.raises(UserError, match="no release 99 of cloth; releases here: 1, 2"):
        release.read_record(house.project, MODEL, 99)


def test_parity_allows_two_levels_on_the_cpu_and_little_structure_lost_elsewhere() -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(10, 240, (64, 64, 3), dtype=np.uint8)
    noise = rng.integers(0, 255, (64, 64, 3), dtype=np.uint8)
    shifted = np.clip(image + rng.integers(-3, 4, image.shape), 0, 255).astype(np.uint8)
    near, far = image + np.uint8(2), image + np.uint8(3)
    for served, on_cpu, passes in [
        (near, True, True),
        (far, True, False),
        (shifted, False, True),
        (noise, False, False),
        (image[:32], True, False),
    ]:
        facts = parity.judge([(image, image), (served, image)], on_cpu=on_cpu)
        assert facts["passed"] is passes, facts
    assert not parity.judge([], on_cpu=True)["passed"]
