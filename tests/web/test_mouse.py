from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch

from nvb_core.camera_paths import orbit
from nvb_core.cameras import orbit_rotation
from tests.web.picker_page import Picker, keys_text

pytestmark = pytest.mark.browser
Open = Callable[..., Picker]
VIEW_PITCH_DEG = 15.0  # where the onlooker stands at first
ONE_STEP = ["before", "after"]


def under(x: float, y: float, view_yaw_deg: float = 0.0, view_pitch_deg: float = VIEW_PITCH_DEG) -> tuple[float, float]:
    """Yaw and pitch of the near half of the sphere at a point of its picture."""
    turn = orbit_rotation(torch.tensor([view_yaw_deg]), torch.tensor([view_pitch_deg]))[0]  # columns: right, up, out
    dx, dy, dz = (turn @ torch.tensor([x, y, math.sqrt(1 - x * x - y * y)], dtype=torch.float64)).tolist()
    return math.degrees(math.atan2(dx, dz)), math.degrees(math.asin(dy))


def angles(key: dict[str, float]) -> tuple[float, float]:
    return key["yaw_deg"], key["pitch_deg"]


@pytest.mark.parametrize("zoom", [1.0, 1.6, 0.6])
@pytest.mark.parametrize("end", [(0.5, 0.4), (-0.7, -0.1), (0.1, -0.6)])
def test_drag_adds_a_key_where_the_pointer_is(open_picker: Open, end: tuple[float, float], zoom: float) -> None:
    picker = open_picker()
    picker.page.evaluate("(zoom) => { node.box.style.transform = `scale(${zoom})`; }", zoom)
    picker.drag((0.3, 0.5), end)
    assert len(picker.keys) == 2
    assert angles(picker.keys[1]) == pytest.approx(under(*end), abs=1.0)
    assert picker.steps == ONE_STEP
    assert picker.selected() == 2


def test_right_of_the_face_is_positive_yaw_and_above_is_positive_pitch(open_picker: Open) -> None:
    picker = open_picker()
    picker.drag((0.6, 0.5), (0.6, 0.5))
    yaw, pitch = angles(picker.keys[1])
    assert yaw > 30
    assert pitch > 30


def test_a_new_key_follows_the_selected_one_and_takes_its_lens(open_picker: Open) -> None:
    picker = open_picker(keys_text({"yaw_deg": -20, "radius": 3.1, "roll_deg": 5}, {"yaw_deg": 60}))
    picker.drag((0.1, 0.6), (0.1, 0.6))
    keys = picker.keys
    assert [key["yaw_deg"] for key in keys][::2] == [-20, 60]
    assert (keys[1]["radius"], keys[1]["roll_deg"]) == (3.1, 5)


def test_drag_moves_a_key_in_one_step(open_picker: Open) -> None:
    picker = open_picker(keys_text({"yaw_deg": 0}, {"yaw_deg": 40, "pitch_deg": 15}))
    start = (math.sin(math.radians(40)) * math.cos(math.radians(15)), 0.0)
    start = (start[0], _screen_y(40, 15))
    picker.drag(start, (-0.4, 0.5))
    assert picker.selected() == 2
    assert angles(picker.keys[1]) == pytest.approx(under(-0.4, 0.5), abs=1.0)
    assert picker.keys[0]["yaw_deg"] == 0
    assert picker.steps == ONE_STEP


def _screen_y(yaw_deg: float, pitch_deg: float) -> float:
    turn = orbit_rotation(torch.tensor([0.0]), torch.tensor([VIEW_PITCH_DEG]))[0]
    direction = orbit_rotation(torch.tensor([yaw_deg]), torch.tensor([pitch_deg]))[0, :, 2]
    return float(turn[:, 1] @ direction)


def test_a_click_on_a_key_selects_it_and_changes_nothing(open_picker: Open) -> None:
    text = keys_text({"yaw_deg": 0}, {"yaw_deg": -50})
    picker = open_picker(text)
    picker.page.mouse.click(*picker.at(math.sin(math.radians(-50)), _screen_y(-50, 0)))
    assert picker.selected() == 2
    assert picker.text == text
    assert picker.steps == []


