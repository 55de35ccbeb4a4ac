"""The whole line from outside: every way in, what reruns and what does not, and what never passes.

The tests share one project and follow its life in order: first release, reuse, changes, a ruinous
adapter, kills. Each asks only what a user can see.
"""

import json
import re
import sys
from pathlib import Path

import dagster as dg
import numpy as np
import pytest
from dagster_graphql import DagsterGraphQLClient
from PIL import Image

from adire_assets.core.files import write_json
from adire_assets.core.store import Store
from adire_assets.families.diffusion.answers import read_provenance
from adire_assets.tracking import backend, registry, runs
from tests.line.conftest import CPU_PER_HOUR
from tests.support.line import (
    answers,
    made,
    outcome,
    rollout,
    sensor_ticks,
    started_steps,
    wait_for,
)
from tests.support.ports import free_ports
from tests.support.releases import release_numbers

PROMPT = "a photo in nigerian_adire_style, oniko tied circles in rows, indigo cloth"
WAITS = "release 2 of indigo waits for approval: adire approve indigo@2 --reason '...'"
MAKERS = ("dataset", "lora_weights", "evaluation_report", "promotion_verdict", "triton_repository")
LAUNCH_WITHOUT_A_DAEMON = """\
telemetry: {enabled: false}
run_coordinator: {module: dagster.core.run_coordinator, class: DefaultRunCoordinator}
"""
DAGSTER = (sys.executable, "-m", "dagster")


def test_the_whole_graph_brings_release_1_live(line, first) -> None:
    assert made(first.stdout) >= set(MAKERS)
    assert re.search(r"step 60/60 loss \d", first.stdout)
    assert "release 1 of indigo is live" in first.stdout
    assert "indigo: release 1 is live" in line.adire("status").stdout
    assert line.live() == 1


def test_the_line_runs_without_git_and_names_the_build(line, first) -> None:
    adapter = Store(line.project).artifacts("indigo", "lora_weights")[0]
    assert adapter.manifest["code"]["build"].startswith(("tree-", "commit-"))


def test_materializing_again_makes_nothing(line, first) -> None:
    again = outcome(line.adire("materialize", "indigo").stdout)
    # The champion is an input of the verdict, so its first re-run is a new, equal decision.
    assert {name for name, what in again.items() if what == "made"} <= {"promotion_verdict"}
    assert again["lora_weights"] == "reused"
    assert line.live() == 1


def test_a_picture_comes_back_over_grpc_and_can_be_traced(line, first, tmp_path: Path) -> None:
    out = tmp_path / "out.png"
    both = line.adire(
        "generate", PROMPT, "--seed", "6", "--num-images", "2", "--out", str(tmp_path / "both.png")
    )
    assert re.findall(r"both-(\d)\.png: release 1, seed (\d)", both.stdout) == [
        ("1", "6"),
        ("2", "7"),
    ]
    line.adire("generate", PROMPT, "--seed", "7", "--out", str(out))
    with Image.open(out) as alone, Image.open(tmp_path / "both-2.png") as second:
        assert np.abs(np.asarray(alone, int) - np.asarray(second, int)).max() <= 2
    with Image.open(out) as image:
        assert image.size == (128, 128)
        assert np.asarray(image).std() > 5
    facts = read_provenance(out)
    adapter = Store(line.project).artifacts("indigo", "lora_weights")[0]
    assert facts["release"] == 1
    assert facts["adapter_hash"] == adapter.content_hash
    assert facts["dvc_hash"] == adapter.manifest["dvc_hash"]
    assert facts["hyperparameters"]["max_train_steps"] == 60
    traced = line.adire("trace", str(out)).stdout
    for expected in (
        "release 1 of indigo",
        facts["dvc_hash"],
        facts["mlflow_run_id"],
        "max_train_steps=60",
        "clip_s_mean=",
        "agrees",
    ):
        assert expected in traced


def test_plain_tritonclient_gets_the_same_picture(line, first, tmp_path: Path) -> None:
    """The ten lines of the README, run as they stand there."""
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    code = next(c for c in re.findall(r"```python\n(.*?)```", readme, re.S) if "tritonclient" in c)
    script = code.replace("127.0.0.1:8080", line.address).replace(
        "adire.png", str(tmp_path / "plain.png")
    )
    line.run(sys.executable, "-c", script)
    with Image.open(tmp_path / "plain.png") as image:
        assert image.size == (128, 128)


