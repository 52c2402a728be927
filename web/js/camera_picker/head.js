/**
 * The head in the middle of the sphere: an average head, lit from the onlooker's upper left, painted for any view.
 *
 * In: axes of the view (sphere.js), a size and colours. Out: a canvas with the picture. The mesh's half height is 1,
 * its axes are those of sphere.js (y up, the face looks along +z).
 */

import { POINTS, QUADS, TINTS, TINT_OF, UNIT } from "./head_mesh.js";

/** @typedef {import("./sphere.js").Vector} Vector */
/** @typedef {[red: number, green: number, blue: number]} Rgb */
/** @typedef {"skin" | "hair" | "lip" | "iris" | "white"} Tint */
/** @typedef {Record<Tint | "shadow" | "light", Rgb>} HeadColours */
/** @typedef {{points: Float32Array, normals: Float32Array, tints: Uint8Array, triangles: Uint16Array}} Mesh */
/** @typedef {ReturnType<typeof import("./sphere.js").axesOf>} Axes */

/** What of the picture's half size the head's half height takes: room for ears, neck and nose. */
export const REACH = 1.4;
const SUPERSAMPLING = 2;
const MAX_SIDE_PX = 900;
const KEY_LIGHT = [-0.42, 0.6, 0.68]; // right, up, toward the onlooker
const FILL_LIGHT = [0.85, -0.1, 0.5];
const NECK_FADE = [-1.3, -1.02];

/** @type {Mesh | undefined} */
let mesh;

/** @param {string} text Base64. @returns {ArrayBuffer} */
function bytesOf(text) {
  return Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0)).buffer;
}

/** @returns {Mesh} The half that is stored, and its mirror image. */
function loadMesh() {
  const half = Float32Array.from(new Int16Array(bytesOf(POINTS)), (value) => value / UNIT);
  const count = half.length / 3;
  const points = new Float32Array(2 * half.length);
  points.set(half);
  points.set(half.map((value, i) => (i % 3 ? value : -value)), half.length);
  const tintOf = new Uint8Array(bytesOf(TINT_OF));
  const tints = new Uint8Array(2 * tintOf.length);
  tints.set(tintOf);
  tints.set(tintOf, tintOf.length);
  const quads = new Uint16Array(bytesOf(QUADS));
  const onSeam = (/** @type {number} */ i) => half[3 * i] === 0; // points of the middle are shared
  const mirrored = (/** @type {number} */ i) => (onSeam(i) ? i : i + count);
  const triangles = [];
  for (let i = 0; i < quads.length; i += 4) {
    const [a, b, c, d] = quads.subarray(i, i + 4);
    triangles.push(a, b, c, a, c, d);
    triangles.push(...[a, c, b, a, d, c].map(mirrored));
  }
  const order = Uint16Array.from(triangles);
  return { points, tints, triangles: order, normals: normalsOf(points, order) };
}

/** @param {Float32Array} points @param {Uint16Array} triangles @returns {Float32Array} Unit, weighted by area. */
function normalsOf(points, triangles) {
  const normals = new Float32Array(points.length);
  for (let t = 0; t < triangles.length; t += 3) {
    const [a, b, c] = [3 * triangles[t], 3 * triangles[t + 1], 3 * triangles[t + 2]];
    const [ux, uy, uz] = [0, 1, 2].map((k) => points[b + k] - points[a + k]);
    const [vx, vy, vz] = [0, 1, 2].map((k) => points[c + k] - points[a + k]);
    const normal = [uy * vz - uz * vy, uz * vx - ux * vz, ux * vy - uy * vx];
    for (const corner of [a, b, c]) for (let k = 0; k < 3; k++) normals[corner + k] += normal[k];
  }
  for (let i = 0; i < normals.length; i += 3) {
    const length = Math.hypot(normals[i], normals[i + 1], normals[i + 2]) || 1;
    for (let k = 0; k < 3; k++) normals[i + k] /= length;
  }
  return normals;
}

/** @param {ArrayLike<number>} a @param {number} offset @param {ArrayLike<number>} b */
const dotAt = (a, offset, b) => a[offset] * b[0] + a[offset + 1] * b[1] + a[offset + 2] * b[2];

/**
 * Every point in the picture: x, y in pixels, depth toward the onlooker, red, green, blue, alpha.
 * @param {Mesh} source @param {Axes} axes @param {number} side Of the picture. @param {HeadColours} colours
 */
