"""A QGIS style for a class map: class names and colours as the label scheme says them."""

from __future__ import annotations

from xml.sax.saxutils import quoteattr

from raremap.labels import LabelScheme


def qml(scheme: LabelScheme) -> str:
    """The text of a `.qml` file, which QGIS applies to the map of the same name beside it."""
    entries = "\n".join(
        f'      <paletteEntry value="{value}" color="{color}" label={quoteattr(name)} alpha="255"/>'
        for value, color, name in zip(scheme.values, scheme.palette, scheme.names, strict=True)
    )
    return f"""<!DOCTYPE qgis PUBLIC 'http://mrcc.com/qgis.dtd' 'SYSTEM'>
<qgis version="3.22" styleCategories="Symbology">
  <pipe>
    <rasterrenderer type="paletted" band="1" opacity="1" alphaBand="-1" nodataColor="">
    <rasterTransparency/>
    <colorPalette>
{entries}
    </colorPalette>
    </rasterrenderer>
  </pipe>
  <blendMode>0</blendMode>
</qgis>
"""