def test_mlflow_holds_one_finished_run_with_lineage_scores_and_pictures(line, first) -> None:
    adapter = Store(line.project).artifacts("indigo", "lora_weights")[0]
    run_id = runs.find_run(line.project, "indigo", adapter.key)
    assert run_id
    import mlflow

    api = mlflow.MlflowClient(backend.tracking_uri(line.project))
    found = api.search_runs([api.get_experiment_by_name("indigo").experiment_id])
    assert [run.info.run_id for run in found] == [run_id]
    assert found[0].info.status == "FINISHED"
    assert found[0].data.params["learning_rate"] == "0.004"
    assert found[0].data.tags["adire.dvc_hash"] == adapter.manifest["dvc_hash"]
    assert {"loss", "clip_s_mean", "kid_adapter_mean"} <= set(found[0].data.metrics)
    files = [item.path for item in api.list_artifacts(run_id, "evaluation")]
    assert "evaluation/contact_sheet.png" in files
    assert registry.aliases(line.project, "indigo") == {"champion": 1}


def test_steps_tell_what_they_cost(line, first) -> None:
    """In their manifests, in MLflow and in Dagster; of what is drawn for an evaluation as well."""
    store = Store(line.project)
    costs = {}
    for kind in ("lora_weights", "evaluation_images", "evaluation_report"):
        for artifact in store.artifacts("indigo", kind):
            cost = artifact.manifest["cost"]
            assert 0 < cost["seconds"] <= artifact.manifest["seconds"]
            assert cost["amount"] == pytest.approx(cost["seconds"] * CPU_PER_HOUR / 3600)
            assert (cost["currency"], cost["hardware"]) == ("EUR", "cpu")
            assert "cost" not in str(artifact.manifest["recipe"])
            costs[kind] = costs.get(kind, 0.0) + cost["amount"]
    [adapter] = store.artifacts("indigo", "lora_weights")
    import mlflow

    api = mlflow.MlflowClient(backend.tracking_uri(line.project))
    told = api.get_run(adapter.manifest["mlflow_run_id"]).data.metrics
    assert told["cost"] == pytest.approx(costs.pop("lora_weights"))
    assert told["evaluation_cost"] == pytest.approx(sum(costs.values()))
    with dg.DagsterInstance.from_config(str(line.project.home / "dagster")) as instance:
        event = instance.get_latest_materialization_event(dg.AssetKey(["indigo", "lora_weights"]))
    assert event and event.asset_materialization
    metadata = event.asset_materialization.metadata
    assert (metadata["cost"].value, metadata["currency"].value) == (told["cost"], "EUR")


def test_dvc_shows_the_metrics(line, first) -> None:
    shown = json.loads((line.root / "metrics" / "indigo.json").read_text())
    assert {"clip_s_mean", "kid_adapter_mean"} <= set(shown)


def test_a_threshold_or_a_comment_retrains_nothing(line, first) -> None:
    (line.root / "README.md").write_text("words\n")
    config = line.root / "configs" / "models" / "indigo.yaml"
    config.write_text("# a comment\n" + config.read_text())
    lora = line.root / "adire_assets" / "families" / "diffusion" / "training" / "lora.py"
    lora.write_text(lora.read_text() + "\n# a comment\n")
    line.configure("evaluation.gates", seconds_per_image_maximum=29, human_approval="required")
    done = line.adire("materialize", "indigo")
    assert made(done.stdout) == {"evaluation_config", "promotion_verdict"}
    assert line.live() == 1


def test_one_changed_caption_reruns_exactly_what_is_downstream(line, first) -> None:
    captions = line.root / "data" / "indigo" / "metadata.csv"
    rows = (line.path_of("dataset") / "train.jsonl").read_text().splitlines()
    trained = {Path(json.loads(row)["file_name"]).name for row in rows}
    lines = captions.read_text().splitlines(keepends=True)
    place = next(
        number
        for number, text in enumerate(lines)
        if text.partition(",")[0] in trained and "tied circles" in text
    )
    lines[place] = lines[place].replace("tied circles", "tied rings")
    captions.write_text("".join(lines))
    refused = line.adire("materialize", "indigo", check=False)
    assert refused.returncode == 1
    assert "dvc add data" in refused.stderr
    # The copy has no git.
    (line.root / ".dvc" / "config.local").write_text("[core]\n    no_scm = true\n")
    line.run(sys.executable, "-m", "dvc", "add", "data")
    done = line.adire("materialize", "indigo")
    assert made(done.stdout) == {"training_data", *MAKERS}
    assert {name for name, what in outcome(done.stdout).items() if what == "reused"} == {
        "training_config",
        "base_model",
        "evaluation_config",
    }
    # It passed its gates, and a person is asked for; what was live before that was not.
    assert WAITS in done.stdout
    assert line.live() == 1


