"""The eager runtime on a GPU."""

import torch

from spacy_mtl.encoder.runtime.eager import EagerRuntime


def test_attention_without_cudnns_plans() -> None:
    before = torch.backends.cuda.cudnn_sdp_enabled()
    with EagerRuntime("cuda").predicting(torch.nn.Module(), torch.float32):
        assert not torch.backends.cuda.cudnn_sdp_enabled()
        assert torch.backends.cuda.flash_sdp_enabled()
    assert torch.backends.cuda.cudnn_sdp_enabled() == before
