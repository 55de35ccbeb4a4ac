"""What a verdict compares with: the champion's evaluation on the same data, made when it lacks."""

import shutil
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from adire_assets.config import held_weights
from adire_assets.config.fleet import load_fleet
from adire_assets.core import lineage
from adire_assets.core.errors import UserError
from adire_assets.core.lineage import Recipe
from adire_assets.core.project import Project
from adire_assets.core.statistic import Statistic, save_statistics
from adire_assets.core.store import Artifact, Built, Store, read_json, write_json
from adire_assets.families.diffusion.config import EvaluationConfig
from adire_assets.families.diffusion.gates import ChampionGates, GateConfig
from adire_assets.gates import policy_comparison, promotion, upgrades
from adire_assets.gates.report import document, pages
from adire_assets.gates.verdict import Verdict
from adire_assets.line.release import triton_repository as make_triton_repository
from adire_assets.line.verdict import promotion_verdict as make_promotion_verdict
from adire_assets.ops import operations
from adire_assets.serving import record, release
from adire_assets.serving.rollout import deployment

ROOT = Path(__file__).parents[2]
MODEL = "cloth"
SETTINGS = {"seeds": [0, 1, 2, 3], "num_inference_steps": 20, "guidance_scale": 1.0}
POLICY = GateConfig(champion=ChampionGates(margins={"clip_s": 0.1}))
YAML = """\
data: {path: data/cloth, instance_prompt: a cloth}
family: diffusion
base_model: {source: base}
evaluation:
  judge: {source: judge}
  gates: {champion: {margins: {clip_s: 0.1}}}
"""


