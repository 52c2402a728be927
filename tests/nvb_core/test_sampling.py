from __future__ import annotations

import gc
import itertools
import weakref
from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from nvb_core.config import SD21, ModelConfig, tiny_config
from nvb_core.denoiser import build_scheduler
from nvb_core.errors import ConfigError, NVBError, SamplingCancelled
from nvb_core.model import NVBModel
from nvb_core.sampling import (
    Chunks,
    ContextFunction,
    SamplingOptions,
    StepInfo,
    ViewNoise,
    decode_latents,
    is_out_of_memory,
    sample_latents,
)

LATENT = (4, 4, 4)
CPU_OUT_OF_MEMORY = (
    "[enforce fail at alloc_cpu.cpp:117] err == 0. DefaultCPUAllocator: can't allocate memory: "
    "you tried to allocate 4096 bytes. Error code 12 (Cannot allocate memory)"
)


def contexts(views: int) -> ContextFunction:
    """U-Net contexts (views, tokens, C) that depend on view and timestep."""
    values = torch.randn(views, 16, 16, generator=torch.Generator().manual_seed(3))
    return lambda t, start, end: values[start:end] * (1 + t / 1000)


def with_schedule(model: NVBModel, config: ModelConfig) -> NVBModel:
    """The same parameters under another schedule."""
    other = NVBModel(replace(model.config, schedule=config.schedule)).requires_grad_(False).eval()
    other.load_state_dict(model.state_dict())
    return other


# ---- options and noise ----


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("steps", 0, "steps is 0, must be in 1–1000"),
        ("steps", 1001, "steps is 1001, must be in 1–1000"),
        ("eta", -0.1, "eta is -0.1, must be in 0–1"),
        ("eta", float("nan"), "eta is nan, must be in 0–1"),
        ("seed", -1, "seed is -1, must be in 0–"),
        ("seed", 2**63, "seed is 9223372036854775808, must be in 0–"),
        ("views_per_chunk", -1, "views_per_chunk is -1, must be 0"),
    ],
)
def test_options_are_checked(name: str, value: float, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        SamplingOptions(**{name: value})


def test_shared_noise_is_the_same_for_the_views_of_a_face_and_differs_between_faces() -> None:
    drawn = ViewNoise((6, *LATENT), 3, SamplingOptions(seed=7)).draw()
    assert drawn.shape == (6, *LATENT)
    assert torch.equal(drawn[:3], drawn[:1].expand(3, *LATENT))
    assert torch.equal(drawn[3:], drawn[3:4].expand(3, *LATENT))
    assert not torch.equal(drawn[0], drawn[3])


def test_independent_noise_differs_between_all_views() -> None:
    drawn = ViewNoise((6, *LATENT), 3, SamplingOptions(seed=7, shared_noise=False)).draw()
    assert all(not torch.equal(a, b) for a, b in itertools.combinations(drawn, 2))
    few = ViewNoise((3, *LATENT), 3, SamplingOptions(seed=7, shared_noise=False)).draw()
    assert torch.equal(few, drawn[:3])


def test_noise_is_standard_normal_and_new_in_every_draw() -> None:
    noise = ViewNoise((2, 4, 64, 64), 1, SamplingOptions())
    first, second = noise.draw(), noise.draw()
    assert abs(first.mean()) < 0.02
    assert abs(first.std() - 1) < 0.02
    assert abs((first * second).mean()) < 0.02
    again = ViewNoise((2, 4, 64, 64), 1, SamplingOptions())
    assert torch.equal(again.draw(), first)
    assert torch.equal(again.draw(), second)


@pytest.mark.parametrize("seed", [1, 2**32, 2**63 - 1])
def test_seeds_differ(seed: int) -> None:
    drawn, zero = (ViewNoise((1, *LATENT), 1, SamplingOptions(seed=s)).draw() for s in (seed, 0))
    assert not torch.equal(drawn, zero)


# ---- the loop ----


@pytest.mark.parametrize("eta", [0.0, 0.7])
@pytest.mark.parametrize("schedule", [tiny_config(), SD21], ids=["v-prediction, trailing", "epsilon, leading"])
def test_is_the_ddim_loop_of_diffusers(tiny_model: NVBModel, schedule: ModelConfig, eta: float) -> None:
    from diffusers import DDIMScheduler

    model, context = with_schedule(tiny_model, schedule), contexts(4)
    options = SamplingOptions(steps=5, eta=eta, seed=5, views_per_chunk=3)
    ours = sample_latents(model, context, 2, 2, options)

    spacing = schedule.schedule
    scheduler = DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type=spacing.prediction_type,
        timestep_spacing=spacing.timestep_spacing,
        rescale_betas_zero_snr=spacing.zero_terminal_snr,
    )
    scheduler.set_timesteps(5)
    noise = ViewNoise((4, *LATENT), 2, options)
    latents = noise.draw()
    for t in scheduler.timesteps:
        prediction = model.unet(latents, t, encoder_hidden_states=context(int(t), 0, 4)).sample
        latents = scheduler.step(
            prediction, t, latents, eta=eta, variance_noise=noise.draw() if eta else None
        ).prev_sample
    assert ours.isfinite().all()
    torch.testing.assert_close(ours, latents, rtol=0, atol=1e-4)


