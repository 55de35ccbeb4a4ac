"""The promises that `mutations` breaks one by one: where, how, and which tests should notice."""

from dataclasses import dataclass

STORE = "adire_assets/core/store.py"
LINEAGE = "adire_assets/core/lineage.py"
SOURCES = "adire_assets/line/sources.py"
PROMOTION = "adire_assets/gates/promotion.py"
VERDICT = "adire_assets/gates/verdict.py"
RECORD = "adire_assets/serving/record.py"
SPLITS = "adire_assets/families/diffusion/data/splits.py"


@dataclass(frozen=True)
class Mutation:
    """`before` stands in `file` once; one of `tests` (pytest's arguments) fails with `after`."""

    promise: str
    file: str
    before: str
    after: str
    tests: tuple[str, ...]


MUTATIONS = (
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
        '            "code": self.code,\n',
        '            "code": "",\n',
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
        '            "training": config.training.model_dump(),\n',
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
        '            "gates": config.evaluation.gates.model_dump(),\n',
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
        "        return int(self.pixels[:13], 16) / 16**13\n",
        "        return sum(self.source.encode()) * 0.618 % 1\n",
        ("tests/families/diffusion/data/test_dataset.py", "-k", "side_depends_on_pixels"),
    ),
    Mutation(
        "near duplicates do not straddle the splits",
        SPLITS,
        "            if bits > config.near_duplicate_distance:\n                kept",
        "            if bits >= 0:\n                kept",
        ("tests/families/diffusion/data/test_dataset.py",),
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
        "adire_assets/families/diffusion/training/checkpoint.py",
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
        "        comparison.passed,\n",
        "        True,\n",
        ("tests/gates/test_verdict.py",),
    ),
    Mutation(
        "a verdict by a weaker policy than the one before says so",
        PROMOTION,
        "        verdict = replace(verdict, weakened=tuple(compared.weakened), "
        "weaker_than=compared.than)\n",
        "",
        ("tests/gates/test_promotion.py", "-k", "lower_threshold"),
    ),
    Mutation(
        "no release is made of a verdict that refused",
        PROMOTION,
        "    if not verdict.passed:\n",
        "    if verdict is None:\n",
        ("tests/gates/test_promotion.py",),
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
        ("tests/gates/test_promotion.py",),
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
        "        if entry.content != content_of(record):\n            continue\n        if entry",
        "        if entry",
        ("tests/gates/test_approvals.py",),
    ),
    Mutation(
        "a rating must win by more than a coin would",
        "adire_assets/gates/ratings.py",
        "    return p_value(wins, losses, policy) <= allowed_error(policy, look)",
        "    return wins > losses",
        ("tests/gates/test_approvals.py",),
    ),
    Mutation(
        "ratings handed in again and again err no more than one",
        "adire_assets/gates/ratings.py",
        "    left = (1 - FIRST_SHARE) ** (look - 1)",
        "    left = 1.0",
        ("tests/gates/test_approvals.py",),
    ),
    # --- serving
    Mutation(
        "who has lost the lease changes no record",
        "adire_assets/serving/rollout/controller.py",
        'if state.rollout is None or state.rollout.lease["holder"] != self.holder:',
        "if state.rollout is None:",
        ("tests/serving/rollout/test_fencing.py",),
    ),
    Mutation(
        "who has lost the lease changes no slot",
        "adire_assets/serving/rollout/controller.py",
        "        if now is None or "
        '(now.lease["holder"], now.number, now.stage, now.slot) != known:\n'
        "            raise LeaseLost\n",
        "",
        (
            "tests/serving/rollout/test_fencing.py",
            "-k",
            "lease_changes_no_slot or former_holder_loads",
        ),
    ),
    Mutation(
        "a quarantined release is refused",
        RECORD,
        "    if reason := quarantine_reason(project, model, number):",
        "    if reason := None:",
        ("tests/gates/test_approvals.py", "tests/serving/rollout/test_fencing.py"),
    ),
    Mutation(
        "what a rollback leaves is quarantined",
        "adire_assets/serving/state.py",
        "return after if self.live is None else after.with_quarantine(self.live, reason, at)",
        "return after",
        ("tests/serving/rollout/test_fencing.py", "-k", "quarantined_though"),
    ),
    Mutation(
        "evidence in a rollout holds however often one looks",
        "adire_assets/core/evidence.py",
        "    return -math.log(rate)\n",
        "    return 1.353\n",  # half the square of 1.645, the bound of one look
        ("tests/serving/rollout/test_analysis.py", "-k", "hardly_ever"),
    ),
    Mutation(
        "a rollout's own requests name the release that they are about",
        "adire_assets/serving/rollout/replay.py",
        "                release=number,\n",
        "                release=None,\n",
        ("tests/serving/rollout/test_replay.py",),
    ),
    Mutation(
        "going on takes evidence of every signal that is asked for",
        "adire_assets/serving/rollout/analysis.py",
        '    good = all(one.outcome == "good" for one in findings if one.wanted)',
        '    good = all(one.outcome != "bad" for one in findings if one.wanted)',
        ("tests/serving/rollout/test_analysis.py",),
    ),
    Mutation(
        "where most prompts are equal, their number bounds what may be lost",
        "adire_assets/gates/comparison.py",
        "np.zeros(design.prompts), _range(challenger)",
        "np.zeros(design.prompts * design.seeds), _range(challenger)",
        ("tests/gates/test_comparison.py", "-k", "end_counts"),
    ),
    Mutation(
        "a release must draw what was evaluated",
        "adire_assets/families/diffusion/serve.py",
        "LARGEST_DIFFERENCE = 2 ",
        "LARGEST_DIFFERENCE = 255 ",
        ("tests/serving/test_release.py", "-k", "two_levels"),
    ),
    Mutation(
        "a release number stays bound to its content",
        "adire_assets/serving/release.py",
        'if known.repository["content_hash"] != record.repository["content_hash"]:',
        "if known is None:",
        ("tests/serving/test_release.py", "-k", "number"),
    ),
    Mutation(
        "an image's noise comes from its own seed",
        "adire_assets/families/diffusion/sampling.py",
        "manual_seed((request.seed + image) % SEED_RANGE)",
        "manual_seed(request.seed % SEED_RANGE)",
        ("tests/families/diffusion/test_sampling.py",),
    ),
    Mutation(
        "a served picture carries its provenance",
        "adire_assets/families/diffusion/answers.py",
        "    chunks.add_itxt(PROVENANCE_KEY, json.dumps(own, ensure_ascii=False))\n",
        "",
        ("tests/serving/test_requests.py", "-k", "saved_picture"),
    ),
    Mutation(
        "a gateway beyond loopback needs TLS and tokens",
        "adire_assets/config/fleet.py",
        'if self.launch == "local" and self.host not in LOOPBACK and missing:',
        "if missing and not self.host:",
        ("tests/serving/gateway/test_gateway_tls.py", "-k", "beyond"),
    ),
    Mutation(
        "where tokens are asked for, nobody is let in without one",
        "adire_assets/serving/gateway/envoy.yml",
        "rules: [{match: {prefix: /}, requires: {provider_name: tokens}}]",
        "rules: []",
        ("tests/serving/gateway/test_gateway.py", "-k", "good_token"),
    ),
    Mutation(
        "an answer that breaks off in the middle is the server's failure",
        "adire_assets/serving/gateway/traffic.py",
        'return {"failed": 1, "answered": int(grpc)}',
        'return {"answered": int(grpc)}',
        ("tests/serving/gateway/test_second_protocol.py", "-k", "whose_fault"),
    ),
    Mutation(
        "a release comes into slots whose server speaks its protocols",
        "adire_assets/serving/slot_server.py",
        "return [name for name, slot in slots.items() if speaks(slot.server, protocols)]",
        "return list(slots)",
        ("tests/serving/gateway/test_second_protocol.py", "-k", "comes_into"),
    ),
    # --- keeping
    Mutation(
        "gc leaves what a reader holds",
        "adire_assets/core/storage.py",
        "for name in needless() if name in free]",
        "for name in needless()]",
        ("tests/ops/test_gc.py",),
    ),
    Mutation(
        "gc leaves what is served, was served before or stands by",
        "adire_assets/ops/gc.py",
        "    for target in {*record.targets(project, model), *(plan.steps if plan else ())}:\n",
        "    for target in ():\n",
        ("tests/ops/test_gc.py", "-k", "gone_back_to"),
    ),
    Mutation(
        "a damaged backup is refused",
        "adire_assets/ops/backup.py",
        "    return _copy(path, target) == listed[name]\n",
        "    return bool(_copy(path, target))\n",
        ("tests/ops/test_backup.py", "-k", "damaged_backup"),
    ),
    Mutation(
        "a failed run is FAILED in MLflow",
        "adire_assets/tracking/runs.py",
        'status: Status = "FAILED" if isinstance(error, Exception) else "KILLED"',
        'status: Status = "FINISHED"',
        ("tests/tracking/test_tracking.py", "-k", "block_ends"),
    ),
)
