"""Opening models: what belongs together, where the VAE is looked for, and what is refused."""

from __future__ import annotations

import pickle
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from toprovar.errors import CheckpointError, UsageError
from toprovar.models.bsq_vae import BSQVAE
from toprovar.models.infinity import Infinity
from toprovar.models.loader import Defaults, build_meta, build_pair, load_model
from toprovar.models.nano import settings
from toprovar.models.nano.text_encoder import WordEncoder
from toprovar.models.nano.train_tokenizer import CONFIG as VAE_CONFIG
from toprovar.models.nano.train_transformer import CONFIG
from toprovar.models.nano.training import save_half
from toprovar.models.nano.vocabulary import MAX_WORDS, WORDS

Make = Callable[..., nn.Module]


def copied(model: nn.Module) -> dict[str, Tensor]:
    """A state dict whose tensors share no memory, as safetensors wants them."""
    return {key: value.clone() for key, value in model.state_dict().items()}


@pytest.fixture
def checkpoint(tmp_path: Path, make_backbone: Make, make_vae: Make) -> Path:
    """A transformer of 8 bits, with its VAE beside it."""
    torch.save(copied(make_backbone()), tmp_path / "infinity.pth")
    torch.save(copied(make_vae()), tmp_path / "infinity_vae_d8reg.pth")
    return tmp_path / "infinity.pth"


def test_a_checkpoint_with_its_vae_beside_it(checkpoint: Path, make_backbone: Make, make_vae: Make) -> None:
    model = load_model(str(checkpoint))
    assert (model.family, model.source, model.patchify, model.text) == ("infinity", str(checkpoint), False, None)
    assert model.defaults == Defaults(guidance=3.0, temperature=0.5, top_k=900, top_p=0.97)
    assert model.default_resolution == "1M"
    assert len(model.schedule()) == 13
    assert torch.equal(model.backbone.head.weight, make_backbone().head.weight)
    assert torch.equal(model.vae.decoder.conv_in.conv.weight, make_vae().decoder.conv_in.conv.weight)
    assert not any(part.training for part in (model.backbone, model.vae))


def test_the_records_of_the_manifest(checkpoint: Path) -> None:
    model = load_model(str(checkpoint))
    record = model.record(model.schedule("2:1", "0.06M"))
    assert (record.layers, record.heads, record.head_dim, record.width, record.code_bits) == (4, 2, 16, 32, 8)
    assert (record.latent_height, record.latent_width) == (11, 22)
    assert (record.image_height, record.image_width) == (22, 44)
    assert record.guidance_layers == (4,)
    assert model.record(model.schedule(), (1, 2)).guidance_layers == (1, 2)
    assert model.sampling(3).guidance == (3.0,) * 3
    assert (model.text_record().kind, model.text_record().channels) == ("features", 12)


def test_patchify(tmp_path: Path, make_backbone: Make, make_vae: Make) -> None:
    torch.save({"trainer": {"gpt_fsdp": copied(make_backbone(code_bits=20))}}, tmp_path / "model.pth")
    torch.save({"vae": copied(make_vae(5))}, tmp_path / "infinity_vae_d20_f2_5_patchify.pth")
    model = load_model(str(tmp_path / "model.pth"))
    assert model.patchify
    assert model.defaults.temperature == 1.0
    assert model.latent_grids(((1, 1), (2, 3))) == ((2, 2), (4, 6))
    assert model.record(((1, 1), (2, 3))).image_width == 12


@pytest.mark.parametrize("place", ["inside", "beside"])
def test_a_folder_of_shards(place: str, tmp_path: Path, make_backbone: Make, make_vae: Make) -> None:
    folder = tmp_path / "infinity_8b_weights"
    save_half(copied(make_backbone()), folder / "model.safetensors", shard_bytes=20_000)
    assert len(list(folder.glob("*.safetensors"))) > 2
    where = folder if place == "inside" else tmp_path
    save_file(copied(make_vae()), where / "my_VAE.safetensors")
    model = load_model(str(folder))
    assert model.backbone.head.weight.dtype == torch.float32
    before = model.sha256
    assert load_model(str(folder)).sha256 == before
    save_file(copied(make_vae(seed=9)), where / "my_VAE.safetensors")
    assert load_model(str(folder)).sha256 != before


def test_the_hash_is_of_the_contents(checkpoint: Path, tmp_path: Path) -> None:
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    vae = checkpoint.with_name("infinity_vae_d8reg.pth")
    first = load_model(str(checkpoint)).sha256
    second = load_model(str(checkpoint.rename(moved / "renamed.pth")), vae=vae).sha256
    assert first == second


def test_a_missing_vae_says_what_where_and_how(checkpoint: Path) -> None:
    checkpoint.with_name("infinity_vae_d8reg.pth").unlink()
    with pytest.raises(CheckpointError) as caught:
        load_model(str(checkpoint))
    line = caught.value.one_line()
    assert "no VAE for infinity.pth: expected infinity_vae_d8*.pth" in line
    assert "a VAE of 8 bits, or of 2 with spatial patchify" in line
    assert str(checkpoint.parent) in line
    assert line.endswith("found none; give it with --vae FILE")


