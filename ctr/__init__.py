"""Training and evaluation of CTR models over lifelong behaviour histories."""

import os

# OpenMP threads that spin while they wait starve each other as soon as another process wants a
# core: one training run went from 1,241 to 11,166 samples/s with this on a busy 2-core machine.
# libgomp reads it when torch is loaded, so it is set here, before any module of ours imports torch.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
