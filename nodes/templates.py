"""The pack's workflows, where ComfyUI's template browser asks for them."""

from __future__ import annotations

from pathlib import Path

WORKFLOWS = Path(__file__).parents[1] / "workflows"


def serve_workflows() -> None:
    """Serve `workflows/` as this pack's templates.

    ComfyUI lists the workflows of five folder names but serves only the first one that a pack has, and in a clone of
    the repository `examples/` comes before `workflows/` (`add_routes` of app/custom_node_manager.py). It adds its
    folders after the packs are loaded, and of two equal addresses the first one answers.
    """
    from server import PromptServer

    PromptServer.instance.app.router.add_static(f"/api/workflow_templates/{WORKFLOWS.parent.name}", WORKFLOWS)
