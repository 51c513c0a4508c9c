"""Infinity computes what the official implementation computed, and reads what it wrote."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result
from safetensors.torch import load_file, save_file
from torch import nn

from toprovar.models.bsq_vae import BSQVAE, VAEConfig
from toprovar.models.infinity import Infinity, InfinityConfig
from toprovar.models.loader import guidance_layers
from toprovar.models.official_numerics import OfficialRounding
from toprovar.models.parity import compare_golden, main

GOLDEN = Path(__file__).parents[1] / "data" / "infinity_a"
PARTS = ("json", "io.safetensors", "transformer.safetensors", "vae.safetensors")


def parity(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture
def golden(tmp_path: Path) -> Path:
    for part in PARTS:
        shutil.copy(f"{GOLDEN}.{part}", tmp_path)
    return tmp_path / GOLDEN.name


@pytest.fixture(params=[1, 2], ids=["one-thread", "two-threads"])
def threads(request: pytest.FixtureRequest) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("threads")
def test_golden_is_reproduced() -> None:
    report = compare_golden(GOLDEN)
    assert len(report["logits"]) == 7
    assert max(error["absolute"] for error in report["logits"]) <= 2e-4
    assert max(error["absolute"] for error in report["next_inputs"]) <= 1e-5
    assert report["summed_codes"]["absolute"] <= 1e-5
    assert report["image"]["absolute"] <= 1e-3


def test_a_wrong_model_is_told_apart(golden: Path) -> None:
    # The tolerance must notice a thousandth on one weight.
    file = golden.with_name(f"{golden.name}.transformer.safetensors")
    state = load_file(file)
    state["block_chunks.1.module.0.sa.proj.weight"] *= 1.001
    save_file(state, file)
    assert max(error["absolute"] for error in compare_golden(golden)["logits"]) > 2e-4


def test_official_rounding_is_arithmetic_like_any_other() -> None:
    generator = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(2, 3, length, 16, generator=generator) for length in (40, 530, 530))
    mask = torch.zeros(2, 1, 1, 530)
    x, weight, bias = (torch.randn(*shape, generator=generator) for shape in ((2, 1, 400), (8, 400), (8,)))
    attend = nn.functional.scaled_dot_product_attention
    with OfficialRounding():
        ours = attend(query, key, value, scale=1.0), attend(query, key, value, attn_mask=mask)
        linear = [nn.functional.linear(rows, weight, bias) for rows in (x, x.expand(2, 9, 400))]
    exact = [part.double() for part in (query, key, value)]
    torch.testing.assert_close(ours[0].double(), attend(*exact, scale=1.0), rtol=0, atol=1e-5)
    torch.testing.assert_close(ours[1].double(), attend(*exact), rtol=0, atol=1e-2)
    for y in linear:
        expected = nn.functional.linear(x.double(), weight.double(), bias.double()).expand_as(y)
        torch.testing.assert_close(y.double(), expected, rtol=0, atol=1e-4)


def test_report_as_json() -> None:
    result = parity(GOLDEN, "--json")
    assert result.exit_code == 0
    report = json.loads(result.stdout)
    assert report["name"] == "infinity_a"
    assert report.keys() == {"name", "logits", "next_inputs", "summed_codes", "image"}
    assert all(error.keys() == {"absolute", "relative"} for error in report["logits"])


def test_report_as_lines() -> None:
    lines = parity(GOLDEN).stdout.splitlines()
    assert [line.split(":")[0] for line in lines].count("logits") == 7


def remove(path: Path) -> None:
    path.unlink()


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("damage", [remove, truncate, empty])
def test_a_damaged_set_takes_one_line(golden: Path, part: str, damage: Callable[[Path], None]) -> None:
    damage(golden.with_name(f"{golden.name}.{part}"))
    result = parity(golden)
    assert result.exit_code == 1
    assert isinstance(result.exception, SystemExit)
    assert len(result.stderr.splitlines()) == 1
    assert f"{golden.name}.{part}" in result.stderr


def test_a_missing_tensor_is_named(golden: Path) -> None:
    file = golden.with_name(f"{golden.name}.io.safetensors")
    io = load_file(file)
    del io["bits.3"]
    save_file(io, file)
    result = parity(golden)
    assert result.exit_code == 1
    assert "lacks bits.3" in result.stderr


def test_exchanged_models_take_one_line(golden: Path) -> None:
    names = [golden.with_name(f"{golden.name}.{part}.safetensors") for part in ("transformer", "vae")]
    contents = [name.read_bytes() for name in names]
    for name, content in zip(names, reversed(contents), strict=True):
        name.write_bytes(content)
    result = parity(golden)
    assert result.exit_code == 1
    assert len(result.stderr.splitlines()) == 1
    assert "exchanged" in result.stderr


@pytest.mark.parametrize(("insertion", "layers"), [(0, (4,)), (-1, (3,)), ([0, -3], (4, 1))])
def test_guidance_layers(insertion: int | list[int], layers: tuple[int, ...]) -> None:
    assert guidance_layers(insertion, depth=4) == layers


@pytest.mark.parametrize("insertion", [1, -4])
def test_guidance_outside_the_network_takes_one_line(golden: Path, insertion: int) -> None:
    file = golden.with_name(f"{golden.name}.json")
    file.write_text(json.dumps(json.loads(file.read_text()) | {"cfg_insertion_layer": insertion}))
    result = parity(golden)
    assert result.exit_code == 1
    assert "count layers from the end" in result.stderr


@pytest.fixture(scope="module")
def listed() -> dict[str, dict[str, tuple[list[int], str]]]:
    """The keys of a model of the published 2B's shape but two of its chunks."""
    transformer = InfinityConfig(
        depth=8, chunks=2, width=2048, heads=16, hidden=8192, code_bits=32,
        text_channels=2048, text_max_tokens=512, pool_heads=16, levels=15,
    )  # fmt: skip
    channels = (128, 256, 512, 512, 512)
    vae = VAEConfig(bits=32, encoder_channels=channels, decoder_channels=channels, blocks=2, downsamples=4)
    with torch.device("meta"):
        models = {"transformer": Infinity(transformer), "vae": BSQVAE(vae)}
    return {
        part: {key: (list(value.shape), str(value.dtype)) for key, value in model.state_dict().items()}
        for part, model in models.items()
    }


