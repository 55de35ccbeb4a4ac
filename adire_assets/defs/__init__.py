"""The Dagster shell: everything that imports dagster, and nothing that decides anything."""

import logging
import sys

import dagster as dg

from adire_assets.config.model import family_of, names_not_disabled
from adire_assets.config.model import models as configured
from adire_assets.core.project import Project
from adire_assets.defs.assets import model_assets
from adire_assets.defs.checks import golden_check
from adire_assets.defs.feedback import feedback_asset, feedback_schedule
from adire_assets.defs.resources import ChildProcesses, MlflowTracking, ReferenceIOManager
from adire_assets.defs.rollouts import rollout_job, rollout_sensor
from adire_assets.defs.sensors import (
    approval_sensor,
    broken_models,
    deployment_job,
    model_sensor,
)
from adire_assets.line.changes import MODEL_TAG, line_job
from adire_assets.ops.dagster_runs import NOISE


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


def build_definitions(project: Project, also: str | None = None) -> dg.Definitions:
    """Assets, jobs and sensors of every enabled model in configs/models, and of the model `also`.

    An enabled model whose YAML is no good keeps no other from being shown: the sensor
    `broken_models` says what is wrong with it. Of disabled ones `adire status` says it.
    """
    sound, broken = configured(project, names_not_disabled(project, also))
    for sentence in broken.values():
        dg.get_dagster_logger().warning(sentence)
    root = str(project.root)
    shared = dg.Definitions(
        sensors=[broken_models(broken)] if broken else [],
        resources={
            "references": ReferenceIOManager(project_root=root),
            "children": ChildProcesses(project_root=root),
            "mlflow": MlflowTracking(project_root=root),
        },
        loggers={"console": dg.colored_console_logger, "lines": lines_logger},
        # Heavy work runs in child processes already; a process per step would only cost imports.
        executor=dg.in_process_executor,
    )
    shown = [name for name, config in sound.items() if config.enabled or name == also]
    return dg.Definitions.merge(shared, *(_of_model(project, model) for model in shown))


def _of_model(project: Project, model: str) -> dg.Definitions:
    line = dg.define_asset_job(
        line_job(model),
        selection=dg.AssetSelection.groups(model),
        tags={MODEL_TAG: model},
        description=f"The whole line of {model}: from its data to the live model.",
    )
    rollout, deployment = rollout_job(project, model), deployment_job(model)
    return dg.Definitions(
        assets=[*model_assets(project, model), feedback_asset(project, model)],
        asset_checks=[golden_check(project, model)] if family_of(project, model).golden else [],
        jobs=[line, rollout, deployment],
        schedules=[feedback_schedule(model)],
        sensors=[
            model_sensor(project, model, line.name),
            rollout_sensor(project, model, rollout),
            approval_sensor(project, model, deployment.name),
        ],
    )