def test_a_release_that_waits_goes_live_when_a_person_says_so(line) -> None:
    assert WAITS in line.adire("status").stdout
    [before] = sensor_ticks(line, 1)
    assert WAITS in before["skip"] and not before["requests"]
    said = line.adire("approve", "indigo@2", "--reason", "rounder rings", "--by", "ada").stdout
    assert "the sensor indigo_approval deploys it now" in said
    assert line.live() == 1
    ticks = sensor_ticks(line, 2, "indigo_approval", "indigo_deployment")
    assert ticks[0]["requests"] and ticks[1]["skip"] == "no release waits for an approval"
    assert line.live() == 2
    assert re.search(
        r"approved: release 2 by ada at .*: rounder rings", line.adire("status").stdout
    )
    line.configure("evaluation.gates", human_approval="none")


def test_rollback_quarantines_the_release_for_every_door(line) -> None:
    line.adire("rollback", "indigo", "--reason", "too pale")
    assert line.live() == 1
    assert registry.aliases(line.project, "indigo")["champion"] == 1
    refused = line.adire("materialize", "indigo", check=False)
    assert refused.returncode == 1
    assert "quarantined" in refused.stderr
    assert line.live() == 1
    line.adire("lift-quarantine", "indigo", "2", "--reason", "looked again")


def test_a_run_that_dies_in_its_rollout_is_taken_over_by_the_sensor(line) -> None:
    run = line.start(sys.executable, "-m", "adire_assets.cli", "materialize", "indigo")
    wait_for(lambda: (now := rollout(line)) is not None and now.stage == "serving", 120)
    run.kill()
    run.communicate(timeout=60)
    assert line.live() == 1
    assert "rollout: release 2" in line.adire("status").stdout
    wait_for(lambda: rollout(line).abandoned(), 30)
    ticks = sensor_ticks(line, 2, "indigo_rollout", "indigo_rollout")
    assert ticks[0]["requests"] and ticks[1]["skip"] == "no rollout was left"
    assert line.live() == 2
    assert registry.aliases(line.project, "indigo")["champion"] == 2
    # Each decision is an evaluation of a check of the asset, with what it rests on; the end too.
    asset = dg.AssetKey(["indigo", "deployed_model"])

    def latest(check: str, limit: int) -> list[dg.AssetCheckEvaluation]:
        key = dg.AssetCheckKey(asset, check)
        history = instance.event_log_storage.get_asset_check_execution_history(key, limit=limit)
        return [one.event.dagster_event.event_specific_data for one in history]

    with dg.DagsterInstance.from_config(str(line.project.home / "dagster")) as instance:
        evaluations = latest("rollout_steps", 2)
        [end] = latest("rollout", 1)
    assert end.passed and end.description == "release 2 is live on local"
    assert all(evaluation.passed for evaluation in evaluations)
    assert "local, 100 %: promote: 0 of" in evaluations[0].description
    assert "errors" in evaluations[0].metadata["numbers"].value
    assert "local, checking: promote" in evaluations[1].description


def test_status_says_what_has_changed_in_the_answers_that_users_get(line) -> None:
    signal = {"first": 1.7, "last": 1.2, "changed_at": "2026-01-01T10:00:00+00:00"}
    told = {"answers": 400, "signals": {"clip_s": signal}}
    write_json(line.project.home / "quality/local/indigo/2/summary.json", told)
    lines = line.adire("status").stdout.splitlines()
    place = lines.index("  quality: 400 answers measured; means of the last 50: clip_s 1.2")
    changed = "  CHANGED: clip_s, seen 2026-01-01T10:00:00+00:00: 1.2, and 1.7 at first"
    assert lines[place + 1] == changed


