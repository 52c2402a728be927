from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from nvb_core.camera_keys import read_camera_keys
from nvb_core.errors import CameraError
from tests.web.picker_page import Picker, keys_text

pytestmark = pytest.mark.browser
Open = Callable[..., Picker]
ONE_STEP = ["before", "after"]
REWRITE = "return m.formatKeys(m.parseKeys(text));"
KEYS_MODULE = "/extensions/some pack-name/js/camera_picker/keys.js"


def _text(**changes: object) -> str:
    return json.dumps({"format": "nvb-camera-keys", "version": 1, "frame": "face", "keys": [{"yaw_deg": 0}]} | changes)


GOOD = [
    _text(),
    _text(frame="input"),
    _text(keys=[{"yaw_deg": -700.5, "pitch_deg": 90, "roll_deg": 1e3, "radius": 0.71, "fov_deg": 179.9}]),
    _text(keys=[{"yaw_deg": 1, "radius": None, "fov_deg": None}, {"yaw_deg": 2, "radius": 3}]),
    _text(keys=[{"yaw_deg": 1, "radius": 2}, {"yaw_deg": 2, "radius": 3}], frame="input"),
    _text(keys=[{"yaw_deg": 0, "pitch_deg": 100}]),
]
BAD = [
    "",
    "{",
    "[]",
    "null",
    '{"format": "nvb-camera-keys", "version": 1, "frame": "face", "keys": [{"yaw_deg": NaN}]}',
    _text(format="nvb-cameras"),
    _text(version=2),
    _text(version="1"),
    _text(frame="world"),
    _text(frame=None),
    _text(more=1),
    _text(keys={}),
    _text(keys=[0]),
    _text(keys=[{}]),
    _text(keys=[{"pitch_deg": 0}]),
    _text(keys=[{"yaw_deg": None}]),
    _text(keys=[{"yaw_deg": "0"}]),
    _text(keys=[{"yaw_deg": True}]),
    _text(keys=[{"yaw_deg": 0, "roll_deg": None}]),
    _text(keys=[{"yaw_deg": 0, "yaw": 0}]),
    _text(keys=[{"yaw_deg": 0, "radius": 0.7}]),
    _text(keys=[{"yaw_deg": 0, "fov_deg": 180}]),
    _text(keys=[{"yaw_deg": 0, "fov_deg": 0}]),
    _text(keys=[{"yaw_deg": 0, "radius": 2}, {"yaw_deg": 0}], frame="input"),
]


def test_reads_and_writes_what_the_node_reads(page: Any) -> None:
    for text in GOOD:
        written = page.evaluate(f"async (text) => {{ const m = await import('{KEYS_MODULE}'); {REWRITE} }}", text)
        before, after = read_camera_keys(text), read_camera_keys(written)
        for name in ("yaw_deg", "pitch_deg", "roll_deg", "radius", "fov_deg"):
            old, new = getattr(before, name), getattr(after, name)
            assert old is new is None or old.tolist() == new.tolist(), (text, name)
        assert before.frame == after.frame


def test_refuses_what_the_node_refuses(page: Any) -> None:
    for text in BAD:
        with pytest.raises(CameraError):
            read_camera_keys(text)
        attempt = f"try {{ {REWRITE} }} catch {{ return 'refused'; }}"
        outcome = page.evaluate(f"async (text) => {{ const m = await import('{KEYS_MODULE}'); {attempt} }}", text)
        assert outcome == "refused", text


@pytest.mark.parametrize(
    "text", ["", '{"format": "nvb-camera-keys", "ver', _text(keys=[{"yaw_deg": 0, "radius": 0.7}])]
)
def test_leaves_bad_text_alone(open_picker: Open, text: str) -> None:
    picker = open_picker(text)
    assert picker.problem.startswith("The text in “keys” can't be read: ")
    assert picker.page.locator("[data-preset=front]").is_disabled()
    picker.drag((0.3, 0.5), (0.4, 0.4))
    picker.canvas.focus()
    for press in ("a", "Delete", "ArrowLeft", "+"):
        picker.page.keyboard.press(press)
    assert picker.text == text
    assert picker.steps == []


def test_bad_text_is_named_and_can_be_replaced(open_picker: Open) -> None:
    picker = open_picker(_text(keys=[{"yaw_deg": 0}, {"yaw_deg": "left"}]))
    assert 'keys[1].yaw_deg: expected a number, found "left"' in picker.problem
    picker.page.get_by_role("button", name="Start over").click()
    assert [key["yaw_deg"] for key in picker.keys] == [0]
    assert picker.problem == ""
    assert picker.steps == ONE_STEP