class Shop:
    """A project whose evaluations are numbers, and what one does with it."""

    def __init__(self, root: Path) -> None:
        self.project = Project(root, root / "home")
        (root / "configs" / "models").mkdir(parents=True)
        fleet = (ROOT / "configs" / "fleet.yaml").read_text()
        (root / "configs" / "fleet.yaml").write_text(fleet)
        self.project.model_file(MODEL).write_text(YAML)
        self.store = Store(self.project)
        self.evaluated: list[str] = []  # adapters that make_evaluation_report was asked for
        self.logged: dict[str, str] = {}  # what MLflow was given: pages by name
        self.mlflow_is_away = False

    def part(self, kind: str, name: str) -> Artifact:
        def make(folder: Path) -> None:
            (folder / "name").write_text(name)

        return self.store.build(Recipe(kind, MODEL, config={"name": name}), make).artifact

    def evaluation(
        self,
        adapter: str,
        clip_s: float,
        data: str = "monday",
        steps: int = 20,
        scores_of: str | None = None,
        answers_of: str | None = None,
    ) -> Artifact:
        """64 images whose CLIP-S is around `clip_s`, with noise that follows from the name
        `scores_of`; their bytes follow from `answers_of`, by default the adapter's as well."""
        answers = self.store.build(
            Recipe(
                "evaluation_images",
                MODEL,
                inputs={"lora_weights": adapter},
                config={**SETTINGS, "num_inference_steps": steps},
            ),
            lambda folder: write_json(folder / "images.json", answers_of or adapter),
        ).artifact
        parts = {
            "dataset": self.part("dataset", data),
            "base_model": self.part("base_model", "base"),
            "lora_weights": self.part("lora_weights", adapter),
            "adapter_images": answers,
        }
        inputs = {name: part.content_hash for name, part in parts.items()}
        recipe = Recipe(
            "evaluation_report",
            MODEL,
            inputs={**inputs, "judge": "judge"},
            config={**SETTINGS, "num_inference_steps": steps},
        )

        def make(folder: Path) -> dict[str, Any]:
            name = scores_of or adapter
            noise = np.random.default_rng([*name.encode()]).normal(size=64)
            save_statistics(folder, {"clip_s": Statistic(each=clip_s + 0.05 * noise)})
            report = {
                "adapter_problems": [],
                "clip_s_mean": clip_s,
                "kid_adapter_mean": 0.1,
                "kid_base_mean": 0.6,
                "nsfw_probability_maximum": 0.1,
                "prompts": 16,
                "seeds": SETTINGS["seeds"],
                "metrics": {"clip_s": {"better": "higher"}},
            }
            write_json(folder / "report.json", report)
            write_json(folder / "timings.json", {"seconds_per_image_mean": 1.0})
            return {name: part.reference() for name, part in parts.items()}

        return self.store.build(recipe, make).artifact

    def release(
        self, number: int, evaluation: Artifact, verdict: Artifact | None = None
    ) -> release.ReleaseRecord:
        made = evaluation.manifest
        return release.write_record(
            self.project,
            release.ReleaseRecord(
                model=MODEL,
                number=number,
                repository=self.part("triton_repository", str(number)).reference(),
                adapter=made["lora_weights"],
                base_model=made["base_model"],
                evaluation=evaluation.reference(),
                verdict=(verdict or evaluation).reference(),
                mlflow_run_id=None,
                provenance={},
            ),
        )

    def bring_live(self, number: int) -> None:
        decided = release.read_record(self.project, MODEL, number).verdict
        for target in load_fleet(self.project).targets:
            record.change(
                self.project,
                target,
                MODEL,
                lambda state: replace(state, live=number, verdict=decided),
            )

    def configure(self, gates: str) -> None:
        """Other gates in the model's YAML, which a deployment reads."""
        self.project.model_file(MODEL).write_text(YAML.replace("gates: {", f"gates: {{{gates}, "))

    def log(self, page: Path) -> None:
        if self.mlflow_is_away:
            raise UserError("MLflow is away")
        assert page.name not in self.logged
        self.logged[page.name] = page.read_text()

    def decide(self, evaluation: Artifact, gates: GateConfig = POLICY) -> Built:
        """As the asset does it."""
        settings = {"family": "diffusion", "gates": gates.model_dump(mode="json")}
        config = self.store.build(
            Recipe("evaluation_config", MODEL, config=settings),
            lambda folder: write_json(folder / "config.json", settings),
        )
        run = SimpleNamespace(log_artifact=lambda path, folder: self.log(Path(path)))
        return make_promotion_verdict(
            self.project,
            evaluation,
            config.artifact,
            run_worker=None,
            tracked=lambda key: nullcontext(run),
        )


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shop]:
    shop = Shop(tmp_path)

    def evaluate(project, images, base, adapter, config, worker, tracked, write_metrics=True):
        name = (adapter.path / "name").read_text()
        shop.evaluated.append(name)
        assert not write_metrics  # metrics/ shows the challenger
        data = (images.path / "name").read_text()
        return Built(shop.evaluation(name, 1.6, data=data), reused=False)

    monkeypatch.setattr("adire_assets.line.verdict.evaluation_report", evaluate)
    monkeypatch.setattr(EvaluationConfig, "settings", lambda *arguments: SETTINGS)
    judge = SimpleNamespace(artifact=SimpleNamespace(content_hash="judge"))
    monkeypatch.setattr(held_weights, "held", lambda *arguments: judge)
    facts = {"passed": True, "software": {}}
    parity = SimpleNamespace(artifact=SimpleNamespace(json=lambda name: facts))
    monkeypatch.setattr(promotion, "parity_report", lambda *arguments: parity)
    monkeypatch.setattr(upgrades, "refusal", lambda *arguments: None)
    yield shop


def verdict(built: Built) -> Verdict:
    return Verdict.from_dict(built.artifact.json("verdict.json"))


def test_the_first_release_meets_the_absolute_gates_alone(shop: Shop) -> None:
    found = verdict(shop.decide(shop.evaluation("first", 1.6)))
    assert found.passed and not found.comparisons
    checks = {gate.name: gate for gate in found.checks(GateConfig)}
    assert checks["champion_clip_s"].passed
    assert checks["champion_clip_s"].explanation.startswith("no champion to compare with")


def test_the_same_answers_are_not_worse_and_equal_values_do_not_show_that(shop: Shop) -> None:
    shop.release(1, shop.evaluation("a", 1.6))
    shop.bring_live(1)
    policy = GateConfig(champion=ChampionGates(margins={"clip_s": 0.0}))
    same = shop.evaluation("b", 1.6, scores_of="a", answers_of="a")
    equal = shop.evaluation("c", 1.6, scores_of="a")
    assert [verdict(shop.decide(one, policy)).passed for one in (same, equal)] == [True, False]


