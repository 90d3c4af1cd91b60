"""In the parity check torch is at its most exact, and nothing stays switched off."""

import torch

from deepfusion_export.parity import plain_torch


def test_onednn_is_off_within_and_on_again_behind():
    before = torch._C._get_mkldnn_enabled()
    with plain_torch():
        assert not torch._C._get_mkldnn_enabled()
        assert not torch.is_grad_enabled()
    assert torch._C._get_mkldnn_enabled() == before
    assert torch.is_grad_enabled()


def test_it_is_nearer_to_float64():
    draws = torch.Generator().manual_seed(0)
    image = torch.rand(1, 256, 14, 14, generator=draws)
    weight = torch.randn(256, 256, 3, 3, generator=draws)
    exact = torch.conv2d(image.double(), weight.double(), padding=1)
    with plain_torch():
        found = torch.conv2d(image, weight, padding=1)
    assert float((found - exact).abs().max() / exact.abs().max()) < 2e-6
