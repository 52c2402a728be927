from __future__ import annotations

import asyncio

from tests.nodes.conftest import ROOT, Pack


def test_every_file_of_the_workflows_has_a_route(pack: Pack) -> None:
    """ComfyUI itself would look into `examples/`. What the routes send is seen in tests/comfyui."""
    pack.server.routes.clear()
    asyncio.run(pack.root.comfy_entrypoint())
    names = [path.name for path in (ROOT / "workflows").iterdir()]
    assert "01 Quick start.json" in names
    expected = {f"/workflow_templates/{ROOT.name}/{name.replace(' ', '%20').replace(',', '%2C')}" for name in names}
    assert pack.server.routes.keys() == expected
