"""Settings that all tests share."""

import torch
from hypothesis import settings

# tiny tensors: threads would cost more than they give, and figures would depend on the number of cores
torch.set_num_threads(1)

settings.register_profile("memreplay", deadline=None, derandomize=True)
settings.load_profile("memreplay")
