import math

import pytest
import torch

from surco.training.adam import Adam


@pytest.mark.parametrize("clip", [math.inf, 0.5])
def test_it_is_the_adam_of_torch(clip):
    generator = torch.Generator().manual_seed(0)
    start = [torch.randn(3, 2, generator=generator), torch.randn(4, generator=generator)]
    ours, theirs = ([p.clone().requires_grad_() for p in start] for _ in range(2))
    adam = Adam(ours, clip=clip, decays=(0.9, 0.999), least=1e-8)
    peer = torch.optim.Adam(theirs, lr=0.1, betas=(0.9, 0.999), eps=1e-8)
    for k in range(20):
        for side in (ours, theirs):
            (side[0].square().sum() + (side[1] - k).square().sum()).backward()
        if math.isfinite(clip):
            torch.nn.utils.clip_grad_norm_(theirs, clip)
        peer.step()
        peer.zero_grad()
        adam.step(0.1)
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-5)
