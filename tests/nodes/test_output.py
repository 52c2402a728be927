"""The nodes that end a graph, the loader that begins it, and the node that is a whole graph."""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image

from tests.nodes.conftest import ROOT, Pack

PROMPT = {
    "1": {"class_type": "LoadImage", "inputs": {"image": "photo.jpg"}},
    "2": {"class_type": "NVBLoader", "inputs": {"checkpoint": "built-in mini", "dtype": "auto"}},
    "8": {
        "class_type": "NVBDDIMSampler",
        "inputs": {"denoiser": ["2", 2], "view_features": ["1", 0], "seed": 7, "steps": 12, "eta": 0.5},
    },
    "9": {"class_type": "NVBDecode", "inputs": {"vae": ["2", 3], "samples": ["8", 0]}},
    "10": {"class_type": "NVBSaveViews", "inputs": {"images": ["9", 0], "filename_prefix": "a/b"}},
}


@pytest.fixture
def cameras(pack: Pack) -> Any:
    return pack.module("nvb_core.cameras").Cameras.from_angles([-30, 0, 30])


@pytest.fixture
def images() -> torch.Tensor:
    return torch.rand(6, 32, 32, 3)


def save(pack: Pack, images: torch.Tensor, cameras: Any, prompt: Any = PROMPT) -> Path:
    node = pack.node("NVBSaveViews")
    node.hidden = SimpleNamespace(unique_id="10", prompt=prompt, extra_pnginfo={"workflow": {"nodes": []}})
    shown = node.execute(images, cameras, "a/b").ui["images"]
    assert {entry["type"] for entry in shown} == {"output"}
    return pack.server.folder / "output" / shown[0]["subfolder"]


def test_saved_views_carry_workflow_and_provenance(pack: Pack, images: torch.Tensor, cameras: Any) -> None:
    (pack.server.folder / "input").mkdir(exist_ok=True)
    (pack.server.folder / "input/photo.jpg").write_bytes(b"pixels")
    folder = save(pack, images, cameras)
    files = sorted(path.name for path in folder.glob("*.png"))
    assert files[0] == "view_00_yaw-30.0_pitch+0.0.png"
    assert len(files) == 6  # two faces seen by three cameras
    record = pack.module("nvb_core.provenance").read_png(folder / files[5])
    assert record.ai_generated
    assert "AI-generated" in record.statement
    assert (record.seed, record.steps, record.eta, record.model) == (7, 12, 0.5, "mini")
    assert (record.source, record.camera.yaw_deg) == ("photo.jpg", pytest.approx(30))
    checkpoint = pack.module("nvb_core.checkpoint")
    assert record.weights_sha256 == checkpoint.file_sha256(checkpoint.DEFAULT_WEIGHTS)
    with Image.open(folder / files[0]) as picture:
        assert json.loads(picture.info["prompt"]) == PROMPT
        assert json.loads(picture.info["workflow"]) == {"nodes": []}
        shown = torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8).reshape(32, 32, 3)
    assert (shown.float() / 255 - images[0]).abs().max() <= 0.51 / 255


def test_saved_cameras_read_back_for_both_kinds_of_tools(pack: Pack, images: torch.Tensor, cameras: Any) -> None:
    folder = save(pack, images, cameras)
    manifest = json.loads((folder / "cameras.json").read_text(encoding="utf-8"))
    read = pack.module("nvb_core.cameras").Cameras.from_json(folder / "cameras.json")
    assert torch.equal(read.cam2world[:3], cameras.cam2world)
    assert torch.equal(read.cam2world[3:], cameras.cam2world)
    assert [file for file, _ in manifest["labels"]] == manifest["images"]
    assert manifest["labels"][1][1] == cameras.to_eg3d()[1].tolist()
    assert manifest["provenance"]["ai_generated"] is True
    frames = json.loads((folder / "transforms.json").read_text(encoding="utf-8"))["frames"]
    assert [frame["file_path"] for frame in frames] == manifest["images"]
    assert all((folder / name).is_file() for name in manifest["images"])
    assert not list(folder.glob("*.partial"))


