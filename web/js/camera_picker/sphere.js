/**
 * Geometry of the sphere of directions; pure functions, no drawing.
 *
 * World: y up, the face looks along +z. yaw > 0 moves a camera toward the subject's left (+x), pitch > 0 moves it up.
 * A view {yaw, pitch} (degrees) is where the onlooker stands; the picture is orthographic: x to the right, y down,
 * both in sphere radii from the centre, and `depth` toward the onlooker. From the front, +x is on the right.
 */

import { RADIUS, FOV_DEG } from "./keys.js";

/** @typedef {[x: number, y: number, z: number]} Vector */
/** @typedef {{yaw: number, pitch: number}} View */
/** @typedef {{x: number, y: number, depth: number}} Projected */
/** @typedef {import("./keys.js").Key} Key */

const DEGREE = Math.PI / 180;
export const DEFAULT_VIEW = Object.freeze({ yaw: 0, pitch: 15 });

/** @param {Vector} a @param {Vector} b */
export const dot = (a, b) => a[0] * b[0] + a[1] * b[1] + a[2] * b[2];

/** @param {Vector} a @param {Vector} b @returns {Vector} */
export const cross = (a, b) => [a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]];

/** @param {Vector} v @param {number} s @returns {Vector} */
export const scale = (v, s) => [v[0] * s, v[1] * s, v[2] * s];

/** @param {Vector} a @param {Vector} b @returns {Vector} */
export const add = (a, b) => [a[0] + b[0], a[1] + b[1], a[2] + b[2]];

/** @param {number} yaw @param {number} pitch Degrees. @returns {Vector} Unit vector from the head to the camera. */
export function direction(yaw, pitch) {
  const y = yaw * DEGREE;
  const p = pitch * DEGREE;
  return [Math.sin(y) * Math.cos(p), Math.sin(p), Math.cos(y) * Math.cos(p)];
}

/** @param {Vector} d @returns {{yaw: number, pitch: number}} Degrees; yaw 0 at the poles. */
export function anglesOf([x, y, z]) {
  const ground = Math.hypot(x, z);
  return { yaw: ground < 1e-9 ? 0 : Math.atan2(x, z) / DEGREE, pitch: Math.atan2(y, ground) / DEGREE };
}

/**
 * Right, up and outward axes of someone who stands at (yaw, pitch) and looks at the head.
 * @param {View} view
 * @returns {{right: Vector, up: Vector, out: Vector}}
 */
export function axesOf({ yaw, pitch }) {
  const out = direction(yaw, pitch);
  /** @type {Vector} */
  const right = [Math.cos(yaw * DEGREE), 0, -Math.sin(yaw * DEGREE)];
  return { right, up: cross(out, right), out };
}

/** @param {Vector} point @param {ReturnType<typeof axesOf>} axes @returns {Projected} */
export function project(point, axes) {
  return { x: dot(point, axes.right), y: -dot(point, axes.up), depth: dot(point, axes.out) };
}

/**
 * The direction under a point of the picture; a point outside the disc is drawn in to its edge.
 * @param {number} x @param {number} y @param {ReturnType<typeof axesOf>} axes
 * @param {boolean} behind On the far half of the sphere.
 * @returns {Vector}
 */
export function unproject(x, y, axes, behind = false) {
  const length = Math.hypot(x, y);
  const shrink = length > 1 ? 1 / length : 1;
  const [u, v] = [x * shrink, -y * shrink];
  const depth = Math.sqrt(Math.max(0, 1 - u * u - v * v)) * (behind ? -1 : 1);
  return add(add(scale(axes.right, u), scale(axes.up, v)), scale(axes.out, depth));
}

/** @param {Vector} a @param {Vector} b Unit vectors. @returns {number} Radians between them. */
export function angleBetween(a, b) {
  const normal = cross(a, b);
  return Math.atan2(Math.hypot(...normal), dot(a, b));
}

/** @param {Vector} start @param {Vector} end @param {number} weight @returns {Vector} On the great circle between. */
export function slerp(start, end, weight) {
  const angle = angleBetween(start, end);
  const sine = Math.sin(angle);
  if (sine < 1e-9) return add(scale(start, 1 - weight), scale(end, weight));
  return add(scale(start, Math.sin((1 - weight) * angle) / sine), scale(end, Math.sin(weight * angle) / sine));
}

/** @param {Key[]} keys @returns {number} The first key that is opposite to its successor, or -1. */
export function oppositeNeighbour(keys) {
  const directions = keys.map((key) => direction(key.yaw_deg, key.pitch_deg));
  return directions.findIndex((d, i) => i + 1 < keys.length && angleBetween(d, directions[i + 1]) > Math.PI - 1e-6);
}

/**
 * The poses that nvb_core.camera_paths.keyframes samples: equal time between neighbouring keys, positions on great
 * circles, the other numbers linear. A null radius or fov_deg counts as the default.
 * @param {Key[]} keys At least one, no neighbours opposite each other. @param {number} views @returns {Key[]}
 */
export function keyframes(keys, views) {
  const spacing = Math.max(views - 1, 1);
  return Array.from({ length: views }, (_, i) => {
    const ticks = i * (keys.length - 1); // integers, so that keys are hit exactly
    const before = Math.floor(ticks / spacing);
    const weight = (ticks % spacing) / spacing;
    const [a, b] = [keys[before], keys[Math.min(before + 1, keys.length - 1)]];
    const { yaw, pitch } = anglesOf(slerp(direction(a.yaw_deg, a.pitch_deg), direction(b.yaw_deg, b.pitch_deg), weight));
    const mix = (/** @type {number} */ from, /** @type {number} */ to) => from + (to - from) * weight;
    return {
      yaw_deg: weight === 0 ? a.yaw_deg : yaw,
      pitch_deg: weight === 0 ? a.pitch_deg : pitch,
      roll_deg: mix(a.roll_deg, b.roll_deg),
      radius: mix(a.radius ?? RADIUS, b.radius ?? RADIUS),
      fov_deg: mix(a.fov_deg ?? FOV_DEG, b.fov_deg ?? FOV_DEG),
    };
  });
}

/**
 * The path as a polyline of directions, a corner every few degrees; segments between opposite keys are left out.
 * @param {Key[]} keys @returns {Vector[][]} One polyline for each pair of neighbours.
 */
export function pathLines(keys) {
  return keys.slice(1).map((key, i) => {
    const start = direction(keys[i].yaw_deg, keys[i].pitch_deg);
    const end = direction(key.yaw_deg, key.pitch_deg);
    const angle = angleBetween(start, end);
    if (angle > Math.PI - 1e-6) return [];
    const steps = Math.max(1, Math.ceil(angle / (3 * DEGREE)));
    return Array.from({ length: steps + 1 }, (_, step) => slerp(start, end, step / steps));
  });
}
