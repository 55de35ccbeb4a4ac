"""How a release is asked for texts, and what they are worth."""

import json
from contextlib import nullcontext

import numpy as np

from adire_assets.core.files import read_json, write_json
from toy_family import ngram
from toy_family.steps import COUNTS, TEXTS, likeness


def requests(evaluation):
    entries = read_json(evaluation / TEXTS)
    return [{"prompt": one["prompt"], "seed": one["seed"]} for one in entries]


def expected(evaluation):
    return [one["likeness"] for one in read_json(evaluation / TEXTS)]


def repeated(serving):
    return 4


def probe(request):
    return request


def again(request, chance):
    return {**request, "seed": chance.randrange(1_000, 1_000_000)}


def inputs(request):
    prompt, seed = request["prompt"].encode(), request.get("seed", 0)
    return {"prompt": np.array([[prompt]], object), "seed": np.array([[seed]], np.int64)}


def content(outputs):
    return outputs["text"].reshape(-1)[0].decode()


def parity(evaluation, answers, on_cpu):
    evaluated = [one["text"] for one in read_json(evaluation / TEXTS)]
    same = sum(one.content == text for one, text in zip(answers, evaluated, strict=False))
    told = f"{same} of {len(answers)} texts are those of the evaluation"
    return {"passed": same == len(answers), "explanation": told}


def files(out, request):
    return [out]


def save(answer, paths):
    write_json(paths[0], {**answer.provenance, "text": answer.content})
    yield f"{paths[0]}: release {answer.release}: {answer.content}"


def read_provenance(file):
    return json.loads(file.read_text())


def position(provenance):
    return "the whole text"


def open_judge(judge, evaluation, device):
    model = ngram.read(judge / COUNTS)
    return nullcontext(lambda *asked: [likeness(model, *one) for one in zip(*asked, strict=True)])