@pytest.mark.parametrize("eta", [0.0, 1.0])
@pytest.mark.parametrize("shared", [True, False])
def test_chunk_size_does_not_change_the_views(tiny_model: NVBModel, eta: float, shared: bool) -> None:
    options = SamplingOptions(steps=3, eta=eta, seed=11, shared_noise=shared)
    whole = sample_latents(tiny_model, contexts(6), 2, 3, options)
    assert whole.shape == (6, *LATENT)
    for size in (1, 4, 100):
        chunked = sample_latents(tiny_model, contexts(6), 2, 3, replace(options, views_per_chunk=size))
        torch.testing.assert_close(chunked, whole, rtol=0, atol=1e-4)
    other = sample_latents(tiny_model, contexts(6), 2, 3, replace(options, seed=12))
    assert (other - whole).abs().max() > 0.1


@pytest.mark.parametrize("steps", [1, 3, 50, 300, 501])
def test_each_step_leaves_as_much_noise_as_the_next_expects(
    tiny_model: NVBModel, monkeypatch: pytest.MonkeyPatch, steps: int
) -> None:
    """With a denoiser that knows the clean latents, the noise stays what it was at the start."""
    signals = build_scheduler(tiny_model.config.schedule).alphas_cumprod.double().sqrt()
    clean, seen = torch.full((1, *LATENT), 0.5, dtype=torch.float64), []

    def denoise(latents: Tensor, timesteps: Tensor, _: Tensor) -> SimpleNamespace:
        signal = signals[timesteps[0]]
        noise = (latents - signal * clean) / (1 - signal**2).sqrt()
        seen.append(noise)
        return SimpleNamespace(sample=signal * noise - (1 - signal**2).sqrt() * clean)

    monkeypatch.setattr(tiny_model.unet, "forward", denoise)
    latents = sample_latents(tiny_model, contexts(1), 1, 1, SamplingOptions(steps))
    seen.append((latents - signals[0] * clean) / (1 - signals[0] ** 2).sqrt())
    assert len(seen) == steps + 1
    for noise in seen[1:]:
        torch.testing.assert_close(noise, seen[0], atol=2e-3, rtol=0)


def test_first_step_from_zero_signal_is_finite(tiny_model: NVBModel) -> None:
    seen: list[StepInfo] = []
    latents = sample_latents(tiny_model, contexts(1), 1, 1, SamplingOptions(steps=1, eta=1.0), seen.append)
    assert latents.isfinite().all()
    assert seen[0].preview.isfinite().all()


def test_progress_is_reported_once_a_step_with_a_small_picture(tiny_model: NVBModel) -> None:
    tiny_model.vae.preview_weight.normal_()
    seen: list[StepInfo] = []
    options = SamplingOptions(steps=5, views_per_chunk=2)
    latents = sample_latents(tiny_model, contexts(3), 1, 3, options, seen.append)
    assert [(info.step, info.total) for info in seen] == [(i, 5) for i in range(1, 6)]
    for info in seen:
        assert info.preview.shape == (3, 3, 4, 4)
        assert info.preview.device.type == "cpu"
        assert info.preview.abs().max() <= 1
    # The last step's clean latents are nearly the result.
    torch.testing.assert_close(seen[-1].preview, tiny_model.vae.preview(latents), rtol=0, atol=0.2)


