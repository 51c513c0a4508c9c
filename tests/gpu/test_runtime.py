"""The runtime on a GPU: graphs against single calls, bf16 against fp32, batches, memory, faults."""

from __future__ import annotations

import gc
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from toprovar import signature
from toprovar.errors import BackendError
from toprovar.extensions import RESTORATIONS, SELECTORS
from toprovar.models.bsq_vae import BSQVAE, VAEConfig
from toprovar.models.geometry import scale_constants
from toprovar.models.infinity import Infinity, InfinityConfig
from toprovar.models.loader import Defaults, LoadedModel
from toprovar.models.step import Prompt, ScaleStep
from toprovar.plan import SparsityPlan
from toprovar.pruning import ENTROPY_SELECTORS, Pruning
from toprovar.runtime.backends.base import Controls
from toprovar.runtime.cuda.decoder import Decoder
from toprovar.runtime.cuda.fused_ops import FusedOps
from toprovar.runtime.cuda.ops import PlainOps
from toprovar.runtime.cuda.options import RuntimeOptions
from toprovar.runtime.cuda.scaled import Scaled, ScaledLinear, scaled
from toprovar.runtime.session import Session

from ..runtime.cuda.small_model import CHANNELS, features, generate_beside, make_model, make_plan, make_session
from ..tiny_nano import equal_bits, psnr

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

