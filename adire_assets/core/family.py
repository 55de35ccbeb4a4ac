"""The plug of a family, that is of a kind of model such as diffusion.

A family is found by its name, the `family` of a model's YAML, among the entry points of the group
`adire_assets.families`, so that a package outside this one can bring one:

    [project.entry-points."adire_assets.families"]
    diffusion = "adire_assets.families.diffusion:FAMILY"

Asking for one family imports no other. The entry point is the family's package itself, which
imports no torch, numpy or MLflow, since Dagster's processes ask for it; what does lies behind the
names of modules.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

from adire_assets.core.answer import Served
from adire_assets.core.errors import UserError

GROUP = "adire_assets.families"


@dataclass(frozen=True)
class Step:
    """The code of one step of the line: the first of `modules` holds its functions, and all of them
    with what they import are part of the recipe key."""

    modules: tuple[str, ...]

    def job(self, function: str) -> str:
        """The function of this name, as a worker child is told it."""
        return f"{self.modules[0]}:{function}"

    @property
    def functions(self) -> Any:
        """The module of the functions, imported into this process."""
        return import_module(self.modules[0])


@dataclass(frozen=True)
class Family:
    """What one kind of model brings. Code is named, and imported when it is asked for.

    `config` is "module:class", the schema of its YAML: a subclass of `config.model.ModelConfig`.
    `gates` is that of its section evaluation.gates: a subclass of `config.gates.GateConfig`, with
    the table of its gates; its module is part of the verdict's recipe key.
    `answer` is what a model answers with, in a word such as "image": an evaluation's report and
    timings say `images`, `seconds_per_image_mean` and so on.
    `packages` are the distributions whose versions are part of what is trained and evaluated, and
    `engines` what a library computes with: where code imports the one, the versions of all count.
    `plumbing` are the modules that hand values over and decide none (`core.lineage.PLUMBING`).

    Functions are told the folders of whole artifacts, whose content only the family reads.

    Worker functions, which run in a child process (see `core.worker`), by step:

        dataset   build(source, output, config, and where there is any taken_down), of all files in
                  the folder `source`; taken_down: identities of `core.shown.Item`s to leave out
        train     train(dataset, base_model, output, training, work, cache, device)
        trial     run(storage, study, number, and what train is given); storage: an SQLite file
        generate  draw(base_model, adapter, drawing, output, device)
                  measure(base_model, adapter, drawing, device)
        evaluate  score(dataset, adapter_images, base_images, judge, evaluation, output, device,
                  base_statistics)
        golden    redraw(golden, release, base, device, now, output)

    Functions that are called in the process of the asset:

        weights   recipe(project, model, config, kind) and make(project, config, recipe, folder,
                  run_worker), which gives the manifest's "source" and "revision": base and judge,
                  see `config.held_weights`;
                  find_again(project, base_model, folder): the base model that a manifest names,
                  once more from its source
        dataset   build(source, output, config, files, and where there is any taken_down), of these
                  files
        shows     of_dataset(folder), of_adapter(folder), of_evaluation(folder): lists of
                  `core.shown.Shown`; where a training hands its progress a folder, of_validation of
                  that folder likewise; items(dataset, files): its `core.shown.Item`s, `files` being
                  those that it was made of, with left-out copies of an item as items of their own;
                  file_items(file, name, config, datasets): those of a file of the data as it is
                  now, and what `datasets` have of the same image in other bytes; UserError for a
                  file that has none
        data      a change of the data before it is kept (`ops.data_draft`): TAKES, in words what
                  can be added, and ENDINGS, of its files; TEXT, what an item's own text is called
                  ("": it has none); is_item(name): whether a file is an item, or says something of
                  others; judge(source, files, draft, added, config, taken_down, memory, pictures),
                  in a child: what the dataset step says of the files `added` in `draft` beside
                  those in `source`, see families/diffusion/data/changes.py; texts(source, files):
                  {file: its text}; lay_down(source, files, draft, items, texts, removed, output):
                  {file: its new content, None: gone}; with TEXT propose(judge, files, data,
                  evaluation), in a child: {file: text}
        drawing   drawing_of(evaluation, dataset): what generate draws; TIMED_BY, the settings that
                  its time depends on, as far as they are in there
        samples   samples(evaluation, dataset): the `core.sample.Sample`s of an evaluation
        launch    launched(training, device, base_model), see the method of this name
        golden    write_evaluated(evaluation, folder), conditions(environment, hardware, threads),
                  Comparison: from_dict(comparison.json), changed, sentence(), sentences()
        formats   export(adapter, base_model, format, file, facts), import_(file, base_model,
                  folder); each gives the format's name
        trial     METRIC and DIRECTION ("minimize" or "maximize") that trials are compared by, a key
                  of what `run` gives; UNPRUNED_TRIALS, that nobody gives up; refusal(dataset)
        sabotages sabotages(training): {name: `core.sabotage.Sabotage`}, for the benchmark of the
                  gates; UNNEEDED, settings of a training that only cost time there

    What is served (see `serving.release`): the files of the folder `backend`, below the project or
    absolute, of which config.pbtxt and *.json are templates of `name`, `base_model` (the folder of
    the base, below base_models/ of a slot) and the keys of `serving`; of the
    modules `release.modules`, which import nothing of the project; and of the `adapter_files`,
    of which the first has the weights.
    `protocols` are those that a release is asked by (`serving.gateway.protocol`): it comes into
    slots whose server speaks them all. With stream.pbtxt in `backend`, Triton serves it a second
    time, as `<model>_stream`, by config.pbtxt and what stream.pbtxt adds to that; `streams` is the
    protocol by which that is asked. Where releases can be served in several ways, the key
    `serving.engine` chooses, and `by_engine` has what is other than above: see `served_by`.
    `served` tells how answers are asked for, kept and judged:

        serve    requests(evaluation): what its answers were asked for by, as JSON, each with its
                 `prompt`; expected(evaluation): the score of each; repeated(serving): how many of
                 them a release must repeat; probe(request): the cheapest of its kind;
                 again(request, random): one that was not evaluated; inputs(request): {name: array}
                 of the backend, and prompt(inputs) back from that; its outputs are `release`,
                 `provenance` (JSON; `device`, `software` and `request` of it are told) and what
                 content(outputs) makes an answer's content of; piece(outputs): what a piece of a
                 stream has, where there are streams, with `served.chat` its text, and whole(list of
                 outputs), where they have another protocol: their `content`; parity(evaluation,
                 answers, on_cpu): {passed, explanation} and what was measured; where answers tell
                 what they took, together(serving, request): requests like it that are worked on
                 together, and usual_request(serving, told) by the provenance of their answers: a
                 `core.answer.UsualRequest`, None when that does not tell
        answers  files(out, request): the files of an answer; save(answer, files): a line for each;
                 demonstrate(evaluation, ask, out): what `adire demo` shows of a live release, in
                 lines, by ask(request) -> Answer; the last line sums it up, `out` begins files;
                 read_provenance(file): None when it is no file of an answer, {model, release,
                 release_hash} alone when it only names its release; position(provenance): which
                 part of its answer a file is, in words, and part(provenance) by its number from 0;
                 rewritten(file, out, expected): whether the answer in a file by anybody has the
                 digest `expected` (see `core.answer_token`), and is written anew with nothing
                 else in it; of streams that are no
                 chat, progress(piece): a `core.answer.Progress`, and with_previews(request, count),
                 which asks for some
        judge_process   open_judge(judge, evaluation, device): a context with the function
                 (prompts, contents) -> scores, which judges answers of the release with this
                 evaluation while it goes live
        signals  open_signals(judge, evaluation, device): a context with the function (prompts,
                 contents) -> {name: number} of each, which measures answers that users got of the
                 release with this evaluation; NaN says nothing

    What `score` writes is read by gates, report and comparison, for the answer "image":

        report.json     adapter_problems (a list; empty is sound), metrics {name: {unit, better}},
                        prompts, seeds, and what the gates' table names; images, held_out_images,
                        judge and <metric>_held_out_mean are told where they are there
        timings.json    seconds_per_image_mean, and where measured seconds_per_image (a list),
                        seconds_per_image_p95, first_image_seconds, cold_load_seconds,
                        peak_memory_bytes, device, threads, by_batch_size (a list of batch_size,
                        images_per_second, seconds_per_image_p50 and _p95)
        statistics.*    `core.statistic.save_statistics` of each metric, prompt by prompt and
                        within a prompt seed by seed
    """

    name: str
    config: str
    gates: str
    answer: str
    packages: tuple[str, ...]
    plumbing: tuple[str, ...]
    backend: Path
    adapter_files: tuple[str, ...]
    served: Served
    weights: Step
    dataset: Step
    train: Step
    drawing: Step
    generate: Step
    evaluate: Step
    release: Step
    serve: Step
    answers: Step
    samples: Step
    shows: Step
    judge_process: Step
    engines: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    protocols: tuple[str, ...] = ("kserve-grpc", "kserve-http")
    streams: str = ""
    by_engine: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    launch: Step | None = None  # without: a training is one process
    data: Step | None = None  # without: data is changed by hand and `dvc add` only
    trial: Step | None = None  # without: `adire search` refuses
    golden: Step | None = None  # without: nothing is made again after an upgrade
    sabotages: Step | None = None
    signals: Step | None = None  # without: answers that users got are not measured
    formats: Step | None = None  # without: `adire export` and `adire import` refuse

    def served_by(self, engine: str) -> "Family":
        """The family as its releases with this `serving.engine` are served; "": as it is."""
        return replace(self, **self.by_engine.get(engine, {})) if engine else self

    def schema(self) -> type[Any]:
        """The class that `config` names."""
        return _imported(self.name, self.config)

    def launched(
        self, training: Mapping[str, Any], device: str, base_model: Path
    ) -> tuple[tuple[str, ...], dict[str, Any]]:
        """(the launcher of a training, the section `training` that its processes are told)."""
        if self.launch is None:
            return (), dict(training)
        return self.launch.functions.launched(training, device, base_model)

    def gate_config(self) -> type[Any]:
        """The class that `gates` names."""
        return _imported(self.name, self.gates)


def family_names() -> list[str]:
    """The families that are installed, whether they can be loaded or not, sorted."""
    return sorted(_installed())


def told() -> str:
    """The installed families, for a sentence."""
    known = ", ".join(family_names())
    return f"installed families: {known or 'none; run `pip install` for the package again'}"


@cache
def family(name: str) -> Family:
    """The family of this name. UserError, in one sentence, for one that is missing or broken."""
    found = _installed().get(name)
    if found is None:
        raise UserError(f"there is no family {name!r}; {told()}")
    loaded = _imported(name, found.value)
    if not isinstance(loaded, Family) or loaded.name != name:
        raise _broken(name, found.value, "it is no Family of that name")
    return loaded


def is_plumbing(module: str) -> bool:
    """Whether a module of a family, or its plug, decides nothing about what is made.

    Only the family whose package the module lies in is loaded.
    """
    point = _point_of(module)
    if point is None:
        return False
    return module == point.module or module in family(point.name).plumbing


def engines(modules: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Library -> those that it computes with, as the families say that these modules lie in."""
    points = {point.name for module in modules if (point := _point_of(module))}
    return {name: what for one in points for name, what in family(one).engines.items()}


def _point_of(module: str) -> EntryPoint | None:
    """The entry point of the family that a module lies in, or whose plug it is."""
    inside = (p for p in _installed().values() if f"{module}.".startswith(f"{p.module}."))
    return next(inside, None)


def forget() -> None:
    """Look anew at what is installed."""
    _installed.cache_clear()
    family.cache_clear()


def _imported(name: str, reference: str) -> Any:
    try:
        return resolve_name(reference)
    except Exception as error:  # whatever a module of somebody else raises while it is imported
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise _broken(name, reference, reason) from error


def _broken(name: str, reference: str, reason: str) -> UserError:
    return UserError(
        f"family {name!r} cannot be loaded from {reference} ({reason}); mend or reinstall the "
        f"package that brings it; {told()}"
    )


@cache
def _installed() -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=GROUP)}