def test_float_schedule_in_a_half_precision_model(tiny_model: NVBModel) -> None:
    model = with_schedule(tiny_model, tiny_config())
    exact = sample_latents(model, contexts(2), 1, 2, SamplingOptions(steps=3))
    half = sample_latents(model.to(torch.bfloat16), contexts(2), 1, 2, SamplingOptions(steps=3))
    assert half.dtype == torch.float32
    assert (half - exact).abs().mean() < 0.1


# ---- cancelling ----


def tensors() -> set[int]:
    """Identities of all live tensors."""
    return {id(value) for value in gc.get_objects() if issubclass(type(value), Tensor)}


def test_cancelling_leaves_nothing_allocated(tiny_model: NVBModel) -> None:
    context, options, allowed_calls = contexts(4), SamplingOptions(steps=4, views_per_chunk=2), 5
    sample_latents(tiny_model, context, 1, 4, replace(options, steps=1))  # what is made once and kept
    made: list[weakref.ref[Tensor]] = []

    def watched(t: int, start: int, end: int) -> Tensor:
        value = context(t, start, end)
        made.append(weakref.ref(value))
        return value

    asked = itertools.count()
    gc.collect()
    before = tensors()
    with pytest.raises(SamplingCancelled) as error:
        sample_latents(tiny_model, watched, 1, 4, options, should_cancel=lambda: next(asked) >= allowed_calls)
    assert "\n" not in str(error.value)
    assert len(made) == allowed_calls
    del error
    gc.collect()
    assert [ref() for ref in made if ref() is not None] == []
    assert tensors() - before == set()


def test_cancel_is_asked_before_every_unet_call(tiny_model: NVBModel) -> None:
    asked = itertools.count()
    options = SamplingOptions(steps=3, views_per_chunk=2)
    sample_latents(tiny_model, contexts(4), 1, 4, options, should_cancel=lambda: next(asked) < 0)
    assert next(asked) == 3 * 2


# ---- memory ----


@pytest.mark.parametrize(
    "failure",
    [torch.cuda.OutOfMemoryError("CUDA out of memory"), RuntimeError(CPU_OUT_OF_MEMORY), MemoryError()],
    ids=["cuda", "cpu", "python"],
)
def test_a_chunk_that_does_not_fit_is_halved_and_retried(tiny_model: NVBModel, failure: Exception) -> None:
    context, options = contexts(7), SamplingOptions(steps=3, seed=2)
    expected = sample_latents(tiny_model, context, 1, 7, replace(options, views_per_chunk=2))
    heard: list[int] = []
    calls: list[int] = []

    def small_memory(t: int, start: int, end: int) -> Tensor:
        calls.append(end - start)
        if end - start > 2:
            raise failure
        return context(t, start, end)

    latents = sample_latents(tiny_model, small_memory, 1, 7, options, on_halved=heard.append)
    assert torch.equal(latents, expected)
    assert heard == [4, 2]
    assert calls == [7, 4, *([2, 2, 2, 1] * 3)]  # halved for good


def test_out_of_memory_inside_the_unet_keeps_the_noise(tiny_model: NVBModel) -> None:
    context, options = contexts(4), SamplingOptions(steps=3, eta=1.0, views_per_chunk=4)
    expected = sample_latents(tiny_model, context, 2, 2, replace(options, views_per_chunk=2))
    tries = itertools.count()

    def third_call_fails(module: object, args: object) -> None:
        if next(tries) == 2:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    hook = tiny_model.unet.register_forward_pre_hook(third_call_fails)
    try:
        latents = sample_latents(tiny_model, context, 2, 2, options)
    finally:
        hook.remove()
    torch.testing.assert_close(latents, expected, rtol=0, atol=1e-4)


