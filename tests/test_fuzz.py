"""The fuzzing targets over their seeds, and over random bytes; the long run is ``python -m benchmarks.fuzz``."""

import pathlib

import pytest
from fuzz_targets import TARGETS
from hypothesis import given
from hypothesis import strategies as st

SEEDS = pathlib.Path(__file__).parent / "seeds"


@pytest.mark.parametrize("name", TARGETS)
def test_seeds(name):
    seeds = sorted((SEEDS / name).iterdir())
    assert seeds
    for seed in seeds:
        TARGETS[name](seed.read_bytes())


@pytest.mark.parametrize("name", TARGETS)
def test_any_bytes(name):
    @given(st.binary(max_size=600))
    def check(data):
        TARGETS[name](data)

    check()
