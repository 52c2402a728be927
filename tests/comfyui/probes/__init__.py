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


class AnyType(str):
    """Fits every socket, also one of choices."""

    def __ne__(self, other):
        return False


class ProbeText:
    """A text for any socket."""

    @classmethod
    def INPUT_TYPES(cls):  # noqa: N802
        return {"required": {"text": ("STRING", {"default": ""})}}

    RETURN_TYPES = (AnyType("*"),)
    FUNCTION = "make"
    CATEGORY = "tests"

    def make(self, text):
        return (text,)


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
    """Builds and fits a grid twice, the second time as ComfyUI loads networks that don't fit.

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
        import comfy.model_management as memory

        model = encoder.model
        memory.load_models_gpu([encoder.patcher, view_model.patcher], force_full_load=True)
        weight, size = next(model.encoder.parameters()), model.config.image_size
        photo = torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(0)) * 2 - 1
        photo = photo.to(weight)

        pipeline = sys.modules[type(model).__module__.rpartition(".")[0] + ".pipeline"]

        def grid():
            features = pipeline.encode_faces(model, photo)
            return pipeline.build_grid(model, features, pipeline.predict_source(model, features), fit_steps=2).at(500)

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


class ProbeNoVRAM:
    """Loads a new denoiser as under `--novram`, onto a device without memory, by core alone and by the pack.

    Shows how many tensors each leaves behind.
    """

    @classmethod
    def INPUT_TYPES(cls):  # noqa: N802
        return {"required": {"denoiser": ("NVB_DENOISER",)}}

    RETURN_TYPES = ()
    OUTPUT_NODE = True
    FUNCTION = "load"
    CATEGORY = "tests"

    def load(self, denoiser):
        from unittest import mock

        import comfy.model_management as memory
        from comfy.model_patcher import ModelPatcher

        networks = sys.modules[type(denoiser.patcher.model).__module__]
        model, _ = networks.load_networks(sys.modules[networks.load_model.__module__].DEFAULT_WEIGHTS, "auto", None)
        patcher = ModelPatcher(networks.Denoiser(model), torch.device("meta"), torch.device("cpu"))

        def left():
            return sum(not tensor.is_meta for tensor in patcher.model.parameters())

        with (
            mock.patch.object(memory, "vram_state", memory.VRAMState.NO_VRAM),
            mock.patch.object(memory, "get_free_memory", return_value=2**40),
            mock.patch.object(memory, "free_memory", return_value=[]),
            mock.patch.object(memory, "current_loaded_models", []),
        ):
            memory.load_models_gpu([patcher], force_full_load=True)
            by_core = left()
            networks.ready(patcher)
        return {"ui": {"left": [by_core, left()]}}


class ProbeSDModel:
    """A Stable Diffusion U-Net of any width as core's MODEL; core's own loader knows only the published widths."""

    @classmethod
    def INPUT_TYPES(cls):  # noqa: N802
        heads = ("INT", {"default": 2})
        return {"required": {"path": ("STRING", {"default": ""}), "heads": heads, "predicts_v": ("BOOLEAN",)}}

    RETURN_TYPES = ("MODEL",)
    FUNCTION = "load"
    CATEGORY = "tests"

    def load(self, path, heads, predicts_v):
        import comfy.model_base
        import comfy.model_detection
        import comfy.model_management as memory
        import comfy.supported_models
        import comfy.utils
        from comfy.model_patcher import ModelPatcher

        state, prefix = comfy.utils.load_torch_file(path), "model.diffusion_model."
        config = comfy.supported_models.SD15(comfy.model_detection.detect_unet_config(state, prefix))
        config.unet_config["num_heads"] = heads
        config.set_inference_dtype(torch.float32, None)
        kind = comfy.model_base.ModelType.V_PREDICTION if predicts_v else comfy.model_base.ModelType.EPS
        model = comfy.model_base.BaseModel(config, kind, memory.unet_offload_device())
        model.load_model_weights(state, prefix)
        return (ModelPatcher(model, memory.get_torch_device(), memory.unet_offload_device()),)


class ProbeOwnSampler:
    """The pack's DDIM from the noise that core's KSampler starts from, down to where that ends.

    KSampler adds noise to an empty latent, so that it starts with a little less than the pack's, and ends without any,
    where Stable Diffusion's own DDIM, which is the pack's, ends at timestep 0.
    """

    @classmethod
    def INPUT_TYPES(cls):  # noqa: N802
        sockets = {"denoiser": ("NVB_DENOISER",), "view_features": ("NVB_VIEW_FEATURES",)}
        return {"required": sockets | {"seed": ("INT", {"default": 0}), "steps": ("INT", {"default": 20})}}

    RETURN_TYPES = ("LATENT",)
    FUNCTION = "sample"
    CATEGORY = "tests"

    def sample(self, denoiser, view_features, seed, steps):
        from unittest import mock

        import comfy.model_management as memory
        import comfy.sample

        grid = view_features.grid
        parts = (grid.features.encoder, grid.view, denoiser)
        memory.load_models_gpu([part.patcher for part in parts], force_full_load=True)
        core = type(denoiser.model.config).__module__.rpartition(".")[0]
        sampling, networks = sys.modules[f"{core}.sampling"], sys.modules[f"{core}.denoiser"]
        scheduler = networks.sampling_scheduler(denoiser.model.config.schedule, steps)
        scheduler.final_alpha_cumprod = torch.tensor(1.0)
        model, features = denoiser.model, view_features.values
        size, views = model.config.latent_size, features.faces * features.views_per_face
        shared = [view // features.views_per_face for view in range(views)]
        noise = comfy.sample.prepare_noise(torch.zeros(views, 4, size, size), seed, shared)
        noise *= (1 - scheduler.alphas_cumprod[scheduler.timesteps[0]]).sqrt()

        def context(timestep, start, end):
            return model.context(features.at(timestep, start, end))

        with (
            mock.patch.object(networks, "sampling_scheduler", return_value=scheduler),
            mock.patch.object(sampling.ViewNoise, "draw", return_value=noise),
        ):
            options = sampling.SamplingOptions(steps)
            latents = sampling.sample_latents(model, context, features.faces, features.views_per_face, options)
        # Core's latents are those that its autoencoders take.
        return ({"samples": latents.cpu() / model.config.vae.scaling_factor},)


class ProbeLatentDifference:
    """Shows how far two latents are apart: the norm of the difference in units of the first one's."""

    @classmethod
    def INPUT_TYPES(cls):  # noqa: N802
        return {"required": {"first": ("LATENT",), "second": ("LATENT",)}}

    RETURN_TYPES = ()
    OUTPUT_NODE = True
    FUNCTION = "compare"
    CATEGORY = "tests"

    def compare(self, first, second):
        first, second = first["samples"].double(), second["samples"].double()
        if first.shape != second.shape:
            raise ValueError(f"shapes differ: {tuple(first.shape)} and {tuple(second.shape)}")
        return {"ui": {"difference": [float((first - second).norm() / first.norm())], "shape": list(first.shape)}}


