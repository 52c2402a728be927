from __future__ import annotations

import asyncio

from tests.nodes.conftest import ROOT, Pack


def test_workflows_are_served_as_templates(pack: Pack) -> None:
    """ComfyUI itself would serve `examples/`. That ours come first is seen in tests/comfyui."""
    pack.server.static.clear()
    asyncio.run(pack.root.comfy_entrypoint())
    assert pack.server.static == {f"/api/workflow_templates/{ROOT.name}": ROOT / "workflows"}
