"""How the page looks: fonts and colours of the reader's own system, nothing loaded from elsewhere."""

from __future__ import annotations

import gradio as gr

TITLE = "openmplug: ask about a picture"

CSS = """
.gradio-container { max-width: 72rem !important; margin: 0 auto !important; padding: 0 !important; }
.gradio-container .main.app { padding: 1rem !important; }
.om-tray { display: flex; flex-wrap: wrap; gap: .5rem; padding: .25rem 0; }
.om-tray button { flex: none; padding: 2px; border: 2px solid var(--border-color-primary); border-radius: .5rem; cursor: pointer; }
.om-tray button:hover, .om-tray button:focus-visible { border-color: var(--color-accent); }
.om-tray img { display: block; width: 3.2rem; height: 3.2rem; border-radius: .35rem; margin: 0 !important; }
.om-grid { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 8.5rem), 1fr)); gap: .75rem; margin: .5rem 0; }
.om-grid.om-wide { grid-template-columns: repeat(auto-fill, minmax(min(100%, 16rem), 1fr)); }
.om-grid figure { margin: 0; }
.om-grid img { display: block; width: 100%; border-radius: .4rem; margin: 0 !important; }
.om-grid figcaption { font-size: .9rem; overflow-wrap: anywhere; padding: .15rem 0; }
#preview, #preview .image-frame, #found-picture .image-frame { max-height: 26rem; }
#preview img { max-height: 26rem; object-fit: contain; }
.html-container { padding-top: .25rem !important; padding-bottom: .25rem !important; }
.om-head h1 { font-size: 1.5rem; line-height: 1.2; margin: .25rem 0; }
.om-head p, .om-soft, .om-remark { color: var(--body-text-color-subdued); margin: .15rem 0; }
.om-soft { font-size: .9rem; overflow-wrap: anywhere; }
.om-remark { font-size: .9rem; border-left: 3px solid var(--color-accent); padding-left: .6rem; margin: .5rem 0; }
.om-large { font-size: 1.5rem; line-height: 1.3; font-weight: 600; margin: .25rem 0; overflow-wrap: anywhere; }
.om-error { border: 1px solid #d1242f; border-left-width: 5px; border-radius: .5rem; padding: .6rem .8rem; margin: .4rem 0;
  background: #d1242f1f; overflow-wrap: anywhere; }
.om-bars { list-style: none; padding: 0; margin: .5rem 0; }
.om-bars li { display: grid; grid-template-columns: 1fr auto; gap: .1rem .75rem; margin: .4rem 0; }
.om-bars .om-name { overflow-wrap: anywhere; }
.om-bars .om-bar { grid-column: 1 / -1; }
.om-bars .om-share { font-variant-numeric: tabular-nums; }
.om-bar { display: block; height: .5rem; border-radius: .25rem; background: var(--border-color-primary); }
.om-bar span { display: block; height: 100%; border-radius: .25rem; background: var(--color-accent); min-width: 2px; }
@media (max-width: 640px) {
  .tab-container > button { padding: 0 .6rem !important; }
  #preview, #preview img { max-height: 16rem; }
  .gradio-container .main.app { padding: .5rem !important; }
}
"""


def theme() -> gr.themes.Base:
    """Return the theme: system fonts, quiet colours, light and dark."""
    return gr.themes.Default(
        primary_hue="blue",
        neutral_hue="slate",
        font=[gr.themes.utils.fonts.Font("system-ui"), gr.themes.utils.fonts.Font("sans-serif")],
        font_mono=[gr.themes.utils.fonts.Font("ui-monospace"), gr.themes.utils.fonts.Font("monospace")],
    ).set(
        # Gradio's own greys are too pale to read: 2.6 to 1 against the ground, where 4.5 is the least.
        body_text_color_subdued="*neutral_600",
        body_text_color_subdued_dark="*neutral_300",
        input_placeholder_color="*neutral_500",
        input_placeholder_color_dark="*neutral_400",
    )
