"""One thread: the tests share the machine, and small products gain nothing from a second."""

import torch

torch.set_num_threads(1)
