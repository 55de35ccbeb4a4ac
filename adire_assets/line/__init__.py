"""The path of the data, one module per asset, in the order of the graph.

    sources: training_data  training_config  base_model  evaluation_config
    dataset -> train -> generate -> evaluate -> verdict -> release -> deploy

Each function takes artifacts and gives back a `Built` artifact: it states the recipe, and how to
make the content when the store does not hold it yet. Dagster's assets call these and nothing else;
so can a notebook or a test. Below the sources nothing reads the YAML of a model.

`run_worker` carries out a function in a child process; `tracked(recipe_key)` is a context that
yields MLflow's logging functions for the one run of that adapter.
"""
