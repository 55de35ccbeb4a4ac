"""Runs of Dagster, asked for over the GraphQL of the webserver that `adire up` starts.

Nothing here imports dagster: who asks is not part of it. A webserver that does not answer, and one
that refuses, is a UserError.
"""

import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import requests

from adire_assets.config.fleet import load_fleet
from adire_assets.core.errors import UserError
from adire_assets.core.project import Project
from adire_assets.gates.policy_comparison import VERDICT
from adire_assets.line.changes import MODEL_TAG, ROLLOUT_CHECK, WHY_TAG
from adire_assets.serving.connection import host_and_port

SECONDS, MUTATION_SECONDS = 10.0, 60.0  # timeouts of a question and of what changes something
WAITING = ("QUEUED", "NOT_STARTED", "MANAGED")
UNDER_WAY = (*WAITING, "STARTING", "STARTED", "CANCELING")
MOST_UNDER_WAY = 100
KEPT_LOGS, KEPT_LINES = 32, 200  # runs whose log is kept, and lines of each
# Dagster's own words, though they come as messages; dagster-mlflow calls every run a new one.
NOISE = ("[pipes]", "Dependencies for step", "Starting a new mlflow run")
ERRORS = ("PythonError", "UnauthorizedError")
INTERRUPTS = ("DagsterExecutionInterruptedError", "KeyboardInterrupt")
RUNS = """
query ($tag: String!, $model: String!, $statuses: [RunStatus!], $limit: Int!) {
  runsOrError(filter: {tags: [{key: $tag, value: $model}], statuses: $statuses}, limit: $limit) {
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
          error { className message causes { className message } }
          failureMetadata { description }
        }
        ... on AssetCheckEvaluationEvent {
          evaluation { checkName success severity description assetKey { path } }
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
    steps: dict[str, str] = field(
        default_factory=dict
    )  # step -> now, done, failed, stopped or left out
    said: list[str] = field(default_factory=list)  # by the steps
    problems: list[str] = field(default_factory=list)  # checks and steps that failed
    refused: list[str] = field(default_factory=list)  # by these gates; or "rollout"
    lock: threading.Lock = field(default_factory=threading.Lock)


_logs: "OrderedDict[str, RunLog]" = OrderedDict()
_logs_lock = threading.Lock()


def latest_run(project: Project, model: str) -> Run | None:
    """The latest run of a model; one that is under way goes before those that have ended."""
    found = runs_under_way(project, model) or _runs(project, model, None, 1)
    return found[0] if found else None


def runs_under_way(project: Project, model: str) -> list[Run]:
    """All runs of a model that have not ended, the latest first."""
    return _runs(project, model, UNDER_WAY, MOST_UNDER_WAY)


def _runs(project: Project, model: str, statuses: Sequence[str] | None, limit: int) -> list[Run]:
    asked = {"tag": MODEL_TAG, "model": model, "statuses": statuses, "limit": limit}
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
    with _logs_lock:
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
    changes_something = query.lstrip().startswith("mutation")
    seconds = MUTATION_SECONDS if changes_something else SECONDS
    try:
        with requests.Session() as session:
            session.trust_env = False  # no proxy stands before loopback
            asked: Any = {"query": query, "variables": variables}
            answer = session.post(f"{address}/graphql", json=asked, timeout=seconds)
        told = answer.json()
    except requests.Timeout:
        looks = "; look whether the run has started before you try again"
        raise UserError(
            f"Dagster at {address} did not answer within {seconds:.0f} s"
            f"{looks if changes_something else ''}"
        ) from None
    except (requests.RequestException, ValueError) as error:
        raise UserError(
            f"Dagster does not answer at {address} ({type(error).__name__}); start it with "
            "`adire up`, or ask somebody who can"
        ) from None
    if wrong := told.get("errors"):
        raise UserError(f"Dagster at {address} refuses a question: {wrong[0]['message']}")
    if not told.get("data"):
        raise UserError(f"what answers at {address} is not Dagster; look at its port in the fleet")
    [found] = told["data"].values()
    if found.keys() == {"message"} or found.get("__typename") in ERRORS:
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
        case "ExecutionStepFailureEvent" if _interrupted(event):
            log.steps[step] = "stopped"
        case "ExecutionStepFailureEvent":
            log.steps[step] = "failed"
            _problem(log, _cause(event))
        case "RunFailureEvent" | "RunCanceledEvent" as ended:
            # A process that was killed does not say how its step ended.
            for name in [one for one, how in log.steps.items() if how == "now"]:
                log.steps[name] = "stopped"
            if ended == "RunFailureEvent" and not log.problems:
                _problem(log, event["message"])
        case "AssetCheckEvaluationEvent":
            check = event["evaluation"]
            if not check["success"] and check["severity"] == "ERROR":
                path, name = check["assetKey"]["path"], check["checkName"]
                by_a_gate = path[-1] == VERDICT
                if by_a_gate or name == ROLLOUT_CHECK:
                    log.refused.append(name)
                what = "refused by the gate " if by_a_gate else ""
                _problem(log, f"{'/'.join(path)}: {what}{check['description']}")
        case "LogMessageEvent":
            said = event["message"]
            if event["level"] != "DEBUG" and not said.startswith(NOISE):
                log.said.append(said)


def _problem(log: RunLog, sentence: str | None) -> None:
    if sentence and sentence not in log.problems:  # two checks may say the same
        log.problems.append(sentence)


def _interrupted(event: Mapping[str, Any]) -> bool:
    """Whether somebody stopped a step, so that nothing is wrong with it."""
    error = event["error"] or {}
    return any(one.get("className") in INTERRUPTS for one in (error, *error.get("causes", ())))


def _cause(event: Mapping[str, Any]) -> str | None:
    """A failed step in a sentence: the cause, without Dagster's wrapping."""
    error, facts = event["error"] or {}, event["failureMetadata"] or {}
    if error.get("className") == "DagsterAssetCheckFailedError":  # the check itself says why
        return None
    causes = error.get("causes") or [error]
    text = facts.get("description") or causes[-1].get("message") or "it failed without a word"
    return f"{str(event['stepKey']).replace('__', '/')}: {' '.join(text.split())}"