def test_a_server_without_metadata_still_says_ai_generated(pack: Pack, images: torch.Tensor, cameras: Any) -> None:
    pack.server.args.disable_metadata = True
    try:
        folder = save(pack, images, cameras, prompt=None)
    finally:
        pack.server.args.disable_metadata = False
    path = next(folder.glob("*.png"))
    with Image.open(path) as picture:
        assert not {"prompt", "workflow"} & picture.info.keys()
        assert "AI-generated" in picture.info["Comment"]
    record = pack.module("nvb_core.provenance").read_png(path)
    assert (record.ai_generated, record.seed, record.model) == (True, -1, "unknown")


def test_pictures_without_their_cameras_are_refused(pack: Pack, images: torch.Tensor, cameras: Any) -> None:
    camera_error = pack.module("nvb_core.errors").CameraError
    with pytest.raises(camera_error, match="3 cameras for 5 pictures"):
        save(pack, images[:5], cameras)
    poses = pack.module("nvb_core.camera_paths").CameraPoses([0, 1], frame="input")
    with pytest.raises(camera_error, match="connect the view_cameras"):
        save(pack, images, poses)
    for stray in (images, None, [cameras]):
        with pytest.raises(camera_error, match=f"cameras got {type(stray).__name__} instead of cameras; connect"):
            save(pack, images, stray)


@pytest.mark.parametrize("prefix", ["../evil", "a/../../evil", "/evil", "a/", "", "..", "a\\..\\..\\evil"])
def test_a_prefix_out_of_the_output_folder_shows_before_the_run(pack: Pack, prefix: str) -> None:
    validate = pack.node("NVBSaveViews").validate_inputs
    assert validate("NVB-Face/views") is True
    assert "write" in validate(prefix)
    assert "\n" not in validate(prefix)


def test_the_sheet_shows_every_view(pack: Pack, images: torch.Tensor, cameras: Any) -> None:
    execute = pack.node("NVBContactSheet").execute
    sheet = execute(images, cameras).args[0]
    assert sheet.shape[0] == 1
    assert sheet.shape[-1] == 3
    assert 0 <= sheet.min() < sheet.max() <= 1
    assert not torch.equal(execute(images, cameras, "title", images[:1]).args[0], sheet)


def test_provenance_looks_upstream_only_and_takes_the_nearest(pack: Pack) -> None:
    provenance_of = pack.module("nodes.provenance").provenance_of
    other = {
        "class_type": "NVBDDIMSampler",
        "inputs": {"denoiser": ["2", 2], "view_features": ["8", 0], "seed": ["1", 0], "steps": 5},
    }
    unrelated = {**PROMPT, "20": {**other, "inputs": {"seed": 99, "steps": 1}}}
    assert provenance_of(unrelated, "10").seed == 7
    nearer = {**PROMPT, "9": {"class_type": "NVBDecode", "inputs": {"samples": ["21", 0]}}, "21": other}
    assert (provenance_of(nearer, "10").seed, provenance_of(nearer, "10").steps) == (-1, 5)  # its seed is a link
    own = {**other, "inputs": {**other["inputs"], "steps": 0}}  # as many as the model is best with
    assert provenance_of({**nearer, "21": own}, "10").steps == 2
    linked = {**other, "inputs": {**other["inputs"], "steps": ["1", 0]}}
    assert provenance_of({**nearer, "21": linked}, "10").steps == -1
    views, plain = (
        {"class_type": "NVBApplyToModel", "inputs": {}},
        {"class_type": "CheckpointLoaderSimple", "inputs": {}},
    )
    settings = {"noise_seed": 5, "steps": 30, "model": ["31", 0]}
    drawn = {"class_type": "KSamplerAdvanced", "inputs": {**settings, "latent_image": ["1", 0]}}
    refined = {
        "class_type": "KSampler",
        "inputs": {"seed": 99, "steps": 1, "model": ["32", 0], "latent_image": ["30", 0]},
    }
    core = {**PROMPT, "9": {"class_type": "VAEDecode", "inputs": {"samples": ["33", 0]}}, "30": drawn, "31": views}
    record = provenance_of({**core, "32": plain, "33": refined}, "10")
    assert (record.seed, record.steps, record.eta) == (5, 30, -1.0)
    whole = {"class_type": "NVBNovelViews", "inputs": {"preset": "orbit", "seed": 4, "steps": 6}}
    record = provenance_of({"1": whole, "10": {"class_type": "NVBSaveViews", "inputs": {"images": ["1", 0]}}}, "10")
    assert (record.seed, record.steps, record.eta, record.model) == (4, 6, 0.0, "unknown")
    alone = {**whole, "inputs": {**whole["inputs"], "steps": 0}}
    graph = {"1": alone, "10": {"class_type": "NVBSaveViews", "inputs": {"images": ["1", 0]}}}
    assert provenance_of(graph, "10").steps == -1  # how many that is, the unknown model knows


