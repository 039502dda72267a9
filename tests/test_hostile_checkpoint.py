"""Checkpoints from strangers: nothing in them is run or unpickled, and what is wrong is named by file and tensor."""

import json
import os
import pickle
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from finf_core.errors import CheckpointError
from finf_core.spec import ModelSpec
from tasks.checkpoint import load_language_model, local_checkpoint

UP = "model.layers.1.mlp.up_proj.weight"


@pytest.fixture
def folder(tiny_checkpoint: Path, tmp_path: Path) -> Path:
    return shutil.copytree(tiny_checkpoint, tmp_path / "copy")


def refusal(folder: Path) -> str:
    with pytest.raises(CheckpointError) as error:
        load_language_model(ModelSpec(path=str(folder)))
    assert "\n" not in str(error.value)
    return str(error.value)


def edit_json(file: Path, **changes: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


# ---- code ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("file", "changes"),
    [
        ("config.json", {"auto_map": {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"}}),
        ("config.json", {"model_type": "evil", "auto_map": {"AutoConfig": "evil.Config"}}),
        ("tokenizer_config.json", {"tokenizer_class": "Evil", "auto_map": {"AutoTokenizer": ["evil.A", "evil.B"]}}),
    ],
    ids=["known model", "unknown model", "tokenizer"],
)
def test_code_in_the_folder_is_refused_by_file_and_never_runs_nor_asks_whatever_is_typed(
    folder: Path, tmp_path: Path, file: str, changes: dict[str, Any]
) -> None:
    edit_json(folder / file, **changes)
    ran = tmp_path / "it-ran"
    (folder / "evil.py").write_text(f"open({str(ran)!r}, 'w').close()\nclass Config: pass\nclass Model: pass\n")
    program = (
        "from finf_core.errors import CheckpointError\nfrom finf_core.spec import ModelSpec\n"
        "from tasks.checkpoint import load_language_model as load\n"
        f"try:\n    load(ModelSpec(path={str(folder)!r}))\nexcept CheckpointError as error:\n    print(error)\n"
    )
    home = {"HF_HOME": str(tmp_path / "home"), "PYTHONPATH": str(Path(__file__).parent.parent)}
    child = subprocess.run(
        [sys.executable, "-c", program],
        input="y\n" * 9,
        env=os.environ | home,
        capture_output=True,
        text=True,
        timeout=200,
        check=True,
    )
    expected = f"{folder / file}: auto_map names code, and finf runs no code from a checkpoint"
    assert child.stdout.startswith(expected)
    assert "[y/N]" not in child.stdout + child.stderr
    assert not ran.exists()


def test_code_is_refused_before_the_folder_is_digested(folder: Path) -> None:
    edit_json(folder / "config.json", auto_map={"AutoConfig": "evil.Config"})
    with pytest.raises(CheckpointError, match=r"config\.json: auto_map names code"):
        local_checkpoint(str(folder))


class Evil:
    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str, str]]:
        return open, (str(self.place), "w")


def test_an_adapter_is_refused_by_name_and_its_pickle_is_not_read(
    folder: Path, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    adapter = {"peft_type": "LORA", "base_model_name_or_path": str(tiny_checkpoint), "target_modules": ["q_proj"]}
    (folder / "adapter_config.json").write_text(json.dumps(adapter))
    (folder / "adapter_model.bin").write_bytes(pickle.dumps(Evil(tmp_path / "it-ran")))
    assert "adapter_config.json: an adapter; merge it into its base model" in refusal(folder)
    assert not (tmp_path / "it-ran").exists()


def test_pickles_beside_good_weights_are_not_read(folder: Path, tmp_path: Path) -> None:
    for name in ("pytorch_model.bin", "training_args.bin", "optimizer.pt"):
        (folder / name).write_bytes(pickle.dumps(Evil(tmp_path / "it-ran")))
    load_language_model(ModelSpec(path=str(folder)))
    assert not (tmp_path / "it-ran").exists()


# ---- tensors ---------------------------------------------------------------------------------------------------------


def store(folder: Path, **tensors: torch.Tensor) -> None:
    weights = load_file(folder / "model.safetensors") | {name.replace("UP", UP): each for name, each in tensors.items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("dtype", "name"),
    [(torch.int32, "I32"), (torch.bool, "BOOL"), (torch.uint8, "U8"), (torch.float8_e4m3fn, "F8_E4M3")],
)
def test_a_tensor_without_floats_is_not_cast_but_named_with_file_and_dtype(
    folder: Path, dtype: torch.dtype, name: str
) -> None:
    store(folder, UP=torch.zeros(48, 32).to(dtype))
    line = refusal(folder)
    assert f"model.safetensors: tensor '{UP}' has dtype {name}, and the model wants one of F64, F32, F16, BF16" in line


def test_a_tensor_of_another_shape_is_named_with_both_shapes(folder: Path) -> None:
    store(folder, UP=torch.zeros(3, 5))
    line = refusal(folder)
    assert f"model.safetensors: tensor '{UP}' has shape (3, 5), and the model wants (48, 32)" in line


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_weight_that_is_no_number_is_named(folder: Path, value: float) -> None:
    weight = load_file(folder / "model.safetensors")[UP]
    weight[3, 4] = value
    store(folder, UP=weight)
    assert f"model.safetensors: tensor '{UP}' holds NaN or infinity" in refusal(folder)


def test_integers_that_the_model_does_not_know_are_let_be(folder: Path) -> None:
    wanted = loaded_weights(folder)
    store(folder, mask=torch.ones(4, dtype=torch.int64))
    assert_same(loaded_weights(folder), wanted)


def test_a_config_of_more_layers_than_there_are_tensors_is_refused_before_they_are_built(folder: Path) -> None:
    edit_json(folder / "config.json", num_hidden_layers=10**9)
    assert "config.json: 1,000,000,000 layers, and the weights hold" in refusal(folder)


def test_a_config_of_huge_matrices_takes_no_memory(folder: Path) -> None:
    edit_json(folder / "config.json", hidden_size=2**20, intermediate_size=2**22)
    assert "has shape (300, 32), and the model wants (300, 1048576)" in refusal(folder)


def test_quantized_weights_are_refused(folder: Path) -> None:
    edit_json(folder / "config.json", quantization_config={"quant_method": "fp8"})
    assert "config.json: quantized weights; finf wants them as plain floats" in refusal(folder)


# ---- headers ---------------------------------------------------------------------------------------------------------

Header = dict[str, Any]


def with_header(file: Path, edit: Callable[[Header], None]) -> None:
    data = file.read_bytes()
    length = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + length])
    edit(header)
    text = json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + length :])