class ProbeRecognised:
    """What core's checkpoint loader takes a file for."""

    @classmethod
    def INPUT_TYPES(cls):  # noqa: N802
        return {"required": {"path": ("STRING", {"default": ""})}}

    RETURN_TYPES = ()
    OUTPUT_NODE = True
    FUNCTION = "look"
    CATEGORY = "tests"

    def look(self, path):
        import json
        from pathlib import Path

        import comfy.model_detection

        prefix = "model.diffusion_model."
        shapes = json.loads(Path(path).read_text())
        state = {name: torch.zeros(1, dtype=torch.float16).expand(shape) for name, shape in shapes.items()}
        config = comfy.model_detection.model_config_from_unet(state, prefix)
        with torch.device("meta"):
            model = config.get_model(state, prefix, device="meta")
        names = (name for name in model.state_dict() if name.startswith("diffusion_model."))
        own = {prefix + name.removeprefix("diffusion_model.") for name in names}
        return {"ui": {"class": [type(config).__name__], "others": [sorted(own ^ set(state))]}}


NODE_CLASS_MAPPINGS = {
    "NVBProbeSDModel": ProbeSDModel,
    "NVBProbeOwnSampler": ProbeOwnSampler,
    "NVBProbeLatentDifference": ProbeLatentDifference,
    "NVBProbeRecognised": ProbeRecognised,
    "NVBProbeOffload": ProbeOffload,
    "NVBProbeNoVRAM": ProbeNoVRAM,
    "NVBProbeText": ProbeText,
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
