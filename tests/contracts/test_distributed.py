"""What `pipeline.execution.dask_cluster` uses of dask beside its documented parts. Checked with distributed 2026.8."""

from __future__ import annotations

import inspect
from importlib.metadata import version

import pytest

from pipeline.execution.dask_cluster import is_worker_death

VERSION = f"distributed {version('distributed')}"


def test_a_dead_worker_raises_killed_worker() -> None:
    from distributed.scheduler import KilledWorker

    assert issubclass(KilledWorker, Exception), VERSION
    assert not issubclass(KilledWorker, OSError), VERSION
    assert is_worker_death(KilledWorker("key", None, 3)), VERSION  # type: ignore[arg-type]
    assert not is_worker_death(RuntimeError("KilledWorker")), VERSION


def test_a_closed_client_refuses_work_and_counts_no_workers() -> None:
    from dask.distributed import Client, LocalCluster
    from distributed.client import ClosedClientError

    with LocalCluster(n_workers=1, processes=False, dashboard_address="127.0.0.1:0") as cluster:
        with Client(cluster, set_as_default=False) as client:
            assert sum(client.nthreads(callback_timeout=5).values()) >= 1, VERSION
            executor = client.get_executor(pure=False)
        with pytest.raises(ClosedClientError):
            executor.submit(int)
        with pytest.raises((OSError, RuntimeError, AttributeError)):
            client.nthreads(callback_timeout=5)


def test_connections_take_a_timeout_and_the_arguments_of_security() -> None:
    from distributed.comm import connect
    from distributed.security import Security

    assert "timeout" in inspect.signature(connect).parameters, VERSION
    assert isinstance(Security().get_connection_args("client"), dict), VERSION


@pytest.mark.parametrize(
    "key",
    ["distributed.nanny.pre-spawn-environ", "distributed.scheduler.http.routes", "distributed.worker.http.routes"],
)
def test_settings_of_dask_exist(key: str) -> None:
    import dask
    import distributed  # noqa: F401  (its import adds its settings)

    assert dask.config.get(key), VERSION
