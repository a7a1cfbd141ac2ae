"""One thread, one table of libraries, reproducible draws.

HYPOTHESIS_PROFILE=explore draws thirty times as many examples, different ones each time; HYPOTHESIS_PROFILE=quick, which
`make test-quick` sets, draws 6 in place of 12. `make fuzz` draws 100,000 batches.
"""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Iterator
from contextlib import nullcontext

# A third of the time that imports and the collection of tests take is search for garbage, of which they make little;
# `pytest_collection_finish` turns it on again.
gc.disable()
os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no test downloads anything; read when the hub's library is imported
# A third of the suite is XLA compiling programs that then run for a millisecond, so it optimises less. `XLA_FLAGS= make test`
# compiles them as users do; CI does so for tests/backend_jax. Read when JAX first compiles, here and in started processes.
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true --xla_cpu_use_fusion_emitters=false "
    "--xla_cpu_parallel_codegen_split_count=1",  # one module for LLVM in place of many, each with its own preparations
)

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, settings
from support.cases import CASES, Case
from support.libraries import LIBRARIES, STRICT, Library

torch.set_num_threads(1)

# The fixtures here are constants, so that hypothesis may reuse them between examples.
_CALM = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture, HealthCheck.differing_executors]
settings.register_profile("suite", deadline=None, max_examples=12, derandomize=True, suppress_health_check=_CALM)
settings.register_profile("quick", deadline=None, max_examples=6, derandomize=True, suppress_health_check=_CALM)
settings.register_profile("explore", deadline=None, max_examples=400, print_blob=True, suppress_health_check=_CALM)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "suite"))


def _asks_the_strict_library(item: pytest.Item) -> bool:
    """Whether it is slow for that alone."""
    return "library" in item.fixturenames and item.callspec.params.get("library") is STRICT  # type: ignore[attr-defined]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Run the files with slow tests first, so that no core waits at the end for one that another began last.

    The fuzzer's 100,000 cases run only where `-m` asks for them.
    """
    if "fuzz" not in config.getoption("-m"):
        fuzz = [item for item in items if item.get_closest_marker("fuzz")]
        config.hook.pytest_deselected(items=fuzz)
        items[:] = [item for item in items if not item.get_closest_marker("fuzz")]
    slow_files = {item.path for item in items if item.get_closest_marker("slow") and not _asks_the_strict_library(item)}
    items.sort(key=lambda item: item.path not in slow_files)  # stable: a file's tests keep their order


def pytest_collection_finish() -> None:
    """Set aside what the imports have made, millions of objects that stay: each later search for garbage took a second."""
    gc.enable()
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)


class _Running:
    """The test that is running, if it is one of the quick ones."""

    quick: pytest.Item | None = None


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Know which test is running, its fixtures included."""
    _Running.quick = None if item.get_closest_marker("slow") else item
    try:
        return (yield)
    finally:
        _Running.quick = None


def _frames_compiled() -> int:
    """How often torch.compile has compiled so far. Its package takes seconds to import, so this does not import it."""
    dynamo = sys.modules.get("torch._dynamo.utils")
    return 0 if dynamo is None else dynamo.counters["frames"]["total"]


def _refuse_if_quick(what: str) -> None:
    if _Running.quick is not None:
        pytest.fail(f"{_Running.quick.nodeid} {what}: it needs the mark `slow`")


def _audit(event: str, _: tuple[object, ...]) -> None:
    if event in {"subprocess.Popen", "os.fork", "os.posix_spawn"}:
        _refuse_if_quick("starts a process")


sys.addaudithook(_audit)


# array-api-strict is twice as slow as the others, so that `make test-quick` leaves it out.
_PARAMS = [pytest.param(x, marks=pytest.mark.slow if x is STRICT else (), id=x.name) for x in LIBRARIES]


@pytest.fixture(scope="session", params=_PARAMS)
def library(request: pytest.FixtureRequest) -> Library:
    """Every array library the core must work on."""
    found: Library = request.param
    return found


@pytest.fixture(scope="session", params=CASES, ids=lambda case: case.name)
def case(request: pytest.FixtureRequest) -> Case:
    """Every preset, beside its oracle."""
    found: Case = request.param
    return found


@pytest.fixture(scope="session", params=[case for case in CASES if case.per_token], ids=lambda case: case.name)
def token_case(request: pytest.FixtureRequest) -> Case:
    """The presets that take one advantage per token."""
    found: Case = request.param
    return found


@pytest.fixture(autouse=True)
def _float64(request: pytest.FixtureRequest) -> Iterator[None]:
    """A test of a library has float64, unless it says otherwise."""
    with request.getfixturevalue("library").precision(np.float64) if "library" in request.fixturenames else nullcontext():
        yield


@pytest.fixture(autouse=True)
def _compiles_nothing() -> Iterator[None]:
    before = _frames_compiled()
    yield
    if _frames_compiled() > before:
        _refuse_if_quick("compiles with torch.compile")


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Two threads beside a busy neighbour take ten times the processor time of one, in every test that comes after."""
    yield
    if torch.get_num_threads() != 1:
        torch.set_num_threads(1)
        pytest.fail("left PyTorch with more than one thread: pass threads=1 to the trainer that it prepares")


@pytest.fixture(autouse=True)
def _jax_settings() -> Iterator[None]:
    """A training script sets JAX's precision for its whole process: the next test has JAX's own again."""
    yield
    jax = sys.modules.get("jax")
    if jax is not None and jax.config.jax_default_matmul_precision is not None:
        jax.config.update("jax_default_matmul_precision", None)
