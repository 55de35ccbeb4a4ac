"""The Dagster shell: everything that imports dagster, and nothing that decides anything."""

import logging
import sys

import dagster as dg

from adire_assets.config.model import models as configured
from adire_assets.core.family import family
from adire_assets.core.project import Project
from adire_assets.defs.approvals import approval_sensor, deployment_job
from adire_assets.defs.assets import model_assets
from adire_assets.defs.golden import golden_check
from adire_assets.defs.mlflow_resource import MlflowTracking
from adire_assets.defs.resources import ChildProcesses, ReferenceIOManager
from adire_assets.defs.rollouts import rollout_job, rollout_sensor
from adire_assets.defs.sensors import MODEL_TAG, broken_models, model_sensor

# Dagster's own, though they come as messages; dagster-mlflow calls every run a new one.
NOISE = ("[pipes]", "Dependencies for step", "Starting a new mlflow run")


@dg.logger(None, description="What the steps say, one line each, without Dagster's own events.")
def lines_logger(context: dg.InitLoggerContext) -> logging.Logger:
    logger = logging.Logger("adire", logging.INFO)
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(logging.Formatter("%(orig_message)s"))
    handler.addFilter(_says_something)
    logger.addHandler(handler)
    return logger


def _says_something(record: logging.LogRecord) -> bool:
    meta = getattr(record, "dagster_meta", {})
    text = meta.get("orig_message", record.getMessage())
    record.__dict__["orig_message"] = text
    return not meta.get("dagster_event") and not text.startswith(NOISE)


def build_definitions(project: Project) -> dg.Definitions:
    """Assets, job and sensor of every enabled model in configs/models.

    A model whose YAML is no good keeps no other from being shown: the sensor `broken_models` says
    what is wrong with it.
    """
    sound, broken = configured(project)
    models = [name for name, config in sound.items() if config.enabled]
    for sentence in broken.values():
        dg.get_dagster_logger().warning(sentence)
    jobs = {
        model: dg.define_asset_job(
            f"{model}_line",
            selection=dg.AssetSelection.groups(model),
            tags={MODEL_TAG: model},
            description=f"The whole line of {model}: from its data to the live model.",
        )
        for model in models
    }
    rollouts = {model: rollout_job(project, model) for model in models}
    deployments = {model: deployment_job(model) for model in models}
    root = str(project.root)
    return dg.Definitions(
        assets=[asset for model in models for asset in model_assets(project, model)],
        asset_checks=[
            golden_check(project, model) for model in models if family(sound[model].family).golden
        ],
        jobs=[*jobs.values(), *rollouts.values(), *deployments.values()],
        sensors=[
            *(model_sensor(project, model, job.name) for model, job in jobs.items()),
            *(rollout_sensor(project, model, job) for model, job in rollouts.items()),
            *(approval_sensor(project, model, job.name) for model, job in deployments.items()),
            *([broken_models(broken)] if broken else []),
        ],
        resources={
            "references": ReferenceIOManager(project_root=root),
            "children": ChildProcesses(project_root=root),
            "mlflow": MlflowTracking(project_root=root),
        },
        loggers={"console": dg.colored_console_logger, "lines": lines_logger},
        # Heavy work runs in child processes already; a process per step would only cost imports.
        executor=dg.in_process_executor,
    )
