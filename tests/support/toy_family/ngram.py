"""A language model of characters: {the few before: {character: how often it follows them}}."""

import json
import math
import random
from collections import Counter

ORDER, LENGTH, END, ALPHABET = 4, 40, "\n", 128


def count(texts):
    found = {}
    for text in texts:
        for place, character in enumerate(text + END):
            for length in range(min(ORDER, place) + 1):
                found.setdefault(text[place - length : place], Counter())[character] += 1
    return found


def read(*files):
    """The model of all texts that were counted into these files."""
    found = {}
    for file in files:
        for context, following in json.loads(file.read_text()).items():
            found.setdefault(context, Counter()).update(following)
    return found


def probability(model, context, character):
    """Mixed with that in the shorter context, below all a uniform one (Witten and Bell 1991)."""
    following = model.get(context, {})
    shorter = probability(model, context[1:], character) if context else 1 / ALPHABET
    total, kinds = sum(following.values()), len(following)
    return (following.get(character, 0) + kinds * shorter) / (total + kinds) if total else shorter


def perplexity(model, text):
    """exp of the mean negative log-likelihood of the text's characters and its end; 1 is best."""
    logs = [
        math.log(probability(model, text[max(0, place - ORDER) : place], character))
        for place, character in enumerate(text + END)
    ]
    return math.exp(-sum(logs) / len(logs))


def write(model, prompt, seed):
    """How the model goes on after the prompt; the same for a seed."""
    drawn, text = random.Random(seed), prompt
    while len(text) < len(prompt) + LENGTH:
        context = text[-ORDER:]
        while context not in model:
            context = context[1:]
        following = sorted(model[context].items())
        [character] = drawn.choices([one for one, _ in following], [n for _, n in following])
        if character == END:
            break
        text += character
    return text[len(prompt) :]
