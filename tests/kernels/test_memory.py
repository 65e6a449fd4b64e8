"""A batch of 1,000 targets over lives of 100,000 behaviours stays far from [B, L, 128]."""

import subprocess
import sys
from pathlib import Path

SCRIPT = """
import resource, torch
from kernels import cosine_topk
users, length, queries, items = 84, 100_000, 12, 50_000
table = torch.randint(-127, 128, (items, 128), dtype=torch.int8)
inv_norm = 1.0 / table.float().norm(dim=1)
rows = torch.randint(1, items, (users * length,), dtype=torch.int32)
user = torch.arange(users).repeat_interleave(queries)
positions, scores = cosine_topk(
    table, inv_norm, rows, torch.arange(users + 1) * length, user, 50,
    query_rows=torch.randint(1, items, (users * queries,)),
)
assert positions.shape == (users * queries, 50) and bool((positions >= 0).all())
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def test_search_of_long_lives_fits_in_4_gb():
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], cwd=root, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert int(done.stdout) * 1024 < 4e9
