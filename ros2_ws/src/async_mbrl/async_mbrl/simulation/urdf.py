"""URDF for MuJoCo: meshes found, pictures left out, links kept that only carry a tool."""

from __future__ import annotations

import os
from pathlib import Path
from xml.etree import ElementTree

import mujoco

from async_mbrl.core.config import ConfigError
from async_mbrl.core.urdf import parse

_READABLE = ('.stl', '.obj')


def load_urdf(path: Path) -> mujoco.MjSpec:
    """Read a URDF as a MuJoCo model that can still be changed.

    Shapes that are only drawn are left out. Fixed links are kept: tools are fixed to them.

    Raises:
        ConfigError: it is no URDF, or a mesh of a collision shape cannot be found or read.
    """
    try:
        root = parse(path.read_text(errors='strict'))
    except (ConfigError, UnicodeDecodeError) as error:
        raise ConfigError(f'model: {path}: {error}') from None
    for link in root.findall('link'):
        for visual in link.findall('visual'):
            link.remove(visual)
        for mesh in link.iterfind('collision/geometry/mesh'):
            mesh.set('filename', str(_find_mesh(mesh.get('filename', ''), path)))
    for extension in root.findall('mujoco'):
        root.remove(extension)
    extension = ElementTree.SubElement(root, 'mujoco')
    ElementTree.SubElement(extension, 'compiler', {
        'fusestatic': 'false', 'strippath': 'false', 'discardvisual': 'true',
        'balanceinertia': 'true'})
    try:
        return mujoco.MjSpec.from_string(ElementTree.tostring(root, encoding='unicode'))
    except ValueError as error:
        raise ConfigError(f'model: {path} is not a URDF that MuJoCo reads: {error}') from None


def _find_mesh(name: str, urdf: Path) -> Path:
    """Find the file of a mesh: ``package://``, ``file://``, or relative to the URDF.

    Raises:
        ConfigError: it is not there, or of a kind that MuJoCo does not read.
    """
    if name.startswith('package://'):
        package, _, rest = name.removeprefix('package://').partition('/')
        places = [Path(prefix) / 'share' / package / rest for prefix
                  in os.environ.get('AMENT_PREFIX_PATH', '').split(os.pathsep) if prefix]
        remedy = f'source the workspace that holds the package {package}'
    else:
        places = [urdf.parent / name.removeprefix('file://')]
        remedy = 'correct its path'
    for place in places:
        if place.is_file():
            if place.suffix.lower() not in _READABLE:
                raise ConfigError(
                    f'model: {urdf}: collision mesh {place} is not one of '
                    f'{", ".join(_READABLE)}; convert it, or give the link boxes, cylinders or '
                    'spheres instead')
            return place
    listed = ', '.join(map(str, places)) or 'no ament prefix'
    raise ConfigError(f'model: {urdf}: no collision mesh {name}; looked at {listed}; {remedy}, or '
                      'give the link boxes, cylinders or spheres instead')
