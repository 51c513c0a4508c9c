"""What every backend must do, whatever its name; torch on the same checkpoint is the reference."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from toprovar.errors import BackendError, ToProVARError, UsageError
from toprovar.extensions import BACKENDS
from toprovar.runtime.backends.base import Controls, EngineOptions
from toprovar.runtime.noise import logistic_noise
from toprovar.runtime.session import Session

from ..tiny_nano import BITS, LAYERS, REFERENCE, Compiled, as_nano, equal_bits, psnr, with_kept

PROMPTS = [
    "a red circle",
    "two large blue squares and a small green star on a white background",
    "three small striped yellow triangles",
]
SEEDS = [11, 5, 23]
EVERYWHERE = ("onnxruntime", "torch")
"""Backends that run on any machine; another one may lack its library, its GPU or its engines."""


def opened(name: str, compiled: Compiled, weights: Path, options: EngineOptions | None = None) -> Session:
    """In fp32 where there is a choice, since bits are compared."""
    exact = EngineOptions("fp32" if "precision" in BACKENDS.load(name).takes else None)
    with as_nano(weights):
        return Session.open(compiled.folder, name, options=options or exact)


@pytest.fixture(scope="module")
def reference(compiled: Compiled, weights: Path) -> Iterator[Session]:
    with opened("torch", compiled, weights, REFERENCE) as session:
        yield session


@pytest.fixture(scope="module", params=BACKENDS.names())
def session(request: pytest.FixtureRequest, compiled: Compiled, weights: Path) -> Iterator[Session]:
    try:
        BACKENDS.load(request.param).check_available()
        made = opened(request.param, compiled, weights)
    except ToProVARError as error:
        if request.param in EVERYWHERE:
            raise
        pytest.skip(error.message)
    with made as session:
        yield session


def parted(session: Session) -> Session:
    """The session with a depth rule by which the first of `PROMPTS` runs sparse earlier than another."""
    rule = session.plan.depth_rule
    assert rule is not None
    ratios = [image.statistic for image in session(PROMPTS, generator=SEEDS).images]
    low, high = min(ratios), max(ratios)
    assert low < high, "prompts with different ratios are needed"
    depths = (rule.decided_after + 1, rule.decided_after + 3)
    own = dataclasses.replace(rule, thresholds=((low + high) / 2,), depths=depths)
    plan = dataclasses.replace(session.plan, depth_rule=own)
    return Session(session.backend, plan, session.sampling, session.tokenize)


@pytest.mark.parametrize("dense", [True, False], ids=["dense", "sparse"])
@pytest.mark.parametrize(
    "options",
    [{}, {"guidance_scale": 1.0}, {"negative_prompt": "a large blue square"}, {"top_k": 1}],
    ids=["defaults", "no guidance", "negative prompt", "greedy"],
)
def test_the_same_bits_from_every_backend(
    dense: bool, options: dict[str, Any], session: Session, reference: Session
) -> None:
    own = session(PROMPTS[1], generator=4, dense=dense, **options).images[0]
    expected = reference(PROMPTS[1], generator=4, dense=dense, **options).images[0]
    assert own.depth == expected.depth
    assert equal_bits(own, expected) >= 0.999
    assert psnr(own.pixels, expected.pixels) >= 40
    assert own.pixels.shape == (3, *own.image.size)


@pytest.mark.parametrize("guidance", [3.0, 1.0], ids=["guided", "no guidance"])
def test_an_image_does_not_depend_on_its_batch(guidance: float, session: Session) -> None:
    session = parted(session)
    alone = session(PROMPTS, generator=SEEDS, batch_size=1, guidance_scale=guidance).images
    if guidance > 1:
        assert len({image.depth for image in alone}) == 2
    for batch_size in (2, 3):
        together = session(PROMPTS, generator=SEEDS, batch_size=batch_size, guidance_scale=guidance).images
        for one, other in zip(alone, together, strict=True):
            assert one.depth == other.depth
            assert equal_bits(one, other) == 1
            assert psnr(one.pixels, other.pixels) > 80
    last = session(PROMPTS[2], generator=SEEDS[2], guidance_scale=guidance).images[0]
    assert equal_bits(last, alone[2]) == 1


def test_dense_is_a_plan_that_keeps_every_token(session: Session) -> None:
    plan = with_kept(session.plan, lambda _, tokens: (tokens,) * LAYERS)
    # its last scale smaller by one token in one layer, so that it runs through the adaptive graph
    almost = with_kept(session.plan, lambda s, tokens: (tokens,) * LAYERS if s < 6 else (tokens, tokens - 1))
    dense = session(PROMPTS[0], dense=True).images[0]
    for variant, scales in ((plan, 7), (almost, 6)):
        image = Session(session.backend, variant, session.sampling, session.tokenize)(PROMPTS[0]).images[0]
        for one, other in list(zip(image.bits, dense.bits, strict=True))[:scales]:
            assert np.array_equal(one, other)


def test_all_tokens_through_the_adaptive_graph_are_the_dense_graph(session: Session) -> None:
    backend = session.backend
    text = backend.encode_text(session.tokenize(PROMPTS[0]))
    states = [backend.begin([text], [text]) for _ in range(2)]
    for scale, (height, width) in enumerate(backend.grids):
        noise = logistic_noise(2, scale, height * width, BITS)[None]
        kepts = None, (height * width,) * LAYERS
        results = [
            backend.step(state, Controls(noise, 2.0, 0.5, 3.0, kept)) for state, kept in zip(states, kepts, strict=True)
        ]
        states = [result.state for result in results]
        assert np.array_equal(results[0].bits, results[1].bits)
        assert results[0].entropy is None
        assert results[1].entropy.shape == (1, height * width)
        assert np.isfinite(results[1].entropy).all()
    images = [backend.decode(state) for state in states]
    assert psnr(*images) > 80


def test_selected_images_go_on_as_they_were(session: Session) -> None:
    backend = session.backend
    texts = [backend.encode_text(session.tokenize(prompt)) for prompt in PROMPTS]
    whole = backend.begin(texts, texts[::-1])
    part = None
    for scale, (height, width) in enumerate(backend.grids[:5]):
        tokens = height * width
        noise = np.stack([logistic_noise(seed, scale, tokens, BITS) for seed in SEEDS])
        kept = (tokens, max(tokens // 2, 1))
        result = backend.step(whole, Controls(noise, 2.0, 0.5, 3.0, kept))
        if part is not None:
            own = backend.step(part, Controls(noise[[2, 0]], 2.0, 0.5, 3.0, kept))
            assert np.array_equal(own.bits, result.bits[[2, 0]])
            np.testing.assert_allclose(own.state.prior, result.state.prior[[2, 0]], atol=1e-4)
            part = own.state
        elif scale == 2:
            part = backend.select(result.state, [2, 0])
            assert (part.images, part.rows, part.scale) == (2, 4, 3)
        whole = result.state


@pytest.mark.parametrize("images", [[], [3], [-1]])
def test_images_that_are_not_there(images: list[int], session: Session) -> None:
    text = session.backend.encode_text([2, 3])
    with pytest.raises(BackendError, match="cannot select images"):
        session.backend.select(session.backend.begin([text] * 3, None), images)


def test_what_a_step_refuses(session: Session) -> None:
    backend = session.backend
    state = backend.begin([backend.encode_text([2])], None)
    good = Controls(np.zeros((1, 1, BITS), np.float32), 1.0, 1.0, 3.0, None)
    for shape in ((1, 2, BITS), (2, 1, BITS), (1, 1, BITS - 1), (1, BITS)):
        with pytest.raises(BackendError, match=rf"noise has shape .*; expected \(1, 1, {BITS}\)"):
            backend.step(state, dataclasses.replace(good, noise=np.zeros(shape, np.float32)))
    for kept in ((1,), (1, 2), (-1, 1), (1, 1, 1)):
        with pytest.raises(BackendError, match="kept counts"):
            backend.step(state, dataclasses.replace(good, kept=kept))
    ended = dataclasses.replace(state, scale=len(backend.grids))
    with pytest.raises(BackendError, match="all 7 scales are done"):
        backend.step(ended, good)


def test_what_cannot_begin(session: Session) -> None:
    with pytest.raises(BackendError, match="no tokens to encode"):
        session.backend.encode_text([])
    text = session.backend.encode_text([2])
    for texts, negatives in (([], None), ([text, text], [text])):
        with pytest.raises(BackendError, match="texts and"):
            session.backend.begin(texts, negatives)


def test_guidance_and_temperature_by_scale(session: Session, reference: Session) -> None:
    plain = session(PROMPTS[0], generator=1, dense=True).images[0]
    guidance = [3.0] * 4 + [1.0, 0.0, 5.0]
    temperature = [0.5] * 3 + [2.0] * 4
    for options, unchanged in (({"guidance_scale": guidance}, 4), ({"temperature": temperature}, 3)):
        own = session(PROMPTS[0], generator=1, dense=True, **options).images[0]
        expected = reference(PROMPTS[0], generator=1, dense=True, **options).images[0]
        assert equal_bits(own, expected) >= 0.999
        same = [np.array_equal(a, b) for a, b in zip(own.bits, plain.bits, strict=True)]
        assert same[:unchanged] == [True] * unchanged
        assert not all(same[unchanged:])


def test_images_of_a_prompt_have_consecutive_seeds(session: Session) -> None:
    images = session(PROMPTS[:2], generator=40, num_images_per_prompt=2, batch_size=3).images
    assert [image.prompt for image in images] == [PROMPTS[0]] * 2 + [PROMPTS[1]] * 2
    assert [image.seed for image in images] == [40, 41, 40, 41]
    again = session(PROMPTS[1], generator=np.int64(41)).images[0]
    assert equal_bits(images[3], again) == 1
    assert equal_bits(images[2], images[3]) < 1


def test_the_callback_sees_every_scale(session: Session) -> None:
    seen: list[tuple[Session, int, float, dict[str, Any]]] = []
    result = session(PROMPTS[0], callback_on_step_end=lambda *arguments: seen.append(arguments))
    assert [scale for _, scale, _, _ in seen] == list(range(7))
    assert all(who is session for who, _, _, _ in seen)
    times = [seconds for _, _, seconds, _ in seen]
    assert times == sorted(times)
    assert 0 < times[0] <= times[-1] <= result.seconds
    assert len(result.scale_seconds) == 7
    assert 0 < sum(result.scale_seconds) <= result.seconds
    assert 0 <= result.analysis_seconds < result.seconds


def test_features_in_place_of_a_prompt(session: Session) -> None:
    features = session.backend.encode_text(session.tokenize(PROMPTS[0]))
    one, other = session([features, PROMPTS[0]], generator=[3, 3], batch_size=2).images
    assert equal_bits(one, other) == 1
    assert one.prompt == "(features)"
    for wrong in (features[:, :-1], features[0], features[:0], np.zeros((25, features.shape[1]), np.float32)):
        with pytest.raises(UsageError, match=r"features of shape .*; expected \[tokens, 32\] with 1 to 24 tokens"):
            session(wrong)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"height": 64}, "cannot make 64 x 32 pixels; this deployment makes 32 x 32"),
        ({"width": 0}, "cannot make 32 x 0 pixels"),
        ({"guidance_scale": [1.0, 2.0]}, "2 values of guidance for 7 scales"),
        ({"guidance_scale": -1}, "expected finite numbers of at least 0"),
        ({"temperature": 0}, "expected finite numbers above 0"),
        ({"temperature": float("nan")}, "expected finite numbers above 0"),
        ({"top_p": 1.5}, "top_p 1.5; expected"),
        ({"top_k": -1}, "top_k -1"),
        ({"generator": [1, 2]}, "2 seeds for 1 prompts"),
        ({"num_images_per_prompt": 0}, "nothing to generate"),
        ({"batch_size": 0}, "nothing to generate"),
    ],
)
def test_arguments_that_cannot_be_carried_out(options: dict[str, Any], message: str, session: Session) -> None:
    with pytest.raises(UsageError) as caught:
        session(PROMPTS[0], **options)
    assert message in str(caught.value)
    assert session(PROMPTS[0], height=32, width=32, top_p=np.float32(0.5), guidance_scale=np.float32(2)).images


def test_no_prompt(session: Session) -> None:
    with pytest.raises(UsageError, match="nothing to generate"):
        session([])
