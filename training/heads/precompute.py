"""Kernels that run once a scene: occlusion and shadows at its vertices, and the backdrop map."""
# mypy: ignore-errors
# ruff: noqa: UP018
# Warp compiles these functions from their source: its Python subset and its types are not the type checker's, and
# float(0.0) declares a variable where 0.0 would be a constant.

import warp as wp

from .device import BackdropValues, mix, noise, smooth

wp.set_module_options({"enable_backward": False, "fast_math": True})


@wp.kernel
def occlusion_kernel(
    mesh: wp.uint64,
    points: wp.array(dtype=wp.vec3),
    normals: wp.array(dtype=wp.vec3),
    rays: int,
    reach: float,
    open: wp.array(dtype=float),
):
    """How much of the hemisphere is free, cosine-weighted; near hits count more than far ones."""
    i = wp.tid()
    n = normals[i]
    up = wp.vec3(0.0, 1.0, 0.0)
    if wp.abs(n[1]) > 0.9:
        up = wp.vec3(1.0, 0.0, 0.0)
    t = wp.normalize(wp.cross(up, n))
    b = wp.cross(n, t)
    free = float(0.0)
    for k in range(rays):
        u = (float(k) + 0.5) / float(rays)
        r = wp.sqrt(u)
        turn = float(k) * 2.399963
        d = t * (r * wp.cos(turn)) + b * (r * wp.sin(turn)) + n * wp.sqrt(1.0 - u)
        q = wp.mesh_query_ray(mesh, points[i] + n * 0.006, d, reach)
        if not q.result:
            free += 1.0
        else:
            free += 0.6 * (q.t / reach) * (q.t / reach)
    open[i] = free / float(rays)


@wp.kernel
def shadow_kernel(
    mesh: wp.uint64,
    points: wp.array(dtype=wp.vec3),
    normals: wp.array(dtype=wp.vec3),
    key_dir: wp.vec3,
    fill_dir: wp.vec3,
    softness: float,
    rays: int,
    lit: wp.array(dtype=wp.vec2),
):
    """The share of each soft light that reaches a point."""
    i = wp.tid()
    result = wp.vec2(0.0, 0.0)
    for light in range(2):
        to_light = key_dir
        if light == 1:
            to_light = fill_dir
        nl = wp.dot(normals[i], to_light)
        if nl > -0.35:
            t = wp.normalize(wp.cross(to_light, wp.vec3(0.31, 0.87, 0.22)))
            b = wp.cross(to_light, t)
            o = points[i] + normals[i] * 0.012 + to_light * 0.006
            free = float(0.0)
            for k in range(rays):
                r = softness * 0.5 * wp.sqrt((float(k) + 0.5) / float(rays))
                turn = float(k) * 2.399963
                d = wp.normalize(to_light + t * (r * wp.cos(turn)) + b * (r * wp.sin(turn)))
                if not wp.mesh_query_ray_anyhit(mesh, o, d, 3.0):
                    free += 1.0
            result[light] = free / float(rays)
    lit[i] = result


@wp.kernel
def backdrop_kernel(backdrop: BackdropValues, seed: wp.uint32, out: wp.array2d(dtype=wp.vec3)):
    """A defocused surrounding as a latitude-longitude map."""
    row, column = wp.tid()
    azimuth = ((float(column) + 0.5) / float(out.shape[1]) - 0.5) * 6.2831853
    elevation = (0.5 - (float(row) + 0.5) / float(out.shape[0])) * 3.1415927
    flat = wp.cos(elevation)
    d = wp.vec3(wp.sin(azimuth) * flat, wp.sin(elevation), wp.cos(azimuth) * flat)
    f = backdrop.frequency
    n = noise(seed, 77, d * f) * 0.6 + noise(seed, 77, d * (f * 2.3) + wp.vec3(3.1, 1.7, 0.2)) * 0.3
    patches = noise(seed, 78, d * (f * 1.4) + wp.vec3(9.0, 2.0, 5.0))
    color = mix(backdrop.color0, backdrop.color1, smooth(-0.35, 0.35, n + 0.35 * d[1]))
    color = mix(color, backdrop.color2, 0.7 * smooth(0.05, 0.35, patches))
    if backdrop.room > 0.5:
        x = azimuth * f * 1.3
        y = d[1] * f * 2.2 + 0.5 * wp.sin(wp.floor(x) * 12.9)
        cx = wp.floor(x)
        cy = wp.floor(y)
        b = backdrop.blur
        edge = smooth(0.0, b, x - cx) * smooth(1.0, 1.0 - b, x - cx)
        edge *= smooth(0.0, b, y - cy) * smooth(1.0, 1.0 - b, y - cy)
        which = noise(seed, 80, wp.vec3(cx * 3.7 + 0.3, cy * 5.1 + 0.7, 0.5))
        bright = noise(seed, 81, wp.vec3(cx * 2.7 + 0.3, cy * 4.1 + 0.7, 7.5))
        block = mix(backdrop.color0, backdrop.color2, wp.clamp(0.5 + 1.6 * which, 0.0, 1.0)) * (1.0 + 0.9 * bright)
        color = mix(color, block, edge * 0.85)
        color = mix(color, backdrop.color1 * 0.6, smooth(-0.12, -0.22, d[1]) * 0.7)
    out[row, column] = color
