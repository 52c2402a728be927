/**
 * Paints the picker's sphere. In: a 2D context scaled to CSS pixels and a `Scene`. Out: pixels; nothing is kept but
 * the picture of the head, which only changes with the view.
 */

import { REACH, paintHead } from "./head.js";
import { RADIUS, FOV_DEG, round, wrapAngle } from "./keys.js";
import { add, anglesOf, axesOf, direction, keyframes, oppositeNeighbour, pathLines, project, scale, unproject } from "./sphere.js";

/** @typedef {import("./keys.js").Key} Key */
/** @typedef {import("./keys.js").KeySet} KeySet */
/** @typedef {import("./sphere.js").Vector} Vector */
/** @typedef {import("./theme.js").Theme} Theme */
/** @typedef {ReturnType<typeof axesOf>} Axes */
/** @typedef {{x: number, y: number, radius: number}} Disc The sphere's outline in CSS pixels. */
/** @typedef {{x: number, y: number, behind: boolean, index: number}} Marker */
/**
 * @typedef {object} Scene
 * @property {KeySet} state @property {number} selected @property {import("./sphere.js").View} view
 * @property {number} views 0: the keys themselves; else so many poses along the path.
 * @property {{x: number, y: number} | null} hover Where a press would add a key, in CSS pixels.
 * @property {boolean} muted Nothing can be edited.
 */

export const MARKER_RADIUS = 9;
const HEAD_SIZE = 0.36; // half height, in radii of the sphere
const FRAME_SCALE = 3.2; // the head is drawn that much larger than the cameras' distance would have it; so is what they see
const GRID_STEP_DEG = 30;
const MAX_DOTS = 600;
const FONT = "system-ui, sans-serif";

/** @param {number} width @param {number} height CSS pixels. @returns {Disc} */
export function discIn(width, height) {
  return { x: width / 2, y: height / 2, radius: Math.max(20, Math.min(width, height) * 0.5 - 2.4 * MARKER_RADIUS) };
}

/** @param {Key[]} keys @param {Axes} axes @param {Disc} disc @returns {Marker[]} */
export function markersOf(keys, axes, disc) {
  return keys.map((key, index) => {
    const p = project(direction(key.yaw_deg, key.pitch_deg), axes);
    return { index, behind: p.depth < -1e-6, x: disc.x + p.x * disc.radius, y: disc.y + p.y * disc.radius };
  });
}

/** @param {CanvasRenderingContext2D} ctx @param {Scene} scene @param {Theme} theme @param {{width: number, height: number, pixelRatio: number}} size */
export function drawScene(ctx, scene, theme, { width, height, pixelRatio }) {
  const disc = discIn(width, height);
  const axes = axesOf(scene.view);
  const pen = { ctx, axes, disc, theme };
  ctx.setTransform(pixelRatio, 0, 0, pixelRatio, 0, 0);
  ctx.clearRect(0, 0, width, height);
  const fade = scene.muted ? 0.35 : 1;
  ctx.globalAlpha = fade;
  drawBall(pen);
  drawGrid(pen, true, fade);
  if (!scene.muted) {
    drawPath(pen, scene, true);
    drawMarkers(pen, scene, true);
  }
  drawDegrees(pen, fade);
  ctx.globalAlpha = fade;
  drawHead(pen, pixelRatio);
  drawGrid(pen, false, fade);
  if (scene.state.frame === "input") drawPhoto(pen, fade);
  if (scene.muted) return;
  drawFrustum(pen, scene.state.keys[scene.selected]);
  drawPath(pen, scene, false);
  drawMarkers(pen, scene, false);
  drawHover(pen, scene);
  drawReadout(pen, scene, width, height);
}

/** @typedef {{ctx: CanvasRenderingContext2D, axes: Axes, disc: Disc, theme: Theme}} Pen */

/** @param {Pen} pen */
function drawBall({ ctx, disc, theme }) {
  const { x, y, radius } = disc;
  const glow = ctx.createRadialGradient(x - radius * 0.35, y - radius * 0.45, radius * 0.1, x, y, radius);
  const [inner, outer] = theme.dark ? ["rgb(255 255 255 / 13%)", "rgb(255 255 255 / 2%)"] : ["rgb(255 255 255 / 80%)", "rgb(255 255 255 / 12%)"];
  glow.addColorStop(0, inner);
  glow.addColorStop(1, outer);
  ctx.beginPath();
  ctx.arc(disc.x, disc.y, disc.radius, 0, 2 * Math.PI);
  ctx.fillStyle = glow;
  ctx.fill();
  stroke(ctx, theme.ink, 1.2, ctx.globalAlpha * 0.45);
}

