"""Turning matplotlib's SVG into a small, deterministic piece of a page under a strict content security policy.

A policy without `unsafe-inline` refuses `style="..."` attributes, and matplotlib writes nothing else. So styles
become presentation attributes, the colours of the palette become classes (which lets the page's style sheet own
light, dark and print), ids are made unique per chart, and metadata, fonts and comments go.
"""

import re
import xml.etree.ElementTree as ET

_SVG = "{http://www.w3.org/2000/svg}"
_XLINK = "{http://www.w3.org/1999/xlink}href"
_REFERENCE = re.compile(r"url\(#([^)]+)\)|^#(.+)$")
_DECIMALS = re.compile(r"-?\d+\.\d{3,}")
_DROPPED = frozenset({"font-family", "font", "stroke-linejoin", "text-decoration"})
PALETTE = {
    "#1b2430": "ink",
    "#566273": "muted",
    "#d5dbe3": "grid",
    "#0b5fa5": "skip",
    "#737d8c": "dense",
    "#b4540a": "warn",
    "#6d3fc4": "rival",
    "#0f7a55": "good",
    "#ffffff": "paper",
}
"""Colour -> class suffix; `style.css` gives `.f-NAME` and `.s-NAME` their fill and stroke."""


def inline_svg(source: str, name: str, title: str, description: str) -> str:
    """The SVG as an element to put into HTML.

    Args:
        source: complete SVG document as matplotlib writes it.
        name: chart name, ASCII; prefix of every id.
        title: accessible name.
        description: what a reader who cannot see the chart needs to know.
    """
    # The input is matplotlib's own output of this process, never a file from outside.
    root = ET.fromstring(source)
    _drop(root)
    referenced = {found for node in root.iter() for found in _references(node)}
    for node in root.iter():
        _restyle(node, name, referenced)
    _unwrap(root)
    for key in ("width", "height", "version"):
        root.attrib.pop(key, None)
    root.set("role", "img")
    root.set("aria-labelledby", f"{name}-title {name}-desc")
    for position, (tag, text) in enumerate((("title", title), ("desc", description))):
        node = ET.Element(_SVG + tag, {"id": f"{name}-{tag}"})
        node.text = text
        root.insert(position, node)
    ET.register_namespace("", _SVG[1:-1])
    text = ET.tostring(root, encoding="unicode")
    return text.replace(' xmlns:xlink="http://www.w3.org/1999/xlink"', "")


def _drop(node: ET.Element) -> None:
    for child in list(node):
        if child.tag in {_SVG + "style", _SVG + "metadata"}:
            node.remove(child)
        else:
            _drop(child)
        child.tail = None
    if node.tag != _SVG + "text":
        node.text = None


def _references(node: ET.Element) -> list[str]:
    values = [node.get(_XLINK, ""), node.get("clip-path", ""), node.get("style", "")]
    return [match[1] or match[2] for value in values for match in _REFERENCE.finditer(value)]


def _restyle(node: ET.Element, name: str, referenced: set[str]) -> None:
    classes: list[str] = []
    for declaration in node.attrib.pop("style", "").split(";"):
        prop, _, value = (part.strip() for part in declaration.partition(":"))
        colour = PALETTE.get(value)
        if not prop or prop in _DROPPED:
            continue
        if colour and prop in {"fill", "stroke"}:
            classes.append(f"{prop[0]}-{colour}")
        else:
            node.set(prop, value)
    identity = node.attrib.pop("id", "")
    if identity in referenced:
        node.set("id", f"{name}-{identity}")
    elif identity.startswith("point-"):
        node.set("data-point", identity.removeprefix("point-"))
        classes.append("point")
    if classes:
        node.set("class", " ".join(classes))
    target = node.attrib.pop(_XLINK, None)
    if target:
        node.set("href", f"#{name}-{target[1:]}")
    if "clip-path" in node.attrib:
        node.set("clip-path", node.attrib["clip-path"].replace("#", f"#{name}-"))
    if node.get("transform", "").startswith("rotate(-0 "):
        del node.attrib["transform"]
    for key in ("d", "x", "y", "width", "height", "transform", "points"):
        if key in node.attrib:
            shorter = _DECIMALS.sub(lambda match: f"{float(match[0]):.2f}", node.attrib[key])
            node.set(key, " ".join(shorter.split()))


def _unwrap(node: ET.Element) -> None:
    """Replace groups that carry nothing by their children."""
    children: list[ET.Element] = []
    for child in list(node):
        _unwrap(child)
        node.remove(child)
        children.extend(list(child) if child.tag == _SVG + "g" and not child.attrib else [child])
    node.extend(children)
