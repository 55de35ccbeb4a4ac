"""The facts on a report's page: what an answer costs, and where everything comes from."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from adire_assets.gates.policy import shortened
from adire_assets.gates.report.document import Facts, number

Json = Mapping[str, Any]


def costs(timings: Json, champion: Json, answer: str) -> Iterable[tuple[str, str, str]]:
    """What an answer takes, with the champion's beside it: name, value, note."""
    for key, name, unit in (
        ("cold_load_seconds", "Loading, cold", "s"),
        (f"first_{answer}_seconds", f"First {answer}", "s"),
        (f"seconds_per_{answer}_mean", f"Seconds per {answer}", "s"),
        ("peak_memory_bytes", "Peak memory", "MiB"),
    ):
        if timings.get(key) is not None:
            other = champion.get(key)
            note = f"champion {_amount(other, unit)}" if other is not None else ""
            yield name, _amount(timings[key], unit), note
    if device := timings.get("device"):
        threads = timings.get("threads")
        yield "Device", device, f"{threads} threads" if device == "cpu" and threads else ""


def _amount(value: float, unit: str) -> str:
    return f"{number(value / 2**20 if unit == 'MiB' else value)} {unit}"


def lineage(evaluation: Json, adapter: Json, base: Json, report: Json) -> Iterable[Facts]:
    """What an evaluation, the adapter and its base, by their manifests, come from."""
    recipe = evaluation["recipe"]
    settings = recipe["config"]
    yield _facts(
        "Adapter",
        {
            **_code(adapter.get("code", {})),
            "Trained": adapter.get("created"),
            "Recipe key": adapter.get("key"),
            "Content hash": adapter.get("content_hash"),
            "Training seed": adapter.get("seed"),
            "MLflow run": adapter.get("mlflow_run_id"),
        },
    )
    yield _facts(
        "Data and base model",
        {
            "DVC hash": adapter.get("dvc_hash"),
            "Data hash": adapter.get("data_hash"),
            "Dataset": adapter.get("dataset", {}).get("content_hash"),
            "Base model": base.get("source"),
            "Revision": base.get("revision"),
            "Base content": base.get("content_hash"),
        },
    )
    yield _facts(
        "Evaluation",
        {
            **_code(evaluation.get("code", {})),
            "Made": evaluation.get("created"),
            "Seeds, of the first prompt": ", ".join(map(str, report.get("seeds", ()))),
            **{
                name.replace("_", " ").capitalize(): shortened(value)
                for name, value in settings.items()
                if name not in ("judge", "seeds") and value not in (None, "", [], {})
            },
            "Judge": report.get("judge"),
            "Judge's content": recipe["inputs"].get("judge"),
            "Recipe key": evaluation.get("key"),
            "Content hash": evaluation.get("content_hash"),
            "Processor": evaluation.get("hardware", {}).get("cpu"),
        },
    )
    yield _facts("Hyperparameters", adapter["recipe"]["config"], dense=True)
    yield _facts("Libraries and hardware", recipe["environment"], dense=True)


def _facts(heading: str, values: Json, *, dense: bool = False) -> Facts:
    known = {name: _plain(v) for name, v in values.items() if dense or v not in (None, "")}
    return Facts(heading, known, dense)


def _plain(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, Sequence):
        return ", ".join(map(str, value)) or "none"
    if isinstance(value, Mapping):
        return ", ".join(f"{name}: {item}" for name, item in value.items()) or "none"
    return json.dumps(value)


def _code(identity: Json) -> dict[str, Any]:
    build = {"Build": identity["build"]} if "build" in identity else {}
    if "commit" not in identity:
        return build
    changed = "with local changes that the commit lacks" if identity.get("dirty") else "clean"
    return {"Git commit": identity["commit"], "Working tree": changed, **build}


def json_of(path: Path) -> Any:
    """The content of a file; empty where there is none."""
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