class TestRuinousAdapter:
    """A LoRA trained with a ruinous learning rate is refused at the gate and has no way around."""

    @pytest.fixture(scope="class", autouse=True)
    def ruined(self, line):
        line.configure("training", learning_rate=0.02)
        return line.adire("materialize", "indigo", check=False)

    def test_the_whole_graph_stops_at_the_gate(self, line, ruined) -> None:
        assert ruined.returncode == 1
        assert "lora_weights" in made(ruined.stdout)
        assert "triton_repository" not in outcome(ruined.stdout)
        assert "promotion_verdict" in ruined.stderr
        # The check itself stops the run: what would refuse the release as well is not even asked.
        assert "indigo__promotion_verdict" in started_steps(line)
        assert "indigo__triton_repository" not in started_steps(line)
        assert line.live() == 2

    @pytest.mark.parametrize(
        ("selection", "home"),
        [("key:indigo/triton_repository+", "other"), ("key:indigo/promotion_verdict+", "none")],
    )
    def test_no_partial_selection_in_any_instance_gets_it_live(
        self, line, selection: str, home: str, tmp_path: Path
    ) -> None:
        extra = {"DAGSTER_HOME": str(tmp_path)} if home == "other" else {}
        done = line.run(
            *DAGSTER,
            "asset",
            "materialize",
            "--select",
            selection,
            "-m",
            "dagster_defs",
            check=False,
            **extra,
        )
        assert done.returncode != 0
        assert "indigo: refused: " in done.stdout + done.stderr
        assert line.live() == 2

    def test_deployed_model_alone_only_confirms_what_passed(self, line) -> None:
        done = line.adire("materialize", "indigo", "--select", "deployed_model")
        assert "release 2 of indigo is already live" in done.stdout
        assert line.live() == 2

    def test_a_good_evaluation_in_between_does_not_vouch_for_it(self, line) -> None:
        line.configure("training", learning_rate=0.004)
        line.adire(
            "materialize",
            "indigo",
            "--select",
            "training_config,lora_weights,evaluation_report,promotion_verdict",
        )
        line.configure("training", learning_rate=0.02)
        refused = line.adire(
            "materialize",
            "indigo",
            "--select",
            "training_config,lora_weights,triton_repository,deployed_model",
            check=False,
        )
        assert refused.returncode == 1
        assert outcome(refused.stdout)["lora_weights"] == "reused"
        assert "about another adapter" in refused.stderr
        assert line.live() == 2

    def test_a_raised_and_again_lowered_bar_does_not_let_it_through(self, line) -> None:
        config = line.root / "configs" / "models" / "indigo.yaml"
        before = config.read_text()
        line.configure("evaluation.gates", clip_s_minimum=0.0, kid_below_base=False)
        line.adire(
            "materialize",
            "indigo",
            "--select",
            "evaluation_config,evaluation_report,promotion_verdict,triton_repository",
        )
        config.write_text(before)
        refused = line.adire("materialize", "indigo", "--select", "deployed_model", check=False)
        assert refused.returncode == 1
        assert "refused" in refused.stderr
        latest = max(release_numbers(line.project, "indigo").values())
        approval = line.adire("approve", f"indigo@{latest}", "--reason", "I like it", check=False)
        assert approval.returncode == 1
        assert "indigo: refused: " in approval.stderr
        assert line.live() == 2

    def test_the_uis_graphql_launches_the_same_gates(self, line, tmp_path: Path) -> None:
        [port] = free_ports(1)
        (tmp_path / "dagster.yaml").write_text(LAUNCH_WITHOUT_A_DAEMON)
        server = line.start(
            *(sys.executable, "-m", "dagster_webserver", "-m", "dagster_defs", "-p", str(port)),
            DAGSTER_HOME=str(tmp_path),
        )
        try:
            wait_for(lambda: answers(port), 90)
            client = DagsterGraphQLClient("127.0.0.1", port_number=port)
            run_id = client.submit_job_execution(
                "__ASSET_JOB", asset_selection=[["indigo", "deployed_model"]]
            )
            finished = (dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.SUCCESS)
            wait_for(lambda: client.get_run_status(run_id) in finished, 120)
            assert client.get_run_status(run_id) == dg.DagsterRunStatus.FAILURE
        finally:
            server.terminate()
            server.communicate(timeout=60)
        assert line.live() == 2

    def test_the_sensor_tries_it_once_and_then_says_why_not(self, line) -> None:
        ticks = sensor_ticks(line, 2)
        assert ticks[0]["requests"]
        assert "refused by" in ticks[1]["skip"]
        assert line.live() == 2


def test_going_back_to_the_good_recipe_trains_nothing(line) -> None:
    adapters = len(Store(line.project).artifacts("indigo", "lora_weights"))
    line.configure("training", learning_rate=0.004)
    ticks = sensor_ticks(line, 2)
    assert ticks[0]["requests"]
    assert "brought it live" in ticks[1]["skip"] or "what the project says" in ticks[1]["skip"]
    assert len(Store(line.project).artifacts("indigo", "lora_weights")) == adapters
    assert line.live() == 2


def test_garbage_collection_takes_nothing_that_is_needed(line) -> None:
    before = line.live()
    freed = line.adire("gc", "--keep", "1").stdout
    assert "indigo/promotion_verdict" in freed  # of the ruinous adapter and of other thresholds
    assert line.live() == before
    assert "differs" not in line.adire("status").stdout
    again = outcome(line.adire("materialize", "indigo").stdout)
    assert again["lora_weights"] == again["evaluation_report"] == "reused"
    assert list((line.project.home / "manifests" / "indigo" / "promotion_verdict").iterdir())
