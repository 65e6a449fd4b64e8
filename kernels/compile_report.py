"""What the GPU kernels compile to, on a machine without a GPU: registers, memory, load widths.

`python -m kernels.compile_report --arch 80 90` compiles every kernel as it is launched and prints
one line each; `--json` writes the same as JSON.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from kernels.category_topk import kernel as category
from kernels.cosine_topk import kernel as cosine
from kernels.hamming_topk import kernel as hamming
from kernels.launch import COMPILED, ScanConfig
from kernels.scan import merge_kernel, scan_kernel
from kernels.simtier import kernel as simtier

# Shared memory that one program may have, by compute capability (CUDA programming guide).
SHARED_BYTES = {80: 163 * 1024, 90: 227 * 1024}
POINTERS = {
    torch.int8: "*i8",
    torch.float16: "*fp16",
    torch.bfloat16: "*bf16",
    torch.float32: "*fp32",
}


@dataclass(frozen=True)
class Variant:
    """A kernel with everything that is fixed when it is compiled.

    Attributes:
        name: op and shape.
        function: the kernel.
        types: Triton type of every argument that is not a constant, by name.
        constants: of the kernel, by name.
        warps: of a program.
        gathered_bytes: of one tile, 0 where the kernel gathers nothing.
    """

    name: str
    function: Any
    types: dict[str, Any]
    constants: dict[str, Any]
    warps: int
    gathered_bytes: int = 0


@dataclass(frozen=True)
class Compiled:
    """What the assembler made of a variant; `stack_bytes` are spilled registers.

    `wide_loads` counts loads of 16 bytes in the PTX, `byte_loads` those below 4, and `fused_sums`
    the float32 sums that round a product and a sum once; a tile is gathered wide where `wide_loads`
    cover it.
    """

    name: str
    arch: int
    warps: int
    registers: int
    stack_bytes: int
    shared_bytes: int
    wide_loads: int
    byte_loads: int
    fused_sums: int
    gathered_bytes: int

    @property
    def gathers_wide(self) -> bool:
        return self.wide_loads * self.warps * 32 * 16 >= self.gathered_bytes


def variants() -> Iterator[Variant]:
    """Every kernel at the shapes of training batches and of requests."""
    i8, f16, bf16, f32 = torch.int8, torch.float16, torch.bfloat16, torch.float32
    for dtype, width, queries, k, bins in [
        (i8, 128, 1, 50, 0),
        (i8, 128, 1, 50, 32),
        (i8, 256, 1, 128, 0),
        (i8, 128, 11, 50, 32),
        (i8, 128, 1000, 50, 0),
        (i8, 256, 11, 128, 0),
        (f16, 128, 11, 50, 0),
        (bf16, 128, 11, 50, 0),
        (f32, 32, 11, 50, 0),
    ]:
        config = cosine.choose_config(dtype, width, queries, bins)
        pointer = POINTERS[dtype]
        sources = (pointer, "*fp32", "*i32", pointer, "*fp32")
        name = f"cosine_topk {dtype} M={width} queries/user={queries} k={k} bins={bins}"
        gathered = config.tile * width * dtype.itemsize
        yield _scan(name, cosine, sources, width, config, k, bins, gathered)
    config = category.CONFIG
    yield _scan("category_topk k=50", category, ("*i32", "*i32"), 1, config, 50)
    ints = ("*i32", "*i32", "*i32", "*i32")
    yield _scan("hamming_topk 128 bits k=50", hamming, ints, 4, hamming.CONFIG, 50)
    types = dict.fromkeys(merge_kernel.arg_names, "*i64")
    types |= {"positions_QK": "*i32", "scores_QK": "*fp32", "K": "i32"}
    for segments in (2, 16):
        constants = {"K2": 64, "B": 16, "SEGMENTS": segments}
        yield Variant(f"merge k=50 segments={segments}", merge_kernel, types, constants, 4)
    yield from _simtier()


def _simtier() -> Iterator[Variant]:
    floats = dict.fromkeys(simtier.count_kernel.arg_names, "*fp32")
    floats |= {"mask_ptr": "*u8", "rows": "i32", "picks": "i32"}
    block = {"R": simtier.ROWS, "K": simtier.PICKS}
    for tenths, bins, padded in ((True, 22, 32), (False, 50, 64)):
        constants = {"BINS": bins, "TENTHS": tenths, "HAS_SCALE": True, "N": padded, **block}
        name = f"simtier counts bins={bins}"
        yield Variant(name, simtier.count_kernel, floats, constants, 4)
    sums = dict.fromkeys(simtier.partial_kernel.arg_names, "*fp32")
    sums |= {"rows": "i32", "rows_per_program": "i32"}
    constants = {"BINS": 22, "R": simtier.SUM_ROWS, "N": 32}
    yield Variant("simtier gradient", simtier.partial_kernel, sums, constants, 4)


def _scan(
    name: str,
    op: Any,
    sources: tuple[str, ...],
    width: int,
    config: ScanConfig,
    k: int,
    bins: int = 0,
    gathered_bytes: int = 0,
) -> Variant:
    types: dict[str, Any] = dict.fromkeys(scan_kernel.arg_names, "*i64")
    types |= {"sources": sources, "counts": "*i32", "histogram_Q": "*i32", "floors": "*fp32"}
    types |= {"blocks": "i32", "K": "i32", "BINS": "i32"}
    padded = triton.next_power_of_2(width)
    constants = {
        "K2": max(triton.next_power_of_2(k), 2),
        "B": config.block_queries,
        "C": config.tile,
        "ROUND": config.round_tiles,
        "BINS2": triton.next_power_of_2(bins + 1) if bins else 0,
        "STAGES": config.stages,
        "WIDTH": width,
        "WIDTH2": max(padded, 32) if op is cosine else padded,
        "LOAD_QUERIES": op.load_queries,
        "SCORE": op.score_tile,
    }
    return Variant(name, scan_kernel, types, constants, config.warps, gathered_bytes)


def compile_variant(variant: Variant, arch: int) -> Compiled:
    """Compile down to machine code for a compute capability, 80 or 90, and read it back."""
    names = variant.function.arg_names
    signature = {n: "constexpr" if n in variant.constants else variant.types[n] for n in names}
    constants = {(names.index(name),): value for name, value in variant.constants.items()}
    # torch's allocations are aligned to 16 bytes, which the launcher sees and passes on.
    aligned = [["tt.divisibility", 16]]
    pointers: dict[tuple[int, ...], Any] = {}
    for at, kind in enumerate(signature.values()):
        parts = enumerate(kind) if isinstance(kind, tuple) else [(None, kind)]
        for part, name in parts:
            if name.startswith("*"):
                pointers[(at,) if part is None else (at, part)] = aligned
    source = ASTSource(variant.function, signature, constants, pointers)
    options = {"num_warps": variant.warps, **COMPILED}
    built = triton.compile(source, target=GPUTarget("cuda", arch, 32), options=options)
    ptx = built.asm["ptx"]
    registers, stack = _resources(built.asm["cubin"])
    return Compiled(
        variant.name,
        arch,
        variant.warps,
        registers,
        stack,
        built.metadata.shared,
        len(re.findall(r"cp\.async\.\w+\.shared\.global[^;]*, 0x10[,; ]", ptx))
        + len(re.findall(r"ld\.global\S*\.v4\.[bufs]32", ptx))
        + len(re.findall(r"ld\.global\S*\.v2\.[bufs]64", ptx)),
        len(re.findall(r"ld\.global\S*\.[bsu](?:8|16)\b", ptx)),
        len(re.findall(r"\bfma\.rn\.f32\b", ptx)),
        variant.gathered_bytes,
    )


def _resources(cubin: bytes) -> tuple[int, int]:
    """Registers a thread and bytes of stack of the only kernel of a cubin."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        tool = triton.knobs.nvidia.cuobjdump.path
        command = [tool, "-res-usage", file.name]
        usage = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    found = re.search(r"REG:(\d+) STACK:(\d+)", usage)
    if found is None:
        raise RuntimeError(f"{tool} -res-usage printed no registers: {usage!r}")
    return int(found[1]), int(found[2])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--arch", type=int, nargs="+", choices=SHARED_BYTES, default=[80, 90])
    parser.add_argument("--json", action="store_true", help="print JSON")
    arguments = parser.parse_args()
    report = [compile_variant(v, arch) for arch in arguments.arch for v in variants()]
    if arguments.json:
        print(json.dumps([asdict(row) | {"gathers_wide": row.gathers_wide} for row in report]))
        return
    for row in report:
        print(
            f"sm_{row.arch} {row.registers:4d} registers {row.stack_bytes:4d} B spilled "
            f"{row.shared_bytes:7d} B shared {row.wide_loads:3d} wide loads  {row.name}"
        )


if __name__ == "__main__":
    main()
