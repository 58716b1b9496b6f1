"""The suite's own cases notice planted mistakes; `python -m tests.mutants` counts them all."""

from dataclasses import replace

import pytest

from tests import mutants


def test_the_right_convolution_passes():
    assert mutants.conv_count(mutants.Mutant("no mistake"), step=11)[0] == 0


@pytest.mark.parametrize("mutant", mutants.MUTANTS, ids=lambda m: m.name)
def test_mistake_is_noticed(mutant):
    """In one pass here, in all by the command."""
    pass_ = mutant.passes[len(mutant.name) % len(mutant.passes)]
    if "256" in mutant.name:
        assert mutants.conv_count(mutant, stop_at=1)[0]
        return
    # by several problems, not by luck
    assert mutants.conv_count(replace(mutant, passes=(pass_,)), stop_at=3)[0] == 3


@pytest.mark.parametrize("name, op, numbers", mutants.POOL_NUMBERS)
def test_mistake_of_a_pool_is_noticed(name, op, numbers):
    problems = mutants.cases.pool_problems(op, "forward")
    assert any(mutants.noticed(mutants.pool_run(p, None, numbers), p) for p in problems)


@pytest.mark.parametrize("name, op, pass_, mistake", mutants.POOL_MISTAKES)
def test_mistake_in_the_output_of_a_pool_is_noticed(name, op, pass_, mistake):
    problems = mutants.cases.pool_problems(op, pass_)
    assert any(mutants.noticed(mutants.pool_run(p, mistake, {}), p) for p in problems)