function shadePoints({ points, normals, tints }, axes, side, colours) {
  const count = points.length / 3;
  const shaded = new Float32Array(7 * count);
  for (let i = 0; i < count; i++) {
    const normal = [axes.right, axes.up, axes.out].map((axis) => dotAt(normals, 3 * i, axis));
    const lit = 0.22 + 0.8 * Math.max(0, dotAt(normal, 0, KEY_LIGHT)) + 0.16 * Math.max(0, dotAt(normal, 0, FILL_LIGHT));
    const tint = colours[/** @type {Tint} */ (TINTS[tints[2 * i]])];
    const amount = tints[2 * i + 1] / 255;
    const alpha = (points[3 * i + 1] - NECK_FADE[0]) / (NECK_FADE[1] - NECK_FADE[0]);
    const o = 7 * i;
    shaded[o] = (1 + dotAt(points, 3 * i, axes.right) / REACH) * (side / 2);
    shaded[o + 1] = (1 - dotAt(points, 3 * i, axes.up) / REACH) * (side / 2);
    shaded[o + 2] = dotAt(points, 3 * i, axes.out);
    for (let k = 0; k < 3; k++) {
      const own = colours.skin[k] + (tint[k] - colours.skin[k]) * amount;
      const dark = colours.shadow[k] + (own - colours.shadow[k]) * Math.min(1, lit);
      shaded[o + 3 + k] = dark + (colours.light[k] - dark) * 0.6 * Math.max(0, lit - 0.85);
    }
    shaded[o + 6] = 255 * Math.min(1, Math.max(0, alpha));
  }
  return shaded;
}

/**
 * Fills one triangle, nearest wins. @param {ImageData} image @param {Float32Array} nearest Depth of each pixel.
 * @param {Float32Array} shaded @param {number} a @param {number} b @param {number} c Offsets into `shaded`.
 */
function fillTriangle(image, nearest, shaded, a, b, c) {
  const side = image.width;
  const [ax, ay, bx, by, cx, cy] = [shaded[a], shaded[a + 1], shaded[b], shaded[b + 1], shaded[c], shaded[c + 1]];
  const area = (bx - ax) * (cy - ay) - (by - ay) * (cx - ax);
  if (area >= 0) return; // seen from behind: y runs down
  const left = Math.max(0, Math.floor(Math.min(ax, bx, cx)));
  const right = Math.min(side - 1, Math.ceil(Math.max(ax, bx, cx)));
  const top = Math.max(0, Math.floor(Math.min(ay, by, cy)));
  const bottom = Math.min(side - 1, Math.ceil(Math.max(ay, by, cy)));
  const { data } = image;
  for (let y = top; y <= bottom; y++) {
    const py = y + 0.5;
    for (let x = left; x <= right; x++) {
      const px = x + 0.5;
      const u = ((bx - px) * (cy - py) - (by - py) * (cx - px)) / area;
      const v = ((cx - px) * (ay - py) - (cy - py) * (ax - px)) / area;
      const w = 1 - u - v;
      if (u < 0 || v < 0 || w < 0) continue;
      const depth = u * shaded[a + 2] + v * shaded[b + 2] + w * shaded[c + 2];
      const pixel = y * side + x;
      if (depth <= nearest[pixel]) continue;
      nearest[pixel] = depth;
      for (let k = 0; k < 4; k++) {
        data[4 * pixel + k] = u * shaded[a + 3 + k] + v * shaded[b + 3 + k] + w * shaded[c + 3 + k];
      }
    }
  }
}

/**
 * @param {Axes} axes @param {number} halfHeight Of the head, in pixels of the target. @param {HeadColours} colours
 * @returns {HTMLCanvasElement} A square that reaches REACH half heights from the head's centre.
 */
export function paintHead(axes, halfHeight, colours) {
  mesh ??= loadMesh();
  const side = Math.min(MAX_SIDE_PX, Math.max(8, Math.ceil(2 * REACH * halfHeight * SUPERSAMPLING)));
  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = side;
  const ctx = canvas.getContext("2d");
  if (!ctx) return canvas;
  const image = ctx.createImageData(side, side);
  const nearest = new Float32Array(side * side).fill(-Infinity);
  const shaded = shadePoints(mesh, axes, side, colours);
  const { triangles } = mesh;
  for (let t = 0; t < triangles.length; t += 3) {
    fillTriangle(image, nearest, shaded, 7 * triangles[t], 7 * triangles[t + 1], 7 * triangles[t + 2]);
  }
  ctx.putImageData(image, 0, 0);
  return canvas;
}