def test_provenance_names_nothing_that_only_some_of_the_pictures_are_of(pack: Pack) -> None:
    inputs = pack.server.folder / "input"
    inputs.mkdir(exist_ok=True)
    for name in ("photo.jpg", "other.jpg"):
        (inputs / name).write_bytes(name.encode())
    provenance_of, unknown = pack.module("nodes.provenance").provenance_of, ("unknown", "unknown")

    def record(**nodes: dict[str, Any]) -> Any:
        """Of the graph whose photo is batched with what the first of the nodes gives."""
        batch = {"class_type": "ImageBatch", "inputs": {"image1": ["9", 0], "image2": [next(iter(nodes)), 0]}}
        save_views = {"class_type": "NVBSaveViews", "inputs": {"images": ["batch", 0]}}
        return provenance_of({**PROMPT, **nodes, "batch": batch, "10": save_views}, "10")

    def photo(name: Any) -> dict[str, Any]:
        return {"class_type": "LoadImage", "inputs": {"image": name}}

    again = record(a=photo("photo.jpg"))
    assert again.source == "photo.jpg"
    assert len(again.source_sha256) == 64
    for other in ("other.jpg", ["2", 0]):  # a linked name may be any
        both = record(a=photo(other))
        assert (both.source, both.source_sha256) == unknown
        assert (both.seed, both.model) == (7, "mini")
    sampler = {"class_type": "NVBDDIMSampler", "inputs": {"seed": 8, "steps": 12, "eta": 0.5, "denoiser": ["2", 2]}}
    twice = record(a=sampler)
    assert (twice.seed, twice.steps, twice.eta, twice.source) == (-1, 12, 0.5, "photo.jpg")
    assert twice.fit_steps == -1  # no grid in this graph
    for inputs, steps in (({}, 20), ({"fit_steps": 5}, 5), ({"fit_steps": ["2", 0]}, -1)):
        assert record(a={"class_type": "NVBBuildGrid", "inputs": inputs}).fit_steps == steps
    loader = {"class_type": "NVBLoader", "inputs": {"checkpoint": "gone.safetensors", "dtype": "auto"}}
    of_two = record(a=sampler, b=loader)
    assert of_two.model == "mini"  # b feeds into nothing
    of_two = record(a={**sampler, "inputs": {**sampler["inputs"], "denoiser": ["b", 2]}}, b=loader)
    assert (of_two.model, of_two.weights_sha256) == unknown
    assert of_two.statement.startswith("AI-generated image")


