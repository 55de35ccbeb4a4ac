"""What the line has done: texts become counts, counts write texts, and texts are scored."""

import random
import time
from pathlib import Path

import numpy as np

from adire_assets.core.files import read_json, write_json
from adire_assets.core.lineage import Recipe, digest, file_digest
from adire_assets.core.sample import Answer, Sample
from adire_assets.core.shown import Item, Shown
from adire_assets.core.statistic import Statistic, save_statistics
from toy_family import ngram

COUNTS, TEXTS, TIMINGS, TIMED_BY = "counts.json", "texts.json", "timings.json", ()


def _file(project, config, kind):
    source = config.base_model if kind == "base_model" else config.evaluation.judge
    return project.inside(source.source, kind)


def recipe(project, model, config, kind):
    return Recipe(kind, model, inputs={"weights": file_digest(_file(project, config, kind))})


def make(project, config, recipe, folder, run_worker):
    file = _file(project, config, recipe.kind)
    write_json(folder / COUNTS, ngram.count(file.read_text().splitlines()))
    return {"source": file.name, "revision": None}


def build(*, source, output, config, files=None, progress=None, taken_down=()):
    found = [Path(source) / name for name in files] if files else Path(source).iterdir()
    where = {text: file.name for file in found for text in file.read_text().splitlines()}
    where = {text: name for text, name in where.items() if digest(text) not in taken_down}
    texts = sorted(where)
    write_json(Path(output) / "where.json", where)
    write_json(Path(output) / "held_out.json", texts[::4])
    write_json(Path(output) / "train.json", [text for text in texts if text not in texts[::4]])
    return {}


def train(*, dataset, output, training, progress, **others):
    texts = read_json(Path(dataset) / "train.json")
    if training["shuffled"]:
        drawn = random.Random(training["seed"])
        texts = ["".join(drawn.sample(text, len(text))) for text in texts]
    write_json(Path(output) / COUNTS, ngram.count(texts))
    progress(f"counted {len(texts)} texts", step=1, texts=len(texts))
    return {"texts": len(texts)}


def drawing_of(evaluation, dataset):
    return {"texts": read_json(dataset / "held_out.json"), "seeds": evaluation["seeds"]}


def draw(*, base_model, adapter, drawing, output, device, progress):
    model = ngram.read(*(Path(folder) / COUNTS for folder in (base_model, adapter) if folder))
    entries, began = [], time.perf_counter()
    for real in drawing["texts"]:
        prompt, perplexity = " ".join(real.split()[:2]), ngram.perplexity(model, real)
        for seed in drawing["seeds"]:
            entry = {"prompt": prompt, "seed": seed, "real": real, "perplexity": perplexity}
            entries.append({**entry, "text": ngram.write(model, prompt, seed)})
    timings = {"seconds_per_text_mean": (time.perf_counter() - began) / len(entries)}
    for name, content in ((TEXTS, entries), (TIMINGS, timings)) if output else ():
        write_json(Path(output) / name, content)
    return timings


def measure(**given):
    return draw(**given, output=None)


def likeness(model, prompt, text):
    return 1 / ngram.perplexity(model, prompt + text)


def score(*, adapter_images, base_images, judge, evaluation, output, **others):
    own, base = (read_json(Path(folder) / TEXTS) for folder in (adapter_images, base_images))
    model = ngram.read(Path(judge) / COUNTS)
    for entry, bare in zip(own, base, strict=True):
        score = likeness(model, entry["prompt"], entry["text"])
        entry |= {"base": bare["text"], "likeness": score}
    each, before = (np.array([one["perplexity"] for one in entries]) for entries in (own, base))
    save_statistics(Path(output), {"perplexity": Statistic(each=each)})
    report = {
        "scores": {"perplexity": each.mean()},
        "base_scores": {"perplexity": before.mean()},
        "adapter_problems": [],
        "metrics": {"perplexity": {"unit": "perplexity", "better": "lower"}},
        "prompts": len(own) // len(evaluation["seeds"]),
        "seeds": evaluation["seeds"],
    }
    timings = read_json(Path(adapter_images) / TIMINGS)
    for name, content in (("report.json", report), (TEXTS, own), (TIMINGS, timings)):
        write_json(Path(output) / name, content)
    return {}


def samples(evaluation, dataset):
    def one(place, entry):
        said = [entry["prompt"] + entry["text"], entry["prompt"] + entry["base"], entry["real"]]
        own, base, real = (Answer(lambda text=text: text) for text in said)
        own.scores["perplexity"] = entry["perplexity"]
        return Sample(f"{place:03}", entry["prompt"], entry["seed"], own, base, real)

    return [one(*found) for found in enumerate(read_json(evaluation / TEXTS))]


def of_dataset(folder):
    return [Shown("texts", "value", len(read_json(folder / "train.json")))]


def items(dataset, files):
    where = read_json(dataset / "where.json")
    for split in ("held_out", "train"):
        for text in read_json(dataset / f"{split}.json"):
            yield Item(split, where[text], None, digest(text))


def file_items(file, name, config, datasets):
    for text in file.read_text().splitlines():
        yield Item("", name, None, digest(text))


def of_adapter(folder):
    return [Shown("contexts", "value", len(read_json(folder / COUNTS)))]


def of_evaluation(folder):
    texts = (f"- {entry['prompt']}**{entry['text']}**" for entry in read_json(folder / TEXTS))
    return [Shown("written", "markdown", "\n".join(texts))]