def test_a_vae_of_another_size_is_passed_over(checkpoint: Path, make_vae: Make) -> None:
    folder = checkpoint.parent
    torch.save(copied(make_vae(5)), folder / "infinity_vae_d5.pth")
    assert load_model(str(checkpoint)).vae.config.bits == 8
    (folder / "infinity_vae_d8reg.pth").unlink()
    with pytest.raises(CheckpointError, match=r"found none of that size, only infinity_vae_d5\.pth"):
        load_model(str(checkpoint))
    with pytest.raises(CheckpointError, match=r"expected a VAE of 8 bits, .* found one of 5"):
        load_model(str(checkpoint), vae=folder / "infinity_vae_d5.pth")


def test_two_vaes_are_a_question(checkpoint: Path, make_vae: Make) -> None:
    other = checkpoint.with_name("other_vae.pth")
    torch.save(copied(make_vae(seed=4)), other)
    with pytest.raises(CheckpointError, match=r"several: infinity_vae_d8reg\.pth, other_vae\.pth; give it with --vae"):
        load_model(str(checkpoint))
    model = load_model(str(checkpoint), vae=other)
    assert torch.equal(model.vae.decoder.conv_in.conv.bias, make_vae(seed=4).decoder.conv_in.conv.bias)


def test_a_damaged_vae_is_named(checkpoint: Path) -> None:
    checkpoint.with_name("infinity_vae_d8reg.pth").write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"infinity_vae_d8reg\.pth: the file is empty"):
        load_model(str(checkpoint))


def test_exchanged_files(checkpoint: Path) -> None:
    vae = checkpoint.with_name("infinity_vae_d8reg.pth")
    with pytest.raises(CheckpointError, match=r"a VAE; expected a transformer; give the VAE with --vae"):
        load_model(str(vae), vae=checkpoint)
    with pytest.raises(CheckpointError, match=r"expected a VAE of 8 bits, .* found none"):
        load_model(str(checkpoint), vae=checkpoint)


def test_another_model_is_refused(tmp_path: Path) -> None:
    torch.save(nn.TransformerEncoderLayer(8, 2).state_dict(), tmp_path / "other.pth")
    with pytest.raises(CheckpointError, match=r"not a checkpoint of Infinity: holds no matrix word_embed\.weight"):
        load_model(str(tmp_path / "other.pth"))


@pytest.mark.parametrize("key", ["pos_start", "block_chunks.1.module.0.ffn.fc1.weight", "lvl_embed.weight"])
@pytest.mark.parametrize("damage", ["missing", "shape", "nan"])
def test_a_damaged_transformer_is_named(key: str, damage: str, checkpoint: Path, make_backbone: Make) -> None:
    state = copied(make_backbone())
    if damage == "missing":
        del state[key]
    elif damage == "shape":
        state[key] = state[key][..., :-1].clone()
    else:
        state[key].view(-1)[3] = float("nan")
    torch.save(state, checkpoint)
    with pytest.raises(CheckpointError, match=r"infinity\.pth \(transformer\)"):
        load_model(str(checkpoint))


def test_a_damaged_vae_tensor_is_named(checkpoint: Path, make_vae: Make) -> None:
    state = copied(make_vae())
    state["decoder.conv_out.conv.bias"][0] = float("nan")
    torch.save(state, checkpoint.with_name("infinity_vae_d8reg.pth"))
    with pytest.raises(CheckpointError, match=r"\(VAE\): 1 keys not finite \(NaN or infinity\): decoder\.conv_out"):
        load_model(str(checkpoint))


def test_code_in_a_checkpoint_is_not_run(checkpoint: Path, tmp_path: Path) -> None:
    class Attack:
        def __reduce__(self) -> tuple[object, ...]:
            return Path.touch, (tmp_path / "attacked",)

    checkpoint.write_bytes(pickle.dumps({"word_embed.weight": Attack()}, protocol=2))
    with pytest.raises(CheckpointError, match="could run code"):
        load_model(str(checkpoint))
    assert not (tmp_path / "attacked").exists()


def test_nothing_is_copied(make_backbone: Make, make_vae: Make) -> None:
    transformer, vae = copied(make_backbone()), copied(make_vae())
    backbone, tokenizer = build_pair(transformer, vae, "memory")
    for key, value in backbone.state_dict().items():
        assert value.data_ptr() == transformer[key].data_ptr()
    assert tokenizer.decoder.conv_in.conv.weight.data_ptr() == vae["decoder.conv_in.conv.weight"].data_ptr()


def shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    return {key: tuple(value.shape) for key, value in model.state_dict().items()}


