"""Import the modules of a Dagster pod for :mod:`tests.kubelet`. Its steps poll often, because the Jobs are short."""

import sys

import dagster as dg
import dagster._cli
import dagster_k8s
import dagster_postgres
import psycopg2.extras

import mobileclip2.executors.kubernetes
import mobileclip2.report.sheets
import pipelines.definitions

assert dagster._cli and dagster_k8s and dagster_postgres and psycopg2.extras
assert mobileclip2.report.sheets and pipelines.definitions
with dg.DagsterInstance.local_temp():
    pass  # an instance imports further modules when it is used
mobileclip2.executors.kubernetes.POLL_SECONDS = 0.2
del sys.modules["pipelines.definitions"]  # the module belongs to one profile, and a pod may have another
