"""The pack at work: what it computes, keeps, shows while it runs, and gives back."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from PIL import Image

from nvb_core.provenance import read_png
from tests.comfyui.client import Client, Prompt, Result
from tests.comfyui.graph import Graph
from tests.comfyui.provision import PACK
from tests.comfyui.server import PHOTO
from tests.comfyui.stages import load_photo, novel_views, poses, staged

IMAGE_SIZE = 128
MAX_GROWTH = 0.05
WARM_UPS, RUNS = 3, 10
STEPS_AFTER_INTERRUPT = 10
"""The node stops within one step; the interrupt and the messages need their time too, on a machine with other work."""


def shape(result: Result) -> list[int]:
    return list(result.shown("NVBProbeShape")["shape"])


def without_fingerprints(prompt: Prompt) -> Prompt:
    """A prompt as it was sent; ComfyUI adds what its cache compares."""
    return {node: {key: entry[key] for key in ("class_type", "inputs")} for node, entry in prompt.items()}


def test_every_stage_by_hand(client: Client, graph: Graph) -> None:
    stages = staged(graph, yaws=(-40, 0, 40))
    graph.add("NVBProbeShape", stages.images)
    result = client.run_well(graph.prompt)
    assert shape(result) == [3, IMAGE_SIZE, IMAGE_SIZE, 3]
    low, high, spread = result.shown("NVBProbeShape")["values"]
    assert 0 <= low < high <= 1
    assert spread > 0.01
    assert result.shown("NVBProbeShape")["dtype"] == ["torch.float32"]


def test_one_node_equals_the_stages(client: Client, graph: Graph) -> None:
    stages = staged(graph, yaws=(0, 30), seed=5)
    whole = graph.add("NVBNovelViews", stages.photo, stages.cameras, steps=2, seed=5, watermark=False)
    graph.add("NVBProbeDifference", first=stages.images, second=whole)
    assert client.run_well(graph.prompt).shown("NVBProbeDifference")["difference"][0] < 1e-4


def test_preview_pictures_while_sampling(client: Client, graph: Graph) -> None:
    graph.add("PreviewImage", novel_views(graph, steps=4, seed=22))
    assert client.run_well(graph.prompt).previews >= 2


def test_same_graph_computes_nothing(client: Client, graph: Graph) -> None:
    graph.add("PreviewImage", staged(graph, seed=11).images)
    client.run_well(graph.prompt)
    calls = client.network_calls()
    assert client.run_well(graph.prompt).classes_run() == []
    assert client.network_calls() == calls


def test_other_cameras_keep_encoder_and_grid(client: Client, object_info: dict[str, Any]) -> None:
    """Counted in the networks themselves: features and grid are computed lazily, while the sampler runs."""
    ran, calls = [], []
    for yaws in ((0, 20), (10, -25)):
        graph = Graph(object_info)
        graph.add("PreviewImage", staged(graph, seed=12, steps=3, yaws=yaws).images)
        ran.append(client.run_well(graph.prompt).classes_run())
        calls.append(client.network_calls())
    assert {"NVBSampleViews", "NVBDDIMSampler", "NVBDecode"} <= set(ran[1])
    assert not {"NVBLoader", "NVBAlignFace", "NVBEncodeFace", "NVBBuildGrid"} & set(ran[1])
    assert calls[0]["ImageEncoder"] > 0
    assert calls[0]["FeatureVolume"] > 0
    assert calls[1]["ImageEncoder"] == calls[0]["ImageEncoder"]
    assert calls[1]["FeatureVolume"] == calls[0]["FeatureVolume"]
    assert calls[1]["DepthAggregator"] > calls[0]["DepthAggregator"]


def test_encoder_and_view_model_run_from_offloaded_weights(client: Client, graph: Graph) -> None:
    loader = graph.add("NVBLoader")
    graph.add("NVBProbeOffload", loader, loader.output("NVB_VIEW_MODEL"))
    shown = client.run_well(graph.prompt).shown("NVBProbeOffload")
    assert shown["fetched"][0] > 100
    assert shown["difference"] == [0.0]


def test_the_denoiser_is_loaded_whole_without_vram(client: Client, graph: Graph) -> None:
    graph.add("NVBProbeNoVRAM", graph.add("NVBLoader").output("NVB_DENOISER"))
    by_core, by_pack = client.run_well(graph.prompt).shown("NVBProbeNoVRAM")["left"]
    assert (by_core > 100, by_pack) == (True, 0)


def test_a_restored_face_goes_back_into_its_photo(client: Client, graph: Graph) -> None:
    stages = staged(graph, yaws=(0,))
    crop = stages.crop.output("NVB_CROP")
    pasted = graph.add("NVBPasteFace", crop, photo=stages.photo, faces=stages.images, watermark=False)
    graph.add("NVBProbeShape", pasted)
    graph.add("NVBProbeDifference", first=pasted, second=stages.photo)
    result = client.run_well(graph.prompt)
    with Image.open(PACK / "examples" / PHOTO) as photo:
        assert shape(result) == [1, photo.height, photo.width, 3]
    assert result.shown("NVBProbeDifference")["difference"][0] > 0.05


def test_core_vae_decode_gives_the_same_pictures(client: Client, graph: Graph) -> None:
    stages = staged(graph, seed=13)
    core = graph.add("VAEDecode", stages.latent, stages.loader)
    graph.add("NVBProbeDifference", first=stages.images, second=core)
    assert client.run_well(graph.prompt).shown("NVBProbeDifference")["difference"][0] < 1e-4


def test_watermark_changes_only_a_corner(client: Client, graph: Graph) -> None:
    stages = staged(graph, seed=14, yaws=(0,))
    marked = graph.add("NVBDecode", stages.loader, stages.latent, watermark=True)
    graph.add("SaveImage", stages.images, filename_prefix="plain")
    graph.add("SaveImage", marked, filename_prefix="marked")
    plain, with_mark = (picture.astype(int) for picture in client.pictures(client.run_well(graph.prompt)))
    changed = np.argwhere((plain != with_mark).any(axis=-1))
    assert len(changed) > 50
    assert changed.min() >= IMAGE_SIZE * 0.75


def test_saved_views_are_complete(client: Client, graph: Graph) -> None:
    """Files for people and for 3D tools; the pictures carry the graph and say that they are generated."""
    views = novel_views(graph, cameras=poses(graph, (-20, 20)), steps=2, seed=16)
    graph.add("NVBSaveViews", views.output("IMAGE"), views.output("NVB_CAMERAS"), filename_prefix="faces/astronaut")
    shown = client.run_well(graph.prompt).shown("NVBSaveViews")["images"]
    folder = client.server.base / "output" / shown[0]["subfolder"]
    assert folder.parent == client.server.base / "output" / "faces"
    names = [entry["filename"] for entry in shown]
    assert sorted(names) == sorted(path.name for path in folder.glob("*.png"))
    cameras = json.loads((folder / "cameras.json").read_text())
    assert [len(label) for _, label in cameras["labels"]] == [25, 25]
    assert [name for name, _ in cameras["labels"]] == names
    assert [round(entry["yaw_deg"]) for entry in cameras["cameras"]] == [-20, 20]
    assert [frame["file_path"] for frame in json.loads((folder / "transforms.json").read_text())["frames"]] == names
    for name in names:
        with Image.open(folder / name) as image:
            assert image.size == (IMAGE_SIZE, IMAGE_SIZE)
            assert without_fingerprints(json.loads(image.info["prompt"])) == graph.prompt
            assert "AI-generated" in str(image.info)
            assert str(client.server.base) not in str(image.info), "a picture that is given away tells no folders"


def test_second_save_overwrites_nothing(client: Client, object_info: dict[str, Any]) -> None:
    folders = set()
    for seed in (17, 18):
        graph = Graph(object_info)
        views = novel_views(graph, cameras=poses(graph, (0,)), steps=1, seed=seed)
        graph.add("NVBSaveViews", views.output("IMAGE"), views.output("NVB_CAMERAS"), filename_prefix="again")
        folders.add(client.run_well(graph.prompt).shown("NVBSaveViews")["images"][0]["subfolder"])
    assert len(folders) == 2


def test_batch_comes_out_face_by_face(client: Client, graph: Graph) -> None:
    """Two faces × two cameras: the first two pictures are what the first face gives alone."""
    photo = load_photo(graph)
    mirrored = graph.add("ImageFlip", photo, flip_method="y-axis: horizontally")
    cameras, options = poses(graph, (-15, 25)), {"steps": 2, "seed": 19, "watermark": False}
    both = graph.add("NVBNovelViews", graph.add("ImageBatch", image1=photo, image2=mirrored), cameras, **options)
    alone = graph.add("NVBNovelViews", photo, cameras, **options)
    first_two = graph.add("ImageFromBatch", both.output("IMAGE"), batch_index=0, length=2)
    graph.add("NVBProbeShape", both.output("IMAGE"))
    graph.add("NVBProbeDifference", first=first_two, second=alone.output("IMAGE"))
    result = client.run_well(graph.prompt)
    assert shape(result) == [4, IMAGE_SIZE, IMAGE_SIZE, 3]
    assert result.shown("NVBProbeDifference")["difference"][0] < 1e-2


def test_list_of_photos_comes_out_photo_by_photo(client: Client, graph: Graph) -> None:
    """Each photo of a list gives what it gives alone, and is saved by itself; a second run computes nothing."""
    photos = [graph.add("LoadImage", image=name).output("IMAGE") for name in (PHOTO, "hopper.jpg")]
    options = {"views": 2, "steps": 1, "seed": 23, "frame": "input", "watermark": False}
    both = graph.add("ImageBatch", image1=photos[0], image2=photos[1])
    views = graph.add("NVBNovelViews", graph.add("RebatchImages", images=both, batch_size=1), **options)
    graph.add("NVBSaveViews", views.output("IMAGE"), views.output("NVB_CAMERAS"), filename_prefix="list")
    joined = graph.add("RebatchImages", images=views.output("IMAGE"), batch_size=4)
    last = graph.add("ImageFromBatch", joined, batch_index=2, length=2)
    alone = graph.add("NVBNovelViews", graph.add("ImageFromBatch", both, batch_index=1, length=1), **options)
    graph.add("NVBProbeDifference", first=last, second=alone.output("IMAGE"))
    result = client.run_well(graph.prompt)
    assert result.shown("NVBProbeDifference")["difference"][0] < 1e-4
    saved = result.shown("NVBSaveViews")["images"]
    assert len(saved) == 4
    assert len({entry["subfolder"] for entry in saved}) == 2
    record = read_png(client.server.base / "output" / saved[0]["subfolder"] / saved[0]["filename"])
    assert record is not None
    assert record.source == "unknown", "the graph has two photos"
    assert client.run_well(graph.prompt).classes_run() == []


def test_camera_to_load_3d_and_back(client: Client, graph: Graph) -> None:
    cameras = graph.add("NVBCameraPose", yaw_deg=33.0, pitch_deg=-8.0, roll_deg=5.0, fov_deg=15.0)
    back = graph.add("NVBCamerasFromLoad3D", graph.add("NVBCamerasToLoad3D", cameras), scene_scale=1.0)
    straight, round_trip = (
        graph.add("NVBNovelViews", load_photo(graph), chosen, steps=2, seed=20, watermark=False).output("IMAGE")
        for chosen in (cameras, back)
    )
    graph.add("NVBProbeDifference", first=straight, second=round_trip)
    assert client.run_well(graph.prompt).shown("NVBProbeDifference")["difference"][0] < 1e-3


def test_contact_sheet_shows_all(client: Client, graph: Graph) -> None:
    views = novel_views(graph, cameras=poses(graph, (-20, 20)), steps=1)
    sheet = graph.add("NVBContactSheet", views.output("IMAGE"), views.output("NVB_CAMERAS"))
    graph.add("NVBProbeShape", sheet)
    count, height, width, channels = shape(client.run_well(graph.prompt))
    assert (count, channels) == (1, 3)
    assert width * height > 2 * IMAGE_SIZE**2


def test_interrupt_then_run_again(client: Client, object_info: dict[str, Any]) -> None:
    graph = Graph(object_info)
    stages = staged(graph, seed=15, steps=500)
    graph.add("PreviewImage", stages.images)
    with client.start(graph.prompt) as running:
        running.wait_for_steps(stages.latent.id, 2)
        client.interrupt()
        before = running.steps[stages.latent.id]
        result = running.finish()
    assert result.status == "execution_interrupted"
    assert result.detail["node_type"] == "NVBDDIMSampler"
    assert running.steps[stages.latent.id] - before <= STEPS_AFTER_INTERRUPT
    graph = Graph(object_info)
    graph.add("PreviewImage", staged(graph, seed=15, steps=2).images)
    assert len(client.pictures(client.run_well(graph.prompt))) == 2


def test_runs_in_a_row_keep_memory(client: Client, object_info: dict[str, Any]) -> None:
    sizes = []
    for seed in range(WARM_UPS + RUNS):
        graph = Graph(object_info)
        graph.add("PreviewImage", novel_views(graph, steps=2, seed=1000 + seed))
        assert "NVBNovelViews" in client.run_well(graph.prompt).classes_run()
        sizes.append(client.server.rss_bytes())
    print(" ".join(f"{size / 2**20:.0f}" for size in sizes), "MiB")
    assert sizes[-1] / sizes[WARM_UPS - 1] - 1 <= MAX_GROWTH