@pytest.mark.parametrize(("clip_s", "passes"), [(1.59, True), (1.4, False)])
def test_a_challenger_must_not_be_worse_than_the_champion(
    shop: Shop, clip_s: float, passes: bool
) -> None:
    champion = shop.evaluation("first", 1.6)
    shop.release(1, champion)
    shop.bring_live(1)
    built = shop.decide(shop.evaluation("second", clip_s))
    found = verdict(built)
    assert found.passed is passes
    assert found.gate("champion_clip_s").passed is passes
    assert shop.evaluated == []  # the champion's own evaluation compares
    assert built.artifact.manifest["recipe"]["inputs"]["champion"] == champion.content_hash
    assert built.artifact.manifest["champion"] == champion.reference()


@pytest.mark.parametrize("part", ["lora_weights", "base_model"])
def test_a_verdict_lets_nothing_but_its_own_adapter_on_its_own_base_pass(
    shop: Shop, part: str
) -> None:
    evaluation = shop.evaluation("first", 1.6)
    decided = shop.decide(evaluation).artifact
    names = {"lora_weights": "first", "base_model": "base", part: "another"}
    adapter, base = (shop.part(kind, name) for kind, name in names.items())
    with pytest.raises(UserError, match="the verdict is about another adapter or base"):
        make_triton_repository(shop.project, adapter, base, decided, decided)
    assert not shop.store.artifacts(MODEL, "triton_repository")
    released = replace(
        shop.release(1, evaluation, decided),
        adapter=adapter.reference(),
        base_model=base.reference(),
    )
    with pytest.raises(UserError, match="the verdict is about another adapter or base"):
        promotion.require_release(shop.project, released, print)
    promotion.require_release(shop.project, release.read_record(shop.project, MODEL, 1), print)


def test_the_champion_is_not_compared_with_itself(shop: Shop) -> None:
    evaluation = shop.evaluation("first", 1.6)
    before = shop.decide(evaluation)
    shop.release(1, evaluation)
    shop.bring_live(1)
    again = shop.decide(evaluation)
    assert again.reused and again.artifact == before.artifact


def test_what_is_live_stays_compared_with_the_one_before_it(shop: Shop) -> None:
    first = shop.evaluation("first", 1.6)
    shop.release(1, first, shop.decide(first).artifact)
    shop.bring_live(1)
    second = shop.evaluation("second", 1.59)
    before = shop.decide(second)
    wanted = shop.release(2, second, before.artifact)
    shop.bring_live(2)
    assert verdict(before).comparisons
    again = shop.decide(second)
    assert again.reused and again.artifact == before.artifact
    promotion.require_release(shop.project, wanted, print)
    assert len(shop.store.artifacts(MODEL, "promotion_verdict")) == 2


def test_a_verdict_has_a_page_that_mlflow_gets_once(shop: Shop) -> None:
    first = shop.evaluation("first", 1.6)
    shop.release(1, first, shop.decide(first).artifact)
    shop.bring_live(1)
    refused = shop.decide(shop.evaluation("second", 1.4)).artifact
    shop.decide(shop.evaluation("second", 1.4))
    path = pages.page_path(shop.project, refused)
    page = path.read_text()
    assert shop.logged[path.name] == page
    assert "Refused" in page and "Against the champion, release 1" in page


