"""State spaces: the chunked scan equals the recurrence, and every token hears of every other."""

import pytest
import torch

from fabrica.networks.blocks import HEAD
from fabrica.networks.state_space import CHUNK, StateSpace, scan


def _step_by_step(x: torch.Tensor, decay: torch.Tensor, write: torch.Tensor, read: torch.Tensor) -> torch.Tensor:
    state, found = torch.zeros(x.shape[0], x.shape[2], write.shape[2], x.shape[3], dtype=x.dtype), []
    for t in range(x.shape[1]):
        state = state * decay[:, t].exp()[..., None, None] + write[:, t, None, :, None] * x[:, t, :, None]
        found.append(torch.einsum("bn,bhnp->bhp", read[:, t], state))
    return torch.stack(found, 1)


@pytest.mark.parametrize("length", [1, CHUNK - 1, CHUNK, 2 * CHUNK + 5])
def test_the_scan_is_the_recurrence(length: int) -> None:
    torch.manual_seed(length)
    x = torch.randn(2, length, 3, 4, dtype=torch.float64, requires_grad=True)
    decay = (-torch.rand(2, length, 3, dtype=torch.float64)).requires_grad_()
    write, read = (torch.randn(2, length, 5, dtype=torch.float64, requires_grad=True) for _ in range(2))
    ours, slow = scan(x, decay, write, read), _step_by_step(x, decay, write, read)
    torch.testing.assert_close(ours, slow)
    pulls = [torch.autograd.grad(y.square().sum(), (x, decay, write, read)) for y in (ours, slow)]
    for a, b in zip(*pulls, strict=True):
        torch.testing.assert_close(a, b)


def test_fast_forgetting_is_no_overflow() -> None:
    x = torch.ones(1, 3 * CHUNK, 1, 1)
    decay = torch.full((1, 3 * CHUNK, 1), -80.0)  # products over a chunk underflow
    found = scan(x, decay, torch.ones(1, 3 * CHUNK, 1), torch.ones(1, 3 * CHUNK, 1))
    torch.testing.assert_close(found, torch.ones_like(found))


@pytest.mark.parametrize(("grid", "turn"), [((6, 5), 0), ((6, 5), 1), ((3, 4, 5), 0), ((3, 4, 5), 1), ((3, 4, 5), 2)])
def test_every_token_hears_of_every_other_and_answers_in_its_place(grid: tuple[int, ...], turn: int) -> None:
    torch.manual_seed(0)
    mix = StateSpace(len(grid), HEAD, turn)
    tokens = torch.Size(grid).numel()
    y = torch.randn(1, tokens, HEAD)
    for place in (0, tokens // 2, tokens - 1):
        other = y.clone()
        other[:, place] += 3.0
        change = (mix(other, grid) - mix(y, grid)).abs().sum(2)[0]
        assert bool((change > 0).all())
        assert int(change.argmax()) == place


def test_the_turn_is_the_other_axis() -> None:
    """Reading the transposed grid the other way is the same."""
    torch.manual_seed(0)
    one, other = StateSpace(2, HEAD, 0), StateSpace(2, HEAD, 1)
    other.load_state_dict(one.state_dict())
    other.near.weight.data = other.near.weight.data.transpose(2, 3)
    y = torch.randn(2, 6 * 5, HEAD)
    flipped = y.reshape(2, 6, 5, HEAD).transpose(1, 2).reshape(2, 30, HEAD)
    expected = one(y, (6, 5)).reshape(2, 6, 5, HEAD).transpose(1, 2).reshape(2, 30, HEAD)
    torch.testing.assert_close(other(flipped, (5, 6)), expected)
