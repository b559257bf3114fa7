"""Programs compiled for TPUs on a machine that has none: `python tpu_programs.py TABLE GENERATION/NAME...`.

libtpu compiles for a described topology: what does not fit the chip's on-chip or main memory, or what its
compiler refuses, fails here. One line of JSON a program. In a process of its own, because libtpu must be
told of its surroundings before JAX starts, and can abort.

Every program is lowered, which takes a tenth of a second; compiling takes up to a minute. The same lowered
program under the same compiler has the same figures, so where TABLE (a file, or "-" for none) has them under
the program's key, they are taken from there.
"""

import hashlib
import importlib.metadata
import json
import math
import os
import pathlib
import re
import sys
import time

TOPOLOGIES = {"v5e": "v5e:2x2", "v5p": "v5p:2x2x1", "v6e": "v6e:2x2"}
N = 8192  # rows: four pairs of 1,024 tokens
HEADS = {  # width, vocabulary
    f"{width}x{vocab}": (width, vocab)
    for width in (896, 2304, 4096)
    for vocab in (128_256, 151_936, 256_128, 262_144)
}
LLAMA3 = (4096, 128_256)
GEMMA2 = (2304, 256_128)
IMPLEMENTATIONS = {
    "chosen": None,
    "pallas_tpu": "pallas_tpu",
    "vocab_scan": "vocab_scan",
    "token_scan": "token_scan",
    "materialized": "materialized",
    "naive": "reference",
}
# Operands that differ from two bfloat16 ones: (width, vocabulary, dtypes of states and weights, options).
OTHERS = {
    "every option": (*GEMMA2, "bfloat16", "bfloat16", {"bias": True, "soft_cap": 30.0, "temperature": 0.7}),
    "master weights": (*LLAMA3, "bfloat16", "float32", {}),
    "float32": (896, 151_936, "float32", "float32", {}),
    "wide": (8192, 128_256, "bfloat16", "bfloat16", {}),
    "few rows": (896, 50_257, "bfloat16", "bfloat16", {"rows": 13}),
    "asked block": (896, 50_257, "bfloat16", "bfloat16", {"block": 1000}),
}
STATISTICS = ("logsumexp", "entropy", "log_sum_p2", "top1")

ENVIRONMENT = {
    "JAX_PLATFORMS": "cpu",
    "JAX_ENABLE_COMPILATION_CACHE": "false",  # written for topologies, and warned about when read
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-8",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_WORKER_ID": "0",
    "TPU_LOG_DIR": "disabled",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    # No paths or line numbers in a lowered program, kernels included: its key is that of what it computes.
    "JAX_INCLUDE_FULL_TRACEBACKS_IN_LOCATIONS": "true",
    "JAX_TRACEBACK_IN_LOCATIONS_LIMIT": "0",
}


