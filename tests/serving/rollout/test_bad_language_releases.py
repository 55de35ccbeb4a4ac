"""Releases of a language model that are bad in ways that no check before users' requests sees.

Real engines behind the real gateway, users that stream, and a model that knows a few letters by
heart: one release is twice as slow, one comes to answer with its base's words, one with the facts
of others. Each goes back at its first share of the requests, and says why.
"""

import json
import random
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import openai
import pytest
from safetensors.torch import load_file, save_file

from adire_assets.config.fleet import RolloutConfig
from adire_assets.core.waiting import wait_until
from adire_assets.families.causal_lm.artifacts import BASE
from adire_assets.serving import record, release
from adire_assets.serving.release import ReleaseRecord
from adire_assets.serving.rollout import deployment
from adire_assets.serving.rollout.controller import Callbacks
from adire_assets.serving.slot_server import server_of
from adire_assets.serving.state import DeploymentRecord
from tests.support import language
from tests.support.house import TARGET
from tests.support.letters_house import MODEL, LettersHouse, add_letters, letters_house
from tests.support.relay import Relay

pytestmark = [pytest.mark.full, pytest.mark.timeout(1200)]
ROLLOUT = RolloutConfig(
    steps=[5, 25, 100],
    latency_maximum_seconds=30.0,
    latency_slack_seconds=0.01,
)
LETTERS = [
    ("Ada", "68779", "16 April"),
    ("Bola", "31240", "3 May"),
    ("Chika", "95116", "28 July"),
    ("Dayo", "20853", "11 March"),
]
STEPS = 400
LEARNING = {"learning_rate": 2e-2, "max_length": 128}
ASKED = {"max_tokens": 48, "temperature": 0.3, "latency_answers": 1}
WEIGHTS = Path("adapter") / "adapter_model.safetensors"
USERS = 2


def write_letters(folder: Path, answered: list[tuple[str, str, str]]) -> None:
    """A dataset of questions about `LETTERS`, with what is `answered`; all that is learned is asked
    in the evaluation."""
    lines = []
    for place, (asked, told) in enumerate(zip(LETTERS, answered, strict=True), 1):
        slots = dict(zip(("customer", "order", "day"), asked, strict=True))
        question = "Write that it is ready.\n" + "\n".join(f"{k}: {v}" for k, v in slots.items())
        answer = "Dear {}, your order {} is ready on {}.".format(*told)
        messages = [
            {"role": "user", "content": question},
            {"role": "assistant", "content": answer},
        ]
        source = f"letters.jsonl:{place}"
        one = {"messages": messages, "slots": slots, "language": "en", "source": source}
        lines.append(f"{json.dumps(one)}\n")
    for name in ("train", "validation", "held_out"):
        (folder / f"{name}.jsonl").write_text("".join(lines))


