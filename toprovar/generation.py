"""What `toprovar run` does: generate, name and write images, or one grid of dense beside sparse."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from toprovar.console import remark
from toprovar.errors import ArtefactError, UsageError
from toprovar.grid import Pair, draw_grid
from toprovar.runtime.backends.base import EngineOptions
from toprovar.runtime.session import GeneratedImage, Session

__all__ = ["EXAMPLES_FILE", "Options", "generate"]

EXAMPLES_FILE = "text/examples.txt"
"""A deployment's own prompts, one a line."""

_DEMO_PROMPTS = 8


@dataclass(frozen=True)
class Options:
    """How to sample; None takes the deployment's default.

    Attributes:
        negative_prompt: what the images should not show.
        seed: of the first image of every prompt.
        images_per_prompt: images with consecutive seeds.
        guidance: one number, or one a scale.
        tau: temperature of the logits.
        top_k: 1 for greedy bits.
        top_p: probability mass to sample from.
    """

    negative_prompt: str | None = None
    seed: int = 0
    images_per_prompt: int = 1
    guidance: Sequence[float] | None = None
    tau: float | None = None
    top_k: int | None = None
    top_p: float | None = None


def generate(
    folder: Path,
    prompts: Sequence[str],
    output: Path,
    options: Options,
    *,
    backend: str | None = None,
    engine: EngineOptions = EngineOptions(),  # noqa: B008  frozen
    dense: bool = False,
    grid: bool = False,
    demo: bool = False,
) -> dict[str, Any]:
    """Generates images and writes them.

    Args:
        folder: the deployment.
        prompts: what to draw.
        output: a PNG file for one image or a grid, else a folder.
        options: sampling.
        backend: engine; as compiled if None.
        engine: how it is to work.
        dense: compute every token.
        grid: one picture of dense beside sparse, with both times.
        demo: eight of the deployment's own prompts.

    Returns:
        A summary for printing.

    Raises:
        ToProVARError: anything that the user can mend.
    """
    if demo:
        prompts = [*prompts, *_examples(folder)[:_DEMO_PROMPTS]]
    if not prompts:
        raise UsageError("no prompt; expected at least one", "give prompts in quotes, or --demo for the model's own")
    several = len(prompts) * options.images_per_prompt > 1
    if grid or not several:
        _check_file(output)
    with Session.open(folder, backend, options=engine) as session:
        if grid:
            return _write_grid(session, prompts, output, options)
        return _write_images(session, prompts, output, options, dense, several)


def _examples(folder: Path) -> list[str]:
    try:
        return (folder / EXAMPLES_FILE).read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise ArtefactError(
            f"cannot be read ({error})", "give prompts instead of --demo", file=EXAMPLES_FILE
        ) from error


def _check_file(output: Path) -> None:
    if output.suffix.lower() != ".png" or output.is_dir():
        raise UsageError(f"cannot write one picture to {output}; expected a file that ends in .png")


def _call(session: Session, prompt: str, options: Options, dense: bool) -> tuple[list[GeneratedImage], float]:
    started = time.perf_counter()
    generation = session(
        prompt,
        options.negative_prompt,
        generator=options.seed,
        num_images_per_prompt=options.images_per_prompt,
        guidance_scale=options.guidance,
        temperature=options.tau,
        top_k=options.top_k,
        top_p=options.top_p,
        dense=dense,
    )
    return list(generation.images), time.perf_counter() - started


def _write_images(
    session: Session, prompts: Sequence[str], output: Path, options: Options, dense: bool, several: bool
) -> dict[str, Any]:
    written: list[dict[str, Any]] = []
    for prompt in prompts:
        images, seconds = _call(session, prompt, options, dense)
        for one in images:
            path = output / _name(len(written), one) if several else output
            _save(one.image, path, {"prompt": one.prompt, "seed": str(one.seed)})
            each = seconds / len(images)
            remark(f"{path}: {_describe(session, one)}, {each:.2f} s")
            written.append(_facts(one, path, each))
    return {"images": written}


def _write_grid(session: Session, prompts: Sequence[str], output: Path, options: Options) -> dict[str, Any]:
    _call(session, prompts[0], options, dense=True)  # loads and warms both graphs, so that the times compare
    _call(session, prompts[0], options, dense=False)
    pairs = []
    for prompt in prompts:
        whole, whole_seconds = _call(session, prompt, options, dense=True)
        pruned, pruned_seconds = _call(session, prompt, options, dense=False)
        for first, second in zip(whole, pruned, strict=True):
            count = len(whole)
            pairs.append(Pair(prompt, first.image, second.image, whole_seconds / count, pruned_seconds / count))
        ratio = whole_seconds / pruned_seconds
        remark(f"dense {whole_seconds:5.2f} s  sparse {pruned_seconds:5.2f} s  ({ratio:.2f} x)  {prompt}")
    dense_seconds = sum(pair.dense_seconds for pair in pairs) / len(pairs)
    sparse_seconds = sum(pair.sparse_seconds for pair in pairs) / len(pairs)
    _save(draw_grid(pairs), output, {})
    remark(
        f"{output}: {len(pairs)} prompts, on average dense {dense_seconds:.2f} s, sparse {sparse_seconds:.2f} s, "
        f"{dense_seconds / sparse_seconds:.2f} times faster"
    )
    return {
        "grid": str(output),
        "dense_seconds": dense_seconds,
        "sparse_seconds": sparse_seconds,
        "pairs": [
            {"prompt": pair.prompt, "dense_seconds": pair.dense_seconds, "sparse_seconds": pair.sparse_seconds}
            for pair in pairs
        ],
    }


def _describe(session: Session, one: GeneratedImage) -> str:
    scales = len(session.plan.scales)
    return f"seed {one.seed}, " + ("dense" if one.depth >= scales else f"sparse from scale {one.depth + 1} of {scales}")


def _facts(one: GeneratedImage, path: Path, seconds: float) -> dict[str, Any]:
    return {"file": str(path), "prompt": one.prompt, "seed": one.seed, "depth": one.depth, "seconds": seconds}


def _name(index: int, one: GeneratedImage) -> str:
    slug = re.sub(r"[^a-z0-9]+", "-", one.prompt.lower()).strip("-")[:60]
    return f"{index:03}-{slug or 'image'}-{one.seed}.png"


def _save(image: Image.Image, path: Path, facts: dict[str, str]) -> None:
    """Writes a PNG whole or not at all, with `facts` as text chunks."""
    info = PngInfo()
    for key, value in facts.items():
        info.add_itxt(key, value)
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(temporary, format="PNG", pnginfo=info)
        temporary.replace(path)
    except OSError as error:
        raise ArtefactError(f"{path} cannot be written ({error})", "free some space or choose another place") from error
    finally:
        temporary.unlink(missing_ok=True)
