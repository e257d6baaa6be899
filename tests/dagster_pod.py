"""What a pod of Dagster's imports, for :mod:`tests.kubelet`; its steps wait for Jobs that take a moment."""

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
    pass  # an instance imports as it goes
mobileclip2.executors.kubernetes.POLL_SECONDS = 0.2
del sys.modules["pipelines.definitions"]  # it is of one profile, a pod's may be another