def test_full_size_keys_agree(listed: dict[str, dict[str, tuple[list[int], str]]], tmp_path: Path) -> None:
    file = tmp_path / "listed.keys.json"
    file.write_text(json.dumps(listed))
    result = parity("--keys", file, "--json")
    assert result.exit_code == 0
    report = json.loads(result.stdout)
    for part, keys in listed.items():
        assert report[part] == {"keys": len(keys), "missing": [], "unexpected": [], "mis_shaped": []}


def test_differing_keys_are_listed(listed: dict[str, dict[str, tuple[list[int], str]]], tmp_path: Path) -> None:
    transformer = dict(listed["transformer"])
    transformer["stray"] = transformer.pop("head.bias")
    transformer["lvl_embed.weight"] = ([15, 7], "torch.float32")
    file = tmp_path / "listed.keys.json"
    file.write_text(json.dumps({"transformer": transformer, "vae": listed["vae"]}))
    report = json.loads(parity("--keys", file, "--json").stdout)
    assert report["transformer"]["missing"] == ["head.bias"]
    assert report["transformer"]["unexpected"] == ["stray"]
    assert report["transformer"]["mis_shaped"] == ["lvl_embed.weight"]


@pytest.mark.parametrize("content", [None, '{"transformer": {', "[]", "{}", '{"transformer": {}, "vae": {}}'])
def test_a_bad_list_of_keys_takes_one_line(tmp_path: Path, content: str | None) -> None:
    file = tmp_path / "listed.keys.json"
    if content is not None:
        file.write_text(content)
    result = parity("--keys", file)
    assert result.exit_code == 1
    assert isinstance(result.exception, SystemExit)
    assert len(result.stderr.splitlines()) == 1


def test_golden_or_keys_but_not_both() -> None:
    assert parity().exit_code == 2
    assert parity(GOLDEN, "--keys", GOLDEN).exit_code == 2