def programs() -> dict:
    """Name to (mesh axes, function, arguments as (shape, dtype, partition), donated arguments)."""
    import jax.numpy as jnp
    from jax import value_and_grad
    from jax.nn import log_sigmoid

    from jaxpref.kernels.token_logps import linear_token_logps, token_logps

    one, four, grid = {"tensor": 1}, {"tensor": 4}, {"fsdp": 2, "tensor": 2}
    rows = ("fsdp",)
    found: dict = {}

    def operands(width, vocab, states="bfloat16", weights="bfloat16", n=N):
        return [
            ((n, width), states, (rows,)),
            ((vocab, width), weights, ("tensor", "fsdp")),
            ((n,), "int32", (rows,)),
        ]

    def dpo(logps):
        """Of four pairs; the reference's log-probs do not matter here."""
        chosen, rejected = logps.reshape(-1, 2, 1024).sum(-1).T
        return -log_sigmoid(0.1 * (chosen - rejected)).mean()

    def training(implementation):
        def loss(hidden, weight, targets):
            return dpo(linear_token_logps(hidden, weight, targets, implementation=implementation))

        return value_and_grad(loss, (0, 1))

    for name, (width, vocab) in HEADS.items():
        found[f"scoring {name}"] = (one, linear_token_logps, operands(width, vocab), ())
    for name, (width, vocab, states, weights, options) in OTHERS.items():
        arguments = operands(width, vocab, states, weights, options.pop("rows", N))
        if options.pop("bias", False):
            arguments.append(((vocab,), "float32", ("tensor",)))
            options["statistics"] = STATISTICS

        def scoring(hidden, weight, targets, bias=None, options=options):
            return linear_token_logps(hidden, weight, targets, bias=bias, **options)

        found[f"scoring {name}"] = (one, scoring, arguments, ())
    for name, implementation in IMPLEMENTATIONS.items():
        found[f"training {name}"] = (one, training(implementation), operands(*LLAMA3), ())
    found["training chosen, vocabulary over 4"] = (four, training(None), operands(*LLAMA3), ())
    found["training chosen, over 2 x 2"] = (grid, training(None), operands(*LLAMA3, weights="float32"), ())

    def row_loss(logits, targets):
        return dpo(token_logps(logits, targets))

    def through_matmul(hidden, weight, targets):
        logits = jnp.einsum("nd,vd->nv", hidden, weight)
        return row_loss(logits, targets)

    vocab = LLAMA3[1]
    for dtype in ("bfloat16", "float32"):
        logits = [((N, vocab), dtype, (rows, "tensor")), ((N,), "int32", (rows,))]
        found[f"rows {dtype}"] = (one, lambda x, y: token_logps(x, y, statistics=STATISTICS), logits, ())
        found[f"rows {dtype}, gradient"] = (one, value_and_grad(row_loss), logits, (0,))
    found["rows over 2 x 2"] = (grid, token_logps, logits, ())
    found["rows of a matmul, gradient"] = (one, value_and_grad(through_matmul, (0, 1)), operands(*LLAMA3), ())
    return found | attention_programs(one, grid)


def attention_programs(one: dict, grid: dict) -> dict:
    """Rows of Llama 3.1 8B: a prompt of 2,048 tokens and two responses of 2,048."""
    import jax.numpy as jnp
    from jax import value_and_grad

    from jaxpref.kernels.attention import Marks, Row, planned, row_attention

    row, rows = Row(2048, 2, 2048), ("fsdp",)

    def operands(b, kv_heads=8, groups=4, width=128):
        def one(*shape):
            return ((b, row.length, *shape), "bfloat16", (rows, None, "tensor"))

        return [
            one(kv_heads, groups, width),
            one(kv_heads, width),
            one(kv_heads, width),
            ((b,), "int32", (rows,)),
        ]

    def attention(implementation, soft_cap=None):
        def read(q, k, v, lengths):
            heads = {"heads": q.shape[2] * q.shape[3], "kv_heads": q.shape[2]}
            found = planned(row, rows=len(q), window=None, implementation=implementation, **heads)
            order = jnp.broadcast_to(jnp.arange(row.length), (len(q), row.length))
            own = lengths[:, None] + (order - row.prompt) % row.each
            of_prompt = order < row.prompt
            positions, real = jnp.where(of_prompt, order, own), ~of_prompt | (order < lengths[:, None])
            marks = Marks(jnp.asarray(row.segments())[None], positions, real, None)
            return row_attention(q, k, v, marks, found, scale=0.1, soft_cap=soft_cap)

        return read

    def gradient(*settings):
        read = attention(*settings)
        return value_and_grad(lambda *x: read(*x).astype(jnp.float32).sum(), (0, 1, 2))

    return {
        "attention": (one, attention(None), operands(1), ()),
        "attention, gradient": (one, gradient(None), operands(1), ()),
        "attention, gradient, wide heads, cap": (one, gradient(None, 50.0), operands(1, 4, 2, 256), ()),
        "attention, gradient, over 2 x 2": (grid, gradient(None), operands(2), ()),
        "attention by blocks, gradient": (one, gradient("blockwise"), operands(1), ()),
    }