def test_a_page_is_drawn_again_when_its_templates_or_its_code_are_others(
    shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluation = shop.evaluation("first", 1.6)
    judged = shop.decide(evaluation).artifact
    first = pages.page_path(shop.project, judged)
    changed = shutil.copytree(pages.TEMPLATES, tmp_path / "templates")
    (changed / "page.css").write_text("body { outline: solid }")
    for module in (pages, document):
        monkeypatch.setattr(module, "TEMPLATES", changed)
    assert not pages.page_path(shop.project, judged).exists()
    shop.decide(evaluation)
    second = pages.page_path(shop.project, judged)
    assert "outline: solid" in second.read_text()
    assert "outline: solid" not in first.read_text()
    assert shop.logged.keys() == {first.name, second.name}
    (changed / "report.html.j2").write_text("another page")
    found = {first, second, pages.page_path(shop.project, judged)}
    code = {"adire_assets.gates.report.document": "1"}
    monkeypatch.setattr(lineage, "code_hash", lambda modules: str([code.get(m) for m in modules]))
    found.add(pages.page_path(shop.project, judged))
    code["adire_assets.gates.report.document"] = "2"
    found.add(pages.page_path(shop.project, judged))
    assert len(found) == 5


def test_a_page_that_mlflow_did_not_get_is_written_again(shop: Shop) -> None:
    shop.mlflow_is_away = True
    with pytest.raises(UserError, match="away"):
        shop.decide(shop.evaluation("first", 1.6))
    assert not list((shop.project.home / "reports").glob("*"))
    shop.mlflow_is_away = False
    path = pages.page_path(shop.project, shop.decide(shop.evaluation("first", 1.6)).artifact)
    assert shop.logged == {path.name: path.read_text()}


def test_the_champion_on_the_page_is_the_release_that_is_live(shop: Shop) -> None:
    first = shop.evaluation("first", 1.6)
    for number in (1, 2, 3):  # the same adapter, served in three ways
        shop.release(number, first, shop.decide(first).artifact)
    for live in (2, 1):
        shop.bring_live(live)
        judged = shop.decide(shop.evaluation(f"after {live}", 1.6)).artifact
        page = pages.page_path(shop.project, judged).read_text()
        assert f"Against the champion, release {live}" in page


def test_a_page_shows_the_newest_evaluation_that_was_not_made_for_another(shop: Shop) -> None:
    shop.release(1, shop.evaluation("first", 1.6, steps=30))
    shop.bring_live(1)
    second = shop.evaluation("second", 1.6)
    shop.decide(second)  # evaluates the champion again, after its own
    assert shop.evaluated == ["first"]
    page = pages.report(shop.project, MODEL, None).read_text()
    assert f"adapter {second.manifest['lora_weights']['key'][:12]}" in page
    assert "verdict yet" not in page
    # Not judged yet, of an adapter that was.
    newest = shop.evaluation("second", 1.6, steps=40).path / "manifest.json"
    newest.chmod(0o644)
    write_json(newest, {**read_json(newest), "created": "2999-01-01T00:00:00+00:00"})
    assert "No verdict yet" in pages.report(shop.project, MODEL, None).read_text()


@pytest.mark.parametrize("change", [{"data": "tuesday"}, {"steps": 30}])
def test_a_champion_evaluated_in_another_way_is_evaluated_again(shop: Shop, change: dict) -> None:
    shop.release(1, shop.evaluation("first", 1.6, **change))
    shop.bring_live(1)
    challenger = shop.evaluation("second", 1.6)
    built = shop.decide(challenger)
    assert shop.evaluated == ["first"]
    assert verdict(built).comparisons
    wanted = shop.evaluation("first", 1.6).content_hash
    assert built.artifact.manifest["recipe"]["inputs"]["champion"] == wanted
    assert shop.decide(challenger).reused and shop.evaluated == ["first"]


def test_an_evaluation_of_another_time_is_to_be_made_again(shop: Shop) -> None:
    """What evaluations are now made with is not what this one was made with."""
    shop.release(1, shop.evaluation("first", 1.6))
    shop.bring_live(1)
    with pytest.raises(UserError, match="materialize cloth/evaluation_report again"):
        shop.decide(shop.evaluation("second", 1.6, steps=50))


def test_another_champion_is_another_verdict(shop: Shop) -> None:
    for number, name in ((1, "first"), (2, "other")):
        shop.release(number, shop.evaluation(name, 1.6))
    challenger = shop.evaluation("third", 1.6)
    keys = set()
    for number in (1, 2):
        shop.bring_live(number)
        keys.add(shop.decide(challenger).artifact.key)
    assert len(keys) == 2
    assert shop.evaluation("third", 1.6) == challenger  # an evaluation knows no champion


def test_a_deployment_compares_with_the_champion_of_today(shop: Shop) -> None:
    good, bad = shop.evaluation("good", 1.6), shop.evaluation("bad", 1.4)
    release_bad = shop.release(1, bad)
    promotion.require_release(shop.project, release_bad, print)  # nothing is live yet
    release_good = shop.release(2, good)
    shop.bring_live(2)
    promotion.require_release(shop.project, release_good, print)  # itself
    with pytest.raises(UserError, match=r"refused: champion_clip_s .* is not above -0\.1"):
        promotion.require_release(shop.project, release_bad, print)


def test_a_deployment_without_a_comparable_champion_is_refused(shop: Shop) -> None:
    shop.release(1, shop.evaluation("first", 1.6, data="tuesday"))
    shop.bring_live(1)
    wanted = shop.release(2, shop.evaluation("second", 1.6))
    with pytest.raises(UserError, match="materialize cloth/promotion_verdict"):
        promotion.require_release(shop.project, wanted, print)
    shop.decide(shop.evaluation("second", 1.6))
    promotion.require_release(shop.project, wanted, print)


# --- a policy that is weaker than the one before -------------------------------------------------

STRICT = POLICY.model_copy(update={"clip_s_minimum": 1.7})
LOWERED = "gates.clip_s_minimum 1.7 -> 0.75"


def test_what_was_refused_and_passes_by_a_lower_threshold_says_so(shop: Shop) -> None:
    evaluation = shop.evaluation("first", 1.6)
    assert not verdict(shop.decide(evaluation, STRICT)).passed
    found = verdict(shop.decide(evaluation))
    told = f"weaker than that of the verdicts before it: {LOWERED}"
    assert found.passed and found.sentence().endswith(f"; by a policy {told}")
    checks = {gate.name: gate for gate in found.checks(GateConfig)}
    assert checks["clip_s"].explanation.endswith(f"; {told}")
    assert "weaker" not in checks["safety"].explanation
    # Another adapter, and a step between that is stricter elsewhere, do not make it forgotten.
    elsewhere = POLICY.model_copy(update={"sharpness_minimum": None, "exposure_minimum": None})
    shop.decide(evaluation, elsewhere.model_copy(update={"nsfw_probability_maximum": 0.5}))
    assert LOWERED in verdict(shop.decide(shop.evaluation("second", 1.6))).sentence()


def test_a_verdict_that_was_made_before_is_made_again_when_it_is_weaker_now(shop: Shop) -> None:
    evaluation = shop.evaluation("first", 1.6)
    assert verdict(shop.decide(evaluation)).weakness() == ""
    shop.decide(evaluation, STRICT)
    assert LOWERED in verdict(shop.decide(evaluation)).weakness()


def test_a_margin_that_was_widened_or_taken_away_is_named_at_its_gate(shop: Shop) -> None:
    first = shop.evaluation("first", 1.6)
    shop.release(1, first, shop.decide(first).artifact)
    shop.bring_live(1)
    for margins, now in (({"clip_s": 0.5}, "0.5"), ({}, "none")):
        gates = GateConfig(champion=ChampionGates(margins=margins))
        found = verdict(shop.decide(shop.evaluation("second", 1.6), gates))
        checks = {gate.name: gate.explanation for gate in found.checks(GateConfig)}
        told = f"weaker than that of release 1: gates.champion.margins.clip_s 0.1 -> {now}"
        assert checks["champion_clip_s"].endswith(f"; {told}")


def test_what_went_live_by_a_weaker_policy_keeps_saying_so(shop: Shop) -> None:
    first = shop.evaluation("first", 1.8)
    shop.release(1, first, shop.decide(first, STRICT).artifact)
    shop.bring_live(1)
    second = shop.evaluation("second", 1.75)
    before = shop.decide(second)
    assert LOWERED in verdict(before).weakness()
    shop.release(2, second, before.artifact)
    shop.bring_live(2)
    again = shop.decide(second)
    assert again.reused and again.artifact == before.artifact
    # It is the policy before for the next one.
    assert verdict(shop.decide(shop.evaluation("third", 1.75))).weakness() == ""
    page = pages.page_path(shop.project, before.artifact).read_text()
    assert "asks less than that of release 1" in page
    assert "gates.clip_s_minimum" in page and ">1.7<" in page and ">0.75<" in page


def test_a_deployment_tells_of_the_policy_of_today_and_keeps_it(shop: Shop) -> None:
    first, second = shop.evaluation("first", 1.6), shop.evaluation("second", 1.6)
    shop.release(1, first, shop.decide(first).artifact)
    shop.bring_live(1)
    wanted = shop.release(2, second, shop.decide(second).artifact)
    said: list[str] = []
    promotion.require_release(shop.project, wanted, said.append)
    assert said == []
    shop.configure("nsfw_probability_maximum: 0.9")
    fleet = shop.project.root / "configs" / "fleet.yaml"
    fleet.write_text(
        fleet.read_text().replace("error_rate_maximum: 0.05", "error_rate_maximum: 0.4")
    )
    promotion.require_release(shop.project, wanted, said.append)
    [sentence] = said
    assert sentence == (
        "release 2 of cloth goes by a policy weaker than that of release 1: "
        "gates.nsfw_probability_maximum 0.8 -> 0.9, rollout.local.error_rate_maximum 0.05 -> 0.4"
    )
    kept = release.read_record(shop.project, MODEL, 2)
    assert [one["key"] for one in kept.provenance["policy"]["weakened"]] == [
        "gates.nsfw_probability_maximum",
        "rollout.local.error_rate_maximum",
    ]
    decided = shop.store.open(kept.verdict).manifest["recipe"]["config"]
    assert decided["nsfw_probability_maximum"] == 0.9  # what brings it live, not what built it


def test_an_evaluation_of_other_prompts_is_not_comparable(shop: Shop) -> None:
    first = shop.evaluation("first", 1.6)
    shop.release(1, first, shop.decide(first).artifact)
    shop.bring_live(1)
    found = policy_comparison.compare_for_evaluation(
        shop.project, shop.evaluation("second", 1.6, steps=30), POLICY
    )
    assert found.told() == (
        "evaluated in another way than release 1: evaluation.num_inference_steps 20 -> 30"
    )


def test_verdicts_that_gc_reduced_to_their_manifest_still_count(shop: Shop) -> None:
    evaluation = shop.evaluation("first", 1.6)
    shop.store.discard(shop.decide(evaluation, STRICT).artifact)
    assert LOWERED in verdict(shop.decide(evaluation)).weakness()


def test_status_names_the_policy_that_decided_and_the_one_of_now(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = shop.evaluation("first", 1.8)
    shop.decide(first, STRICT)
    wanted = shop.release(1, first, shop.decide(first).artifact)
    policy = {"uncommitted": ["a.yaml (changed)"]}
    told = {"code": {"build": "b"}, "dvc_hash": "d", "policy": policy}
    release.write_record(shop.project, replace(wanted, provenance=told))
    shop.bring_live(1)
    shop.configure("nsfw_probability_maximum: 0.9")
    monkeypatch.setattr("adire_assets.tracking.registry.aliases", lambda *_: {"champion": 1})
    monkeypatch.setattr("adire_assets.ops.operations.stale", lambda *_: [])
    monkeypatch.setattr(held_weights, "known", lambda *_: None)
    live = deployment.TargetStatus(record.read(shop.project, "local", MODEL), {}, [])
    monkeypatch.setattr(deployment, "target_statuses", lambda *_: [live])
    monkeypatch.setenv("ADIRE_FLEET", str(shop.project.root / "configs" / "fleet.yaml"))
    record.quarantine(shop.project, MODEL, 1, "pale")
    record.lift_quarantine(shop.project, MODEL, 1, "looked again")
    said = "\n".join(operations.status(shop.project))
    assert f"by a policy weaker than that of the verdicts before it: {LOWERED}" in said
    assert "decided by files that were not committed: a.yaml (changed)" in said
    assert (
        "policy now: weaker than that of release 1: gates.nsfw_probability_maximum 0.8 -> 0.9"
        in said
    )
    assert "quarantine of release 1 lifted: looked again" in said
    assert "fleet: " in said and "as ADIRE_FLEET says" in said


def test_what_was_refused_before_is_counted_by_adapter(shop: Shop) -> None:
    first = shop.evaluation("first", 1.6)
    shop.release(1, first, shop.decide(first).artifact)
    shop.bring_live(1)
    for name in ("a", "b", "a"):
        assert not verdict(shop.decide(shop.evaluation(name, 1.4))).passed
    lucky = shop.decide(shop.evaluation("lucky", 1.6))
    assert lucky.artifact.manifest["refused_before"] == 2
    page = pages.page_path(shop.project, lucky.artifact).read_text()
    assert "refused since what is live went live: 2." in page
    assert promotion.policy_facts(shop.project, lucky.artifact)["refused_before"] == 2


def test_what_brought_a_release_live_stays_on_record(shop: Shop) -> None:
    first = shop.evaluation("first", 1.6)
    decided = shop.decide(first).artifact
    facts = {**promotion.policy_facts(shop.project, decided), "uncommitted": ["a.yaml (changed)"]}
    wanted = replace(shop.release(1, first, decided), provenance={"policy": facts})
    release.write_record(shop.project, wanted)
    assert promotion.policy_facts(shop.project, decided, 1)["uncommitted"] == []
    shop.bring_live(1)
    promotion.require_release(shop.project, wanted, print)
    assert promotion.policy_facts(shop.project, decided, 1) == facts
    assert release.read_record(shop.project, MODEL, 1) == wanted