def test_provenance_names_the_photo_that_views_come_from_and_no_other_picture(pack: Pack) -> None:
    inputs = pack.server.folder / "input"
    inputs.mkdir(exist_ok=True)
    (inputs / "photo.jpg").write_bytes(b"photo")
    (inputs / "mask.png").write_bytes(b"mask")
    (inputs / os.fsdecode(b"caf\xe9.jpg")).write_bytes(b"old archive")
    provenance_of = pack.module("nodes.provenance").provenance_of

    def node(class_type: str, **values: Any) -> dict[str, Any]:
        return {"class_type": class_type, "inputs": values}

    def source(image: str, **nodes: dict[str, Any]) -> str:
        """Of views of a face that is cut out of this node's picture where a mask says."""
        masked = {
            "7": node("LoadImage", image="mask.png"),
            "8": node("ImageToMask", image=["7", 0]),
            "9": node("NVBAlignFace", image=[image, 0], mask=["8", 0]),
            "11": node("NVBDDIMSampler", seed=1, view_features=["9", 0]),
            "10": node("NVBSaveViews", images=["11", 0]),
        }
        return str(provenance_of({**nodes, **masked}, "10").source)

    photo = node("LoadImage", image="photo.jpg")
    assert source("1", **{"1": photo}) == "photo.jpg"
    scaled = {"1": photo, "2": node("ImageScale", image=["1", 0], width=["3", 0]), "3": node("PrimitiveInt", value=8)}
    assert source("2", **scaled) == "photo.jpg"
    assert source("1", **{"1": node("LoadImage", image=os.fsdecode(b"caf\xe9.jpg"))}) == "caf?.jpg"
    video = {"1": node("LoadVideo", file="clip.mp4"), "2": node("GetVideoComponents", video=["1", 0])}
    drawn = {"1": node("EmptyLatentImage"), "2": node("VAEDecode", samples=["1", 0])}
    given = {"1": node("Choice"), "2": node("LoadImageOutput", image=["1", 0])}
    for graph in (video, drawn, given, {"2": node("EmptyImage")}, {"2": node("Unheard of")}):
        assert source("2", **graph) == "unknown"
    batch = node("ImageBatch", image1=["1", 0], image2=["2", 0])
    assert source("3", **{"1": photo, "2": node("LoadImageOutput", image="b.png"), "3": batch}) == "unknown"


# ---- the loader ----


def test_checkpoints_are_found_in_every_model_folder(pack: Pack) -> None:
    files, folders = pack.module("nodes.files"), ("models/nvb_face", "elsewhere")
    for folder in folders:
        (pack.server.folder / folder).mkdir(parents=True, exist_ok=True)
        (pack.server.folder / folder / f"{folder[:1]}.safetensors").write_bytes(b"x")
        (pack.server.folder / folder / "notes.txt").write_bytes(b"x")
    assert files.checkpoint_names() == ["built-in mini", "e.safetensors", "m.safetensors"]
    assert files.checkpoint_path("m.safetensors").parent.name == "nvb_face"
    assert files.checkpoint_path("built-in mini").is_file()
    with pytest.raises(pack.module("nvb_core.errors").CheckpointError, match=r"nope\.safetensors: no such checkpoint"):
        files.checkpoint_path("nope.safetensors")


def test_the_loader_runs_again_only_if_the_file_has_changed(pack: Pack) -> None:
    fingerprint = pack.node("NVBLoader").fingerprint_inputs
    path = pack.server.folder / "elsewhere/changing.safetensors"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"one")
    first = fingerprint("changing.safetensors", "auto")
    assert fingerprint("changing.safetensors", "auto") == first
    path.write_bytes(b"three")
    assert fingerprint("changing.safetensors", "auto") != first
    path.write_bytes(b"one")
    os.utime(path, ns=(first[2], first[2]))
    assert fingerprint("changing.safetensors", "auto") == first
    assert fingerprint("changing.safetensors", "auto", "changing.safetensors") != first


