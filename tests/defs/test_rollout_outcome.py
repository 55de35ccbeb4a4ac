"""What the checks of `deployed_model` say of a rollout that has ended."""

from contextlib import suppress
from pathlib import Path

import pytest

from adire_assets.cli import main
from adire_assets.defs.rollouts import outcome
from adire_assets.line import deploy
from adire_assets.serving.record import DeploymentRecord

INDIGO = """\
family: diffusion
data: {path: data/indigo, instance_prompt: cloth}
base_model: {source: base}
evaluation: {judge: {source: judge}}
"""


@pytest.mark.parametrize(("live", "told"), [(None, "nothing"), (2, "release 2")])
def test_a_release_that_was_sent_back_leaves_what_was_live_before(
    live: int | None, told: str
) -> None:
    ended = {"number": 3, "outcome": "rolled_back", "reason": "too slow", "decisions": []}
    state = DeploymentRecord(target="local", model="indigo", live=live, last_rollout=ended)
    passed, sentence, _ = outcome(3, [state])
    assert not passed
    assert sentence == f"release 3 was sent back on local: too slow; {told} is live there"


def test_a_rollback_of_the_first_release_says_that_nothing_is_live(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "configs" / "models").mkdir(parents=True)
    (tmp_path / "configs" / "models" / "indigo.yaml").write_text(INDIGO)
    monkeypatch.setenv("ADIRE_PROJECT", str(tmp_path))
    state = DeploymentRecord(target="local", model="indigo")
    monkeypatch.setattr(deploy, "roll_back", lambda *_: [state])
    monkeypatch.setattr(deploy, "watch_rollout", lambda *_: [state])
    for words in (["rollback", "indigo", "--reason", "pale"], ["rollout", "watch", "indigo"]):
        monkeypatch.setattr("sys.argv", ["adire", *words])
        with suppress(SystemExit):
            main.main()
        assert capsys.readouterr().out == "indigo: nothing is live on local\n"
