"""Structs that mirror the look on the device, and small functions that kernels share. Importing this imports Warp."""
# mypy: ignore-errors
# Warp compiles these functions from their source: its Python subset and its types are not the type checker's.

import dataclasses
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import warp as wp

from . import look as looks


@contextmanager
def _silenced() -> Iterator[None]:
    """Without what native code writes to stderr: Warp announces there that a machine has no GPU."""
    sys.stderr.flush()
    kept, void = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(void, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(void)


wp.config.log_level = wp.LOG_ERROR
with _silenced():
    wp.init()


def _mirror(cls: type) -> type:
    """A Warp struct with the fields of a look dataclass: float stays, tuples become vec3."""
    kinds = {f.name: float if f.type == "float" else wp.vec3 for f in dataclasses.fields(cls)}
    return wp.struct(type(cls.__name__ + "Values", (), {"__annotations__": kinds, "__module__": __name__}))


SkinValues = _mirror(looks.Skin)
EyesValues = _mirror(looks.Eyes)
HairValues = _mirror(looks.Hair)
ClothValues = _mirror(looks.Cloth)
LightValues = _mirror(looks.Light)
BackdropValues = _mirror(looks.Backdrop)
PaintValues = _mirror(looks.Paint)
MIRRORS = {
    looks.Skin: SkinValues,
    looks.Eyes: EyesValues,
    looks.Hair: HairValues,
    looks.Cloth: ClothValues,
    looks.Light: LightValues,
    looks.Backdrop: BackdropValues,
    looks.Paint: PaintValues,
}


def to_device(values):
    """A look dataclass -> its Warp struct."""
    struct = MIRRORS[type(values)]()
    for field in dataclasses.fields(values):
        value = getattr(values, field.name)
        setattr(struct, field.name, value if isinstance(value, float) else wp.vec3(*value))
    return struct


@wp.struct
class Surface:
    """What the lighting needs of a shaded point."""

    albedo: wp.vec3
    normal: wp.vec3
    occlusion: float
    specular: float
    roughness: float
    wrap: float
    subsurface: float


@wp.func
def noise(seed: wp.uint32, stream: int, p: wp.vec3) -> float:
    """Perlin noise, about -0.7..0.7, of an independent stream."""
    return wp.noise(seed + wp.uint32(stream), p)


@wp.func
def smooth(a: float, b: float, x: float) -> float:
    t = wp.clamp((x - a) / (b - a), 0.0, 1.0)
    return t * t * (3.0 - 2.0 * t)


@wp.func
def mix(a: wp.vec3, b: wp.vec3, t: float) -> wp.vec3:
    return a * (1.0 - t) + b * t


@wp.func
def tint(a: wp.vec3, factor: wp.vec3, t: float) -> wp.vec3:
    """a multiplied by the factor, as far as t goes."""
    return wp.cw_mul(a, mix(wp.vec3(1.0, 1.0, 1.0), factor, t))


@wp.func
def bump(x: float, centre: float, width: float) -> float:
    return wp.exp(-(x - centre) * (x - centre) / (width * width))


@wp.func
def visible_detail(frequency: float, footprint: float) -> float:
    """1 where a noise of this frequency is resolved by pixels of this footprint, fading to 0 where it would alias."""
    return smooth(0.8, 0.35, frequency * footprint)