def test_a_linked_model_is_loaded_again_only_if_one_of_the_files_has_changed(pack: Pack) -> None:
    """ComfyUI passes None for a linked name; an error here would be a new load in every run."""
    folder = pack.server.folder / "elsewhere"
    folder.mkdir(exist_ok=True)
    (folder / "private.safetensors").write_bytes(b"one")
    (folder / "broken.safetensors").symlink_to(folder / "nowhere")
    loader, novel_views = (pack.node(name).fingerprint_inputs for name in ("NVBLoader", "NVBNovelViews"))
    linked = [(loader, (None, "auto")), (loader, ("built-in mini", None, None)), (novel_views, (None,))]
    before = [fingerprint(*values) for fingerprint, values in linked]
    assert [fingerprint(*values) for fingerprint, values in linked] == before
    assert "private" not in str(before)
    (folder / "private.safetensors").write_bytes(b"three")
    assert all(fingerprint(*values) != old for (fingerprint, values), old in zip(linked, before, strict=True))


def test_dtype_is_what_is_asked_for(pack: Pack) -> None:
    choose, cpu = pack.module("nodes.networks").choose_dtype, torch.device("cpu")
    assert choose("auto", cpu) == torch.float32
    assert choose("bf16", cpu) == torch.bfloat16
    for name in ("fp16", "fp8"):
        with pytest.raises(pack.module("nvb_core.errors").ConfigError, match=f"dtype .*{name}"):
            choose(name, cpu)


def test_the_pack_s_version_is_the_project_s(pack: Pack) -> None:
    assert f'version = "{pack.module("nodes.files").pack_version()}"' in (ROOT / "pyproject.toml").read_text()


# ---- all in one ----


def test_novel_views_is_a_graph_of_the_other_nodes(pack: Pack) -> None:
    node = pack.node("NVBNovelViews")
    values = {"preset": "orbit", "views": 4, "seed": 3, "steps": 5, "faces": "largest", "frame": "input"}
    output = node.execute(image=["5", 0], watermark=True, checkpoint="built-in mini", **values)
    nodes = pack.module("nodes")
    schemas = {cls.__name__: cls.define_schema() for cls in [*nodes.NODES, *nodes.INNER_NODES]}
    for entry in output.expand.values():
        inputs = {socket.id: socket.optional for socket in schemas[entry["class_type"]].inputs}
        required = {name for name, optional in inputs.items() if not optional}
        assert required <= entry["inputs"].keys() <= inputs.keys(), entry["class_type"]
    by_class = {entry["class_type"]: entry["inputs"] for entry in output.expand.values()}
    assert by_class["NVBAlignFace"]["image"] == ["5", 0]
    assert by_class["NVBCameraPath"]["frame"] == "input"
    assert by_class["NVBDecode"]["watermark"] is True
    assert [output.expand[link[0]]["class_type"] for link in output.args] == ["NVBGatherViews"] * 2
    gathered = by_class["NVBGatherViews"]
    links = [gathered["images"], gathered["cameras"]]
    assert [output.expand[link[0]]["class_type"] for link in links] == ["NVBDecode", "NVBSampleViews"]
    given = node.execute(image=["5", 0], watermark=True, checkpoint="built-in mini", cameras=["6", 0], **values)
    sampled = next(entry for entry in given.expand.values() if entry["class_type"] == "NVBSampleViews")
    assert sampled["inputs"]["cameras"] == ["6", 0]


def test_a_list_of_photos_comes_out_as_lists_of_views_and_cameras(pack: Pack) -> None:
    """As ComfyUI resolves an expansion: each item that a link gives is an output, and a list output's are joined."""
    assert all(out.options["is_output_list"] for out in pack.node("NVBNovelViews").define_schema().outputs)
    assert pack.node("NVBGatherViews").define_schema().is_input_list
    images, cameras = [torch.zeros(1, 8, 8, 3), torch.ones(2, 8, 8, 3)], [object(), object()]
    output = pack.node("NVBGatherViews").execute(images=images, cameras=cameras)
    assert len(output.args) == 2
    assert output.args[0] is images
    assert output.args[1] is cameras