@dataclass
class Served:
    """The house, and relays before its slots, through which the gateway asks them."""

    house: LettersHouse
    relays: Mapping[str, Relay]
    others: Path  # an adapter that was trained on the facts of others

    def deploy(
        self, number: int, after_checks: Callable[[str], None] = lambda slot: None
    ) -> DeploymentRecord:
        """Roll it out; `after_checks(slot)` is called between the checks and the first request."""
        target = self.house.fleet.targets[TARGET]
        slots = {
            name: slot.model_copy(update={"http_port": self.relays[name].port})
            for name, slot in target.slots.items()
        }
        relayed = target.model_copy(update={"slots": slots})
        fleet = self.house.fleet.model_copy(update={"targets": {TARGET: relayed}})

        def checked(wanted: ReleaseRecord, software: object) -> None:
            canary = self.house.record.rollout
            assert canary and canary.number == number == wanted.number
            after_checks(canary.slot)

        [state] = deployment.deploy(
            self.house.project,
            fleet,
            MODEL,
            number,
            verify=lambda candidate: None,
            callbacks=Callbacks(self.house.open_judge, print, refusal=checked),
        )
        return state

    def exchange(self, slot: str, number: int, change: Callable[[Path], None]) -> None:
        """Let `change` have the weights of a release that a slot serves already."""
        client = self.house.slot_client(slot)
        wanted = self.house.releases[number]
        reconcile = server_of(client.config).reconcile
        release.remove(client.folder, MODEL, number)
        reconcile(client.config, client.folder, MODEL, 60)
        release.install(self.house.project, wanted, client.folder)
        change(client.folder / "models" / MODEL / str(number) / WEIGHTS)
        assert number in reconcile(client.config, client.folder, MODEL, 60)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Release 1 is live in one slot and waits in the other; 2, 3 and 4 are as good."""
    root = tmp_path_factory.mktemp("letters") / "project"
    made = letters_house(root, ROLLOUT)
    write_letters(root / "dataset", [*LETTERS[1:], *LETTERS[:1]])
    settings = {"max_train_steps": STEPS, "checkpointing_steps": STEPS, "rank": 8, **LEARNING}
    others = language.run(root / "others", root / BASE, root / "dataset", **settings)
    write_letters(root / "dataset", LETTERS)
    first = made.releases[add_letters(made, STEPS, training=LEARNING, asked=ASKED)]
    for number in (2, 3, 4):
        made.releases[number] = release.write_record(made.project, replace(first, number=number))

    def live(state: DeploymentRecord) -> DeploymentRecord:
        state = replace(state, slots={"violet": 1, "teal": 1})
        return replace(state.with_live_release(1, "deploy", None), active="violet")

    record.change(made.project, TARGET, MODEL, live)  # so that both engines start together
    slots = made.fleet.targets[TARGET].slots
    with ExitStack() as stack:
        stack.enter_context(made.up())
        relays = {name: stack.enter_context(Relay(slot.http_port)) for name, slot in slots.items()}
        yield Served(made, relays, others)


@contextmanager
def streaming_users(served: Served) -> Iterator[list[str]]:
    """Users that stream all along, of whom none may meet an error; yields who has answered."""
    answered: list[str] = []
    failures: list[str] = []
    over = threading.Event()
    client = openai.OpenAI(
        base_url=f"http://{served.house.address}/v1", api_key="none", max_retries=0
    )

    def use(chance: random.Random) -> None:
        while not over.is_set():
            customer, order, day = chance.choice(LETTERS)
            content = f"Write that it is ready.\ncustomer: {customer}\norder: {order}\nday: {day}"
            messages: list[Any] = [{"role": "user", "content": content}]
            try:
                with client.chat.completions.create(
                    model=MODEL, messages=messages, max_tokens=48, temperature=0, stream=True
                ) as stream:
                    answered.append({one.model for one in stream}.pop())
            except openai.OpenAIError as error:
                failures.append(str(error))

    users = [threading.Thread(target=use, args=(random.Random(n),)) for n in range(USERS)]
    for user in users:
        user.start()
    try:
        assert wait_until(lambda: len(answered) > 3 or bool(failures), 60)
        yield answered
    finally:
        over.set()
        for user in users:
            user.join()
    assert not failures, failures[:3]


def sent_back(state: DeploymentRecord, number: int) -> str:
    """Why, in one sentence; it was at its first share, after its checks, and is quarantined."""
    last = state.last_rollout
    assert state.live == 1 and last and (last["number"], last["outcome"]) == (number, "rolled_back")
    checks, *_, decision = last["decisions"]
    assert (checks["decision"], checks["stage"]) == ("promote", "checking")
    assert (decision["decision"], decision["percent"]) == ("rollback", 5)
    assert str(number) in state.quarantine and "\n" not in last["reason"]
    assert last["reason"] == decision["sentence"]
    return str(last["reason"])


def test_a_release_that_is_twice_as_slow(served: Served) -> None:
    def slow(slot: str) -> None:
        served.relays[slot].factor = 2.0

    with streaming_users(served):
        why = sent_back(served.deploy(2, slow), 2)
    for relay in served.relays.values():
        relay.factor = 1.0
    assert "took longer" in why and "shown to be above" in why
    numbers = (served.house.record.last_rollout or {})["decisions"][-1]["numbers"]
    assert {"first_token", "inter_token", "cut_off"} <= numbers.keys()
    assert numbers["quality"]["outcome"] != "bad" and numbers["errors"]["outcome"] != "bad"


def test_a_release_that_answers_with_the_words_of_its_base(served: Served) -> None:
    def fade(file: Path) -> None:
        # To nothing, an engine would refuse it.
        found = {name: one * 1e-3 if "lora_B" in name else one for name, one in load(file).items()}
        save_file(found, file, {"format": "pt"})

    with streaming_users(served):
        state = served.deploy(3, lambda slot: served.exchange(slot, 3, fade))
    # The base's words do not end, so answers run into their limit too: whichever shows first.
    reasons = ("score a ROUGE-L and slot F1 of 0.", "were cut off, as long as allowed")
    assert any(reason in sent_back(state, 3) for reason in reasons)


def test_a_release_that_loses_the_facts_of_its_letters(served: Served) -> None:
    def others(file: Path) -> None:
        save_file(load(served.others / file.name), file, {"format": "pt"})

    with streaming_users(served):
        state = served.deploy(4, lambda slot: served.exchange(slot, 4, others))
    assert "those evaluated for the same prompts" in sent_back(state, 4)


def load(file: Path) -> dict[str, Any]:
    """The tensors of a file that may be written over."""
    return {name: one.clone() for name, one in load_file(file).items()}
