"""Denoisers in a folder of diffusers, and `finf attribute` on images with them: `tasks.denoiser`."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusion_example
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from diffusers import DDPMScheduler, FlowMatchEulerDiscreteScheduler, UNet2DConditionModel, UNet2DModel
from diffusion_example import FACTORY, NUM_PLANTED, NUM_TEST, digit_unet, tiny_network
from image_example import digits, save_network, toml
from report_page import OpenPage
from safetensors.torch import load_file, save_file
from test_scan import run_finf
from whole_run import run_job

from finf_core.diffusion import Diffusion
from finf_core.errors import CheckpointError, InputError
from finf_core.spec import CorpusSpec, DiffusionSpec, ImagesSpec, ModelSpec, ScheduleSpec
from tasks.config import parse_config
from tasks.load_model import digest_model, load_model
from tasks.read_report import read_report

GREY = CorpusSpec(path="x", image_column="image", image_mode="L")
COLOURED = CorpusSpec(path="x", image_column="image")
UNET_CONFIG, UNET_WEIGHTS = "unet/config.json", "unet/diffusion_pytorch_model.safetensors"
SCHEDULER_CONFIG = "scheduler/scheduler_config.json"
SCORE_TOLERANCE = 1e-3  # of the score; float32 forward passes in other batches


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return diffusion_example.write_example(tmp_path_factory.mktemp("diffusion"))


@pytest.fixture
def folder(example: dict[str, Any], tmp_path: Path) -> Path:
    """A copy of the trained denoiser, to be damaged."""
    return Path(shutil.copytree(example["model"]["path"], tmp_path / "denoiser"))


def spec_of(folder: Path, **more: Any) -> ModelSpec:
    return ModelSpec(path=str(folder), kind="diffusion", **more)


def edit(file: Path, **values: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


# ---- loading ---------------------------------------------------------------------------------------------------------


def test_network_schedule_and_size_are_those_of_the_folder(folder: Path) -> None:
    model = load_model(spec_of(folder, diffusion=DiffusionSpec(timesteps=5, seed=3, normalise=True)), GREY)
    adapter = model.adapter
    assert isinstance(adapter, Diffusion)
    stored = load_file(folder / UNET_WEIGHTS)
    assert all(torch.equal(stored[name], tensor) for name, tensor in adapter.module.state_dict().items())
    assert not any(part.training for part in adapter.module.modules())
    assert adapter.schedule.prediction == "v_prediction"
    theirs = DDPMScheduler.from_pretrained(folder / "scheduler")
    torch.testing.assert_close(adapter.schedule.signal_T.float() ** 2, theirs.alphas_cumprod, rtol=1e-4, atol=1e-7)
    assert (len(adapter.timesteps_K), adapter.seed, adapter.normalise) == (5, 3, True)
    large = np.full((24, 24), 255, np.uint8)
    image = model.example({"image": large})  # type: ignore[attr-defined]
    assert (tuple(image.features.shape), float(image.features.max()), len(image)) == ((1, 8, 8), 1.0, 5)
    chosen = load_model(spec_of(folder, images=ImagesSpec(size=16, mean=(0.0,), std=(1.0,))), GREY)
    black = chosen.example({"image": np.zeros((24, 24), np.uint8)})  # type: ignore[attr-defined]
    assert (tuple(black.features.shape), float(black.features.min())) == ((1, 16, 16), 0.0)
    assert float(model.example({"image": np.zeros((8, 8), np.uint8)}).features.min()) == -1.0  # type: ignore[attr-defined]


def test_a_network_of_one_s_own_has_the_schedule_of_the_config(tmp_path: Path) -> None:
    torch.manual_seed(0)
    weights = save_network(tiny_network(), tmp_path / "weights")
    schedule = ScheduleSpec(prediction_type="sample", train_timesteps=20, beta_end=0.3)
    diffusion = DiffusionSpec(timesteps=4, schedule=schedule)
    model = load_model(spec_of(weights, factory=FACTORY, diffusion=diffusion), COLOURED)
    assert isinstance(model.adapter, Diffusion)
    assert model.adapter.schedule.prediction == "sample"
    assert float(model.adapter.schedule.noise_T[0]) == pytest.approx(0.01)
    assert model.adapter.timesteps_K.tolist() == [2, 7, 12, 17]
    assert torch.equal(model.adapter.module.read.weight, load_file(weights / "model.safetensors")["read.weight"])


def other_network(folder: Path, network: Any) -> None:
    shutil.rmtree(folder / "unet")
    network.save_pretrained(folder / "unet")


def as_pickle(folder: Path) -> None:
    torch.save(load_file(folder / UNET_WEIGHTS), folder / "unet" / "diffusion_pytorch_model.bin")
    (folder / UNET_WEIGHTS).unlink()


def change_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    weights = load_file(folder / UNET_WEIGHTS)
    change(weights)
    save_file(weights, folder / UNET_WEIGHTS)


def text_conditional() -> UNet2DConditionModel:
    blocks = {"down_block_types": ("CrossAttnDownBlock2D",), "up_block_types": ("CrossAttnUpBlock2D",)}
    return UNet2DConditionModel(
        in_channels=1, out_channels=1, block_out_channels=(8,), norm_num_groups=4, cross_attention_dim=8, **blocks
    )


def with_variance() -> UNet2DModel:
    config = dict(digit_unet().config)
    return UNet2DModel.from_config(config | {"out_channels": 2})


REFUSED: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no scheduler": (lambda folder: shutil.rmtree(folder / "scheduler"), "want a folder of diffusers"),
    "no network": (lambda folder: shutil.rmtree(folder / "unet"), "want a folder of diffusers"),
    "pickled": (as_pickle, "is pickled and could run code"),
    "class of its own": (lambda f: edit(f / UNET_CONFIG, _class_name="MyUNet"), "'MyUNet' is no network of diffusers"),
    "no network class": (lambda f: edit(f / UNET_CONFIG, _class_name="DDPMScheduler"), "is no network of diffusers"),
    "module": (lambda f: edit(f / UNET_CONFIG, _class_name="utils"), "'utils' is no network"),
    "code": (lambda f: edit(f / UNET_CONFIG, auto_map={"AutoModel": "unet.MyUNet"}), "auto_map names code"),
    "text": (lambda folder: other_network(folder, text_conditional()), "encoder_hidden_states"),
    "classes": (lambda f: edit(f / UNET_CONFIG, num_class_embeds=10), "num_class_embeds"),
    "layers": (lambda f: edit(f / UNET_CONFIG, layers_per_block=10**9), r"layers_per_block = 1,000,000,000"),
    "variance": (lambda folder: other_network(folder, with_variance()), "predicts 2 channels of 1"),
    "shape": (
        lambda f: change_weights(f, lambda weights: weights.update({"conv_in.weight": torch.zeros(8, 3, 3, 3)})),
        r"'conv_in.weight' has shape \(8, 3, 3, 3\)",
    ),
    "missing": (lambda f: change_weights(f, lambda weights: weights.pop("conv_in.bias")), "the first is conv_in.bias"),
    "too many": (lambda f: change_weights(f, lambda weights: weights.update(more=torch.ones(1))), "first is more"),
    "NaN": (
        lambda f: change_weights(f, lambda weights: weights["conv_in.bias"].fill_(torch.nan)),
        "'conv_in.bias' holds NaN",
    ),
    "whole numbers": (
        lambda f: change_weights(f, lambda w: w.update({"conv_in.bias": torch.zeros(8, dtype=torch.int64)})),
        "has dtype I64",
    ),
    "flow": (lambda f: FlowMatchEulerDiscreteScheduler().save_pretrained(f / "scheduler"), "a schedule without plain"),
    "zero signal": (lambda f: edit(f / SCHEDULER_CONFIG, rescale_betas_zero_snr=True), "a schedule without plain"),
    "prediction": (lambda f: edit(f / SCHEDULER_CONFIG, prediction_type="flow"), "prediction_type: Input should be"),
    "endless": (lambda f: edit(f / SCHEDULER_CONFIG, num_train_timesteps=10**12), "between 1 and 1,000,000"),
    "betas": (lambda f: edit(f / SCHEDULER_CONFIG, trained_betas=[0.1, 2.0]), "betas .* lie between 0 and 1"),
    "no number": (lambda f: edit(f / SCHEDULER_CONFIG, beta_end="much"), "beta_end: Input should be a valid number"),
    "no JSON": (lambda f: (f / SCHEDULER_CONFIG).write_text("{"), "is no JSON"),
    "cut off": (lambda f: (f / UNET_WEIGHTS).write_bytes((f / UNET_WEIGHTS).read_bytes()[:-9]), "damaged or cut off"),
}


@pytest.mark.parametrize("damage", REFUSED.values(), ids=REFUSED.keys())
def test_what_would_score_wrongly_or_run_code_is_refused_in_one_line(
    folder: Path, damage: tuple[Callable[[Path], Any], str]
) -> None:
    change, reason = damage
    change(folder)
    with pytest.raises(CheckpointError, match=reason) as caught:
        load_model(spec_of(folder), GREY)
    assert "\n" not in str(caught.value)


def test_images_with_other_channels_than_the_network_reads_are_refused(folder: Path) -> None:
    with pytest.raises(InputError, match=r"reads 1 channels, and images of corpus\.image_mode = 'RGB' have 3"):
        load_model(spec_of(folder), COLOURED)


def test_betas_that_were_trained_are_taken_as_they_are(folder: Path) -> None:
    edit(folder / SCHEDULER_CONFIG, trained_betas=[0.5] * 20)
    adapter = load_model(spec_of(folder), GREY).adapter
    assert isinstance(adapter, Diffusion)
    assert adapter.schedule.signal_T[:3].tolist() == pytest.approx([0.5**0.5, 0.5, 0.5**1.5])


def test_a_digest_tells_another_network_and_another_schedule(folder: Path) -> None:
    digests = [digest_model(spec_of(folder))]
    edit(folder / SCHEDULER_CONFIG, prediction_type="epsilon")
    digests.append(digest_model(spec_of(folder)))
    change_weights(folder, lambda weights: weights["conv_in.bias"].add_(1.0))
    digests.append(digest_model(spec_of(folder)))
    assert len(set(digests)) == 3


WRONG: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    ({}, {}, "model.kind = 'diffusion' wants corpus.image_column"),
    ({}, {"image_column": "image", "label_column": "label"}, "corpus.label_column goes with model.kind = 'classifier'"),
    ({"diffusion": {"timesteps": 0}}, {"image_column": "image"}, "model.diffusion.timesteps must be at least 1"),
    ({"diffusion": {"schedule": {"beta_end": 0.1}}}, {"image_column": "image"}, "goes with model.factory"),
    ({"diffusion": {"noise": 1}}, {"image_column": "image"}, "unknown key model.diffusion.noise"),
    ({"kind": "causal_lm", "diffusion": {"seed": 1}}, {}, "model.diffusion goes with model.kind = 'diffusion'"),
]


@pytest.mark.parametrize(("model", "corpus", "reason"), WRONG)
def test_keys_that_do_not_go_together_are_named(model: dict[str, Any], corpus: dict[str, Any], reason: str) -> None:
    parts = {"model": {"kind": "diffusion", "path": "x"} | model, "corpus": {"path": "x"} | corpus}
    with pytest.raises(InputError, match=reason):
        parse_config({"name": "x", "queries": {"path": "x"}, **parts}, "test")


# ---- a run -----------------------------------------------------------------------------------------------------------


def top_rows(run: str) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = {}
    for row in pq.read_table(Path(run) / "top.parquet").to_pylist():
        found.setdefault(row["query_id"], []).append(row)
    return found


def test_finf_attribute_finds_the_copies_of_images_and_shows_pictures(
    example: dict[str, Any], tmp_path: Path, finf_environment: dict[str, str], open_page: OpenPage
) -> None:
    config = tmp_path / "digits.toml"
    config.write_text(toml(example))
    store = str(tmp_path / "store")
    command = ("attribute", str(config), "--store", store, "--actors", "1", "--json")
    done = run_finf(*command, environment=finf_environment)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    rows = top_rows(result["run"])
    assert len(rows) == NUM_TEST
    for number in range(NUM_PLANTED):
        [copy] = [row for row in rows[f"test-{number}"] if row["document_id"] == f"copy-{number}"]
        assert copy["mirror_ratio"] == pytest.approx(1.0, abs=0.01)
        assert copy["num_targets"] == 4
    report = read_report(result["run"])
    assert all(card["picture"] for group in report["groups"] for part in group["lists"] for card in part["cards"])
    page = open_page(report)
    num_cards = sum(len(part["cards"]) for group in report["groups"] for part in group["lists"])
    assert num_cards >= 5 * NUM_TEST
    assert page.locator("section.group").count() == NUM_TEST
    assert page.locator("section.group img").count() == NUM_TEST + num_cards


def test_scores_are_the_changes_of_the_loss_that_plain_torch_gives(example: dict[str, Any], tmp_path: Path) -> None:
    """For the plain gradient step: by the library's own noising and autograd, a timestep at a time."""
    spec = parse_config(example | {"update": {"kind": "sgd", "difference": "forward"}}, "test")
    job = run_job(spec, tmp_path).job
    pixels, _ = digits()
    network = UNet2DModel.from_pretrained(Path(example["model"]["path"]) / "unet", use_safetensors=True).eval()
    scheduler = DDPMScheduler.from_pretrained(Path(example["model"]["path"]) / "scheduler")
    noises = torch.randn((4, 1, 8, 8), generator=torch.Generator().manual_seed(0))

    def nats(place: int) -> torch.Tensor:
        clean, parts = torch.from_numpy(pixels[place].astype(np.float32))[None, None] / 127.5 - 1, []
        for index, noise in enumerate(noises[:, None]):
            timestep = torch.tensor([1000 * (2 * index + 1) // 8])
            said = network(scheduler.add_noise(clean, noise, timestep), timestep).sample
            parts.append((said - scheduler.get_velocity(clean, noise, timestep)).square().sum() / 2)
        return torch.stack(parts).sum()

    rows = top_rows(job.run_uri)["test-3"]
    place_of = {f"train-{i}": NUM_TEST + i for i in range(len(pixels) - NUM_TEST)} | {"copy-0": 0, "copy-1": 1}
    with torch.no_grad():
        before = [float(nats(place_of[row["document_id"]])) for row in rows]
    assert [row["base_nats"] for row in rows] == pytest.approx(before, rel=1e-4)
    [query] = [q for q in pq.read_table(job.file("queries.parquet")).to_pylist() if q["query_id"] == "test-3"]
    (nats(3) / 4).backward()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += query["step_size"] * parameter.grad
        changes = [float(nats(place_of[row["document_id"]])) - nat for row, nat in zip(rows, before, strict=True)]
    scores = [row["score"] for row in rows]
    assert scores == pytest.approx(changes, rel=SCORE_TOLERANCE, abs=SCORE_TOLERANCE * max(map(abs, scores)))


def test_a_denoiser_that_is_worse_than_none_is_refused(example: dict[str, Any], folder: Path, tmp_path: Path) -> None:
    weights = load_file(folder / UNET_WEIGHTS)
    weights["conv_out.weight"] *= 30
    save_file(weights, folder / UNET_WEIGHTS)
    model = example["model"] | {"path": str(folder)}
    with pytest.raises(CheckpointError, match=r"chance is .*model\.images is not as in training"):
        run_job(parse_config(example | {"model": model}, "test"), tmp_path)


def test_a_network_without_a_forward_mode_is_told_from_noise(example: dict[str, Any], tmp_path: Path) -> None:
    """PyTorch's group norm has none for these inputs."""
    with pytest.raises(InputError, match="jvp: PyTorch has no forward mode"):
        run_job(parse_config(example | {"update": {"kind": "sgd", "difference": "jvp"}}, "test"), tmp_path)