KEPT = {
    "dense": lambda s, t: (t, t, t),
    "half": lambda s, t: (t, t // 2, t // 3) if s > 2 else (t, t, t),
    "scale": lambda s, t: (0, 0, 0) if s == 3 else (t, t // 2 if s > 3 else t, t),
}


def session(plan: SparsityPlan, loaded: LoadedModel, **options: Any) -> Session:
    return make_session(loaded, plan, RuntimeOptions(**options), device="cuda")


def sparse(selector: str = "previous_scale", restoration: str = "identity", kept: str = "half") -> Any:
    """A model and a plan."""
    observers = (0, 1) if selector in ENTROPY_SELECTORS else ()
    loaded = make_model(width=128)
    return make_plan(loaded, Pruning(selector, observers, restoration), KEPT[kept]), loaded


@pytest.mark.parametrize("kept", KEPT)
@pytest.mark.parametrize(
    ("selector", "restoration"),
    [*((name, "identity") for name in SELECTORS.names()), *(("deviation", name) for name in RESTORATIONS.names())],
)
def test_replay_gives_the_bits_of_single_calls(
    selector: str, restoration: str, kept: str, capsys: pytest.CaptureFixture[str]
) -> None:
    plan, loaded = sparse(selector, restoration, kept)
    with session(plan, loaded) as captured, session(plan, loaded, captured=False) as single:
        for seed in (1, 2, 3):
            own, other = (one(features(), generator=seed).images[0] for one in (captured, single))
            assert equal_bits(own, other) == 1
            assert np.array_equal(own.pixels, other.pixels)
    assert "without a CUDA graph" not in capsys.readouterr().err


@pytest.mark.parametrize("kept", KEPT)
@pytest.mark.parametrize("selector", ["previous_scale", "deviation"])
def test_fused_kernels_in_fp32_draw_the_eager_bits(selector: str, kept: str) -> None:
    plan, loaded = sparse(selector, "cached", kept)
    counted = [index for index, scale in enumerate(plan.scales) if any(scale.kept)]
    with session(plan, loaded, precision="fp32") as own:
        image = own(features(), generator=5).images[0]
    eager = make_session(loaded, plan, None, device="cuda")(features(), generator=5).images[0]
    assert np.mean([(image.bits[i] == eager.bits[i]).mean() for i in counted]) >= 0.999
    assert psnr(image.pixels, eager.pixels) >= 50


@pytest.mark.parametrize("batch", [2, 4, 8])
@pytest.mark.parametrize("kept", KEPT)
def test_an_image_does_not_depend_on_its_batch(kept: str, batch: int) -> None:
    plan, loaded = sparse(kept=kept)
    prompts = [features(2 + index % 4, index) for index in range(batch)]
    with session(plan, loaded) as one:
        alone = one(prompts, generator=list(range(batch))).images
        together = one(prompts, generator=list(range(batch)), batch_size=batch).images
        for first, second in zip(alone, together, strict=True):
            assert equal_bits(first, second) == 1
            assert np.array_equal(first.pixels, second.pixels)


def test_what_a_generation_made_is_its_own() -> None:
    """In page-locked memory, which goes from hand to hand once nobody holds it."""
    plan, loaded = sparse()
    with session(plan, loaded) as one:
        made = [one(features(seed=seed), generator=seed).images[0] for seed in range(3)]
        before = [[array.copy() for array in (image.picture, image.pixels, *image.bits)] for image in made]
        for seed in range(3, 9):
            one(features(seed=seed), generator=seed)
        for image, kept in zip(made, before, strict=True):
            own = (image.picture, image.pixels, *image.bits)
            assert all(np.array_equal(array, expected) for array, expected in zip(own, kept, strict=True))
            assert np.array_equal(np.asarray(image.image), kept[0])


def test_memory_does_not_grow() -> None:
    plan, loaded = sparse()
    with session(plan, loaded) as one:
        sizes = []
        for index in range(30):
            one([features(2 + index % 4, index)], generator=index)
            gc.collect()
            torch.cuda.synchronize()
            sizes.append((torch.cuda.memory_allocated(), torch.cuda.memory_reserved()))
        assert len(set(sizes[8:])) == 1


def test_one_session_after_the_other_leaves_nothing_behind() -> None:
    plan, loaded = sparse()

    def held() -> int:
        with session(plan, loaded) as one:
            one(features())
        gc.collect()
        return torch.cuda.memory_allocated()

    held()  # what libraries keep is there from now on
    assert len({held() for _ in range(4)}) == 1


# Numerics: with the same codes at every scale, the logits of the runtime, of plain bf16 and of fp32.

SIDES = ((1, 1), (2, 2), (4, 4), (8, 8), (16, 16))


def wide_model() -> LoadedModel:
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(2)
        backbone = Infinity(InfinityConfig(8, 8, 512, 4, 2048, 32, CHANNELS, 6, 4, 15))
        vae = BSQVAE(VAEConfig(32, (32, 64), (32, 64), 1, 1))
        for parameter in (*backbone.parameters(), *vae.parameters()):
            inputs = parameter[0].numel() if parameter.dim() > 1 and len(parameter) > 1 else 30
            nn.init.normal_(parameter, std=inputs**-0.5)
        for block in backbone.layers:
            block.sa.scale_mul_1H11 += 2
    pair = backbone.eval().requires_grad_(False).cuda(), vae.eval().requires_grad_(False).cuda()
    return LoadedModel("infinity", "wide", "0" * 64, *pair, False, None, Defaults(3.0, 1.0), "0.06M")


def forced_bits(seed: int = 0) -> list[np.ndarray]:
    random = np.random.default_rng(seed)
    return [random.integers(0, 2, (1, h * w, 32)).astype(np.uint8) for h, w in SIDES]


@torch.inference_mode()
def eager_logits(loaded: LoadedModel, dtype: torch.dtype) -> list[Tensor]:
    """Logits [R, L, 2 d] of every scale by the model's own modules, all in one type but the codes and the noise."""
    backbone = loaded.backbone.to(dtype)
    config, step = backbone.config, ScaleStep(backbone, False, (backbone.config.depth,))
    text = torch.from_numpy(np.stack([features(), features(seed=1)])).to("cuda", dtype)
    prompt = Prompt(backbone)(text, torch.ones(2, 4, device="cuda"))
    given = dict(zip(signature.prompt(config.depth).outputs, prompt, strict=True))
    past = signature.cache_names(config.depth, "past")
    given |= {name: torch.zeros(2, config.heads, 0, config.head_dim, device="cuda", dtype=dtype) for name in past}
    given |= {
        "summed": torch.zeros(1, 32, *SIDES[-1], device="cuda"),
        "image_of_row": torch.zeros(2, dtype=torch.int64),
    }
    given |= {"conditional_rows": torch.tensor([0]), "unconditional_rows": torch.tensor([1])}
    constants = scale_constants(SIDES, config.head_dim, SIDES)
    logits = []
    for scale, bits in enumerate(forced_bits()):
        given |= {name: torch.from_numpy(constants[f"{name}.{scale}"]).cuda() for name in signature.SCALE_CONSTANTS}
        given["rope"], given["scale"] = given["rope"].to(dtype), torch.tensor(scale, device="cuda")
        blocks = step.run_blocks(given)
        logits.append(backbone.logits(blocks.hidden, step.condition(given)).flatten(2).float())
        given |= dict(zip(past, blocks.presents, strict=True))
        backbone.word_embed.float()
        given["x"], given["summed"] = step.advance(torch.from_numpy(bits).cuda(), given)
        given["x"] = given["x"].to(dtype)
        backbone.word_embed.to(dtype)
    loaded.backbone.float()
    return logits


@torch.inference_mode()
def runtime_logits(loaded: LoadedModel, options: RuntimeOptions, patch: pytest.MonkeyPatch) -> list[Tensor]:
    """The same by the runtime; noise beyond all logits forces the codes."""
    from toprovar.calibration.policies.dense import dense_plan
    from toprovar.calibration.policy import Task
    from toprovar.runtime.backends.torch import TorchBackend

    record = loaded.record(SIDES)
    constants = scale_constants(SIDES, record.head_dim, SIDES)
    constants |= {name: np.zeros((len(SIDES), 0, 4), np.float32) for name in ("entropy_mean", "entropy_deviation")}
    plan = dense_plan(SIDES, Task(record, 1.0, 4))
    backend = TorchBackend(record, SIDES, constants, loaded, plan.pruning, device="cuda", runtime=options)
    ops = backend._runtime._engine.ops
    seen: list[Tensor] = []
    draw = ops.sample

    def watched(logits: Tensor, *rest: Any) -> Tensor:
        seen.append(logits[0].clone())
        return draw(logits, *rest)

    patch.setattr(ops, "sample", watched)
    state = backend.begin([features()], [features(seed=1)])
    for bits in forced_bits():
        result = backend.step(state, Controls((bits * 2.0 - 1) * 1e6, 3.0, 1.0, float("inf"), None))
        assert np.array_equal(result.bits, bits)
        state = result.state
    backend.close()
    return seen


def test_logits_are_as_exact_as_plain_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = wide_model()
    exact = eager_logits(loaded, torch.float32)
    plain = eager_logits(loaded, torch.bfloat16)
    loaded = wide_model()
    own = runtime_logits(loaded, RuntimeOptions(captured=False), monkeypatch)
    ratios = []
    for scale, truth in enumerate(exact):
        errors = [(one[scale] - truth).square().mean().sqrt().item() for one in (own, plain)]
        ratios.append(errors[0] / errors[1])
    assert max(ratios) <= 1.5, ratios


@pytest.mark.parametrize("parts", [1, 3])
@pytest.mark.parametrize("gelu", [False, True])
def test_rounding_to_fp8(gelu: bool, parts: int) -> None:
    torch.manual_seed(0)
    x = torch.randn(3 * 100, 2048, device="cuda").bfloat16() * 3
    made = []
    for ops in (FusedOps(), PlainOps()):
        values = torch.zeros(x.shape, dtype=torch.float8_e4m3fn, device="cuda")
        made.append(Scaled(values, torch.zeros(parts, 512, device="cuda")))
        (ops.gelu_round if gelu else ops.round)(x, made[-1])
    own, plain = made
    torch.testing.assert_close(own.column, plain.column, rtol=1e-5, atol=0)
    assert (own.values.float() == plain.values.float()).float().mean() >= 0.995


@pytest.mark.parametrize("rows", [1, 2, 7, 100, 300])
def test_products_in_fp8(rows: int) -> None:
    torch.manual_seed(0)
    layer = ScaledLinear(
        scaled(torch.randn(6144, 2048, device="cuda") / 45), torch.randn(6144, device="cuda").bfloat16()
    )
    parts = 3
    whole = Scaled(
        torch.zeros(parts * rows, 2048, dtype=torch.float8_e4m3fn, device="cuda"),
        torch.zeros(parts, 512, device="cuda"),
    )
    whole.put(torch.randn(parts * rows, 2048, device="cuda"))
    for part in whole.parts():
        own, plain = (torch.zeros(rows, 6144, dtype=torch.bfloat16, device="cuda") for _ in range(2))
        FusedOps().scaled_linear(part, layer, own)
        PlainOps().scaled_linear(part, layer, plain)
        torch.testing.assert_close(own.float(), plain.float(), rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize("kept", KEPT)
def test_fp8_replays_its_single_calls_whatever_the_batch(kept: str) -> None:
    plan, loaded = sparse(kept=kept)
    prompts = [features(), features(5, 1)]
    with session(plan, loaded, precision="fp8") as captured:
        together = captured(prompts, generator=[1, 2], batch_size=2).images
        with session(plan, loaded, precision="fp8", captured=False) as single:
            for own, other in zip(together, single(prompts, generator=[1, 2]).images, strict=True):
                assert np.array_equal(own.pixels, other.pixels)


def test_times_of_scales_are_the_devices() -> None:
    plan, loaded = sparse()
    with session(plan, loaded) as one:
        one(features())
        made = one(features())
        assert all(seconds > 0 for seconds in made.scale_seconds)
        assert sum(made.scale_seconds) <= made.seconds


@pytest.mark.parametrize("rows", [0, 24])
def test_the_decoder_in_bf16_is_within_45_db(rows: int) -> None:
    from toprovar.runtime.cuda.fused_decoder_ops import FusedDecoderOps

    torch.manual_seed(0)
    vae = BSQVAE(VAEConfig(32, (64, 64), (64, 128, 256), 2, 2)).cuda().eval().requires_grad_(False)
    latent = torch.randint(0, 2, (2, 32, 24, 20), device="cuda") * 2.0 - 1
    decoder = Decoder(vae.decoder_tensors(), torch.bfloat16, torch.device("cuda"), FusedDecoderOps(), rows)
    with torch.inference_mode():
        assert psnr(decoder(latent).cpu().numpy(), vae.decode(latent).cpu().numpy()) >= 45


def test_out_of_memory_leaves_the_session_usable(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plan, loaded = sparse()
    with session(plan, loaded) as one:
        before = one(features(), generator=1).images[0]
        runtime = one.backend._runtime
        make = runtime._make_slot

        def too_large(images: int, halves: int) -> Any:
            torch.empty(1 << 50, device="cuda")
            return make(images, halves)

        with monkeypatch.context() as patch:
            patch.setattr(runtime._pool, "_make", too_large)
            with pytest.raises(BackendError, match="the GPU is out of memory"):
                one([features(), features()], batch_size=2)
        again = one(features(), generator=1).images[0]
        assert np.array_equal(before.pixels, again.pixels)
        # All graphs were given up with their memory; new ones must still be possible.
        assert "without a CUDA graph" not in capsys.readouterr().err


def test_a_cuda_error_closes_the_session() -> None:
    plan, loaded = sparse()
    with session(plan, loaded) as one:
        one(features())
        runtime = one.backend._runtime
        with pytest.raises(BackendError, match="the GPU failed"), runtime._guarded():
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        with pytest.raises(BackendError, match="cannot go on: the GPU failed"):
            one(features())


def test_a_second_generation_at_once_is_refused() -> None:
    plan, loaded = sparse()
    with session(plan, loaded) as one:
        alone = one(features(seed=1), generator=1).images[0]
        made, refused = generate_beside(one, features(seed=1), lambda: one(features(seed=2), generator=2), generator=1)
        assert refused == ["a generation is running in another thread, and a session runs one at a time"]
        assert np.array_equal(made.pixels, alone.pixels)
        one(features(seed=2), generator=2)
        assert len(refused) == 1
