"""A QGIS style for points to label: open ones stand out, and the classes are offered by name."""

from __future__ import annotations

from collections.abc import Mapping
from xml.sax.saxutils import quoteattr


def point_style(classes: Mapping[int, str]) -> str:
    """The text of a QML whose form offers `classes` (value → name) for the field `reference`."""
    entries = "\n".join(
        f'          <Option type="Map"><Option name={quoteattr(name)} type="QString" value="{value}"/></Option>'
        for value, name in classes.items()
    )
    return f"""<!DOCTYPE qgis PUBLIC 'http://mrcc.com/qgis.dtd' 'SYSTEM'>
<qgis version="3.22" styleCategories="Symbology|Fields|Forms">
  <fieldConfiguration>
    <field name="reference" configurationFlags="None">
      <editWidget type="ValueMap"><config><Option type="Map">
        <Option name="map" type="List">
{entries}
        </Option>
      </Option></config></editWidget>
    </field>
    <field name="note" configurationFlags="None">
      <editWidget type="TextEdit"><config><Option/></config></editWidget>
    </field>
  </fieldConfiguration>
  <renderer-v2 type="RuleRenderer" symbollevels="0" enableorderby="0">
    <rules key="all">
      <rule key="open" symbol="0" label="to label" filter="&quot;reference&quot; IS NULL"/>
      <rule key="done" symbol="1" label="labelled" filter="ELSE"/>
    </rules>
    <symbols>
{_cross("0", "227,26,28,255")}
{_cross("1", "128,128,128,255")}
    </symbols>
  </renderer-v2>
  <blendMode>0</blendMode>
</qgis>
"""


def _cross(name: str, color: str) -> str:
    """A cross, which hides nothing of the pixel's middle."""
    options = "".join(
        f'<Option name="{key}" type="QString" value="{value}"/>'
        for key, value in (
            ("name", "cross2"),
            ("color", color),
            ("outline_color", color),
            ("outline_width", "0.6"),
            ("size", "4"),
        )
    )
    return (
        f'      <symbol type="marker" name="{name}" alpha="1" clip_to_extent="1">'
        f'<layer class="SimpleMarker" enabled="1" pass="0" locked="0"><Option type="Map">{options}</Option></layer></symbol>'
    )
