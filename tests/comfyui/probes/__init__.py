"""A pack of test nodes: values that no core node makes, and a look at what the pack under test does inside."""

import collections
import sys

import torch

HEAVY = ("diffusers", "peft", "accelerate", "skimage", "warp", "imageio", "tyro")
"""What importing the pack must not import; ComfyUI itself imports kornia and transformers."""
calls: collections.Counter[str] = collections.Counter()


class ProbeImage:
    """A batch of pictures of a kind that is rare; the first ones must be refused."""

    @classmethod
    def INPUT_TYPES(cls):  # noqa: N802
        return {"required": {"kind": (["flat", "nan", "2 channels", "empty", "tiny", "rgba", "gray"],)}}

    RETURN_TYPES = ("IMAGE",)
    FUNCTION = "make"
    CATEGORY = "tests"

    def make(self, kind):
        channels = {"rgba": 4, "gray": 1, "2 channels": 2}.get(kind, 3)
        side = 1 if kind == "tiny" else 128
        image = torch.full((0 if kind == "empty" else 1, side, side, channels), 0.5)
        if kind == "nan":
            image[:, 40:60, 40:60] = float("nan")
        return (image,)


FOREIGN_LATENTS = {"4 channels": (1, 4, 16, 16), "another size": (1, 16, 64, 64), "video": (1, 16, 2, 16, 16)}


class ProbeLatent:
    """A latent that the pack's decoder must refuse."""

    @classmethod
    def INPUT_TYPES(cls):  # noqa: N802
        return {"required": {"kind": (list(FOREIGN_LATENTS),)}}

    RETURN_TYPES = ("LATENT",)
    FUNCTION = "make"
    CATEGORY = "tests"

    def make(self, kind):
        return ({"samples": torch.zeros(FOREIGN_LATENTS[kind])},)


class ProbeSpoiledLatent:
    """A latent of the right shape with NaN in it."""

    @classmethod
    def INPUT_TYPES(cls):  # noqa: N802
        return {"required": {"samples": ("LATENT",)}}

    RETURN_TYPES = ("LATENT",)
    FUNCTION = "spoil"
    CATEGORY = "tests"

    def spoil(self, samples):
        spoiled = samples["samples"].clone()
        spoiled[0, 0, 0, 0] = float("nan")
        return (samples | {"samples": spoiled},)


class ProbeDifference:
    """Shows the largest difference of two batches of pictures as text."""

    @classmethod
    def INPUT_TYPES(cls):  # noqa: N802
        return {"required": {"first": ("IMAGE",), "second": ("IMAGE",)}}

    RETURN_TYPES = ()
    OUTPUT_NODE = True
    FUNCTION = "compare"
    CATEGORY = "tests"

    def compare(self, first, second):
        if first.shape != second.shape:
            raise ValueError(f"shapes differ: {tuple(first.shape)} and {tuple(second.shape)}")
        return {"ui": {"difference": [float((first.cpu().float() - second.cpu().float()).abs().max())]}}


class ProbeShape:
    """Shows a batch's shape, range and spread."""

    @classmethod
    def INPUT_TYPES(cls):  # noqa: N802
        return {"required": {"image": ("IMAGE",)}}

    RETURN_TYPES = ()
    OUTPUT_NODE = True
    FUNCTION = "look"
    CATEGORY = "tests"

    def look(self, image):
        values = [float(image.min()), float(image.max()), float(image.float().std())] if image.numel() else []
        return {"ui": {"shape": list(image.shape), "values": values, "dtype": [str(image.dtype)]}}


class ProbeLoad3DCamera:
    """What core's Load 3D node says of its camera, or something like it."""

    @classmethod
    def INPUT_TYPES(cls):  # noqa: N802
        return {"required": {"kind": (["front", "no position", "at its target"],)}}

    RETURN_TYPES = ("LOAD3D_CAMERA",)
    FUNCTION = "make"
    CATEGORY = "tests"

    def make(self, kind):
        origin = {"x": 0.0, "y": 0.0, "z": 0.0}
        camera = {"position": origin | {"z": 10.0}, "target": origin, "zoom": 1, "cameraType": "perspective"}
        if kind == "no position":
            del camera["position"]
        elif kind == "at its target":
            camera["position"] = origin
        return (camera,)


class ProbeOffload:
    """Builds a grid twice, the second time as ComfyUI loads networks that don't fit.

    Shows how many layers then fetch their weights when they run, and how far the grids differ.
    """

    @classmethod
    def INPUT_TYPES(cls):  # noqa: N802
        return {"required": {"encoder": ("NVB_ENCODER",), "view_model": ("NVB_VIEW_MODEL",)}}

    RETURN_TYPES = ()
    OUTPUT_NODE = True
    FUNCTION = "compare"
    CATEGORY = "tests"

    @torch.no_grad()
    def compare(self, encoder, view_model):
        model = encoder.model
        size = model.config.image_size
        photo = torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(0)) * 2 - 1
        timesteps = torch.tensor([500])

        def grid():
            features = model.encoder(photo, timesteps)
            return model.view.volume(features, model.view.camera_predictor(features), timesteps)

        expected = grid()
        patchers = [part.patcher.clone() for part in (encoder, view_model)]
        for patcher in patchers:
            patcher.patch_model(patcher.load_device, lowvram_model_memory=1)
        layers = [layer for patcher in patchers for layer in patcher.model.modules()]
        fetched = sum(getattr(layer, "comfy_cast_weights", False) for layer in layers)
        difference = float((grid() - expected).abs().max())
        for patcher in patchers:
            patcher.unpatch_model(patcher.offload_device)
        return {"ui": {"fetched": [fetched], "difference": [difference]}}


NODE_CLASS_MAPPINGS = {
    "NVBProbeOffload": ProbeOffload,
    "NVBProbeImage": ProbeImage,
    "NVBProbeLatent": ProbeLatent,
    "NVBProbeSpoiledLatent": ProbeSpoiledLatent,
    "NVBProbeLoad3DCamera": ProbeLoad3DCamera,
    "NVBProbeDifference": ProbeDifference,
    "NVBProbeShape": ProbeShape,
}


def count_call(module, inputs, output):
    """Count the calls of the pack's networks by class."""
    if "nvb_core" in type(module).__module__:
        calls[type(module).__name__] += 1


async def tell_modules(request):
    """Which heavy modules ComfyUI's process has imported."""
    from aiohttp import web

    return web.json_response([name for name in HEAVY if name in sys.modules])


async def tell_calls(request):
    """How often each of the pack's networks has been called."""
    from aiohttp import web

    return web.json_response(calls)


def watch():
    from server import PromptServer

    torch.nn.modules.module.register_module_forward_hook(count_call)
    PromptServer.instance.routes.get("/nvb-probes/modules")(tell_modules)
    PromptServer.instance.routes.get("/nvb-probes/calls")(tell_calls)


watch()
