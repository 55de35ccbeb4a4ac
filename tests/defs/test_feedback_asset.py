"""What users said on a day, as Dagster sees it."""

import shutil
from datetime import datetime
from pathlib import Path

import dagster as dg
import pytest

from adire_assets.core.project import Project
from adire_assets.defs import build_definitions
from adire_assets.defs.run import line_of
from adire_assets.monitoring import feedback
from adire_assets.serving.release import ReleaseRecord, write_record
from tests.support.feedback import token_of, wait_for_a_day

ROOT = Path(__file__).parents[2]
MODEL = "indigo"
KEY = dg.AssetKey(["Feedback", MODEL])


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """Releases 1 and 2 are known."""
    wait_for_a_day()
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    made = Project(tmp_path, tmp_path / ".adire")
    nothing = {"key": "", "content_hash": ""}
    facts = dict.fromkeys(("repository", "adapter", "base_model", "evaluation", "verdict"), nothing)
    for number in (1, 2):
        more = {"mlflow_run_id": None, "provenance": {}, "family": "diffusion"}
        content = {"repository": {"key": "", "content_hash": str(number)}}
        write_record(made, ReleaseRecord(MODEL, number, **{**facts, **content}, **more))
    return made


def test_a_day_is_materialized_with_the_figures_of_each_release(project: Project) -> None:
    for release, user, rating in ((1, "ada", 1), (2, "ada", 4), (2, "obi", 5)):
        feedback.keep(project, token_of(project, MODEL, release), user, rating=rating)
    [day] = feedback.days(project, MODEL)
    defs = build_definitions(project)
    job = defs.resolve_job_def(f"{MODEL}_feedback")
    with dg.instance_for_test() as instance:
        done = job.execute_in_process(instance=instance, partition_key=day)
        assert done.success
        [event] = done.asset_materializations_for_node(f"Feedback__{MODEL}")
        assert instance.get_materialized_partitions(KEY) == {day}
    assert event.metadata["count"].value == 3
    found = event.metadata["releases"].value
    assert [found[number]["count"] for number in ("1", "2")] == [1, 2]
    assert (found["1"]["bad"], found["2"]["mean"], found["2"]["users"]) == (1, 4.5, 2)


def test_it_is_no_part_of_the_line(project: Project) -> None:
    defs = build_definitions(project)
    graph = defs.resolve_asset_graph()
    assert KEY in graph.get_all_asset_keys() and KEY not in line_of(graph, MODEL)
    line = defs.resolve_job_def(f"{MODEL}_line")
    assert KEY not in line.asset_layer.executable_asset_keys and line.partitions_def is None
    selected = dg.AssetSelection.from_string(f"key:{MODEL}/*").resolve(graph)  # as README has it
    assert selected == {*line_of(graph, MODEL)}
    assert all(graph.get(key).partitions_def is None for key in selected)


def test_it_collides_with_no_model_of_that_name(project: Project) -> None:
    content = project.model_file(MODEL).read_text()
    project.model_file("feedback").write_text(content)
    defs = build_definitions(project)
    graph = defs.resolve_asset_graph()
    line = defs.resolve_job_def("feedback_line")
    assert line.asset_layer.executable_asset_keys == {*line_of(graph, "feedback")}
    assert dg.AssetKey(["Feedback", "feedback"]) in graph.get_all_asset_keys()


def test_each_night_the_day_before_is_materialized(project: Project) -> None:
    defs = build_definitions(project)
    schedule = defs.resolve_schedule_def(f"{MODEL}_feedback")
    at = dg.build_schedule_context(
        repository_def=defs.get_repository_def(), scheduled_execution_time=datetime(2026, 3, 2, 1)
    )
    [wanted] = schedule.evaluate_tick(at).run_requests
    assert wanted.partition_key == "2026-03-01"
