"""The asset `promotion_verdict`: whether an adapter may go live, gate by gate."""

from adire_assets.core.errors import UserError
from adire_assets.core.family import family
from adire_assets.core.project import Project
from adire_assets.core.store import Artifact, Built, Store
from adire_assets.core.worker import RunWorker
from adire_assets.gates import promotion
from adire_assets.gates.report import pages
from adire_assets.line.evaluate import evaluation_report
from adire_assets.tracking.runs import Tracked


def promotion_verdict(
    project: Project,
    evaluation: Artifact,
    config: Artifact,
    run_worker: RunWorker,
    tracked: Tracked,
) -> Built:
    """The decision, gate by gate, under the hashes of evaluation, policy and champion; and its page
    (`report.pages.page_path`), in MLflow as well.

    A champion that was evaluated on other data or with other settings is evaluated again first.
    """
    settings = config.json("config.json")
    policy = family(settings["family"]).gate_config()(**settings["gates"])
    champion, rival = promotion.rival_of(project, evaluation)
    if champion and rival is None:
        made_from = (evaluation.manifest["dataset"], champion.base_model, champion.adapter)
        dataset, base, adapter = (Store(project).open(reference) for reference in made_from)
        evaluation_report(
            project, dataset, base, adapter, config, run_worker, tracked, write_metrics=False
        )
        _, rival = promotion.rival_of(project, evaluation)
        if rival is None:
            raise UserError(
                f"{evaluation.model}: its evaluation was made with other code, libraries or "
                f"settings than evaluations are now, so the champion (release {champion.number}) "
                f"cannot be compared with it; materialize {evaluation.model}/evaluation_report "
                "again"
            )
    built = promotion.verdict_of(project, evaluation, policy, rival)
    if not pages.page_path(project, built.artifact).is_file():
        with tracked(evaluation.manifest["lora_weights"]["key"]) as run:
            pages.write_page(
                project, built.artifact, lambda page: run.log_artifact(str(page), "evaluation")
            )
    return built
