"""What a user of ComfyUI's API does: upload, queue, listen, interrupt, fetch the pictures."""

from __future__ import annotations

import io
import json
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import requests
import websocket
from PIL import Image

from tests.comfyui.server import Server

Prompt = dict[str, dict[str, Any]]
"""The API form of a graph: {node id: {"class_type": ..., "inputs": {...}}}."""
REQUEST_TIMEOUT_S = 60
LISTEN_TIMEOUT_S = 1.0


class RejectedError(AssertionError):
    """The server didn't accept a prompt, or not all of it."""

    def __init__(self, answer: dict[str, Any]) -> None:
        super().__init__(json.dumps(answer, indent=1)[:4000])
        self.node_errors: dict[str, Any] = answer.get("node_errors") or {}


@dataclass
class Result:
    """How a prompt has ended."""

    prompt: Prompt
    status: str
    """execution_success, execution_error or execution_interrupted."""
    detail: dict[str, Any]
    """The server's last message: of an error its node_id, node_type, exception_type and exception_message."""
    ran: list[str]
    """Node ids that were computed, in order; the others came from the cache."""
    previews: int
    """Preview pictures that came while it ran."""
    outputs: dict[str, dict[str, Any]]
    """What the output nodes show, by node id."""
    seconds: float

    def classes_run(self) -> list[str]:
        """Class names of the nodes that were computed."""
        return [self.prompt[node]["class_type"] for node in self.ran if node in self.prompt]

    def shown(self, class_type: str) -> dict[str, Any]:
        """What the only node of this class shows."""
        (found,) = (out for node, out in self.outputs.items() if self.prompt[node]["class_type"] == class_type)
        return found


@dataclass
class Running:
    """A prompt in the queue, with the server's messages about it."""

    client: Client
    socket: websocket.WebSocket
    prompt: Prompt
    prompt_id: str
    started: float = field(default_factory=time.monotonic)
    ran: list[str] = field(default_factory=list)
    steps: dict[str, int] = field(default_factory=dict)
    """Steps that a node has made, by node id."""
    previews: int = 0
    end: tuple[str, dict[str, Any]] | None = None

    def wait_for_steps(self, node: str, steps: int, timeout_s: float = 120) -> None:
        """Wait until a node has made so many steps."""
        for _ in self._messages(timeout_s):
            if self.steps.get(node, 0) >= steps:
                return
        raise self.client.server.error(f"the prompt ended before node {node} made {steps} steps: {self.end}")

    def finish(self, timeout_s: float = 120) -> Result:
        """Wait for the end, however it ends."""
        for _ in self._messages(timeout_s):
            pass
        assert self.end is not None
        seconds = time.monotonic() - self.started
        outputs = self.client.history(self.prompt_id)["outputs"]
        return Result(self.prompt, *self.end, self.ran, self.previews, outputs, seconds)

    def _messages(self, timeout_s: float) -> Iterator[tuple[str, dict[str, Any]]]:
        """This prompt's messages until its last one."""
        deadline = time.monotonic() + timeout_s
        while self.end is None:
            if time.monotonic() > deadline:
                raise self.client.server.error(f"the prompt didn't end within {timeout_s} s; {self.ran} ran")
            try:
                text = self.socket.recv()
            except websocket.WebSocketTimeoutException:
                self.client.server.check_alive()
                continue
            if isinstance(text, bytes):
                self.previews += 1
                continue
            message = json.loads(text)
            kind, data = message["type"], message["data"]
            if data.get("prompt_id") != self.prompt_id:
                continue
            if kind == "executing" and data["node"] is not None:
                self.ran.append(data["node"])
            if kind == "progress_state":
                self.steps |= {node: int(state["value"]) for node, state in data["nodes"].items()}
            if kind in ("execution_success", "execution_error", "execution_interrupted"):
                self.end = kind, data
            yield kind, data


