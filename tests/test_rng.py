"""Streams depend on their key and purpose, and on nothing else."""

import numpy as np
import pytest
import torch

from fabrica.rng import Rng, derive


def test_rows_do_not_depend_on_their_batch() -> None:
    together, alone = Rng([1, 2, 3]).normal(4, 5), Rng([2]).normal(4, 5)
    assert torch.equal(together[1:2], alone)


def test_children_are_named_not_counted() -> None:
    one, other = Rng([7]), Rng([7])
    one.normal(100)
    assert torch.equal(one.child("a", 3).normal(8), other.child("a", 3).normal(8))
    assert not torch.equal(one.child("a", 3).normal(8), other.child("a", 4).normal(8))
    assert not torch.equal(one.child("a").normal(8), one.child("b").normal(8))


def test_keys_keep_128_bits() -> None:
    low, high = derive(0, "x"), derive(0, "x") + 2**100
    assert not torch.equal(Rng([low]).normal(8), Rng([high]).normal(8))
    assert derive(5, "a", 1) == derive(5, "a", 1) < 2**128


def test_known_stream() -> None:
    """The numbers themselves are a promise: a change would change every simulated patient."""
    key = derive(derive(0))
    expected = np.random.Generator(np.random.Philox(key=derive(derive(0)))).standard_normal((3,), np.float32)
    assert np.array_equal(Rng([derive(0)]).normal(3)[0].numpy(), expected)
    assert key != derive(0)


def test_distributions() -> None:
    rng = Rng(range(4))
    normal, uniform = rng.normal(20000), rng.child("u").uniform(20000)
    assert abs(float(normal.mean())) < 0.02
    assert abs(float(normal.std()) - 1) < 0.02
    assert 0 <= float(uniform.min()) < float(uniform.max()) < 1
    whole = rng.child("i").integers(2, 5, 1000)
    assert set(whole.flatten().tolist()) == {2, 3, 4}


def test_no_keys_is_refused() -> None:
    with pytest.raises(ValueError, match="one per row"):
        Rng([])


def test_rows_restart_streams() -> None:
    rng = Rng([1, 2])
    first = rng.normal(3)
    assert torch.equal(rng.rows(torch.tensor([1, 1])).normal(3), first[[1, 1]])
