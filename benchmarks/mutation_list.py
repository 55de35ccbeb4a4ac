"""The promises that `mutations` breaks one by one: where, how, and which tests should notice.

Those of serving and keeping are in `serving_mutations`.
"""

from dataclasses import dataclass

STORE = "adire_assets/core/store.py"
LINEAGE = "adire_assets/core/lineage.py"
SOURCES = "adire_assets/line/sources.py"
PROMOTION = "adire_assets/gates/promotion.py"
VERDICT = "adire_assets/gates/verdict.py"
SPLITS = "adire_assets/families/diffusion/data/splits.py"


@dataclass(frozen=True)
class Mutation:
    """`before` stands in `file` once; one of `tests` (pytest's arguments) fails with `after`."""

    promise: str
    file: str
    before: str
    after: str
    tests: tuple[str, ...]


LINE = (
    # --- artifacts and their keys
    Mutation(
        "a failed step leaves nothing",
        STORE,
        "                shutil.rmtree(folder, ignore_errors=True)\n",
        "",
        ("tests/core/test_store.py",),
    ),
    Mutation(
        "two runs of one recipe make one artifact",
        STORE,
        "            if found := self.find(recipe):\n"
        "                return Built(found, reused=True)\n            folder",
        "            folder",
        ("tests/core/test_store.py",),
    ),
    Mutation(
        "a lock excludes others",
        "adire_assets/core/locks.py",
        "fcntl.flock(file, fcntl.LOCK_EX)",
        "fcntl.flock(file, fcntl.LOCK_SH)",
        ("tests/core/test_locks_contract.py",),
    ),
    Mutation(
        "a step's code is in its key",
        LINEAGE,
        '"code": self.code, ',
        '"code": "", ',
        ("tests/line/test_keys.py", "-k", "dataset or tiny_base"),
    ),
    Mutation(
        "the thread count is in the key of what the CPU computes",
        LINEAGE,
        '"threads": str(self.threads), ',
        "",
        ("tests/core/test_lineage.py",),
    ),
    Mutation(
        "code without a history is named by its own sources",
        LINEAGE,
        'f"tree-{digest(tree)[:40]}"',
        '"tree-0"',
        ("tests/core/test_lineage.py", "-k", "without_a_history"),
    ),
    Mutation(
        "the hash of the data is in the key of training_data",
        SOURCES,
        'inputs={"files": tree.hash}',
        'inputs={"files": ""}',
        ("tests/line/test_keys.py", "-k", "training_data"),
    ),
    Mutation(
        "hyperparameters are in the key of training_config",
        SOURCES,
        '"training": training, ',
        "",
        ("tests/line/test_keys.py", "-k", "training_config"),
    ),
    Mutation(
        "the hash of the weights is in the key of base_model",
        "adire_assets/families/diffusion/weights.py",
        'inputs={"weights": found.content_hash}, config={"variant": source.variant}',
        'config={"variant": source.variant}',
        ("tests/line/test_keys.py", "-k", "base_model"),
    ),
    Mutation(
        "the gates are in the key of evaluation_config",
        SOURCES,
        '        "gates": config.evaluation.gates.model_dump(),\n',
        "",
        ("tests/line/test_keys.py", "-k", "evaluation_config"),
    ),
    Mutation(
        "an artifact that was changed after it was made is refused",
        STORE,
        "        if content != artifact.content_hash:\n            changed",
        "        if not content:\n            changed",
        ("tests/core/test_store.py", "-k", "changed_file"),
    ),
    # --- data
    Mutation(
        "the split goes by an image's pixels",
        SPLITS,
        "        return splits.score(self.pixels)\n",
        "        return sum(self.source.encode()) * 0.618 % 1\n",
        ("tests/families/diffusion/data/test_splits.py", "-k", "side_depends_on_pixels"),
    ),
    Mutation(
        "near duplicates do not straddle the splits",
        SPLITS,
        "            if bits > config.near_duplicate_distance:\n                kept",
        "            if bits >= 0:\n                kept",
        ("tests/families/diffusion/data/test_splits.py",),
    ),
    Mutation(
        "what gates judge by is not what checkpoints are chosen by",
        "adire_assets/families/diffusion/training/examples.py",
        'read_rows(folder, "validation")',
        'read_rows(folder, "held_out")',
        ("tests/families/diffusion/training/test_examples.py",),
    ),
    Mutation(
        "an evaluation compares with held-out images, not with those of the training",
        "adire_assets/families/diffusion/evaluation/evaluate.py",
        'for part in ("held_out", "train"))',
        'for part in ("train", "train"))',
        ("tests/families/diffusion/evaluation/test_evaluate.py", "-k", "scores_are_those"),
    ),
    Mutation(
        "no two prompts share a seed",
        "adire_assets/families/diffusion/evaluation/images.py",
        'stride = max(drawing["seeds"]) + 1',
        "stride = 0",
        ("tests/families/diffusion/evaluation/test_evaluate.py",),
    ),
    Mutation(
        "files that are not those of data.dvc are refused",
        "adire_assets/tracking/dvc/versions.py",
        "    if not found:\n        return\n",
        "    if found:\n        return\n",
        ("tests/tracking/test_dvc.py", "-k", "working_tree or changed or extra or missing"),
    ),
    Mutation(
        "a path of a YAML does not leave the project",
        "adire_assets/core/project.py",
        "        if not full.is_relative_to(self.root):",
        "        if not full:",
        ("tests/config/test_config.py",),
    ),
    # --- training
    Mutation(
        "a checkpoint of another run is refused",
        "adire_assets/families/training/checkpoint.py",
        '        self._refuse_another(folder, state["identity"])\n',
        "",
        ("tests/families/diffusion/training/test_lora.py",),
    ),
    Mutation(
        "a child dies with its parent",
        "adire_assets/core/worker.py",
        "    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)\n",
        "",
        ("tests/core/test_worker.py", "-k", "dies_with_its_parent"),
    ),
    Mutation(
        "pickled weights are refused",
        "adire_assets/families/diffusion/base.py",
        "        if pickles:\n",
        "        if not pickles:\n",
        ("tests/families/diffusion/test_base.py",),
    ),
    # --- gates
    Mutation(
        "a failed gate refuses",
        VERDICT,
        "    passed = all(gate.passed for gate in gates)\n",
        "    passed = True\n",
        ("tests/gates/test_verdict.py",),
    ),
    Mutation(
        "a comparison with the champion can refuse",
        VERDICT,
        'return Gate(name, lower, -found.margin, ">", above, found.passed, *told)',
        'return Gate(name, lower, -found.margin, ">", above, True, *told)',
        ("tests/gates/test_verdict.py",),
    ),
    Mutation(
        "a verdict by a weaker policy than the one before says so",
        PROMOTION,
        "        verdict = replace(verdict, weakened=tuple(compared.weakened), "
        "weaker_than=compared.than)\n",
        "",
        ("tests/gates/test_weaker_policy.py", "-k", "lower_threshold"),
    ),
    Mutation(
        "no release is made of a verdict that refused",
        PROMOTION,
        "    if not verdict.passed:\n",
        "    if verdict is None:\n",
        ("tests/gates/test_promotion.py", "tests/gates/test_weaker_policy.py"),
    ),
    Mutation(
        "a verdict speaks for its own adapter only",
        PROMOTION,
        "    if found != wanted:\n",
        "    if not found:\n",
        ("tests/gates/test_promotion.py", "-k", "its_own_adapter"),
    ),
    Mutation(
        "deployment decides by the gates of today",
        PROMOTION,
        "    require_passed(decided)\n",
        "",
        ("tests/gates/test_promotion.py", "tests/gates/test_weaker_policy.py"),
    ),
    Mutation(
        "the checks of a gate block what is downstream",
        "adire_assets/defs/assets.py",
        "blocking=True",
        "blocking=False",
        ("tests/defs/test_assets.py",),
    ),
    Mutation(
        "a sensor deploys from a clean commit only",
        "adire_assets/defs/sensors.py",
        "(why := clean_commit.refusal(project, model))",
        '(why := "")',
        ("tests/gates/test_clean_commit.py",),
    ),
    Mutation(
        "an approval is of one content only",
        "adire_assets/gates/approvals.py",
        "if entry.content == content_of(record) and entry.action in",
        "if entry.action in",
        ("tests/gates/test_approvals.py",),
    ),
    Mutation(
        "a rating must win by more than a coin would",
        "adire_assets/gates/ratings.py",
        "    return wins > 0 and bool(test.pvalue <= error)",
        "    return wins > losses",
        ("tests/gates/test_blind_ratings.py",),
    ),
    Mutation(
        "ratings handed in again and again err no more than one",
        "adire_assets/gates/ratings.py",
        " * FIRST_SHARE * (1 - FIRST_SHARE) ** (look - 1)",
        " * FIRST_SHARE",
        ("tests/gates/test_blind_ratings.py",),
    ),
)
