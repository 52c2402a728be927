from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.web.picker_page import Picker, keys_text

pytestmark = pytest.mark.browser
Open = Callable[..., Picker]
ONE_STEP = ["before", "after"]
FOCUSED = """() => {
  const element = document.activeElement;
  const shown = element.type === 'radio' ? element.nextElementSibling : element;
  const style = getComputedStyle(shown);
  return {
    name: element.getAttribute('aria-label') || element.value || element.textContent,
    ring: style.outlineStyle !== 'none' && parseFloat(style.outlineWidth) >= 1,
    inside: document.querySelector('.nvb-picker').contains(element),
  };
}"""


def focused_canvas(picker: Picker) -> Any:
    picker.canvas.focus()
    return picker.page.keyboard


def test_tab_passes_through_every_control_and_out_again(open_picker: Open) -> None:
    picker = open_picker(keys_text({"yaw_deg": 0}, {"yaw_deg": 30}))
    picker.page.locator("#before").focus()
    stops = []
    for _ in range(30):
        picker.page.keyboard.press("Tab")
        stop = picker.page.evaluate(FOCUSED)
        if not stop["inside"]:
            break
        stops.append(stop)
    assert picker.page.evaluate("document.activeElement.id") == "after"
    assert all(stop["ring"] for stop in stops), stops
    names = [stop["name"] for stop in stops]
    assert names[0] == "face"
    assert len(names) == 1 + 5 + 1 + 1 + 1 + 2 + 5  # frame, presets, sphere, view, list, add and delete, numbers
    assert any(name.startswith("Camera sphere. Camera 1 of 2: yaw 0°") for name in names)
    picker.page.keyboard.press("Shift+Tab")
    assert picker.page.evaluate(FOCUSED)["inside"]


@pytest.mark.parametrize(
    ("press", "yaw", "pitch"),
    [
        ("ArrowRight", 11, 5),
        ("ArrowLeft", 9, 5),
        ("ArrowUp", 10, 6),
        ("ArrowDown", 10, 4),
        ("Shift+ArrowRight", 20, 5),
        ("Shift+ArrowDown", 10, -5),
    ],
)
def test_arrows_nudge(open_picker: Open, press: str, yaw: float, pitch: float) -> None:
    picker = open_picker(keys_text({"yaw_deg": 10, "pitch_deg": 5}))
    focused_canvas(picker).press(press)
    assert (picker.keys[0]["yaw_deg"], picker.keys[0]["pitch_deg"]) == (yaw, pitch)
    assert picker.steps == ONE_STEP


def test_a_held_arrow_is_one_step_and_stops_at_the_pole(open_picker: Open) -> None:
    picker = open_picker(keys_text({"yaw_deg": 178, "pitch_deg": 85}))
    keyboard = focused_canvas(picker)
    for arrow, times in (("ArrowUp", 9), ("ArrowRight", 4)):
        for _ in range(times):
            keyboard.down(arrow)
        keyboard.up(arrow)
    assert (picker.keys[0]["yaw_deg"], picker.keys[0]["pitch_deg"]) == (-178, 90)
    assert picker.steps == ONE_STEP * 2


def test_a_shortcut_of_comfyui_sees_the_edit_under_way(open_picker: Open) -> None:
    picker = open_picker()
    keyboard = focused_canvas(picker)
    keyboard.down("ArrowRight")
    assert picker.steps == []
    keyboard.down("Control")
    keyboard.press("Enter")
    assert picker.keys[0]["yaw_deg"] == 1
    assert "Enter" in picker.page.evaluate("graphKeys")
    keyboard.up("Control")
    keyboard.up("ArrowRight")
    assert picker.steps == ONE_STEP


def test_focus_that_leaves_ends_the_edit(open_picker: Open) -> None:
    picker = open_picker()
    focused_canvas(picker).down("ArrowRight")
    picker.page.locator("#after").focus()
    assert picker.keys[0]["yaw_deg"] == 1
    assert picker.steps == ONE_STEP


def test_keys_act_only_with_focus_and_do_not_reach_the_graph(open_picker: Open) -> None:
    picker = open_picker(keys_text({"yaw_deg": 0}, {"yaw_deg": 30}))
    text = picker.text
    picker.page.locator("#before").focus()
    for press in ("ArrowRight", "Delete", "a", "+"):
        picker.page.keyboard.press(press)
    assert picker.text == text
    picker.page.evaluate("graphKeys.length = 0")
    keyboard = focused_canvas(picker)
    for press in ("ArrowRight", "Delete", "q"):
        keyboard.press(press)
    assert picker.page.evaluate("graphKeys") == ["q"]  # the graph's own shortcut still works
    assert len(picker.keys) == 1


def test_a_path_made_without_a_mouse(open_picker: Open) -> None:
    picker = open_picker()
    keyboard = focused_canvas(picker)
    keyboard.press("a")
    keyboard.press("Shift+ArrowUp")
    keyboard.press("Insert")
    keyboard.press("+")
    keyboard.press("PageUp")
    assert picker.selected() == 2
    keyboard.press("Home")
    keyboard.press("Shift+ArrowLeft")
    keyboard.press("End")
    keyboard.press("-")
    assert [(key["yaw_deg"], key["pitch_deg"]) for key in picker.keys] == [(-10, 0), (15, 10), (30, 10)]
    assert picker.keys[2]["radius"] == pytest.approx(2.7, abs=0.01)
    keyboard.press("Backspace")
    assert len(picker.keys) == 2


def test_the_list_is_one_stop_with_arrows_inside(open_picker: Open) -> None:
    picker = open_picker(keys_text({"yaw_deg": 0}, {"yaw_deg": 30}, {"yaw_deg": 60}))
    picker.page.locator(".nvb-keys button").first.focus()
    picker.page.keyboard.press("ArrowRight")
    assert picker.selected() == 2
    assert picker.page.evaluate(FOCUSED)["name"].startswith("Camera 2 of 3: yaw 30°")
    picker.page.keyboard.press("End")
    picker.page.keyboard.press("ArrowRight")
    assert picker.selected() == 1
    assert picker.steps == []


def test_what_a_screen_reader_finds(open_picker: Open) -> None:
    picker = open_picker(keys_text({"yaw_deg": 0}, {"yaw_deg": 30}))
    tree = picker.page.locator(".nvb-picker").aria_snapshot()
    for part in (
        'group "Camera picker"',
        'radiogroup "Angles count from"',
        'radio "Face" [checked]',
        'radio "Photo"',
        'group "Presets"',
        'button "Profile: one camera at yaw 90°"',
        'application "Camera sphere. Camera 1 of 2: yaw 0°, pitch 0°, default radius."',
        'radiogroup "Cameras, in the order of the path"',
        'radio "Camera 2 of 2: yaw 30°, pitch 0°, default radius."',
        'group "Selected camera"',
        'spinbutton "Yaw, degrees": "0"',
        'spinbutton "Radius"',
    ):
        assert part in tree, tree
    help_id = picker.canvas.get_attribute("aria-describedby")
    assert "Page Up" in picker.page.locator(f"#{help_id}").inner_text()


def test_changes_are_announced_when_they_are_done(open_picker: Open) -> None:
    picker = open_picker()
    live = picker.page.locator("[role=status]")
    keyboard = focused_canvas(picker)
    keyboard.down("ArrowRight")
    assert live.inner_text() == ""
    keyboard.up("ArrowRight")
    assert live.inner_text() == "Camera 1 of 1: yaw 1°, pitch 0°, default radius."
    keyboard.press("Delete")
    assert "at least one" in live.inner_text()
