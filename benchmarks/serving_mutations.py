"""The promises of serving and keeping that `mutations` breaks (see `mutation_list`)."""

from benchmarks.mutation_list import Mutation

RECORD = "adire_assets/serving/record.py"

SERVING = (
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
        "prompts, confidence = design.prompts, design.confidence\n    lost",
        "prompts, confidence = design.prompts * design.seeds, design.confidence\n    lost",
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
        "adire_assets/families/diffusion/engine/engine.py",
        "manual_seed((request.seed + image) % SEED_RANGE)",
        "manual_seed(request.seed % SEED_RANGE)",
        ("tests/families/diffusion/engine/test_sampling.py",),
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
        "    return _written(target, partial(shutil.copyfile, path), private) == listed[name]\n",
        "    return bool(_written(target, partial(shutil.copyfile, path), private))\n",
        ("tests/ops/test_backup_refusals.py", "-k", "damaged_backup"),
    ),
    Mutation(
        "a failed run is FAILED in MLflow",
        "adire_assets/tracking/runs.py",
        'status: Status = "FAILED" if isinstance(error, Exception) else "KILLED"',
        'status: Status = "FINISHED"',
        ("tests/tracking/test_runs.py", "-k", "block_ends"),
    ),
)
