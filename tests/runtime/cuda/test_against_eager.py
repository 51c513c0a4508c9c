"""The runtime, call by call in fp32 on a CPU, draws the bits that the eager backend draws."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from toprovar.extensions import RESTORATIONS, SELECTORS
from toprovar.plan import DepthRule
from toprovar.pruning import ENTROPY_SELECTORS, Pruning, Unconditional
from toprovar.runtime.cuda import text_buffer
from toprovar.runtime.cuda.options import RuntimeOptions
from toprovar.runtime.session import GeneratedImage

from ...tiny_nano import psnr
from .small_model import Counts, features, make_model, make_plan, make_session

COUNTS: dict[str, Counts] = {
    "dense": lambda s, t: (t, t, t),
    "half": lambda s, t: (t, t // 2, t // 3) if s > 2 else (t, t, t),
    "layers": lambda s, t: (t, 0, t // 2) if s > 2 else (t, t, t),
    "scale": lambda s, t: (0, 0, 0) if s == 3 else (t, t // 2 if s > 3 else t, t),
}


def pruning_of(selector: str, restoration: str = "identity", reuses: bool = False) -> Pruning:
    return Pruning(selector, (0, 1) if selector in ENTROPY_SELECTORS else (), restoration, reuses)


def compare(
    pruning: Pruning,
    kept: Counts,
    rule: DepthRule | None = None,
    insertion: Sequence[int] = (0,),
    patchify: bool = False,
    images: int = 2,
    late: Unconditional = "full",
    width: int = 64,
    **options: object,
) -> tuple[list[GeneratedImage], list[GeneratedImage]]:
    loaded = make_model(patchify, width)
    plan = make_plan(loaded, pruning, kept, rule, insertion, late)
    prompts = [features(3 + index, index) for index in range(images)]
    made = []
    for runtime in (None, RuntimeOptions.plain()):
        session = make_session(loaded, plan, runtime, insertion)
        made.append(list(session(prompts, generator=7, batch_size=images, **options).images))  # type: ignore[arg-type]
    for one, other in zip(*made, strict=True):
        assert one.depth == other.depth
        # The bits of a scale that is left out are in no image; the runtime draws them from its input alone.
        counted = [index for index, scale in enumerate(plan.scales) if any(scale.kept) or options]
        first, second = ([image.bits[index] for index in counted] for image in (one, other))
        assert np.mean([np.array_equal(a, b) for a, b in zip(first, second, strict=True)]) == 1
        assert psnr(one.pixels, other.pixels) >= 60
        if one.statistic is not None:
            assert one.statistic == pytest.approx(other.statistic, abs=1e-5)
    return made[0], made[1]


@pytest.mark.parametrize("kept", COUNTS.values(), ids=COUNTS.keys())
@pytest.mark.parametrize("selector", SELECTORS.names())
def test_selectors(selector: str, kept: Counts) -> None:
    compare(pruning_of(selector), kept)


@pytest.mark.parametrize("kept", ["half", "layers", "scale"])
@pytest.mark.parametrize("restoration", RESTORATIONS.names())
@pytest.mark.parametrize("selector", ["deviation", "own_scale", "chunk_change"])
def test_restorations(selector: str, restoration: str, kept: str) -> None:
    compare(pruning_of(selector, restoration), COUNTS[kept])


@pytest.mark.parametrize("late", ["reused", "omitted"])
@pytest.mark.parametrize("restoration", ["identity", "cached", "anchor"])
def test_without_the_unconditional_half(restoration: str, late: Unconditional) -> None:
    compare(pruning_of("previous_scale", restoration, late == "reused"), COUNTS["half"], late=late)


@pytest.mark.parametrize("late", ["full", "omitted"])
def test_text_as_keys_and_values(late: Unconditional) -> None:
    """Heads have as many channels as the shortest folded text has tokens, so that nothing is folded."""
    compare(pruning_of("previous_scale"), COUNTS["half"], late=late, width=32)


@pytest.mark.parametrize("late", ["full", "omitted"])
def test_a_batch_of_folded_and_kept_texts(late: Unconditional, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_buffer, "_FOLDED", (4,))
    compare(pruning_of("previous_scale"), COUNTS["half"], late=late)
    entropies = DepthRule("low_entropy_ratio", 2, 0.0, (0.5,), (3, 4))
    compare(pruning_of("previous_scale"), COUNTS["half"], entropies, images=3)


@pytest.mark.parametrize("kept", COUNTS)
def test_folded_and_kept_texts_do_not_depend_on_their_batch(kept: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_buffer, "_FOLDED", (4,))
    loaded = make_model()
    plan = make_plan(loaded, pruning_of("previous_scale"), COUNTS[kept])
    prompts = [features(3 + index, index) for index in range(3)]
    with make_session(loaded, plan, RuntimeOptions.plain()) as session:
        alone, together = (session(prompts, generator=[1, 2, 3], batch_size=size).images for size in (1, 3))
    for one, other in zip(alone, together, strict=True):
        assert np.array_equal(one.pixels, other.pixels)


@pytest.mark.parametrize("patchify", [False, True])
@pytest.mark.parametrize("insertion", [(0,), (-1,), (0, -2)])
def test_where_guidance_is_applied(insertion: tuple[int, ...], patchify: bool) -> None:
    compare(pruning_of("both_scales"), COUNTS["half"], insertion=insertion, patchify=patchify)


@pytest.mark.parametrize(
    "options", [{"guidance_scale": 1.0}, {"top_k": 1}, {"negative_prompt": features(2, 9)}, {"dense": True}], ids=str
)
def test_options(options: dict[str, object]) -> None:
    compare(pruning_of("previous_scale"), COUNTS["half"], **options)


@pytest.mark.parametrize("statistic", ["low_entropy_ratio", "high_frequency"])
def test_depth_rules_part_a_batch(statistic: str) -> None:
    entropy = statistic == "low_entropy_ratio"
    pruning = pruning_of("previous_scale")
    rule = DepthRule(statistic, 2, 0.0 if entropy else None, (), (3,))
    images, _ = compare(pruning, COUNTS["half"], rule, images=3)
    values = sorted(image.statistic for image in images)
    rule = DepthRule(statistic, 2, rule.low_below, ((values[0] + values[-1]) / 2,), (3, 4))
    images, _ = compare(pruning, COUNTS["half"], rule, images=3)
    assert {image.depth for image in images} == {3, 4}


@pytest.mark.parametrize("late", ["reused", "omitted"])
def test_updates_that_are_cached_without_the_unconditional_half(late: Unconditional) -> None:
    """The second last scale is dense and has lost half of its rows; the last one reads its updates."""
    compare(
        pruning_of("previous_scale", "cached", late == "reused"),
        lambda s, t: (t, t // 2, t // 3) if s == 4 else (t, t, t),
        late=late,
    )
