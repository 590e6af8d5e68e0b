"""Operation counts against multiplication by hand, scaling laws, and the promise that nothing is missed in silence."""

import pytest
import torch
from torch import library, nn

from fmbench.evaluation.cost.costs import model_cost, sampler_mflop
from fmbench.evaluation.cost.flops import flops_per_call, is_compiled, work_per_call
from fmbench.nets.mlp import MLP
from fmbench.nets.unet import UNet
from fmbench.records.sampler import Sampler
from fmbench.zoo.resolve import load


def flags():
    return torch.backends.mha.get_fastpath_enabled(), torch.backends.mkldnn.enabled, torch.backends.cudnn.enabled


FLAGS = flags()


def count(net, *inputs, samples=None):
    return flops_per_call(net.eval(), lambda: net(*inputs), samples or len(inputs[0]))


@pytest.mark.parametrize("batch", [1, 3, 32])
@pytest.mark.parametrize(("a", "b"), [(1, 1), (5, 7), (64, 3)])
def test_a_linear_layer_costs_twice_its_weights_per_sample(a, b, batch):
    found = count(nn.Linear(a, b), torch.ones(batch, a))
    assert found.per_evaluation == found.per_sample == 2 * a * b
    assert found.evaluations == 1 and found.uncounted == ()


def test_convolutions_by_hand():
    x = torch.ones(2, 4, 8, 8)
    # Output pixels x output channels x (input channels per group x kernel) x 2.
    assert count(nn.Conv2d(4, 6, 3, padding=1), x).per_evaluation == 64 * 6 * 36 * 2
    assert count(nn.Conv2d(4, 6, 3, stride=2), x).per_evaluation == 9 * 6 * 36 * 2
    assert count(nn.Conv2d(4, 6, 3, padding=1, groups=2), x).per_evaluation == 64 * 6 * 18 * 2
    # Transposed: every input pixel meets the kernel of every output channel.
    assert count(nn.ConvTranspose2d(4, 6, 4, stride=2), x).per_evaluation == 64 * 4 * 6 * 16 * 2


def test_attention_and_recurrent_layers_are_counted_though_their_fused_kernels_are_not():
    n, d, hidden = 5, 8, 16
    x = torch.ones(2, n, d)
    projections, products = n * 4 * d * d, 2 * n * n * d
    attention = nn.MultiheadAttention(d, 2, batch_first=True)
    found = flops_per_call(attention.eval(), lambda: attention(x, x, x, need_weights=False), 2)
    assert found.per_sample == 2 * (projections + products)
    layer = nn.TransformerEncoderLayer(d, 2, hidden, batch_first=True)
    assert count(layer, x).per_sample == 2 * (projections + products + 2 * n * d * hidden)
    for gates, kind in ((4, nn.LSTM), (3, nn.GRU)):
        found = count(kind(d, hidden, batch_first=True), x)
        assert found.per_sample == 2 * n * gates * (d * hidden + hidden * hidden)
        assert found.uncounted == ()


@pytest.mark.slow
def test_unet_grows_with_pixels_and_not_with_the_batch():
    def unet(side, attention=()):
        net = UNet((1, side, side), channels=8, groups=4, attention=attention)
        return [count(net, torch.ones(batch, 1, side, side), torch.ones(batch)) for batch in (1, 4)]

    by_side = {}
    for side in (8, 16, 32):
        one, four = unet(side)
        assert one == four and one.uncounted == ()
        by_side[side] = one.per_evaluation
    # Constant (embedding) + slope x pixels: 1024 - 256 = 4 (256 - 64).
    assert by_side[32] - by_side[16] == 4 * (by_side[16] - by_side[8]) > 0
    # Attention over p pixels of c channels adds the projections 4 p c^2 and the products 2 p^2 c multiply-adds, in 3 places at height 4.
    with_attention = unet(8, attention=(4,))[0].per_evaluation
    assert with_attention - by_side[8] == 3 * 2 * (4 * 16 * 16**2 + 2 * 16**2 * 16)


def test_solver_steps_multiply_evaluations_and_guidance_rows_count():
    net = MLP((2,), width=16)
    x, t = torch.ones(6, 2), torch.ones(6)

    def sample():
        for _ in range(5):
            net(x, t)
        net(torch.cat([x, x]), torch.cat([t, t]))

    once, found = count(net, x, t), flops_per_call(net, sample, 6)
    assert found.evaluations == 7 and found.per_evaluation == once.per_evaluation
    assert found.per_sample == 7 * once.per_sample


def test_only_the_network_counts():
    net, decoder = nn.Linear(3, 3), nn.Linear(3, 1000)
    found = flops_per_call(net, lambda: decoder(net(torch.ones(2, 3)) @ torch.ones(3, 3)), 2)
    assert found.per_sample == 2 * 9