def offsets(header: Header, start: int, stop: int) -> None:
    header[UP]["data_offsets"] = [start, stop]


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (lambda header: offsets(header, 10**12, 10**12 + 48 * 32 * 4), f"tensor '{UP}' ends beyond the file"),
        (lambda header: offsets(header, 0, 48 * 32 * 4), "overlaps others"),
        (lambda header: offsets(header, -1, 5), f"tensor '{UP}' has no place"),
        (lambda header: header[UP].update(shape=[2**40, 2**40]), f"tensor '{UP}' overlaps others"),
        (lambda header: header[UP].update(dtype="F33"), f"tensor '{UP}' has no known dtype"),
        (lambda header: header.update(other=header[UP]), "overlaps others"),
        (lambda header: header.update({"x": 3}), "tensor 'x' has no place"),
    ],
    ids=["beyond the end", "overlap", "negative", "huge shape", "dtype", "twice", "no tensor"],
)
def test_a_header_that_lies_is_refused_by_file_and_tensor(
    folder: Path, edit: Callable[[Header], None], words: str
) -> None:
    with_header(folder / "model.safetensors", edit)
    line = refusal(folder)
    assert "model.safetensors: tensor " in line
    assert words in line


@pytest.mark.parametrize("length", [2**60, 2**64 - 1, 10**7])
def test_a_header_length_beyond_the_file_is_refused(folder: Path, length: int) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(struct.pack("<Q", length) + file.read_bytes()[8:])
    assert f"model.safetensors: a header of {length:,} bytes in a file of" in refusal(folder)


def test_weights_that_were_cut_off_are_refused(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    assert "ends beyond the file: damaged or cut off" in refusal(folder)


# ---- an index, links, and the tokenizer ------------------------------------------------------------------------------


def split_weights(folder: Path) -> dict[str, str]:
    """The weights in two files with an index; returns its map."""
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(weights)
    parts = {"a.safetensors": names[:5], "b.safetensors": names[5:]}
    for file, part in parts.items():
        save_file({name: weights[name] for name in part}, folder / file, metadata={"format": "pt"})
    return {name: file for file, part in parts.items() for name in part}


def loaded_weights(folder: Path) -> dict[str, torch.Tensor]:
    return dict(load_language_model(ModelSpec(path=str(folder))).adapter.module.state_dict())


def assert_same(found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> None:
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


def write_index(folder: Path, weight_map: Any) -> None:
    index = {"metadata": {"total_size": 1}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def test_weights_in_several_files_are_loaded(folder: Path) -> None:
    wanted = loaded_weights(folder)
    write_index(folder, split_weights(folder))
    assert not (folder / "model.safetensors").exists()
    assert_same(loaded_weights(folder), wanted)


def test_an_index_that_leaves_the_folder_is_refused(folder: Path) -> None:
    names = split_weights(folder)
    shutil.move(folder / "a.safetensors", folder.parent / "outside.safetensors")
    for place in ("../outside.safetensors", str(folder.parent / "outside.safetensors"), "a.safetensors", 7):
        write_index(folder, {name: place if file == "a.safetensors" else file for name, file in names.items()})
        assert f"model.safetensors.index.json: names {place!r}, which is no file of this folder" in refusal(folder)
    write_index(folder, [1, 2])
    assert "model.safetensors.index.json: has no weight_map" in refusal(folder)


def test_files_may_be_links_as_in_the_hubs_cache(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "links").mkdir()
    for file in folder.iterdir():
        (tmp_path / "links" / file.name).symlink_to(file)
    assert_same(loaded_weights(tmp_path / "links"), loaded_weights(folder))


@pytest.mark.parametrize("data", [b"\x80garbage", b"{}", b"[" * 10**5, b'{"model": {"type": "Nonsense"}}', b""])
@pytest.mark.parametrize("file", ["tokenizer.json", "config.json"])
def test_a_tokenizer_or_a_config_of_garbage_is_one_line(folder: Path, file: str, data: bytes) -> None:
    (folder / file).write_bytes(data)
    assert str(folder) in refusal(folder)


@pytest.mark.parametrize("name", ["tokenizer.json", "more.safetensors"])
def test_a_file_that_never_ends_is_not_read(folder: Path, name: str) -> None:
    (folder / name).unlink(missing_ok=True)
    (folder / name).symlink_to("/dev/zero")
    assert f"{name}: is no plain file" in refusal(folder)