def test_no_keys_at_all_is_a_state_to_start_from(open_picker: Open) -> None:
    picker = open_picker(_text(keys=[]))
    assert "No cameras" in picker.problem
    picker.drag((0.2, 0.2), (0.2, 0.2))
    assert len(picker.keys) == 1
    assert picker.problem == ""


def test_numbers_are_edited(open_picker: Open) -> None:
    picker = open_picker(keys_text({"yaw_deg": 0}, {"yaw_deg": 30}))
    picker.page.locator(".nvb-keys button").nth(1).click()
    for field, typed in (
        ("yaw_deg", "-200"),
        ("pitch_deg", "12.25"),
        ("roll_deg", "5"),
        ("radius", "3"),
        ("fov_deg", "20"),
    ):
        picker.number(field).fill(typed)
        picker.number(field).press("Enter")
    assert picker.keys[0] == {"yaw_deg": 0, "pitch_deg": 0, "roll_deg": 0}
    assert picker.keys[1] == {"yaw_deg": 160, "pitch_deg": 12.25, "roll_deg": 5, "radius": 3, "fov_deg": 20}
    assert picker.number("yaw_deg").input_value() == "160"
    assert picker.steps == ONE_STEP * 5
    picker.number("radius").fill("")
    picker.number("radius").blur()
    assert "radius" not in picker.keys[1]
    assert picker.number("radius").get_attribute("placeholder") == "2.7"
    picker.number("fov_deg").press("ArrowUp")
    assert picker.keys[1]["fov_deg"] == 20.1


def test_a_number_being_typed_outlives_the_pointers_way_to_run(open_picker: Open) -> None:
    picker = open_picker(keys_text({"yaw_deg": 0}))
    picker.number("yaw_deg").fill("33")
    picker.page.mouse.move(*picker.at(0.4, 0.4))
    picker.page.mouse.move(*picker.at(0.5, 0.5))
    assert picker.number("yaw_deg").input_value() == "33"
    assert picker.steps == []
    picker.number("yaw_deg").blur()
    assert [key["yaw_deg"] for key in picker.keys] == [33]
    assert picker.steps == ONE_STEP


@pytest.mark.parametrize("shortcut", ["Control+Enter", "Meta+Enter", "Control+s"])
def test_a_shortcut_sees_the_number_being_typed(open_picker: Open, shortcut: str) -> None:
    picker = open_picker(keys_text({"yaw_deg": 0}))
    picker.page.evaluate("addEventListener('keydown', e => { e.preventDefault(); seen = node.widget('keys').value; })")
    picker.number("yaw_deg").fill("44")
    picker.number("yaw_deg").press(shortcut)
    assert json.loads(picker.page.evaluate("seen"))["keys"][0]["yaw_deg"] == 44
    picker.number("yaw_deg").blur()
    assert picker.steps == ONE_STEP


@pytest.mark.parametrize(
    ("field", "typed", "says"),
    [
        ("pitch_deg", "91", "within ±90"),
        ("radius", "0.5", "above 0.7"),
        ("fov_deg", "180", "between"),
        ("yaw_deg", "", "a number"),
    ],
)
def test_a_number_out_of_range_is_refused(open_picker: Open, field: str, typed: str, says: str) -> None:
    picker = open_picker()
    before = picker.number(field).input_value()
    picker.number(field).fill(typed)
    picker.number(field).press("Enter")
    assert says in picker.problem
    assert picker.number(field).input_value() == before
    assert picker.steps == []


def test_frame_switch_spells_out_what_only_some_keys_have(open_picker: Open) -> None:
    picker = open_picker(keys_text({"yaw_deg": 0, "radius": 3}, {"yaw_deg": 30}))
    picker.page.get_by_text("Photo", exact=True).click()
    content = json.loads(picker.text)
    assert content["frame"] == "input"
    assert [key["radius"] for key in content["keys"]] == [3, 2.7]
    assert read_camera_keys(picker.text).frame == "input"
    assert picker.steps == ONE_STEP


def test_in_frame_input_all_keys_have_a_radius_or_none(open_picker: Open) -> None:
    picker = open_picker(keys_text({"yaw_deg": 0}, {"yaw_deg": 30}, frame="input"))
    radius = picker.number("radius")
    radius.fill("3")
    radius.press("Enter")
    assert [key["radius"] for key in picker.keys] == [3, 3]
    radius.fill("2")
    radius.press("Enter")
    assert [key["radius"] for key in picker.keys] == [2, 3]
    read_camera_keys(picker.text)
    radius.fill("")
    radius.press("Enter")
    assert all("radius" not in key for key in picker.keys)


