"""Builds API prompts from what the server says of its node classes: sockets are wired by type, widgets by default."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tests.comfyui.client import Prompt

WIDGET_TYPES = ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO")


@dataclass(frozen=True)
class Node:
    """A node of a graph, to be wired into later ones."""

    id: str
    outputs: tuple[str, ...]
    """The types of its outputs."""

    def output(self, kind: str) -> Output:
        """Its first output of this type alone."""
        return Output(self.id, self.outputs.index(kind), kind)

    def all_outputs(self) -> list[Output]:
        return [Output(self.id, index, kind) for index, kind in enumerate(self.outputs)]


@dataclass(frozen=True)
class Output:
    """One output of a node."""

    node: str
    index: int
    kind: str

    def link(self) -> list[Any]:
        return [self.node, self.index]


@dataclass(frozen=True)
class InputSpec:
    """What a node class says of one of its inputs."""

    name: str
    kind: str
    required: bool
    options: dict[str, Any]

    @property
    def is_widget(self) -> bool:
        return self.kind in WIDGET_TYPES and not self.options.get("forceInput")

    @property
    def choices(self) -> list[Any]:
        return list(self.options["options"])

    def default(self) -> Any:
        """What the frontend would fill in."""
        if "default" in self.options:
            return self.options["default"]
        return self.choices[0] if self.kind == "COMBO" else {"STRING": "", "BOOLEAN": False}.get(self.kind, 0)


def input_specs(description: dict[str, Any]) -> list[InputSpec]:
    """The inputs of a node class in order. Old and new ways to declare a combo come out equal."""
    specs = []
    for group in ("required", "optional"):
        for name, (kind, *rest) in description["input"].get(group, {}).items():
            options = dict(rest[0]) if rest else {}
            if isinstance(kind, list):
                kind, options["options"] = "COMBO", kind
            specs.append(InputSpec(name, kind, group == "required", options))
    return specs


class Graph:
    """A prompt under construction."""

    def __init__(self, object_info: dict[str, Any]) -> None:
        self.object_info = object_info
        self.prompt: Prompt = {}

    def add(self, class_type: str, *sources: Node | Output, **inputs: Any) -> Node:
        """Add a node: `inputs` by name (a value, a Node or an Output), the other sockets from `sources` by type."""
        description = self.object_info[class_type]
        offered = [
            out for source in sources for out in (source.all_outputs() if isinstance(source, Node) else [source])
        ]
        specs = input_specs(description)
        if unknown := inputs.keys() - {spec.name for spec in specs}:
            raise KeyError(f"{class_type} has no input {sorted(unknown)}; it has {[spec.name for spec in specs]}")
        filled: dict[str, Any] = {}
        for spec in specs:
            value = self._value(class_type, spec, inputs, offered)
            if value is not None:
                filled[spec.name] = value
        node = Node(str(len(self.prompt) + 1), tuple(description["output"]))
        self.prompt[node.id] = {"class_type": class_type, "inputs": filled}
        return node

    def _value(self, class_type: str, spec: InputSpec, inputs: dict[str, Any], offered: list[Output]) -> Any:
        if spec.name in inputs:
            value = inputs[spec.name]
            if isinstance(value, Node):
                value = next(out for out in value.all_outputs() if _fits(out.kind, spec.kind))
            return value.link() if isinstance(value, Output) else value
        if spec.is_widget:
            return spec.default()
        for out in offered:
            if _fits(out.kind, spec.kind):
                offered.remove(out)
                return out.link()
        if spec.required:
            raise KeyError(f"{class_type}: nothing of type {spec.kind} is offered for {spec.name}")
        return None


def _fits(kind: str, wanted: str) -> bool:
    return wanted == "*" or kind in wanted.split(",")
