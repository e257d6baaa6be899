"""The pipeline's assets, one module for each stage. Each asset calls the library and reports the result as metadata."""

import warnings

import dagster as dg

# Dagster is pinned, and these warnings would appear once for each asset, input and sensor in every process that loads them
for started in (
    "Function `observable_source_asset`",
    "Parameter `(backfill_policy|use_user_code_server)`",
    "Class `(LocalFileCodeReference|CodeReferencesMetadataValue)`",
):
    warnings.filterwarnings("ignore", started, dg.BetaWarning)