@pytest.mark.parametrize("how", ["node.widget('keys').value = text", "node.configure([text, 0])"])
def test_follows_changes_from_outside(open_picker: Open, how: str) -> None:
    picker = open_picker()
    picker.page.mouse.move(*picker.at(0.4, 0.4))
    picker.page.mouse.down()  # a gesture under way is dropped
    picker.page.evaluate(f"(text) => {{ {how}; }}", keys_text({"yaw_deg": 77}, {"yaw_deg": 5}, {"yaw_deg": 6}))
    picker.page.mouse.up()
    assert [key["yaw_deg"] for key in picker.keys] == [77, 5, 6]
    assert picker.page.locator(".nvb-keys button").count() == 3
    picker.page.locator(".nvb-keys button").first.click()
    assert picker.number("yaw_deg").input_value() == "77"
    assert picker.steps == []
    picker.page.evaluate("node.widget('keys').value = 'broken'")
    assert "not JSON" in picker.problem


def test_the_text_is_the_only_thing_saved(open_picker: Open) -> None:
    picker = open_picker(views=6)
    picker.drag((0.2, 0.2), (0.2, 0.2))
    assert picker.page.evaluate("node.serialize()") == [picker.text, 6]
    assert picker.page.evaluate("node.widget('picker').options.serialize") is False
    assert picker.page.evaluate("[node.widget('keys').hidden, node.widget('keys').options.hidden]") == [True, True]
    assert picker.page.evaluate("node.widget('keys').y === node.widget('picker').y")  # where its input socket is


def test_linked_keys_are_not_edited(open_picker: Open) -> None:
    picker = open_picker()
    text = picker.text
    picker.page.evaluate("() => { node.inputs[0].link = 3; node.onConnectionsChange(); }")
    assert "come from the node" in picker.problem
    picker.drag((0.2, 0.2), (0.3, 0.2))
    assert picker.text == text
    picker.page.evaluate("() => { node.inputs[0].link = null; node.onConnectionsChange(); }")
    picker.drag((0.2, 0.2), (0.3, 0.2))
    assert len(picker.keys) == 2


def test_a_removed_node_leaves_nothing_behind(page: Any, address: str) -> None:
    page.add_init_script(
        """
        window.watching = new Set();
        for (const name of ['ResizeObserver', 'MutationObserver']) {
          const Original = window[name];
          window[name] = class extends Original {
            observe(...args) { watching.add(this); return super.observe(...args); }
            disconnect() { watching.delete(this); return super.disconnect(); }
          };
        }
        window.wheels = 0;
        for (const [name, step] of [['addEventListener', 1], ['removeEventListener', -1]]) {
          const original = window[name];
          window[name] = function (type, ...rest) {
            if (type === 'wheel') wheels += step;
            return original.call(this, type, ...rest);
          };
        }
        """
    )
    page.goto(address)
    page.wait_for_function("window.app")
    before = page.evaluate("[watching.size, wheels]")
    picker = Picker(page, keys_text({"yaw_deg": 0}), 0)
    picker.page.mouse.move(*picker.at(0.4, 0.4), steps=2)
    assert picker.page.evaluate("[watching.size, wheels]") == [before[0] + 2, before[1] + 1]
    picker.page.evaluate("node.remove()")
    assert picker.page.evaluate("[watching.size, wheels]") == before
    picker.page.evaluate("node.add()")  # the same node again, as when it is moved between graphs
    picker.drag((0.2, 0.2), (0.3, 0.2))
    assert len(picker.keys) == 2


def test_keys_may_be_a_multi_line_text(page: Any) -> None:
    """Whose value can be watched only by its callback."""
    page.evaluate("(text) => { window.node = app.createNode(text, 0, true).add(); }", keys_text({"yaw_deg": 0}))
    page.evaluate("(text) => { node.widget('keys').value = text; }", keys_text({"yaw_deg": 1}, {"yaw_deg": 2}))
    assert page.locator(".nvb-keys button").count() == 2
    page.locator("[data-preset=profile]").click()
    assert '"yaw_deg":90' in page.evaluate("node.widget('keys').value")


def test_undo_in_nodes_2_shows_the_new_nodes_picker(open_picker: Open) -> None:
    """There a node made anew is shown in the old one's element."""
    picker = open_picker()
    picker.page.evaluate(
        """(text) => {
          const { box } = node;
          node.onRemoved();
          window.node = app.createNode(text, 0);
          node.graph = {};
          node.box = box;
          node.onAdded();
        }""",
        keys_text({"yaw_deg": 0}, {"yaw_deg": 30}),
    )
    picker.settle()
    assert picker.page.locator(".nvb-picker").count() == 1
    assert picker.page.locator(".nvb-keys button").count() == 2
    picker.drag((0.2, 0.4), (0.3, 0.4))
    assert len(picker.keys) == 3