def test_escape_gives_a_drag_up(open_picker: Open) -> None:
    picker = open_picker()
    before = picker.text
    picker.page.mouse.move(*picker.at(0.4, 0.4))
    picker.page.mouse.down()
    picker.page.mouse.move(*picker.at(0.2, 0.6), steps=3)
    picker.page.keyboard.press("Escape")
    picker.page.mouse.up()
    assert picker.text == before
    assert picker.steps == []


def test_a_key_dragged_beyond_the_edge_stays_on_it(open_picker: Open) -> None:
    picker = open_picker()
    picker.drag((0.5, 0.4), (1.1, 0.4))
    x, y = 1.1 / math.hypot(1.1, 0.4), 0.4 / math.hypot(1.1, 0.4)
    assert angles(picker.keys[1]) == pytest.approx(under(x * (1 - 1e-9), y * (1 - 1e-9)), abs=1.0)


@pytest.mark.parametrize("shift", [False, True])
def test_drag_beside_the_sphere_or_with_shift_turns_the_view(open_picker: Open, shift: bool) -> None:
    picker = open_picker()
    start = picker.at(0.6, 0.6) if shift else picker.at(0.95, 0.95)
    if shift:
        picker.page.keyboard.down("Shift")
    picker.page.mouse.move(*start)
    picker.page.mouse.down()
    picker.page.mouse.move(start[0] - 120, start[1] + 30, steps=5)  # half a degree a pixel
    picker.page.mouse.up()
    if shift:
        picker.page.keyboard.up("Shift")
    assert picker.steps == []
    picker.drag((0.2, 0.6), (0.3, -0.3))
    assert angles(picker.keys[1]) == pytest.approx(under(0.3, -0.3, 60, 30), abs=1.0)


def test_keys_behind_the_head_can_be_moved_there(open_picker: Open) -> None:
    picker = open_picker(keys_text({"yaw_deg": 0}, {"yaw_deg": 150, "pitch_deg": 20}))
    x = math.sin(math.radians(150)) * math.cos(math.radians(20))
    picker.drag((x, _screen_y(150, 20)), (x - 0.2, _screen_y(150, 20) - 0.1))
    yaw, pitch = angles(picker.keys[1])
    assert 150 < yaw < 180
    assert abs(pitch - 20) < 30
    assert len(picker.keys) == 2


def test_double_click_deletes(open_picker: Open) -> None:
    picker = open_picker(keys_text({"yaw_deg": 0}, {"yaw_deg": -50}, {"yaw_deg": 50}))
    picker.page.mouse.dblclick(*picker.at(math.sin(math.radians(-50)), _screen_y(-50, 0)))
    assert [key["yaw_deg"] for key in picker.keys] == [0, 50]
    assert picker.steps == ONE_STEP


def test_the_last_key_stays(open_picker: Open) -> None:
    picker = open_picker()
    picker.page.mouse.dblclick(*picker.at(0, _screen_y(0, 0)))
    assert len(picker.keys) == 1
    assert "at least one" in picker.problem


def test_double_click_on_an_empty_place_adds_one_key(open_picker: Open) -> None:
    picker = open_picker()
    picker.page.mouse.dblclick(*picker.at(-0.5, 0.5))
    assert len(picker.keys) == 2


def test_wheel_changes_the_radius_and_not_the_graph(open_picker: Open) -> None:
    picker = open_picker()
    picker.page.mouse.move(*picker.at(0.4, 0.4), steps=3)
    picker.page.mouse.wheel(0, 100)
    picker.page.wait_for_function("graphLog.length > 0")
    assert picker.keys[0]["radius"] == pytest.approx(2.7 * 1.05, abs=0.01)
    assert picker.steps == ONE_STEP
    for _ in range(20):
        picker.page.mouse.wheel(0, -200)
    picker.page.mouse.move(5, 5)  # leaving ends the gesture
    assert 0.7 < picker.keys[0]["radius"] < 0.8
    assert "wheel" not in picker.steps


