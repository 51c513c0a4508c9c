"""Which graphs TensorRT's ONNX parser takes, and what it makes of them.

    python benchmarks/tensorrt_parse.py export build/parse --keys infinity_2b.keys.json --golden tests/data/infinity_a
    python benchmarks/tensorrt_parse.py parse build/parse --output parse.json

`export` needs no GPU. It writes graphs without their weights: models of published size from nothing but the shapes of
their tensors, and small models with random weights for every kind of pruning. `parse` needs a GPU, TensorRT and
Polygraphy, neither torch nor onnx; where the graphs' weights lay it makes a file of zeros, which takes no room on the
disk. It exits with 1 when a graph is refused or not as expected.
"""

from __future__ import annotations

import dataclasses
import json
import sys
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import click
from rich.console import Console

__all__ = ["main"]

_CASES = "cases.json"


@click.group()
def main() -> None:
    """Export graphs, and parse them with TensorRT."""


@main.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--keys", multiple=True, type=click.Path(exists=True, path_type=Path), help="Shapes of a state dict.")
@click.option("--golden", type=click.Path(path_type=Path), help="Stem of a golden model's files.")
@click.option("--small/--no-small", default=True, help="Small models for every kind of pruning.")
@click.option("--precision", default="bfloat16", help="Of products and the cache: float32, bfloat16 or float8.")
def export(folder: Path, keys: tuple[Path, ...], golden: Path | None, small: bool, precision: str) -> None:
    """Write graphs without weights into FOLDER, a folder a case."""
    sys.path.insert(0, str(Path(__file__).parent))
    from tensorrt_cases import export_case, full_size_case, golden_case, nano_case, small_cases

    console = Console(stderr=True)
    cases = [full_size_case(file) for file in keys]
    cases += [golden_case(golden)] if golden else []
    cases += [nano_case(), *small_cases()] if small else []
    for case in cases:
        started = time.perf_counter()
        export_case(case, folder / case.name, precision)
        console.print(f"{case.name}: exported in {time.perf_counter() - started:.0f} s")


@main.command()
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--output", type=click.Path(path_type=Path), help="JSON report.")
@click.option(
    "--plugin",
    type=click.Choice(("ahead_of_time", "just_in_time")),
    default="ahead_of_time",
    show_default=True,
    help="Form of the plugin.",
)
@click.option("--only", multiple=True, help="Cases to parse; all of them if left out.")
@click.option("--build", "built", multiple=True, help="Cases whose engines are to be built, too.")
def parse(folder: Path, output: Path | None, plugin: str, only: tuple[str, ...], built: tuple[str, ...]) -> None:
    """Parse the cases in FOLDER."""
    console = Console(stderr=True)
    report: dict[str, Any] = {}
    cases = sorted(path for path in folder.iterdir() if (path / _CASES).exists())
    if not cases:
        raise click.UsageError(f"{folder} holds no case, a folder with {_CASES}; make some with `export {folder}`")
    if unknown := {*only, *built} - {case.name for case in cases}:
        raise click.UsageError(
            f"no case is called {', '.join(sorted(unknown))}; there is {', '.join(c.name for c in cases)}"
        )
    for case in cases:
        if only and case.name not in only:
            continue
        report[case.name] = {}
        for graph, found in _parse_case(case, plugin, case.name in built, console):
            report[case.name][graph] = found
            if output is not None:
                output.write_text(json.dumps(report, indent=1))
    if any(graph.get("failure") or graph.get("problems") for graphs in report.values() for graph in graphs.values()):
        raise SystemExit(1)


def _parse_case(case: Path, plugin: str, build: bool, console: Console) -> Iterator[tuple[str, dict[str, Any]]]:
    from toprovar.compiler.tensorrt.network import ParsingFailed
    from toprovar.compiler.tensorrt.parse import parse_graph
    from toprovar.engines import EngineProfile, PluginForm
    from toprovar.signature import Signature

    facts = json.loads((case / _CASES).read_text())
    weights = case / "weights.bin"
    if not weights.exists():
        with weights.open("wb") as file:
            file.truncate(facts["weights_bytes"])
    for name, one in facts["graphs"].items():
        contract = Signature(
            {key: tuple(axes) for key, axes in one["inputs"].items()},
            {key: tuple(axes) for key, axes in one["outputs"].items()},
        )
        profiles = [EngineProfile.from_json(json.dumps(profile)) for profile in one["profiles"]]
        try:
            path, form = case / f"{name}.onnx", cast(PluginForm, plugin)
            parsed = parse_graph(path, contract, profiles, one["plugins"], form, one["types"], one["quantized"])
            found = dataclasses.asdict(parsed)
        except ParsingFailed as error:
            found = {"failure": error.reason, "node": error.node}
        except Exception:  # the report goes on with the next graph
            found = {"failure": traceback.format_exc()}
        if build and "failure" not in found:
            found["build"] = _build(case / f"{name}.onnx", profiles, plugin)
        _tell(console, case.name, name, found, len(profiles))
        yield name, found


def _build(path: Path, profiles: list[Any], plugin: str) -> dict[str, Any]:
    from toprovar.compiler.tensorrt.network import Messages, NetworkFromGraph
    from toprovar.compiler.tensorrt.parse import to_polygraphy

    messages = Messages()
    builder, network, parser = NetworkFromGraph(path, plugin, messages)()  # type: ignore[arg-type]
    config = builder.create_builder_config()
    names = [network.get_input(index).name for index in range(network.num_inputs)]
    for profile in profiles:
        config.add_optimization_profile(to_polygraphy(profile, names).to_trt(builder, network))
    started = time.perf_counter()
    try:
        engine = builder.build_serialized_network(network, config)
    except Exception as error:  # reported as it is
        messages.errors.append(repr(error))
        engine = None
    del parser
    return {
        "built": engine is not None,
        "bytes": 0 if engine is None else engine.nbytes,
        "seconds": time.perf_counter() - started,
        "errors": messages.errors,
        "warnings": messages.warnings,
    }


def _tell(console: Console, case: str, graph: str, found: dict[str, Any], profiles: int) -> None:
    if "failure" in found:
        line = f"REFUSED at {found.get('node')}: {found['failure'][-400:]}"
    else:
        line = (
            f"{sum(found['layers'].values())} layers, {found['plugins']} plugins, "
            f"{found['quantized']} products in eight bits, {found['profiles']} of {profiles} "
            f"profiles, "
            f"{found['seconds']:.1f} s and {found['shape_seconds']:.1f} s, "
            f"{len(found['problems'])} problems {list(found['problems'][:3])}"
        )
    console.print(f"{case}/{graph}: {line}", markup=False, highlight=False, soft_wrap=True)
    if "build" in found:
        console.print(f"  build: {found['build']}", markup=False, highlight=False, soft_wrap=True)


if __name__ == "__main__":
    main()
