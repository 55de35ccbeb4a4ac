"""MLflow versions of releases: numbers, aliases and tags."""

from adire_assets.tracking import registry
from tests.support.mlflow_runs import client, new_run, release
from tests.support.releases import release_numbers


def test_a_release_content_gets_its_number_once(mlflow_project):
    assert release_numbers(mlflow_project, "indigo") == {}
    run_id = new_run(mlflow_project)
    assert release(mlflow_project, "one", run_id=run_id, tags={"adire.verdict": "v"}) == 1
    assert release(mlflow_project, "two") == 2
    assert release(mlflow_project, "one") == 1
    assert release_numbers(mlflow_project, "indigo") == {"one": 1, "two": 2}
    version = client(mlflow_project).get_model_version("indigo", "1")
    assert version.run_id == run_id
    assert version.tags == {registry.CONTENT_HASH: "one", "adire.verdict": "v"}
    assert version.source == mlflow_project.root.as_uri()


def test_an_alias_moves_and_goes(mlflow_project):
    assert registry.aliases(mlflow_project, "indigo") == {}
    registry.delete_alias(mlflow_project, "indigo", "champion")
    release(mlflow_project, "one")
    release(mlflow_project, "two")
    registry.set_alias(mlflow_project, "indigo", "champion", 1)
    registry.set_alias(mlflow_project, "indigo", "challenger", 2)
    registry.set_alias(mlflow_project, "indigo", "champion", 2)
    assert registry.aliases(mlflow_project, "indigo") == {"champion": 2, "challenger": 2}
    registry.delete_alias(mlflow_project, "indigo", "challenger")
    assert registry.aliases(mlflow_project, "indigo") == {"champion": 2}


def test_a_release_is_tagged_and_a_tag_goes_again(mlflow_project):
    number = release(mlflow_project, "c" * 64)
    approved = {"adire.approved_by": "ada", "adire.approved_reason": "rounder"}
    registry.tag_release(mlflow_project, "indigo", number, approved)
    tags = client(mlflow_project).get_model_version("indigo", str(number)).tags
    assert approved.items() <= tags.items()
    for _ in range(2):  # what is gone may be taken away again
        registry.tag_release(mlflow_project, "indigo", number, dict.fromkeys(approved))
    assert (
        not approved.keys()
        & client(mlflow_project).get_model_version("indigo", str(number)).tags.keys()
    )


def test_a_release_is_described(mlflow_project):
    number = release(mlflow_project, "c" * 64)
    registry.describe_release(mlflow_project, "indigo", number, "# indigo, release 1\n")
    version = client(mlflow_project).get_model_version("indigo", str(number))
    assert version.description == "# indigo, release 1\n"