def in_loops(text: str, operation: str) -> int:
    """How often an operation is named in bodies of loops, and in what they call, of an HLO module."""
    blocks = {m[1]: m[0] for m in re.finditer(r"^(?:ENTRY )?%?([\w.\-]+) .*?^}", text, re.M | re.S)}
    todo, seen = re.findall(r"body=%?([\w.\-]+)", text), set()
    while todo:
        if (name := todo.pop()) in blocks and name not in seen:
            seen.add(name)
            todo += re.findall(r"(?:calls|body|to_apply)=%?([\w.\-]+)", blocks[name])
    return sum(blocks[name].count(f" {operation}") for name in seen)


def versions() -> dict[str, str]:
    return {name: importlib.metadata.version(name) for name in ("jax", "libtpu")}


def lowered(topology, axes, function, arguments, donated):
    import jax
    import numpy as np
    from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

    devices = np.array(topology.devices[: math.prod(axes.values())]).reshape(*axes.values())
    mesh = Mesh(devices, tuple(axes), axis_types=(AxisType.Auto,) * len(axes))

    def partition(spec):
        names = [tuple(a for a in (s if isinstance(s, tuple) else (s,)) if a in axes) or None for s in spec]
        return NamedSharding(mesh, PartitionSpec(*names))

    shapes = [
        jax.ShapeDtypeStruct(shape, dtype, sharding=partition(spec)) for shape, dtype, spec in arguments
    ]
    with jax.set_mesh(mesh):
        return jax.jit(function, donate_argnums=donated).lower(*shapes)


def key_of(program) -> str:
    """Of the lowered program and what compiles it."""
    return hashlib.sha256(f"{versions()}\n{program.as_text()}".encode()).hexdigest()[:16]


def figures(program, axes, arguments) -> dict:
    program = program.compile()
    memory, text = program.memory_analysis(), program.as_text()
    return {
        "temp": memory.temp_size_in_bytes,
        "alias": memory.alias_size_in_bytes,
        "flops": program.cost_analysis().get("flops", 0),
        "kernels": text.count('custom_call_target="tpu_custom_call"'),
        "gathers": len(re.findall(r"= \S+ all-gather(?:-start)?\(", text)),
        "gathers_in_loops": in_loops(text, "all-gather"),
        "fusions_in_loops": in_loops(text, "fusion("),
        "logits": sorted(set(re.findall(_logits(arguments, axes), text))),
    }


def _logits(arguments, axes) -> str:
    """Pattern of the shape of all logits, or of all that one device would have."""
    if len(arguments[0][0]) > 2:
        return "no logits"
    n, vocab = arguments[0][0][0], arguments[1][0][0]
    shards = n // axes.get("fsdp", 1), vocab // axes.get("tensor", 1)
    return rf"\w+\[(?:{n},{vocab}|{shards[0]},{shards[1]})\]"


def main(table: str, *wanted: str) -> None:
    os.environ.update(ENVIRONMENT)
    recorded = {} if table == "-" else json.loads(pathlib.Path(table).read_text())["programs"]
    from jax.experimental import topologies

    known, described = programs(), {}
    for each in wanted:
        generation, name = each.split("/", 1)
        begin = time.process_time()
        try:
            if generation not in described:
                topology = TOPOLOGIES[generation]
                described[generation] = topologies.get_topology_desc(platform="tpu", topology_name=topology)
            axes, function, arguments, donated = known[name]
            program = lowered(described[generation], axes, function, arguments, donated)
            found = recorded.get(generation, {}).get(name, {})
            if found.get("key") != (key := key_of(program)):
                found = {"key": key, "compiled": True, **figures(program, axes, arguments)}
        except Exception as error:  # reported as this program's failure; the others are still tried
            found = {"error": f"{type(error).__name__}: {error}"[:2000]}
        found["cpu_seconds"] = round(time.process_time() - begin, 1)
        print(json.dumps({"generation": generation, "program": name, **found}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