@dataclass(frozen=True)
class Client:
    """Talks to one server."""

    server: Server

    def get(self, path: str, **parameters: Any) -> requests.Response:
        response = requests.get(f"{self.server.url}{path}", params=parameters, timeout=REQUEST_TIMEOUT_S)
        response.raise_for_status()
        return response

    def post(self, path: str, content: dict[str, Any]) -> requests.Response:
        return requests.post(f"{self.server.url}{path}", json=content, timeout=REQUEST_TIMEOUT_S)

    def object_info(self) -> dict[str, Any]:
        """The server's description of every node class."""
        return dict(self.get("/object_info").json())

    def network_calls(self) -> dict[str, int]:
        """How often each of the pack's networks has been called since the server's start, by class."""
        return dict(self.get("/nvb-probes/calls").json())

    def heavy_modules(self) -> list[str]:
        """Which modules that must not be imported with the pack the server has imported."""
        return list(self.get("/nvb-probes/modules").json())

    def upload(self, path: Path) -> str:
        """Put a picture into the input folder; returns the name that LoadImage knows it by."""
        with path.open("rb") as file:
            answer = requests.post(
                f"{self.server.url}/upload/image", files={"image": (path.name, file)}, timeout=REQUEST_TIMEOUT_S
            )
        answer.raise_for_status()
        return str(answer.json()["name"])

    def history(self, prompt_id: str) -> dict[str, Any]:
        """The record of a finished prompt. It is written just after the last message."""
        return self.wait_for_history(prompt_id, REQUEST_TIMEOUT_S)

    def wait_for_history(self, prompt_id: str, timeout_s: float) -> dict[str, Any]:
        """The record of a prompt that somebody else has queued, when it has finished."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            if entry := self.get(f"/history/{prompt_id}").json().get(prompt_id):
                return dict(entry)
            self.server.check_alive()
            time.sleep(0.05)
        raise self.server.error(f"prompt {prompt_id} didn't finish within {timeout_s} s")

    def interrupt(self) -> None:
        self.post("/interrupt", {}).raise_for_status()

    @contextmanager
    def start(self, prompt: Prompt) -> Iterator[Running]:
        """Queue a prompt and listen. Raises RejectedError unless every node of it is valid."""
        name = uuid.uuid4().hex
        socket = websocket.create_connection(f"{self.server.url.replace('http', 'ws')}/ws?clientId={name}")
        try:
            socket.settimeout(LISTEN_TIMEOUT_S)
            # Preview pictures only go to clients that say they understand them.
            features = {"type": "feature_flags", "data": {"supports_preview_metadata": True}}
            socket.send(json.dumps(features))
            response = self.post("/prompt", {"prompt": prompt, "client_id": name})
            answer = response.json()
            if not response.ok or answer["node_errors"]:
                raise RejectedError(answer)
            yield Running(self, socket, prompt, answer["prompt_id"])
        finally:
            socket.close()

    def run(self, prompt: Prompt, timeout_s: float = 120) -> Result:
        """Queue a prompt and wait for its end, however it ends."""
        with self.start(prompt) as running:
            return running.finish(timeout_s)

    def run_well(self, prompt: Prompt, timeout_s: float = 120) -> Result:
        """Queue a prompt that must succeed."""
        result = self.run(prompt, timeout_s)
        if result.status != "execution_success":
            raise self.server.error(f"{result.status}: {json.dumps(result.detail, indent=1, default=str)[:3000]}")
        return result

    def pictures(self, result: Result, class_type: str | None = None) -> list[np.ndarray]:
        """The pictures (H, W, channels) that output nodes show, of one class or all."""
        return [
            self.picture(entry)
            for node, shown in result.outputs.items()
            if class_type in (None, result.prompt[node]["class_type"])
            for entry in shown.get("images", [])
            if not shown.get("animated", [False])[0]
        ]

    def picture(self, entry: dict[str, str]) -> np.ndarray:
        """One picture by the entry that an output node shows."""
        content = self.get("/view", **entry).content
        with Image.open(io.BytesIO(content)) as image:
            return np.asarray(image.convert("RGB") if image.mode == "P" else image)
