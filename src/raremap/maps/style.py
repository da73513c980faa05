"""QGIS styles: class maps and polygons by name and colour as the label scheme says them, quantities by shade."""

from __future__ import annotations

from collections.abc import Sequence
from xml.sax.saxutils import quoteattr

from raremap.labels import LabelScheme

_HEAD = "<!DOCTYPE qgis PUBLIC 'http://mrcc.com/qgis.dtd' 'SYSTEM'>"


def qml(scheme: LabelScheme) -> str:
    """The text of a `.qml` file, which QGIS applies to the map of the same name beside it."""
    return paletted(scheme.values, scheme.names, scheme.palette)


def paletted(values: Sequence[int], names: Sequence[str], colors: Sequence[str]) -> str:
    """The style of a class raster, from values, names and colours `#RRGGBB`."""
    entries = "\n".join(
        f'      <paletteEntry value="{value}" color="{color}" label={quoteattr(name)} alpha="255"/>'
        for value, color, name in zip(values, colors, names, strict=True)
    )
    return f"""{_HEAD}
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


def shaded(first: str, last: str, most: float = 1.0) -> str:
    """The style of a quantity from 0 to `most` (scale applied), from the colour `first` to `last`."""
    stops = [(0.0, first), (most, last)]
    items = "\n".join(
        f'        <item value="{v:g}" color="{c}" label="{v:g}" alpha="255"/>' for v, c in stops
    )
    return f"""{_HEAD}
<qgis version="3.22" styleCategories="Symbology">
  <pipe>
    <rasterrenderer type="singlebandpseudocolor" band="1" opacity="1" alphaBand="-1" nodataColor=""
        classificationMin="0" classificationMax="{most:g}">
    <rasterTransparency/>
    <rastershader>
      <colorrampshader colorRampType="INTERPOLATED" classificationMode="1" clip="0" minimumValue="0"
          maximumValue="{most:g}">
{items}
      </colorrampshader>
    </rastershader>
    </rasterrenderer>
  </pipe>
  <blendMode>0</blendMode>
</qgis>
"""


def categorized(attribute: str, names: Sequence[str], colors: Sequence[str]) -> str:
    """The style of polygons whose `attribute` is one of `names`, each filled with its colour."""
    categories = "\n".join(
        f'      <category render="true" symbol="{i}" value={quoteattr(name)} label={quoteattr(name)} type="string"/>'
        for i, name in enumerate(names)
    )
    symbols = "\n".join(_fill(i, color) for i, color in enumerate(colors))
    return f"""{_HEAD}
<qgis version="3.22" styleCategories="Symbology">
  <renderer-v2 type="categorizedSymbol" attr="{attribute}" symbollevels="0" enableorderby="0" forceraster="0">
    <categories>
{categories}
    </categories>
    <symbols>
{symbols}
    </symbols>
  </renderer-v2>
  <blendMode>0</blendMode>
  <layerGeometryType>2</layerGeometryType>
</qgis>
"""


def _fill(number: int, color: str) -> str:
    rgb = ",".join(str(int(color[i : i + 2], 16)) for i in (1, 3, 5))
    options = {"color": f"{rgb},255", "style": "solid", "outline_color": "35,35,35,255",
               "outline_style": "solid", "outline_width": "0.1", "outline_width_unit": "MM"}  # fmt: skip
    listed = "\n".join(
        f'            <Option name="{k}" type="QString" value="{v}"/>' for k, v in options.items()
    )
    return f"""      <symbol name="{number}" type="fill" alpha="1" clip_to_extent="1" force_rhr="0">
        <layer class="SimpleFill" enabled="1" pass="0" locked="0">
          <Option type="Map">
{listed}
          </Option>
        </layer>
      </symbol>"""