/** @param {CanvasRenderingContext2D} ctx @param {string} colour @param {number} width @param {number} alpha */
function stroke(ctx, colour, width, alpha) {
  const before = ctx.globalAlpha;
  ctx.strokeStyle = colour;
  ctx.lineWidth = width;
  ctx.globalAlpha = alpha;
  ctx.stroke();
  ctx.globalAlpha = before;
}

/** Begins a path of those parts of a polyline that lie on one half of the sphere. @param {Pen} pen @param {Vector[]} line @param {boolean} behind */
function traceHalf({ ctx, axes, disc }, line, behind) {
  let down = false;
  for (const point of line) {
    const p = project(point, axes);
    const isHere = p.depth < 0 === behind;
    const [x, y] = [disc.x + p.x * disc.radius, disc.y + p.y * disc.radius];
    if (isHere && down) ctx.lineTo(x, y);
    else if (isHere) ctx.moveTo(x, y);
    down = isHere;
  }
}

/** @param {number} start @param {number} end @param {(angle: number) => Vector} at */
function arc(start, end, at) {
  return Array.from({ length: 1 + (end - start) / 3 }, (_, i) => at(start + 3 * i));
}

/** @param {Pen} pen @param {boolean} behind @param {number} fade */
function drawGrid(pen, behind, fade) {
  const { ctx, theme } = pen;
  const faint = fade * (behind ? 0.1 : 0.16);
  ctx.beginPath();
  for (let yaw = -180 + GRID_STEP_DEG; yaw <= 180; yaw += GRID_STEP_DEG) {
    if (yaw !== 0) traceHalf(pen, arc(-90, 90, (pitch) => direction(yaw, pitch)), behind);
  }
  for (const pitch of [-60, -30, 30, 60]) traceHalf(pen, arc(-180, 180, (yaw) => direction(yaw, pitch)), behind);
  stroke(ctx, theme.ink, 1, faint);
  ctx.beginPath();
  traceHalf(pen, arc(-180, 180, (yaw) => direction(yaw, 0)), behind);
  traceHalf(pen, arc(-90, 90, (pitch) => direction(0, pitch)), behind);
  stroke(ctx, theme.ink, 1.2, faint * 1.8);
}

/** @param {Pen} pen @param {number} fade */
function drawDegrees({ ctx, axes, disc, theme }, fade) {
  /** @type {[number, number][]} */
  const places = [-150, -120, -90, -60, -30, 30, 60, 90, 120, 150, 180].map((yaw) => [yaw, 0]);
  places.push([0, 60], [0, 30], [0, -30], [0, -60]);
  ctx.font = `9px ${FONT}`;
  ctx.textAlign = "center";
  ctx.textBaseline = "top";
  ctx.fillStyle = theme.ink;
  ctx.globalAlpha = fade * 0.6;
  for (const [yaw, pitch] of places) {
    const p = project(direction(yaw, pitch), axes);
    if (p.depth < 0.12) continue;
    ctx.fillText(`${yaw || pitch}°`, disc.x + p.x * disc.radius, disc.y + p.y * disc.radius + 3);
  }
  ctx.globalAlpha = 1;
}

/** @type {{canvas: HTMLCanvasElement, key: string} | undefined} */
let lastHead;

/** @param {Pen} pen @param {number} pixelRatio */
function drawHead({ ctx, axes, disc, theme }, pixelRatio) {
  const halfHeight = HEAD_SIZE * disc.radius;
  const key = JSON.stringify([axes, halfHeight, pixelRatio, theme.dark]);
  if (lastHead?.key !== key) lastHead = { canvas: paintHead(axes, halfHeight * pixelRatio, theme.head), key };
  const reach = REACH * halfHeight;
  ctx.imageSmoothingQuality = "high";
  ctx.drawImage(lastHead.canvas, disc.x - reach, disc.y - reach, 2 * reach, 2 * reach);
}

