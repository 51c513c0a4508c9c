"""Sections and figures, each by itself."""

from __future__ import annotations

import dataclasses
import io
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from toprovar.errors import ArtefactError, MissingExtra
from toprovar.evaluation.report import style
from toprovar.evaluation.report.depths import statistic_values
from toprovar.evaluation.report.examples import Examples
from toprovar.evaluation.report.material import Material, gather
from toprovar.evaluation.report.section import Missing, Section
from toprovar.evaluation.report.sections import cost, depth, entropy, images, kept, layers, sensitivity, summary
from toprovar.evaluation.report.units import flops_unit
from toprovar.evaluation.report.write import SECTIONS
from toprovar.extensions import SELECTORS
from toprovar.plan import DepthRule, Ranking, ScalePlan, SparsityPlan
from toprovar.runtime.backends.base import Controls
from toprovar.stats import CalibrationStats, ScaleSensitivity

from .painter import open_painter

pytestmark = pytest.mark.usefixtures("_quiet")


def drawn(material: Material) -> Examples:
    assert isinstance(material.examples, Examples)
    return material.examples


def size(figure: Figure) -> tuple[int, int]:
    return Image.open(io.BytesIO(style.png(figure))).size


@pytest.mark.parametrize("make", SECTIONS, ids=lambda make: make.__module__.rpartition(".")[2])
def test_each_section_explains_itself_in_two_sentences(make, material: Material) -> None:
    section = make(material)
    assert isinstance(section, Section)
    assert section.explanation.endswith(".")
    assert section.explanation.count(". ") == 1
    assert section.pictures or section.tables or section.notes
    for picture in section.pictures:
        assert picture.caption.endswith(".")
        assert picture.source
    for table in section.tables:
        assert {len(row) for row in table.rows} == {len(table.header)}


def test_figures_are_as_wide_as_the_page_and_the_same_every_time(material: Material) -> None:
    shown, plan, stats = drawn(material).shown, material.plan, material.stats
    assert isinstance(stats, CalibrationStats)
    assert plan.depth_rule is not None
    rule = plan.depth_rule
    makers = (
        lambda: entropy.draw_entropy(shown, plan),
        lambda: kept.draw_shares(shown, plan),
        lambda: kept.draw_layers(shown[0], plan),
        lambda: layers.draw_scale_by_layer(stats, plan),
        lambda: depth.draw_depths([0.1, 0.6], rule, 3),
        lambda: cost.draw_cost(plan, drawn(material).dense, drawn(material).sparse),
        lambda: images.draw_images(shown),
        lambda: sensitivity.draw_sensitivity(sensitivity.divergences(stats)),
    )
    for make in makers:
        one, other = style.png(make()), style.png(make())
        assert one == other
        assert Image.open(io.BytesIO(one)).width == round(style.WIDTH * style.DPI)


def test_a_figure_s_size_depends_on_its_rows_alone(material: Material, plan: SparsityPlan) -> None:
    shown = drawn(material).shown
    loud = tuple(dataclasses.replace(one, entropy=tuple(9 * map_ for map_ in one.entropy)) for one in shown)
    assert size(entropy.draw_entropy(shown, plan)) == size(entropy.draw_entropy(loud, plan))
    assert size(entropy.draw_entropy(shown[:1], plan))[1] < size(entropy.draw_entropy(shown, plan))[1]
    rule = DepthRule("low_entropy_ratio", 0, -0.5, (), (3,))
    assert size(depth.draw_depths([0.0] * 50, rule, 3)) == size(depth.draw_depths([0.0, 1.0], rule, 3))


def test_the_recorded_order_is_the_backend_s(material: Material, deployment: Path) -> None:
    """The masks are what a graph gets: the first `kept` tokens of the order that the host sorts."""
    example, plan = drawn(material).shown[0], material.plan
    assert example.sparse.depth < 3
    with open_painter(deployment) as session:
        backend = session.backend
        state = backend.begin([np.zeros((1, 4), np.float32)], None)
        for scale, one in enumerate(plan.scales):
            counts = plan.kept(scale, example.sparse.depth)
            controls = Controls(np.zeros((1, one.tokens, 16), np.float32), 1.0, 1.0, 1.0, counts)
            assert np.array_equal(state.prior[0], example.priors[scale])
            order = np.argsort(state.prior, axis=1, kind="stable")[0]
            masks = kept.computed(example, plan, scale).reshape(plan.layers, -1)
            for layer, count in enumerate(counts):
                assert set(np.flatnonzero(masks[layer])) == set(order[:count])
            state = backend.step(state, controls).state


def test_selectors_that_sort_in_the_graph_get_no_masks() -> None:
    """What is drawn is the host's order, so no selector that makes another one may be listed."""
    try:
        from toprovar.models.selectors.base import Selector
    except (ImportError, MissingExtra):
        pytest.skip("torch is not installed")
    speaks = ("at_start", "before_layer", "after_observer")
    silent = [
        name
        for name in SELECTORS.names()
        if all(getattr(SELECTORS.load(name), method) is getattr(Selector, method) for method in speaks)
    ]
    assert set(kept.HOST_SORTED) <= {*silent, "none"}
    assert set(silent) <= set(kept.HOST_SORTED)


