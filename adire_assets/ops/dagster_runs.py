"""Runs of Dagster, asked for over the GraphQL of the webserver that `adire up` starts.

Nothing here imports dagster: who asks is not part of it. A webserver that does not answer, and one
that refuses, is a UserError.
"""

import threading
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import requests

from adire_assets.config.fleet import load_fleet
from adire_assets.core.errors import UserError
from adire_assets.core.project import Project
from adire_assets.line.changes import MODEL_TAG, NOISE, WHY_TAG
from adire_assets.serving.connection import host_and_port

SECONDS = 10.0  # timeout of one question
WAITING = ("QUEUED", "NOT_STARTED", "MANAGED")
UNDER_WAY = (*WAITING, "STARTING", "STARTED", "CANCELING")
KEPT_LOGS, KEPT_LINES = 32, 200  # runs whose log is kept, and lines of each
RUNS = """
query ($tag: String!, $model: String!, $limit: Int!) {
  runsOrError(filter: {tags: [{key: $tag, value: $model}]}, limit: $limit) {
    ... on Runs {
      results { runId jobName status creationTime startTime endTime tags { key value } }
    }
    ... on Error { message }
  }
}"""
LOG = """
query ($run: ID!, $after: String) {
  logsForRun(runId: $run, afterCursor: $after) {
    ... on EventConnection {
      cursor
      hasMore
      events {
        __typename
        ... on MessageEvent { message level stepKey }
        ... on ExecutionStepFailureEvent {
          error { className message causes { message } }
          failureMetadata { description }
        }
        ... on AssetCheckEvaluationEvent {
          evaluation { success severity description assetKey { path } }
        }
      }
    }
    ... on Error { message }
  }
}"""
JOBS = """
query {
  repositoriesOrError {
    ... on RepositoryConnection { nodes { name location { name } jobs { name } } }
    ... on Error { message }
  }
}"""
RELOAD = "mutation { reloadWorkspace { __typename ... on Error { message } } }"
LAUNCH = """
mutation ($wanted: ExecutionParams!) {
  launchRun(executionParams: $wanted) {
    __typename
    ... on LaunchRunSuccess { run { runId } }
    ... on RunConfigValidationInvalid { errors { message } }
    ... on Error { message }
  }
}"""
TERMINATE = """
mutation ($run: String!) {
  terminateRun(runId: $run) {
    __typename
    ... on TerminateRunFailure { message }
    ... on Error { message }
  }
}"""
DAEMON = """
query {
  instance {
    daemonHealth { daemonStatus(daemonType: "QUEUED_RUN_COORDINATOR") { healthy required } }
  }
}"""


@dataclass(frozen=True)
class Run:
    """A run of a model's line or of a part of it; times in seconds since 1970."""

    id: str
    job: str
    status: str  # Dagster's, in capitals
    created: float
    started: float | None
    ended: float | None
    tags: Mapping[str, str]

    @property
    def short(self) -> str:
        return f"run {self.id[:8]}"

    @property
    def why(self) -> str:
        """Why it was started, or where."""
        return self.tags.get(WHY_TAG, "started in Dagster's UI")

    @property
    def under_way(self) -> bool:
        return self.status in UNDER_WAY

    @property
    def waits(self) -> bool:
        """Whether it is in Dagster's queue."""
        return self.status in WAITING


@dataclass
class RunLog:
    """What is known of a run by its log, and how far that has been read."""

    cursor: str | None = None
    steps: dict[str, str] = field(default_factory=dict)  # step -> now, done, failed or left out
    said: list[str] = field(default_factory=list)  # by the steps
    problems: list[str] = field(default_factory=list)  # gates that refused, steps that failed
    lock: threading.Lock = field(default_factory=threading.Lock)


_logs: "OrderedDict[str, RunLog]" = OrderedDict()


def latest_runs(project: Project, model: str, limit: int = 1) -> list[Run]:
    """The runs of a model, the latest first."""
    asked = {"tag": MODEL_TAG, "model": model, "limit": limit}
    return [
        Run(
            one["runId"],
            one["jobName"],
            one["status"],
            one["creationTime"],
            one["startTime"],
            one["endTime"],
            {tag["key"]: tag["value"] for tag in one["tags"]},
        )
        for one in _ask(project, RUNS, **asked)["results"]
    ]


def log_of(project: Project, run: Run) -> RunLog:
    """What a run has said until now; only what is new is asked for."""
    log = _logs.setdefault(run.id, RunLog())
    _logs.move_to_end(run.id)
    while len(_logs) > KEPT_LOGS:
        _logs.popitem(last=False)
    with log.lock:
        more = True
        while more:
            found = _ask(project, LOG, run=run.id, after=log.cursor)
            log.cursor, more = found["cursor"], found["hasMore"]
            for event in found["events"]:
                _read(log, event)
        del log.said[:-KEPT_LINES]
    return log


