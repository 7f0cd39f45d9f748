"""Random numbers turned off: a piece of a batch sees what it sees as a part of the whole, and nothing is drawn."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from mtl_accum.verify._no_dropout import NoDropout

PROBABILITIES = torch.tensor([0.2, 0.7, 0.9])
torch.manual_seed(0)
RECURRENT = nn.LSTM(3, 4, num_layers=2, dropout=0.5, batch_first=True)
ATTENTION = nn.MultiheadAttention(4, 2, dropout=0.5, batch_first=True)
LINEAR = nn.Linear(4, 4)

DRAWS = {
    "dropout": lambda x: F.dropout(x, 0.5),
    "dropout of a checkpointed layer": lambda x: checkpoint(
        lambda y: F.dropout(LINEAR(y), 0.5), x, use_reentrant=False
    ),
    "rrelu": lambda x: F.rrelu(x, training=True),
    "gumbel softmax": lambda x: F.gumbel_softmax(x),
    "gumbel softmax, hard": lambda x: F.gumbel_softmax(x, hard=True),
    "rand": lambda x: x * torch.rand(x.shape),
    "rand_like": lambda x: x * torch.rand_like(x),
    "randn": lambda x: x + torch.randn(*x.shape),
    "randn_like": lambda x: x + torch.randn_like(x),
    "normal": lambda x: torch.normal(x.detach(), 2.0) + x,
    "normal_": lambda x: x + torch.empty_like(x).normal_(1, std=2),
    "uniform_": lambda x: x + torch.empty_like(x).uniform_(-1, 1),
    "bernoulli": lambda x: x * torch.bernoulli(torch.full_like(x, 0.7)),
    "bernoulli_": lambda x: x * torch.empty_like(x).bernoulli_(0.7) / 0.7,
    "exponential_": lambda x: x + torch.empty_like(x).exponential_(),
    "distributions": lambda x: torch.distributions.Normal(x, torch.ones_like(x)).rsample(),
    "recurrent": lambda x: RECURRENT(x[:, None, :3])[0],
    "attention": lambda x: ATTENTION(x[:, None], x[:, None], x[:, None])[0],
    "attention, unpacked": lambda x: F.scaled_dot_product_attention(x[:, None], x[:, None], x[:, None], dropout_p=0.5),
}


@pytest.mark.parametrize("name", DRAWS)
def test_pieces_see_what_the_whole_sees(name: str) -> None:
    torch.manual_seed(1)
    x, before = torch.randn(5, 4, requires_grad=True), torch.get_rng_state()
    with NoDropout():
        whole = DRAWS[name](x)
        pieces = torch.cat([DRAWS[name](piece) for piece in x.split(3)])
        whole.square().sum().backward()
    torch.testing.assert_close(pieces, whole)
    assert torch.equal(torch.get_rng_state(), before)
    assert x.grad is not None


def test_probabilities_are_rounded() -> None:
    with NoDropout():
        assert torch.bernoulli(PROBABILITIES).tolist() == [0.0, 1.0, 1.0]
        assert torch.empty(3).bernoulli_(PROBABILITIES).tolist() == [0.0, 1.0, 1.0]


def test_a_backward_is_torch_s_own() -> None:
    x = torch.ones(3, requires_grad=True)
    with NoDropout():
        (2 * x).backward(gradient=torch.tensor([1.0, 2.0, 3.0]))
        torch.autograd.backward([x.sum(), (x * x).sum()], [None, torch.tensor(2.0)])
        y = (x**3).sum()
        y.backward(retain_graph=True)
        y.backward(inputs=[x])
    assert x.grad.tolist() == [2 + 1 + 4 + 6, 4 + 1 + 4 + 6, 6 + 1 + 4 + 6]


def test_gradients_on_their_own_are_torch_s_too() -> None:
    """As a folded head's are taken, whose checkpointed layers run again meanwhile."""
    x, other = torch.ones(3, requires_grad=True), torch.ones(2, requires_grad=True)
    with NoDropout():
        (of_x,) = torch.autograd.grad(DRAWS["dropout of a checkpointed layer"](torch.eye(4) * x[0]).sum(), x)
        (scaled,) = torch.autograd.grad(2 * x, x, torch.tensor([1.0, 2.0, 3.0]))
        unused = torch.autograd.grad(x.sum(), [x, other], allow_unused=True)
        zeros = torch.autograd.grad(x.sum(), [x, other], materialize_grads=True)
        rows = torch.autograd.grad(2 * x, x, torch.eye(3), is_grads_batched=True)
        (first,) = torch.autograd.grad((x**3).sum(), x, create_graph=True)
        (second,) = torch.autograd.grad(first.sum(), x)
        with pytest.raises(RuntimeError, match="been used in the graph"):
            torch.autograd.grad(x.sum(), [x, other])
    assert of_x[0].isclose(LINEAR.weight.sum()) and not of_x[1:].any()
    assert scaled.tolist() == [2.0, 4.0, 6.0]
    assert unused[1] is None and zeros[1].tolist() == [0.0, 0.0]
    assert torch.equal(rows[0], 2 * torch.eye(3))
    assert second.tolist() == [6.0] * 3
    assert x.grad is None