/** @param {Pen} pen @param {Scene} scene @param {boolean} behind */
function drawPath(pen, scene, behind) {
  const { ctx, theme, axes, disc } = pen;
  const { keys } = scene.state;
  const lines = pathLines(keys);
  ctx.beginPath();
  for (const line of lines) traceHalf(pen, line, behind);
  ctx.lineJoin = ctx.lineCap = "round";
  ctx.setLineDash(scene.views > 0 ? [] : [2, 5]);
  stroke(ctx, theme.accent, scene.views > 0 ? 2 : 1.5, behind ? 0.3 : 0.95);
  ctx.setLineDash([]);
  if (scene.views < 1 || keys.length < 1 || oppositeNeighbour(keys) >= 0) return;
  ctx.globalAlpha = behind ? 0.35 : 1;
  for (const pose of keyframes(keys, Math.min(scene.views, MAX_DOTS))) {
    const p = project(direction(pose.yaw_deg, pose.pitch_deg), axes);
    if (p.depth < 0 !== behind) continue;
    ctx.beginPath();
    ctx.arc(disc.x + p.x * disc.radius, disc.y + p.y * disc.radius, 3, 0, 2 * Math.PI);
    ctx.fillStyle = theme.surface;
    ctx.fill();
    stroke(ctx, theme.accent, 1.6, ctx.globalAlpha);
  }
  ctx.globalAlpha = 1;
}

/** @param {Pen} pen @param {Scene} scene @param {boolean} behind */
function drawMarkers({ ctx, axes, disc, theme }, scene, behind) {
  const markers = markersOf(scene.state.keys, axes, disc).filter((marker) => marker.behind === behind);
  markers.sort((a, b) => Number(a.index === scene.selected) - Number(b.index === scene.selected));
  for (const { x, y, index } of markers) {
    const isSelected = index === scene.selected;
    const size = isSelected ? MARKER_RADIUS + 1.5 : MARKER_RADIUS;
    ctx.globalAlpha = behind ? 0.45 : 1;
    ctx.beginPath();
    ctx.arc(x, y, size, 0, 2 * Math.PI);
    ctx.fillStyle = isSelected ? theme.chosen : theme.accent;
    ctx.fill();
    stroke(ctx, theme.surface, 1.5, ctx.globalAlpha);
    if (isSelected) {
      ctx.beginPath();
      ctx.arc(x, y, size + 3, 0, 2 * Math.PI);
      stroke(ctx, theme.chosen, 1.6, ctx.globalAlpha);
    }
    ctx.font = `600 ${index < 99 ? 10 : 8}px ${FONT}`;
    ctx.textAlign = "center";
    ctx.textBaseline = "middle";
    ctx.fillStyle = isSelected ? theme.onChosen : theme.onAccent;
    ctx.fillText(String(index + 1), x, y + 0.5);
  }
  ctx.globalAlpha = 1;
}

/** What the selected camera sees: a pyramid from its place, at its distance, to the head. @param {Pen} pen @param {Key | undefined} key */
function drawFrustum({ ctx, axes, disc, theme }, key) {
  if (!key) return;
  const radius = key.radius ?? RADIUS;
  const half = ((radius * Math.tan(((key.fov_deg ?? FOV_DEG) * Math.PI) / 360)) / RADIUS) * FRAME_SCALE;
  const camera = axesOf({ yaw: key.yaw_deg, pitch: key.pitch_deg });
  const roll = (key.roll_deg * Math.PI) / 180; // the picture turns clockwise: the camera turns the other way
  const right = add(scale(camera.right, Math.cos(roll)), scale(camera.up, Math.sin(roll)));
  const up = add(scale(camera.right, -Math.sin(roll)), scale(camera.up, Math.cos(roll)));
  const toPixels = (/** @type {Vector} */ point) => {
    const p = project(point, axes);
    return /** @type {[number, number]} */ ([disc.x + p.x * disc.radius, disc.y + p.y * disc.radius]);
  };
  const reach = Math.min(Math.max(half, 0.04), 0.95);
  const corner = (/** @type {number} */ u, /** @type {number} */ v) => toPixels(add(scale(right, u * reach), scale(up, v * reach)));
  const apex = toPixels(scale(camera.out, Math.min(Math.max(radius / RADIUS, 0.42), 1.18)));
  const corners = [corner(-1, -1), corner(1, -1), corner(1, 1), corner(-1, 1)];
  ctx.beginPath();
  for (const place of corners) {
    ctx.moveTo(...apex);
    ctx.lineTo(...place);
  }
  stroke(ctx, theme.chosen, 1, 0.55);
  ctx.beginPath();
  for (const place of corners) ctx.lineTo(...place);
  ctx.closePath();
  ctx.fillStyle = theme.chosen;
  ctx.globalAlpha = 0.07;
  ctx.fill();
  ctx.globalAlpha = 1;
  stroke(ctx, theme.chosen, 1.2, 0.85);
  ctx.beginPath(); // which side is up
  for (const place of [corner(-0.14, 1), corner(0, 1.16), corner(0.14, 1)]) ctx.lineTo(...place);
  ctx.closePath();
  ctx.fill();
  ctx.beginPath();
  ctx.arc(...apex, 2.5, 0, 2 * Math.PI);
  ctx.fill();
}

