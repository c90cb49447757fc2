"""Installs the package async_mbrl, its executables and the files that launching needs."""

from collections import defaultdict
from pathlib import Path

from setuptools import find_packages, setup

PACKAGE = 'async_mbrl'
NODES = ('sim_bridge', 'controller', 'guard', 'robot_interface', 'model_learner', 'policy_learner',
         'planner', 'teleop')


def assets(*folders: str) -> list[tuple[str, list[str]]]:
    """Give the files below some folders, to be installed at the same place in share/."""
    found = defaultdict(list)
    for folder in folders:
        for path in sorted(Path(folder).rglob('*')):
            if path.is_file() and '__pycache__' not in path.parts:
                found[f'share/{PACKAGE}/{path.parent}'].append(str(path))
    return list(found.items())


setup(
    name=PACKAGE,
    version='0.1.0',
    description='Asynchronous model-based reinforcement learning on the live ROS 2 graph',
    maintainer='async_mbrl maintainers',
    maintainer_email='maintainers@async-mbrl.org',
    license='Apache-2.0',
    packages=find_packages(include=[PACKAGE, f'{PACKAGE}.*']),
    package_data={PACKAGE: ['py.typed']},
    data_files=[
        ('share/ament_index/resource_index/packages', [f'resource/{PACKAGE}']),
        (f'share/{PACKAGE}', ['package.xml']),
        *assets('launch', 'config', 'sim'),
    ],
    python_requires='>=3.10',
    install_requires=['setuptools'],
    extras_require={'test': ['pytest']},
    zip_safe=False,
    entry_points={
        'console_scripts': [
            *(f'{node} = {PACKAGE}.nodes.{node}:main' for node in NODES),
            f'async-mbrl = {PACKAGE}.cli:main',
        ],
    },
)