def test_a_model_of_shapes_takes_no_memory(make_backbone: Make, make_vae: Make) -> None:
    backbone, vae = build_meta(shapes(make_backbone()), shapes(make_vae()), "shapes")
    assert isinstance(backbone, Infinity)
    assert isinstance(vae, BSQVAE)
    assert all(parameter.is_meta for parameter in (*backbone.parameters(), *vae.parameters()))


@hypothesis_settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_wrong_tensors_are_refused_in_one_line(make_backbone: Make, make_vae: Make, data: st.DataObject) -> None:
    states = [copied(make_backbone()), copied(make_vae())]
    for _ in range(data.draw(st.integers(1, 3))):
        state = states[data.draw(st.integers(0, 1))]
        key = data.draw(st.sampled_from(sorted(state)))
        kind = data.draw(st.sampled_from(["drop", "scalar", "flat", "empty", "grow", "rename", "integers"]))
        value = state.pop(key)
        changed = {
            "scalar": lambda value: value.sum(),
            "flat": lambda value: value.flatten(),
            "empty": lambda value: value[:0],
            "grow": lambda value: torch.cat([value, value]),
            "integers": lambda value: value.long(),
        }
        if kind == "rename":
            state[key.replace("0", "7")] = value
        elif kind != "drop":
            state[key] = changed[kind](value if value.dim() else value.view(1))
    try:
        backbone, vae = build_pair(*states, "mutated")
    except CheckpointError as error:
        assert "\n" not in error.one_line()
        assert "mutated" in str(error)
    else:
        # Whatever loads is the model again, or a consistent one of another size.
        assert shapes(backbone) == {key: tuple(value.shape) for key, value in states[0].items()}
        assert shapes(vae) == {key: tuple(value.shape) for key, value in states[1].items()}


@pytest.fixture
def nano_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Random weights in nano's files and sizes, written as the training scripts write them."""
    torch.manual_seed(0)
    folder = tmp_path / "weights"
    save_half(copied(Infinity(CONFIG)), folder / "model.safetensors")
    save_half(copied(BSQVAE(VAE_CONFIG)), folder / "vae.safetensors")
    save_half(copied(WordEncoder(len(WORDS), CONFIG.text_channels, MAX_WORDS)), folder / "text_encoder.safetensors")
    monkeypatch.setattr(settings, "WEIGHTS", folder)
    return folder


def test_nano(nano_weights: Path) -> None:
    model = load_model("nano")
    assert (model.source, model.patchify, model.default_resolution) == ("nano", False, "0.25M")
    assert model.defaults == Defaults(settings.GUIDANCE, settings.TEMPERATURE, settings.TOP_K, settings.TOP_P)
    assert model.record(model.schedule()).image_height == 256
    assert model.text is not None
    assert model.text.kind == model.text_record().kind == "words"
    assert model.text.max_tokens == model.text_record().max_tokens == MAX_WORDS
    ids = model.text.token_ids("a red circle")
    assert model.text.module(torch.tensor([ids])).shape == (1, 3, model.backbone.config.text_channels)
    before = model.sha256
    words = WordEncoder(len(WORDS), model.backbone.config.text_channels, MAX_WORDS)
    save_half(copied(words), nano_weights / "text_encoder.safetensors")
    assert load_model("nano").sha256 != before


def test_nano_with_its_transformer_in_one_file(nano_weights: Path) -> None:
    parts = sorted(nano_weights.glob("model-*.safetensors"))
    whole = {key: value for part in parts for key, value in load_file(part).items()}
    for part in (*parts, nano_weights / "model.safetensors.index.json"):
        part.unlink()
    save_file(whole, nano_weights / "model.safetensors")
    assert load_model("nano").backbone.config.depth == 8


@pytest.mark.parametrize("name", ["vae.safetensors", "text_encoder.safetensors", "model.safetensors.index.json"])
def test_nano_without_a_file(name: str, nano_weights: Path) -> None:
    (nano_weights / name).unlink()
    with pytest.raises(CheckpointError):
        load_model("nano")


def test_nano_without_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings, "WEIGHTS", tmp_path / "weights")
    with pytest.raises(
        CheckpointError,
        match=r"nano is not complete in this version: .* missing from its weights; compile a checkpoint",
    ):
        load_model("nano")


def test_nano_takes_no_other_parts(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="leave out --vae and --text-encoder"):
        load_model("nano", vae=tmp_path / "vae.pth")


def test_loading_does_not_wait_for_torchs_compiler(nano_weights: Path) -> None:
    """It takes longer to import than a small model to load, and nothing of it is used."""
    script = f"""
        import sys
        from pathlib import Path
        from toprovar.models.loader import load_model
        from toprovar.models.nano import settings

        settings.WEIGHTS = Path({str(nano_weights)!r})
        load_model("nano")
        assert "torch._dynamo" not in sys.modules
        assert "sympy" not in sys.modules
    """
    done = subprocess.run([sys.executable, "-P", "-c", textwrap.dedent(script)], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
