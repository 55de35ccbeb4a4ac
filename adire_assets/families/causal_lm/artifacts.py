"""What lies in the artifacts of a language model, and how it is found there."""

BASE = "base"  # folder of the base model's files in its artifact
ASKED = "asked.json"  # of an evaluation: how its answers were asked for
WORDS = "words.json"  # of the judge: what no answer may say