def test_a_run_of_notches_is_one_step(open_picker: Open) -> None:
    picker = open_picker()
    picker.page.mouse.move(*picker.at(0.4, 0.4), steps=3)
    picker.page.evaluate(  # at once: on a busy machine, notches of the mouse may come too far apart
        """() => {
          const notch = () => new WheelEvent('wheel', { deltaY: 100, bubbles: true, cancelable: true });
          for (let i = 0; i < 4; i++) document.querySelector('canvas').dispatchEvent(notch());
        }"""
    )
    assert picker.steps == []
    picker.page.wait_for_function("graphLog.length > 0")
    assert picker.keys[0]["radius"] == pytest.approx(2.7 * 1.05**4, abs=0.01)
    assert picker.steps == ONE_STEP


def test_wheel_beside_the_canvas_and_pinching_belong_to_the_graph(open_picker: Open) -> None:
    picker = open_picker()
    # As Nodes 2.0 does with what comes up to a node.
    picker.page.evaluate("node.box.addEventListener('wheel', () => graphLog.push('once more'))")
    text = picker.text
    picker.number("yaw_deg").hover()
    picker.page.mouse.wheel(0, 100)
    picker.page.wait_for_function("graphLog.length === 1")
    picker.page.mouse.move(*picker.at(0.4, 0.4), steps=3)
    picker.page.keyboard.down("Control")
    picker.page.mouse.wheel(0, 100)
    picker.page.keyboard.up("Control")
    picker.page.wait_for_function("graphLog.length === 2")
    assert picker.steps == ["wheel", "wheel"]
    assert picker.text == text


def test_a_graph_scrolled_under_a_resting_pointer_keeps_the_wheel(open_picker: Open) -> None:
    picker = open_picker()
    x, y = picker.at(0.3, 0.3)
    picker.page.evaluate("node.box.style.marginLeft = '450px'")
    picker.page.mouse.move(x, y)
    picker.page.evaluate("node.box.style.marginLeft = '0px'")
    picker.settle()
    picker.page.wait_for_timeout(100)  # the browser tells the canvas of the pointer that it now lies under
    picker.page.mouse.wheel(0, 100)
    picker.page.wait_for_function("graphLog.length === 1")
    assert picker.steps == ["wheel"]


def test_the_middle_button_pans_the_graph(open_picker: Open) -> None:
    picker = open_picker()
    picker.page.mouse.move(*picker.at(0.4, 0.4))
    picker.page.mouse.down(button="middle")
    picker.page.mouse.move(*picker.at(0.2, 0.2))
    picker.page.mouse.up(button="middle")
    assert picker.steps[0] == "down"
    assert picker.steps[-1] == "up"
    assert "move" in picker.steps
    assert len(picker.keys) == 1


@pytest.mark.parametrize(
    ("preset", "yaws"),
    [
        ("front", [0]),
        ("three-quarter", [45]),
        ("profile", [90]),
        ("eight-way", [0, 45, 90, 135, 180, -135, -90, -45]),
    ],
)
def test_presets(open_picker: Open, preset: str, yaws: list[float]) -> None:
    picker = open_picker(keys_text({"yaw_deg": 10, "roll_deg": 7, "radius": 3.0}, {"yaw_deg": 20}))
    picker.page.locator(f"[data-preset={preset}]").click()
    assert [key["yaw_deg"] for key in picker.keys] == yaws
    assert {(key["pitch_deg"], key["roll_deg"], key["radius"]) for key in picker.keys} == {(0, 0, 3.0)}
    assert picker.steps == ONE_STEP
    assert picker.selected() == 1


def test_orbit_preset_is_the_orbit_path_closed(open_picker: Open) -> None:
    picker = open_picker()
    picker.page.locator("[data-preset=orbit]").click()
    path = orbit(8)
    expected = [*zip(path.yaw_deg.tolist(), path.pitch_deg.tolist(), strict=True)]
    assert [angles(key) for key in picker.keys] == [pytest.approx(a, abs=0.06) for a in [*expected, expected[0]]]