def launch(project: Project, job: str, tags: Mapping[str, str]) -> str:
    """Put a run of this job into Dagster's queue; its id. UserError when Dagster refuses."""
    place = _place(project, job)
    if place is None:  # a model that is newer than the webserver
        _ask(project, RELOAD)
        place = _place(project, job)
    if place is None:
        raise UserError(
            f"Dagster has no job {job}: its code location cannot be loaded, see Dagster's UI, or "
            "the model is disabled"
        )
    labels = [{"key": name, "value": value} for name, value in tags.items()]
    wanted = {"selector": place, "runConfigData": {}, "executionMetadata": {"tags": labels}}
    found = _ask(project, LAUNCH, wanted=wanted)
    if found["__typename"] != "LaunchRunSuccess":
        reasons = [one["message"] for one in found.get("errors", ())] or [found.get("message")]
        raise UserError(f"Dagster does not start {job}: {'; '.join(map(str, reasons))}")
    return str(found["run"]["runId"])


def terminate(project: Project, run: Run) -> None:
    """Ask a run to end. UserError when Dagster cannot do it."""
    found = _ask(project, TERMINATE, run=run.id)
    if found["__typename"] != "TerminateRunSuccess":
        raise UserError(
            f"Dagster cannot stop {run.short} ({found.get('message', found['__typename'])}); if it "
            "was started at a terminal, press Ctrl-C there"
        )


def queue_is_served(project: Project) -> bool:
    """Whether Dagster's daemon runs, which takes runs out of the queue."""
    status = _ask(project, DAEMON)["daemonHealth"]["daemonStatus"]
    return bool(status["healthy"]) or not status["required"]


def _place(project: Project, job: str) -> dict[str, str] | None:
    """Where Dagster has a job: the selector that names it."""
    for one in _ask(project, JOBS)["nodes"]:
        if job in (known["name"] for known in one["jobs"]):
            return {
                "jobName": job,
                "repositoryName": one["name"],
                "repositoryLocationName": one["location"]["name"],
            }
    return None


def _ask(project: Project, query: str, **variables: Any) -> Any:
    """The answer to the one field of a query."""
    web = load_fleet(project).dagster
    address = f"http://{host_and_port(web.host, web.port)}"
    try:
        with requests.Session() as session:
            session.trust_env = False  # no proxy stands before loopback
            asked: Any = {"query": query, "variables": variables}
            answer = session.post(f"{address}/graphql", json=asked, timeout=SECONDS)
        told = answer.json()
    except (requests.RequestException, ValueError) as error:
        raise UserError(
            f"Dagster does not answer at {address} ({type(error).__name__}); start it with "
            "`adire up`, or ask somebody who can"
        ) from None
    if wrong := told.get("errors"):
        raise UserError(f"Dagster at {address} refuses a question: {wrong[0]['message']}")
    [found] = told["data"].values()
    if found.keys() == {"message"}:
        raise UserError(f"Dagster at {address}: {found['message']}")
    return found


def _read(log: RunLog, event: Mapping[str, Any]) -> None:
    """Add an event to what is known of its run."""
    step = str(event.get("stepKey") or "").rpartition("__")[2]
    match event["__typename"]:
        case "ExecutionStepStartEvent":
            log.steps[step] = "now"
        case "ExecutionStepSuccessEvent":
            log.steps[step] = "done"
        case "ExecutionStepSkippedEvent":
            log.steps[step] = "left out"
        case "ExecutionStepFailureEvent":
            log.steps[step] = "failed"
            _problem(log, _cause(event))
        case "AssetCheckEvaluationEvent":
            check = event["evaluation"]
            if not check["success"] and check["severity"] == "ERROR":
                name = "/".join(check["assetKey"]["path"])
                _problem(log, f"{name}: refused by the gate {check['description']}")
        case "LogMessageEvent":
            said = event["message"]
            if event["level"] != "DEBUG" and not said.startswith(NOISE):
                log.said.append(said)


def _problem(log: RunLog, sentence: str | None) -> None:
    if sentence and sentence not in log.problems:  # two checks may say the same
        log.problems.append(sentence)


def _cause(event: Mapping[str, Any]) -> str | None:
    """A failed step in a sentence: the cause, without Dagster's wrapping."""
    error, facts = event["error"] or {}, event["failureMetadata"] or {}
    if error.get("className") == "DagsterAssetCheckFailedError":  # the check itself says why
        return None
    causes = error.get("causes") or [error]
    text = facts.get("description") or causes[-1].get("message") or "it failed without a word"
    return f"{str(event['stepKey']).replace('__', '/')}: {' '.join(text.split())}"
