"""Which graph a scale runs through, over plans made up for it."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from toprovar.cost import plan_cost
from toprovar.manifest import SamplingDefaults
from toprovar.plan import DepthRule, Ranking, ScalePlan, SparsityPlan
from toprovar.runtime.session import Session

SIDES = (1, 2, 3, 4, 5)
RULE = DepthRule("low_entropy_ratio", 1, -0.5, (0.5,), (2, 4))
UNOBSERVED = DepthRule("high_frequency", 1, None, (0.5,), (2, 4))


def make_session(kept: dict[int, tuple[int, int]], rule: DepthRule | None) -> Session:
    """A plan that is dense but for the given scales."""
    counts = [kept.get(scale, (side**2,) * 2) for scale, side in enumerate(SIDES)]
    table = (((0.5,),),) * len(SIDES)
    plan = SparsityPlan(
        policy="test",
        parameters={},
        model_sha256="0" * 64,
        scales=tuple(ScalePlan(side, side, own) for side, own in zip(SIDES, counts, strict=True)),
        ranking=Ranking("previous_scale", (1,), table, table),
        restoration="identity",
        depth_rule=rule,
        cost=plan_cost(8, 2, 4, [side**2 for side in SIDES], counts, 4),
    )
    sampling = SamplingDefaults((3.0,) * 5, (1.0,) * 5, 0, 0.0)
    return Session(SimpleNamespace(), plan, sampling, None)  # type: ignore[arg-type]


def graphs(session: Session, depth: int | None) -> str:
    """Per scale: `.` the dense graph, `d` the adaptive graph with all tokens, `s` with fewer."""
    letters = {None: "."}
    return "".join(
        letters.get(kept, "d" if kept == (side**2,) * 2 else "s")  # type: ignore[call-overload]
        for scale, side in enumerate(SIDES)
        for kept in [session._kept(scale, depth)]
    )


LATE = {3: (8, 8), 4: (8, 16)}


@pytest.mark.parametrize(
    ("kept", "rule", "depth", "expected"),
    [
        # dense throughout: nothing is observed
        (LATE, RULE, 5, "....."),
        (LATE, None, 5, "....."),
        # until the depth is decided, only the deciding scale is observed
        (LATE, RULE, None, ".d..."),
        # a statistic that reads no entropy observes it only if the next scale may be ranked by it
        (LATE, UNOBSERVED, None, "....."),
        ({2: (4, 4)}, UNOBSERVED, None, ".d..."),
        ({2: (4, 4)}, UNOBSERVED, 2, ".ds.."),
        # scale 3 is sparse, so scale 2 must rank its tokens; the last scale has no next one
        (LATE, RULE, 3, "..dss"),
        (LATE, RULE, 4, "...ds"),
        ({4: (8, 8)}, None, 4, "...ds"),
        # a scale observes if the next one is pruned, and only then
        (LATE, None, 0, "..dss"),
        ({4: (8, 8)}, RULE, 2, "...ds"),
        ({1: (2, 2)}, None, 0, "ds..."),
        ({1: (0, 4)}, None, 0, "ds..."),
    ],
)
def test_which_graph(
    kept: dict[int, tuple[int, int]], rule: DepthRule | None, depth: int | None, expected: str
) -> None:
    assert graphs(make_session(kept, rule), depth) == expected