# Named like a harmless operator of ATen.
@library.custom_op("fmbench_test::stack", mutates_args=())
def mystery(x: torch.Tensor) -> torch.Tensor:
    return torch.from_numpy(x.numpy() @ x.numpy().T)


class Foreign(nn.Module):
    def forward(self, x):
        return mystery(x)


class Spectral(nn.Module):
    def forward(self, x):
        return torch.fft.rfft2(x).abs()


def test_work_without_a_formula_is_named_and_ordinary_layers_raise_no_alarm():
    bilinear = nn.Bilinear(3, 3, 2)
    found = flops_per_call(bilinear, lambda: bilinear(torch.ones(2, 3), torch.ones(2, 3)), 2)
    assert found.uncounted == ("Bilinear (aten._trilinear)",)
    mixed = nn.Sequential(nn.Linear(3, 3), Foreign(), Spectral())
    assert count(mixed, torch.ones(3, 3)).uncounted == ("Foreign (fmbench_test.stack)", "Spectral (aten._fft_r2c)")
    layers = [
        nn.Conv2d(3, 8, 3),
        nn.BatchNorm2d(8),
        nn.GELU(),
        nn.MaxPool2d(2),
        nn.Upsample(scale_factor=2),
        nn.GroupNorm(2, 8),
    ]
    layers += [nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Dropout(), nn.LayerNorm(32), nn.Softmax(-1), nn.Linear(32, 2)]
    assert count(nn.Sequential(*layers), torch.ones(2, 3, 9, 9)).uncounted == ()


@pytest.mark.slow
def test_compiled_networks_are_known_and_counted_as_if_they_were_not():
    inside, x = MLP((2,), width=16), (torch.ones(3, 2), torch.ones(3))
    plain = count(inside, *x)
    wrapped = torch.compile(inside)
    assert is_compiled(nn.Sequential(wrapped)) and not is_compiled(inside)
    assert flops_per_call(wrapped, lambda: wrapped(*x), 3) == plain
    inside.layers.compile()
    assert is_compiled(inside) and count(inside, *x) == plain


def hooks(net):
    return [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in net.modules()]


def test_nothing_is_left_behind_even_when_the_call_fails():
    net = nn.Sequential(nn.Linear(3, 3), nn.LSTM(3, 3))
    before = {name: value.clone() for name, value in net.state_dict().items()}
    count(net, torch.ones(2, 3))
    with pytest.raises(RuntimeError, match="shapes"):
        count(net, torch.ones(2, 4))
    assert not any(hooks(net))
    assert flags() == FLAGS
    assert all(parameter.grad is None for parameter in net.parameters())
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    # A later product is nobody's business: no mode is left on the stack, and gradients are on again.
    assert net[0](torch.ones(1, 3)).requires_grad
    assert torch.utils._python_dispatch._get_current_dispatch_mode() is None


def test_the_call_keeps_no_graph():
    net, kept = nn.Linear(3, 3), []
    flops_per_call(net, lambda: kept.append(net(torch.ones(1, 3))), 1)
    assert not kept[0].requires_grad


def test_bad_calls_are_refused():
    net = nn.Linear(3, 3)
    with pytest.raises(ValueError, match="samples must be at least 1, got 0"):
        flops_per_call(net, lambda: net(torch.ones(1, 3)), 0)
    with pytest.raises(ValueError, match="never ran Linear"):
        flops_per_call(net, lambda: None, 1)


class Headed(nn.Module):
    def __init__(self):
        super().__init__()
        self.net, self.head = nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)

    def sample(self, x):
        for _ in range(3):
            x = self.head(self.head(self.net(x)))
        return x @ torch.ones(4, 4)


def test_the_work_of_a_sample_is_that_of_all_networks_and_of_what_is_beside_them():
    flow = Headed()
    for rows in (1, 5):
        x = torch.ones(rows, 4)
        found = work_per_call(flow, {"network": flow.net, "head": flow.head}, lambda x=x: flow.sample(x), rows, 2)
        assert (found.flops, found.evaluations) == (10 * 2 * 16, 9)


def test_operations_per_sample_of_a_sampler_are_its_evaluations_times_those_of_one():
    model = load("gaussian-moons/cfm")
    cost = model_cost(model, Sampler("euler", 1), 16)
    for sampler, nfe in ((Sampler("euler", 1), 1), (Sampler("euler", 7), 7), (Sampler("heun", 3), 6)):
        assert sampler_mflop(model, sampler, nfe) == pytest.approx(nfe * cost["flops_per_evaluation"] / 1e6, rel=1e-12)
    # An adaptive solver takes other steps for two samples than for a block: what counts are the evaluations that were measured.
    adaptive = sampler_mflop(model, Sampler("dopri5", None), 98.5)
    assert adaptive == pytest.approx(98.5 * cost["flops_per_evaluation"] / 1e6, rel=1e-12)
    assert sampler_mflop(model, Sampler("euler", 4, guidance=2.0), 8) is None