def test_one_view_that_does_not_fit_is_one_clear_error(tiny_model: NVBModel) -> None:
    def no_memory(t: int, start: int, end: int) -> Tensor:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(NVBError, match="out of memory with one picture at a time; use") as error:
        sample_latents(tiny_model, no_memory, 1, 8, SamplingOptions(steps=1))
    assert "\n" not in str(error.value)


def test_other_errors_propagate(tiny_model: NVBModel) -> None:
    def broken(t: int, start: int, end: int) -> Tensor:
        raise RuntimeError("shapes don't match")

    with pytest.raises(RuntimeError, match="shapes don't match"):
        sample_latents(tiny_model, broken, 1, 8, SamplingOptions(steps=1))


def test_what_a_failed_chunk_allocated_is_freed_before_the_next_try() -> None:
    failed: list[weakref.ref[Tensor]] = []

    def function(start: int, end: int) -> Tensor:
        assert [ref() for ref in failed if ref() is not None] == []
        value = torch.zeros(end - start)
        if end - start > 1:
            failed.append(weakref.ref(value))
            raise MemoryError
        return value

    gc.disable()
    try:
        assert len(torch.cat(list(Chunks(3, 3).map(function)))) == 3
    finally:
        gc.enable()
    assert len(failed) == 2


@pytest.mark.parametrize(("views", "size", "expected"), [(5, 2, [2, 2, 1]), (3, 8, [3]), (2, 0, [1, 1])])
def test_chunks_cover_all_views_in_order(views: int, size: int, expected: list[int]) -> None:
    ranges = list(Chunks(views, size).map(lambda start, end: torch.arange(start, end)))
    assert [len(r) for r in ranges] == expected
    assert torch.cat(ranges).tolist() == list(range(views))


def failures() -> Iterator[tuple[BaseException, bool]]:
    yield torch.cuda.OutOfMemoryError("CUDA out of memory"), True
    yield RuntimeError(CPU_OUT_OF_MEMORY), True
    yield RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported"), True
    yield RuntimeError("MPS backend out of memory (MPS allocated: 8.9 GB, max allowed: 9.07 GB)"), True
    yield MemoryError(), True
    yield RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False
    yield RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True
    yield ValueError("can't allocate memory"), False


@pytest.mark.parametrize(("error", "expected"), list(failures()))
def test_is_out_of_memory(error: BaseException, expected: bool) -> None:
    assert is_out_of_memory(error) is expected


def test_a_real_failed_allocation_is_recognised() -> None:
    with pytest.raises(RuntimeError) as error:
        torch.empty(2**50, dtype=torch.uint8)
    assert is_out_of_memory(error.value)


# ---- decoding ----


def test_decoding_in_chunks(tiny_model: NVBModel) -> None:
    latents = 3 * torch.randn(5, *LATENT)
    whole = decode_latents(tiny_model, latents)
    assert whole.shape == (5, 3, 32, 32)
    assert whole.abs().max() <= 1
    torch.testing.assert_close(decode_latents(tiny_model, latents, 2), whole, rtol=0, atol=1e-4)


def test_decoding_in_chunks_of_the_asked_size(tiny_model: NVBModel, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []

    def decode(latents: Tensor) -> Tensor:
        sizes.append(len(latents))
        return torch.zeros(len(latents), 3, 32, 32)

    monkeypatch.setattr(tiny_model.vae, "decode", decode)
    for views_per_chunk in (0, 2):  # the first is automatic
        decode_latents(tiny_model, torch.zeros(5, *LATENT), views_per_chunk)
    assert sizes == [5, 2, 2, 1]


def test_decoding_can_be_watched_and_ended_between_chunks(tiny_model: NVBModel) -> None:
    done: list[int] = []

    def on_chunk(images: int) -> None:
        done.append(images)
        if images >= 4:
            raise SamplingCancelled("enough")

    latents = torch.zeros(5, *LATENT)
    assert decode_latents(tiny_model, latents[:4], 2, device="cpu", on_chunk=on_chunk).shape == (4, 3, 32, 32)
    assert done == [0, 2]
    with pytest.raises(SamplingCancelled, match="enough"):
        decode_latents(tiny_model, latents, 2, on_chunk=on_chunk)
    assert done == [0, 2, 0, 2, 4]
