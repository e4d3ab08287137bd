"""The simulator on a CUDA device: parity with the CPU, and captured graphs. Skipped without a GPU."""

import pytest
import torch

from problems.photonics import geometry
from problems.photonics.boxsolve import Backend, block_inverse
from problems.photonics.graphs import GraphedStep
from problems.photonics.simulator import Simulator
from surco.errors import InvalidInputError

has_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def _pair(tmp_path, backend):
    device = geometry.waveguide_bend()
    cpu = Simulator(device, cache_dir=tmp_path)
    gpu = Simulator(device, cache_dir=tmp_path, torch_device="cuda", backend=backend)
    generator = torch.Generator().manual_seed(0)
    return cpu, gpu, (torch.rand(3, *device.design_shape, generator=generator) > 0.5).double()


@pytest.mark.gpu
@has_gpu
@pytest.mark.parametrize("backend", list(Backend))
def test_gpu_agrees_with_cpu(backend, tmp_path):
    cpu, gpu, design = _pair(tmp_path, backend)
    results = []
    for simulator in (cpu, gpu):
        x = design.to(simulator.torch_device).requires_grad_()
        s = simulator.s_parameters(x)
        (gradient,) = torch.autograd.grad((s.abs() ** 2).sum(), x)
        results.append((s.detach().cpu(), gradient.cpu()))
    assert (results[0][0] - results[1][0]).abs().max() < 1e-9
    assert (results[0][1] - results[1][1]).abs().max() < 1e-8 * results[0][1].abs().max()


@pytest.mark.gpu
@has_gpu
def test_graph_agrees_with_plain(tmp_path):
    _, gpu, design = _pair(tmp_path, Backend.BLOCK)
    graphed = GraphedStep(gpu, design.cuda(), lambda s: (s.abs() ** 2).sum())
    other = 1.0 - design.cuda()
    s, gradient = (part.clone() for part in graphed(other))
    x = other.requires_grad_()
    plain = gpu.s_parameters(x)
    (expected,) = torch.autograd.grad((plain.abs() ** 2).sum(), x)
    assert (s - plain).abs().max() < 1e-10
    assert (gradient - expected).abs().max() < 1e-9 * expected.abs().max()


@pytest.mark.gpu
@has_gpu
@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
def test_small_inverses_on_the_gpu(dtype):
    generator = torch.Generator().manual_seed(0)
    for n in (1, 4, 16, 19, 40, 64, 100):
        base = torch.randn(5, n, n, dtype=dtype, generator=generator)
        matrix = base @ base.mT + n * torch.eye(n, dtype=dtype)
        found = block_inverse(matrix.cuda()).cpu()
        assert (found @ matrix - torch.eye(n, dtype=dtype)).abs().max() < 1e-10


def test_graphs_need_a_cuda_device(tmp_path):
    device = geometry.waveguide_bend(wavelengths_nm=(1270.0,))
    simulator = Simulator(device, cache_dir=tmp_path)
    with pytest.raises(InvalidInputError, match="CUDA"):
        GraphedStep(simulator, torch.zeros(1, 40, 40), lambda s: s.abs().sum())
