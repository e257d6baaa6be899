from __future__ import annotations

import pytest

from mobileclip2.executors.refusals import is_final

QUOTA = 'pods "a-" is forbidden: exceeded quota: q, requested: {}, used: {}, limited: {}'


@pytest.mark.parametrize(
    "message",
    [
        'pods "a-" is forbidden: no PriorityClass with name low was found',
        'pods "a-" is forbidden: error looking up service account n/a: serviceaccount "a" not found',
        'pods "a-" is forbidden: violates PodSecurity "restricted:latest": allowPrivilegeEscalation != false',
        'admission webhook "policy" denied the request: no label',
        'pods "a-" is forbidden: failed quota: q: must specify requests.memory for: work',
        QUOTA.format("requests.memory=512Gi", "requests.memory=0", "requests.memory=8Gi"),
    ],
)
def test_refusals_that_require_a_change_are_final(message: str) -> None:
    assert is_final(message, 1)


@pytest.mark.parametrize(
    "message",
    [
        'Internal error occurred: failed calling webhook "policy": connection refused',
        "etcdserver: request timed out",
        'Operation cannot be fulfilled on resourcequotas "q": the object has been modified; please apply your changes',
    ],
)
def test_temporary_refusals_are_not_final(message: str) -> None:
    assert not is_final(message, 1)


def test_a_quota_smaller_than_all_pods_is_final() -> None:
    used_up = QUOTA.format("pods=1,requests.cpu=500m", "pods=9,requests.cpu=8", "pods=9,requests.cpu=8")
    assert not is_final(used_up, 1) and not is_final(used_up, 9) and is_final(used_up, 10)
