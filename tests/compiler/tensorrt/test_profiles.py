"""Every step that a plan can lead to lies within the profile that is for it, and within no narrower a one."""

from __future__ import annotations

import dataclasses
import itertools

import pytest

from toprovar import signature
from toprovar.calibration.policies.dense import dense_plan
from toprovar.compiler.tensorrt.profiles import KEPT, Limits, depths, graph_profiles, output_shapes, step_profiles
from toprovar.engines import EngineProfile, Span
from toprovar.errors import ArtefactError
from toprovar.plan import DepthRule, SparsityPlan
from toprovar.pruning import Pruning

from ...calibration.made_up import LAYERS, SIDES, make_task
from ...tiny_nano import with_kept

LIMITS = Limits(images=3, text_tokens=24, text_channels=128)
RECORD = make_task(1.0).model
GRIDS = tuple((side, side) for side in SIDES)
RULE = DepthRule("high_frequency", 4, None, (0.1, 0.2), (6, 7, 9))
PRUNINGS = {
    "identity": Pruning("random"),
    "cached": Pruning("random", restoration="cached"),
    "reused": Pruning("random", reuses_guidance=True),
}


def plan_of(rule: DepthRule | None, pruning: Pruning) -> SparsityPlan:
    """Every second layer computes a third of the last scales, the last layer of all nothing of them."""

    def kept(scale: int, tokens: int) -> list[int]:
        if scale < 5:
            return [tokens] * LAYERS
        return [0 if layer == LAYERS - 1 else tokens // 3 if layer % 2 else tokens for layer in range(LAYERS)]

    plan = dense_plan(GRIDS, make_task(1.0))
    ranking = dataclasses.replace(plan.ranking, selector=pruning.selector)
    plan = dataclasses.replace(plan, ranking=ranking, restoration=pruning.restoration)
    plan = with_kept(plan, kept, rule)
    late = "reused" if pruning.reuses_guidance else "full"
    scales = tuple(
        dataclasses.replace(one, unconditional=late if scale > 7 else "full") for scale, one in enumerate(plan.scales)
    )
    return dataclasses.replace(plan, scales=scales)


def contract_of(plan: SparsityPlan) -> signature.Signature:
    return signature.by_token(signature.step(plan.layers, True, plan.pruning))


@pytest.mark.parametrize("rule", [None, RULE], ids=["always sparse", "by depth"])
@pytest.mark.parametrize("pruning", PRUNINGS.values(), ids=PRUNINGS.keys())
def test_every_step_has_its_profile(pruning: Pruning, rule: DepthRule | None) -> None:
    plan = plan_of(rule, pruning)
    profiles = step_profiles(contract_of(plan), RECORD, plan, LIMITS)
    assert len({profile.name for profile in profiles}) == len(profiles)
    used = set()
    for depth in depths(plan):
        cached = [0] * plan.layers
        for scale, one in enumerate(plan.scales):
            sparse = scale >= depth and not one.is_dense
            (profile,) = (each for each in profiles if (each.scale, each.sparse) == (scale, sparse))
            used.add(profile.name)
            kept = plan.kept(scale, depth)
            for images, guided, text in itertools.product((1, 3), (False, True), (1, 24)):
                rows = 2 * images if guided and plan.unconditional(scale, depth) == "full" else images
                shapes = {f"past_key.{layer}": (count, rows, 4, 64) for layer, count in enumerate(cached)}
                shapes |= {"x": (rows, one.tokens, 256), "order": (images, one.tokens)}
                shapes |= {"text_value.3": (rows, 4, text, 64), "noise": (images, one.tokens, 32)}
                if pruning.caches_updates:
                    before = plan.scales[max(scale - 1, 0)]
                    shapes |= {"update.0": (rows, before.tokens, 256), "restore_rows": (one.height, before.height)}
                assert profile.holds(shapes, {KEPT: kept}), (profile.name, shapes)
            cached = [before + own for before, own in zip(cached, kept, strict=True)]
    assert used == {profile.name for profile in profiles}


def test_a_profile_is_no_wider_than_what_comes() -> None:
    plan = plan_of(RULE, PRUNINGS["identity"])
    profiles = {profile.name: profile for profile in step_profiles(contract_of(plan), RECORD, plan, LIMITS)}
    last = profiles["scale 9, sparse"]
    assert last.shapes["x"] == Span((1, 1024, 256), (2, 1024, 256), (6, 1024, 256))
    # Scales 6 to 8 were sparse in the shortest dense run, none of them in the longest.
    dense = sum(side**2 for side in SIDES[:9])
    least = sum(side**2 for side in SIDES[:6]) + sum(side**2 // 3 for side in SIDES[6:9])
    assert last.shapes["past_key.1"].least[0] == least
    assert last.shapes["past_key.1"].most[0] == dense
    assert last.shapes["past_key.0"].least[0] == last.shapes["past_key.0"].most[0] == dense
    assert last.values[KEPT] == Span(*((1024, 341) * 3 + (1024, 0),) * 3)
    assert not last.holds({"x": (2, 1023, 256)}, {})
    assert not last.holds({}, {KEPT: (1024,) * LAYERS})


def test_rows_without_guidance_where_the_unconditional_half_is_gone() -> None:
    plan = plan_of(None, PRUNINGS["reused"])
    profiles = {profile.name: profile for profile in step_profiles(contract_of(plan), RECORD, plan, LIMITS)}
    assert profiles["scale 7, sparse"].shapes["image_of_row"].most == (6,)
    assert profiles["scale 8, sparse"].shapes["image_of_row"].most == (3,)
    assert profiles["scale 8, dense"].shapes["image_of_row"].most == (6,)


def test_the_other_graphs() -> None:
    plan = plan_of(RULE, PRUNINGS["identity"])
    contracts = {"text": signature.TEXT, "prompt": signature.prompt(LAYERS), "decode": signature.DECODE}
    profiles = graph_profiles(contracts, RECORD, plan, LIMITS)
    (text,), (prompt,) = profiles["text"], profiles["prompt"]
    assert text.shapes["token_ids"] == Span((1, 1), (1, 24), (1, 24))
    assert prompt.shapes["features"] == Span((1, 1, 128), (2, 24, 128), (6, 24, 128))
    image, preview = profiles["decode"]
    assert image.shapes["summed"] == Span((1, 32, 32, 32), (1, 32, 32, 32), (3, 32, 32, 32))
    assert preview.holds({"summed": (1, 32, 8, 8)}, {})
    assert (image.scale, preview.sparse) == (None, False)


def test_shapes_of_outputs() -> None:
    plan = plan_of(RULE, PRUNINGS["cached"])
    contract = contract_of(plan)
    profiles = {profile.name: profile for profile in step_profiles(contract, RECORD, plan, LIMITS)}
    shapes = output_shapes(contract, profiles["scale 8, sparse"], "most")
    assert shapes["bits"] == (3, 576, 32)
    assert shapes["next_x"] == (6, 1024, 256)
    assert shapes["next_prior"] == (3, 1024)
    assert shapes["new_key.1"] == (192, 6, 4, 64)
    assert shapes["new_value.7"] == (0, 6, 4, 64)
    assert shapes["new_update.2"] == (6, 576, 256)
    assert output_shapes(contract, profiles["scale 8, dense"], "least")["new_value.7"] == (576, 1, 4, 64)


@pytest.mark.parametrize(
    ("span", "field"),
    [(((1,), (2, 3), (4,)), "usual"), (((1,), (5,), (4,)), r"usual\[0\]"), (((3,), (2,), (4,)), "usual")],
)
def test_spans_ascend(span: tuple[tuple[int, ...], ...], field: str) -> None:
    with pytest.raises(ArtefactError, match=field):
        Span(*span)


def test_profiles_load_back() -> None:
    plan = plan_of(None, PRUNINGS["identity"])
    for profile in step_profiles(contract_of(plan), RECORD, plan, LIMITS):
        assert EngineProfile.from_json(profile.to_json()) == profile
