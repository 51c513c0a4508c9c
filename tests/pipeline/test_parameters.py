"""Parameters of a policy from the command line."""

from __future__ import annotations

import pytest

from toprovar.calibration.policies.dense import POLICY as DENSE
from toprovar.calibration.policies.fastvar import FastVAR
from toprovar.calibration.policies.toprovar import ToProVAR
from toprovar.calibration.policies.toprovar_search import ToProVARSearch
from toprovar.errors import UsageError
from toprovar.pipeline.parameters import with_parameters


def test_texts_become_the_fields_values() -> None:
    given = {"a_min": "0.25", "depths": "4, 2", "scale": "False", "selector": "own_scale", "guidance": "omitted"}
    made = with_parameters(ToProVAR(), "toprovar", given)
    assert made == ToProVAR(a_min=0.25, depths=(4, 2), scale=False, selector="own_scale", guidance="omitted")
    assert with_parameters(ToProVARSearch(), "x", {"order": "greedy"}) == ToProVARSearch(order="greedy")
    assert with_parameters(DENSE, "dense", {}) is not None
    assert with_parameters(FastVAR(), "fastvar", {"ratio": "0.4"}) == FastVAR(ratio=0.4)
    assert with_parameters(FastVAR(ratio=0.4), "fastvar", {"ratio": "none"}) == FastVAR(ratio=None)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("a_mim", "1", "policy 'toprovar' has no parameter 'a_mim'; expected one of a_min, "),
        ("a_min", "much", "parameter a_min of policy 'toprovar': expected a number, got 'much'"),
        ("depths", "2 x", "parameter depths of policy 'toprovar': expected an integer, got 'x'"),
        ("layer", "1", "parameter layer of policy 'toprovar': expected true or false, got '1'"),
        ("guidance", "none", "parameter guidance of policy 'toprovar': expected one of full, reused, omitted, got"),
    ],
)
def test_what_does_not_fit_is_named(name: str, value: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        with_parameters(ToProVAR(), "toprovar", {name: value})
    assert str(caught.value).startswith(message)


def test_a_policy_without_parameters() -> None:
    with pytest.raises(UsageError, match="policy 'dense' has no parameter 'x'; expected none"):
        with_parameters(DENSE, "dense", {"x": "1"})