/** The camera of the photo, where frame "input" counts from. @param {Pen} pen @param {number} fade */
function drawPhoto({ ctx, axes, disc, theme }, fade) {
  const p = project(direction(0, 0), axes);
  const [x, y] = [disc.x + p.x * disc.radius, disc.y + p.y * disc.radius];
  ctx.globalAlpha = fade * (p.depth < 0 ? 0.35 : 0.9);
  ctx.beginPath();
  ctx.roundRect(x - 15, y - 19, 30, 38, 4);
  ctx.setLineDash([3, 3]);
  stroke(ctx, theme.ink, 1.2, ctx.globalAlpha);
  ctx.setLineDash([]);
  ctx.font = `9px ${FONT}`;
  ctx.textAlign = "center";
  ctx.textBaseline = "bottom";
  ctx.fillStyle = theme.ink;
  ctx.fillText("photo", x, y - 21);
  ctx.globalAlpha = 1;
}

/** @param {Pen} pen @param {Scene} scene */
function drawHover({ ctx, axes, disc, theme }, { hover }) {
  if (!hover) return;
  const { yaw, pitch } = anglesOf(unproject((hover.x - disc.x) / disc.radius, (hover.y - disc.y) / disc.radius, axes));
  ctx.beginPath();
  ctx.arc(hover.x, hover.y, MARKER_RADIUS, 0, 2 * Math.PI);
  ctx.setLineDash([3, 3]);
  stroke(ctx, theme.accent, 1.5, 0.9);
  ctx.setLineDash([]);
  pill({ ctx, theme }, `+ ${Math.round(yaw)}°, ${Math.round(pitch)}°`, hover.x, hover.y + MARKER_RADIUS + 6, theme.accent);
}

/** @param {Pen} pen @param {Scene} scene @param {number} width @param {number} height */
function drawReadout({ ctx, axes, disc, theme }, scene, width, height) {
  const key = scene.state.keys[scene.selected];
  if (!key) return;
  const { x, y } = markersOf([key], axes, disc)[0];
  const distance = key.radius === null ? "" : `  r ${round(key.radius, 2)}`;
  const text = `${round(wrapAngle(key.yaw_deg), 1)}°, ${round(key.pitch_deg, 1)}°${distance}`;
  const below = y + MARKER_RADIUS + 9;
  pill({ ctx, theme }, text, Math.min(Math.max(x, 44), width - 44), below + 16 > height ? y - MARKER_RADIUS - 25 : below, theme.chosen);
}

/** @param {{ctx: CanvasRenderingContext2D, theme: Theme}} pen @param {string} text @param {number} x @param {number} y Top. @param {string} edge */
function pill({ ctx, theme }, text, x, y, edge) {
  ctx.font = `10px ${FONT}`;
  const width = ctx.measureText(text).width + 10;
  ctx.beginPath();
  ctx.roundRect(x - width / 2, y, width, 16, 8);
  ctx.fillStyle = theme.surface;
  ctx.globalAlpha = 0.86;
  ctx.fill();
  stroke(ctx, edge, 1, 0.7);
  ctx.globalAlpha = 1;
  ctx.textAlign = "center";
  ctx.textBaseline = "middle";
  ctx.fillStyle = theme.ink;
  ctx.fillText(text, x, y + 8.5);
}
