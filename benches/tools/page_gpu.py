"""The section of docs/benchmarks.md about GPUs: what the kit measured on each card, the prediction, the compiler."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from benches.tools import page_tables
from benches.tools.page_tables import format_percent, format_table, load_result

Rows = list[Mapping[str, Any]]
OURS, PADDED = "codescaler", "transformers, padded, SDPA"


def write_gpus() -> Iterator[str]:
    """Yields the section; every folder `gpu_CARD` of results is a run of the kit."""
    yield "## GPUs\n"
    for file in sorted(page_tables.RESULTS.glob("gpu_*/results.json")):
        yield from _write_kit(load_result(f"{file.parent.name}/results"))
        if (notes := file.with_name("notes.md")).exists():
            yield notes.read_text()
    yield from _write_prediction()
    yield from _write_step()
    yield from _write_compiler()


def _write_kit(parts: Mapping[str, Rows]) -> Iterator[str]:
    environment = {row["name"]: row["figures"] for row in parts["environment"]}
    versions = ", ".join(f"{name} {environment['versions'][name]}" for name in ("torch", "triton", "transformers"))
    checked = [row for rows in parts.values() for row in rows if row["is_ok"] is not None]
    failed = sum(not row["is_ok"] for row in checked)
    yield f"### {environment['card']['name']}\n"
    yield (
        f"`make gpu`: {versions}. A matrix product of bfloat16 reaches "
        f"{environment['matrix product']['tflops']:.0f} TFLOP/s. Scores are in bfloat16. MFU is the share of "
        f"989 TFLOP/s. {len(checked)} rows of the kit are checks, and {failed} of them failed "
        f"([all rows](../benches/results/gpu_{environment['card']['name'].split()[-1].lower()}/table.txt)).\n"
    )
    yield format_table(
        ["shapes and workload", "ms", "MFU", "speed", "beside packed, varlen"], _list_workloads(parts["workloads"])
    )
    yield (
        "Speed is beside transformers with a padded batch and SDPA. The last column is beside transformers with a "
        "packed batch and torch's variable-length flash attention, which shares no prefix.\n"
    )
    yield "Milliseconds of each kernel in one forward, beside the prediction:\n"
    yield format_table(
        ["shapes and workload", "kernel", "launches", "ms", "predicted ms"], _list_kernels(parts["profile"])
    )
    yield (
        "Products of a layer with `deterministic=True`, beside those of cuBLAS, on the tokens of `bon8` "
        "(a launch costs nothing here):\n"
    )
    yield format_table(["shapes", "product", "TFLOP/s", "cuBLAS", "time"], _list_products(parts["products"]))
    if launches := list(_list_launches(parts.get("launches", []))):
        yield "Microseconds that a call takes the host, launched by codescaler and by Triton itself:\n"
        yield format_table(["call", "us", "by Triton"], launches)
    if training := list(_list_training(parts["training"])):
        yield "A training step of 1.7B shapes, on groups of 8 programs:\n"
        yield format_table(["system", "ms", "pairs/s", "peak GiB"], training)


def _list_workloads(rows: Rows) -> Iterator[list[str]]:
    figures = {row["name"]: row["figures"] for row in rows}
    for name, ours in figures.items():
        case, _, system = name.partition(f" {OURS}")
        if f"{case} {PADDED}" in figures and name.startswith(f"{case} {OURS}"):
            varlen = figures[f"{case} transformers, packed, varlen"]["ms"] / ours["ms"]
            speeds = (f"{ours['speedup']:.1f}x", f"{varlen:.1f}x")
            yield [f"{case}{system}", f"{ours['ms']:.1f}", format_percent(ours["mfu"]), *speeds]


def _list_kernels(rows: Rows) -> Iterator[list[object]]:
    for row in rows:
        figures = row["figures"]
        if "us" in figures:
            shape, workload, kernel = row["name"].split(" ", 2)
            predicted = figures["roofline_us"]
            told = "" if predicted is None else f"{predicted / 1e3:.2f}"
            yield [f"{shape} {workload}", f"`{kernel}`", figures["launches"], f"{figures['us'] / 1e3:.2f}", told]


def _list_products(rows: Rows) -> Iterator[list[str]]:
    figures = {row["name"]: row["figures"] for row in rows}
    for name, ours in figures.items():
        shape, _, rest = name.partition(" ")
        product, _, tile = rest.partition(" ")
        if product == "layer":
            yield [shape, "all four", "", "", f"{ours['price']:.2f}x"]
        elif tile.startswith("table:"):
            speeds = (f"{by['tflops']:.0f}" for by in (ours, figures[f"{shape} {product} torch"]))
            yield [shape, f"`{product}`", *speeds, f"{ours['price']:.2f}x"]


def _list_launches(rows: Rows) -> Iterator[list[str]]:
    for row in rows:
        us, by_triton = (row["figures"].get(name) for name in ("us", "triton_us"))
        if us is not None:
            yield [f"`{row['name']}`", f"{us:.1f}", "" if by_triton is None else f"{by_triton:.1f}"]


def _list_training(rows: Rows) -> Iterator[list[str]]:
    for row in rows:
        figures = row["figures"]
        if "pairs_per_s" in figures:
            numbers = (figures["ms"], figures["pairs_per_s"], figures["peak_gib"])
            yield [row["name"], *(f"{number:.{digits}f}" for number, digits in zip(numbers, (0, 1, 1), strict=True))]


def _write_prediction() -> Iterator[str]:
    result = load_result("roofline_h100")
    yield "### Predicted\n"
    yield (
        "`make roofline`: milliseconds predicted for an H100, from bytes and operations. "
        f"The prediction takes {result['peak_flops'] / 1e12:.0f} TFLOP/s, {result['attention_flops'] / 1e12:.0f} in "
        f"attention, and {result['bytes_per_s'] / 1e12:.0f} TB/s. "
        "What a measurement must confirm stands in [roofline.py](../benches/tools/roofline.py).\n"
    )
    names = ("codescaler", "varlen without sharing", "padded, eager")
    yield format_table(
        ["workload", *names],
        [[w, *(f"{rows[name]['predicted_ms']:.1f}" for name in names)] for w, rows in result["workloads"].items()],
    )


def _write_step() -> Iterator[str]:
    yield "A training step, predicted in the same way, on the tree of `bon8` with float32 weights and optimizer:\n"
    steps: Mapping[str, Any] = load_result("roofline_h100")["training"]
    yield format_table(["step", "predicted ms"], [[name, f"{s['predicted_ms']:.1f}"] for name, s in steps.items()])


def _write_compiler() -> Iterator[str]:
    yield "### Compiled\n"
    yield "`make compile-triton`: what the compiler says of every kernel, for each target.\n"
    tables: Iterable[Mapping[str, Any]] = (load_result(f"triton_compile_{version}") for version in ("3.6", "3.9"))
    rows = []
    for table in tables:
        for target in dict.fromkeys(row["target"] for row in table["rows"]):
            of_target = [row for row in table["rows"] if row["target"] == target]
            spills = [row["spill_bytes"] for row in of_target if row["spill_bytes"]]
            most = max(row["registers"] for row in of_target)
            told = f"{len(spills)} ({min(spills)} to {max(spills)} bytes)" if spills else "0"
            rows.append([table["triton"], target, len(of_target), most, told])
    yield format_table(["Triton", "target", "kernels", "most registers", "kernels that spill"], rows)
