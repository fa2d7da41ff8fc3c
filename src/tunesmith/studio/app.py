"""The page: six tabs over one studio."""

from __future__ import annotations

import os
from pathlib import Path

# Before Gradio is imported: it must not call anybody, nor ask what its newest version is.
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"

import gradio as gr

from tunesmith.studio.blend_tab import blend_tab
from tunesmith.studio.compare_tab import compare_tab
from tunesmith.studio.data_tab import data_tab
from tunesmith.studio.export_tab import export_tab
from tunesmith.studio.listen_tab import listen_tab
from tunesmith.studio.parts import Studio
from tunesmith.studio.train_tab import train_tab

CSS = Path(__file__).with_name("studio.css")

_KEPT_S = (3600, 86_400)  # how often uploads are looked through, and how old they may get


def theme() -> gr.themes.Base:
    """Fonts that every system has: nothing is fetched."""
    return gr.themes.Base(
        primary_hue=gr.themes.colors.pink,
        font=("system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif"),
        font_mono=("ui-monospace", "Consolas", "monospace"),
    ).set(button_primary_background_fill="*primary_600")


def blocks(studio: Studio) -> gr.Blocks:
    """All tabs, wired to a studio."""
    with gr.Blocks(title="Tunesmith studio", analytics_enabled=False, delete_cache=_KEPT_S) as demo:
        gr.Markdown("# Tunesmith studio")
        with gr.Tabs():
            with gr.Tab("Data", id="data"):
                data_tab(studio, demo)
            for name, build in (
                ("Train", train_tab),
                ("Compare", compare_tab),
                ("Blend", blend_tab),
                ("Listen", listen_tab),
                ("Export", export_tab),
            ):
                with gr.Tab(name, id=name.lower()) as tab:
                    build(studio, demo, tab)
    demo.queue(max_size=64, default_concurrency_limit=4)
    return demo


__all__ = ["CSS", "blocks", "theme"]