def test_masks_are_refused_for_other_selectors(material: Material) -> None:
    plan = dataclasses.replace(material.plan, ranking=dataclasses.replace(material.plan.ranking, selector="own_scale"))
    section = kept.make(dataclasses.replace(material, plan=plan))
    assert section.pictures == ()
    assert "own_scale sorts the tokens within the graph" in section.notes[0]


def dense(plan: SparsityPlan) -> SparsityPlan:
    scales = tuple(ScalePlan(one.height, one.width, (one.tokens,) * plan.layers) for one in plan.scales)
    costs = plan.cost.per_scale_dense
    cost_ = dataclasses.replace(plan.cost, sparse_flops=plan.cost.dense_flops, per_scale_sparse=costs)
    return dataclasses.replace(plan, scales=scales, ranking=Ranking("none"), depth_rule=None, cost=cost_)


def test_a_dense_plan(material: Material) -> None:
    everything = dataclasses.replace(material, plan=dense(material.plan))
    assert "observes no layer" in entropy.make(everything).notes[0]
    assert "every layer computes every token" in kept.make(everything).notes[0]
    assert "no depth rule" in depth.make(everything).notes[0]
    assert layers.make(everything).pictures


def test_examples_that_all_run_dense(material: Material) -> None:
    examples = drawn(material)
    late = tuple(dataclasses.replace(one, sparse=dataclasses.replace(one.sparse, depth=3)) for one in examples.shown)
    section = kept.make(dataclasses.replace(material, examples=dataclasses.replace(examples, shown=late)))
    assert [picture.name for picture in section.pictures] == ["kept_shares"]
    assert kept.computed(late[0], material.plan, 2).all()


def test_few_prompts_are_drawn_several_times(deployment: Path) -> None:
    runs = {}
    for prompts in (1, 2, 3):
        examples = gather(deployment, lambda: open_painter(deployment), prompts, lambda *told: None).examples
        assert isinstance(examples, Examples)
        assert len(examples.shown) == prompts
        assert [one.dense.seed for one in examples.shown] == list(range(prompts))
        runs[prompts] = examples.runs
        assert examples.dense.total >= sum(examples.dense.scales) * 0.5 > 0
    assert runs == {1: 3, 2: 4, 3: 3}


def test_the_statistic_of_another_rule_is_not_invented(material: Material) -> None:
    rule = material.plan.depth_rule
    assert rule is not None

    class Other:
        statistic = "something_else"
        decided_after = 0

    assert not isinstance(statistic_values(material.stats, rule), Missing)
    missing = statistic_values(material.stats, Other())  # type: ignore[arg-type]
    assert isinstance(missing, Missing)
    assert "no something_else" in missing.line


def test_divergences_are_sorted_by_share(stats: CalibrationStats) -> None:
    tables = sensitivity.divergences(stats)
    assert list(tables) == [0.5, 0.25]
    assert tables[0.5].shape == (3, 3)
    assert np.isnan(tables[0.5][:, :2]).all()
    assert np.allclose(tables[0.25][:, 2], 0.5)


def test_without_sensitivities(material: Material, stats: CalibrationStats) -> None:
    scales = tuple(
        dataclasses.replace(one, layers=tuple(dataclasses.replace(layer, sensitivity=()) for layer in one.layers))
        for one in stats.scales
    )
    section = sensitivity.make(dataclasses.replace(material, stats=dataclasses.replace(stats, scales=scales)))
    assert section.pictures == ()
    assert "Not measured" in section.notes[0]


def test_whole_scales_are_told_in_decibels(material: Material, stats: CalibrationStats) -> None:
    measured = ScaleSensitivity(0.5, 0.1, 0.1, None, 1e-4), ScaleSensitivity(0.0, 0.2, 0.2, None, 1e-3)
    scales = (*stats.scales[:-1], dataclasses.replace(stats.scales[-1], sensitivity=measured))
    section = sensitivity.make(dataclasses.replace(material, stats=dataclasses.replace(stats, scales=scales)))
    whole, guidance = section.tables
    assert whole.header == ("scale", "50% kept, dB", "left out, dB")
    assert whole.rows == (("2", "40.0", "30.0"),)
    assert guidance.rows[0] == ("0", "1.25e-01", "15.1")


def test_sensitivities_of_zero(stats: CalibrationStats) -> None:
    tables = {share: np.zeros_like(table) for share, table in sensitivity.divergences(stats).items()}
    assert style.png(sensitivity.draw_sensitivity(tables))


@pytest.mark.parametrize(("flops", "unit"), [(5e12, "TFLOP"), (1e12, "TFLOP"), (3e9, "GFLOP"), (2e5, "MFLOP")])
def test_units(flops: float, unit: str) -> None:
    assert flops_unit(flops)[1] == unit


def test_every_number_of_the_summary_has_a_source(material: Material) -> None:
    rows = summary.make(material).tables[0].rows
    assert all(value and source for _, value, source in rows)


def test_a_deployment_of_another_schedule(material: Material, deployment: Path, stats: CalibrationStats) -> None:
    dataclasses.replace(stats, model_sha256="1" * 64).save(deployment / "report" / "calibration.json")
    with pytest.raises(ArtefactError):
        gather(deployment, None, 1, lambda *told: None)  # its hash is listed
    gathered = gather(deployment, lambda: pytest.fail("opened"), 0, lambda *told: None)
    assert isinstance(gathered.stats, Missing)
    assert "of another model" in gathered.stats.line
