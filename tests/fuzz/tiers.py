"""Tests of random input in two sizes: few inputs in the fast tests, many in the slow ones."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz.guard import Inputs


def tiers(
    strategy: st.SearchStrategy[Any], fast: int, slow: int, known: Sequence[Any] = ()
) -> Callable[[Callable[..., None]], Any]:
    """Returns a decorator that runs a test with `known` inputs and `fast` others and, marked slow, `slow` others."""
    quiet = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large]

    def both(test: Callable[..., None]) -> Any:
        @pytest.mark.parametrize(
            "examples", [pytest.param(fast, id="few"), pytest.param(slow, id="many", marks=pytest.mark.slow)]
        )
        @pytest.mark.filterwarnings("ignore")
        def run(examples: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
            monkeypatch.chdir(tmp_path)
            monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
            inputs = Inputs(test.__name__.removeprefix("test_"), (tmp_path,))

            @settings(
                max_examples=examples * int(os.environ.get("FUZZ_TIMES", "1")),
                deadline=None,
                suppress_health_check=quiet,
                database=None,
            )
            @given(strategy)
            def each(value: Any) -> None:
                test(value, tmp_path, inputs)

            for value in known:
                test(value, tmp_path, inputs)
            each()
            inputs.report()

        run.__doc__ = test.__doc__
        return run

    return both
