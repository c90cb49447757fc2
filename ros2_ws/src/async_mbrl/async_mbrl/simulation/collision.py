"""Whether the arm would touch itself or the floor, by the shapes of its model.

The shapes that count are those which the model lets collide; where it lets none (contacts switched
off, as in free space), all of them. Left out are pairs of links that are neighbours, and those that
are closer than :data:`BUILT_M` at home already: they were built that way.
"""

from __future__ import annotations

import mujoco
import numpy as np

from async_mbrl.core.config import ConfigError
from async_mbrl.core.robot import ArmConfig
from async_mbrl.simulation.model import find_model, load_model

STEP_RAD = 0.05
"""Greatest step of a joint between two poses of a path that are looked at."""

REACTION_S = 0.08
"""Time from a measured pose to the moment at which the arm begins to brake because of it."""

TOLERANCE_M = 1e-4
"""Least difference of two distances that counts."""

BUILT_M = 0.04
"""Distance at home at which two links, or a link and the floor, are never told to be too close."""


class CollisionChecker:
    """Distances between the links of an arm, and to what does not move, in a pose.

    One pose takes some tens of microseconds for an arm of primitive shapes.
    """

    def __init__(self, robot: ArmConfig, margin_m: float, floor_height_m: float = 0.0) -> None:
        """Load the model and find the pairs to look at.

        Args:
            robot: names the model and its joints.
            margin_m: distance that counts as a collision already, m.
            floor_height_m: height of the floor, where the model has no plane, m.

        Raises:
            ConfigError: the model cannot be loaded, or lacks a joint of the robot.
        """
        model = load_model(find_model(robot.model))
        self.margin_m = margin_m
        self._model = model
        self._data = mujoco.MjData(model)
        self._home = np.asarray(robot.home)
        self._braking = np.asarray(robot.limits.braking_acceleration)
        addresses = []
        for name in robot.joint_names:
            index = mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_JOINT, name)
            if index < 0:
                raise ConfigError(f'joint_names: the model {robot.model} has no joint {name!r}')
            addresses.append(int(model.jnt_qposadr[index]))
        self._addresses = np.array(addresses)

        moving = model.body_weldid[model.geom_bodyid] != 0
        shapes = self._shapes(moving) | self._shapes(~moving)
        model.geom_contype[:] = shapes
        model.geom_conaffinity[:] = shapes
        model.geom_margin[:] = max(margin_m, BUILT_M)
        model.geom_gap[:] = 0.0
        model.body_contype[:] = model.body_conaffinity[:] = 1
        model.body_margin[:] = max(margin_m, BUILT_M)
        # What touches is filtered here; the model itself may have contacts switched off.
        model.opt.disableflags &= ~int(mujoco.mjtDisableBit.mjDSBL_CONTACT)
        self._ignored = np.zeros((model.nbody, model.nbody), bool)
        self._body: list[int] = model.geom_bodyid.tolist()
        # Where there is no plane, the height of the lowest corner of the box around a shape is
        # looked at.
        planes = model.geom_type == mujoco.mjtGeom.mjGEOM_PLANE
        floorless = not (planes & shapes).any()
        self._over_floor = np.flatnonzero(moving & shapes) if floorless else np.zeros(0, int)
        self._floor_m = floor_height_m
        self._pose(self._home)
        pairs: set[str] = set()
        for contact in self._data.contact[:self._data.ncon]:
            if contact.dist < BUILT_M:
                first, second = (self._body[geom] for geom in contact.geom)
                self._ignored[first, second] = self._ignored[second, first] = True
                pairs.add(' and '.join(sorted(self._name(geom) for geom in contact.geom)))
        high = self._heights() >= BUILT_M
        pairs |= {f'{self._name(geom)} and floor' for geom in self._over_floor[~high]}
        self._over_floor = self._over_floor[high]
        self.ignored = tuple(sorted(pairs))
        """Pairs that are so close at home that they are left out, neighbours apart."""

    def clearance(self, position: np.ndarray) -> float:
        """Give the least distance in a pose (n,), rad; at most the margin, below 0 inside, m."""
        return self._look(position)[0]

    def flaw(self, position: np.ndarray) -> str:
        """Say which links are closer than the margin in a pose (n,), rad; empty if none are."""
        return self._look(position)[1]

    def path_flaw(self, start: np.ndarray, end: np.ndarray) -> str:
        """Say what a straight way in joint space would hit, empty if nothing.

        Moves of minimum jerk go such a way. One that begins closer than the margin may lead out,
        but not closer.

        Args:
            start: where it begins (n,), rad.
            end: where it ends (n,), rad.
        """
        allowed = self.clearance(start)
        steps = max(1, int(np.ceil(np.abs(end - start).max() / STEP_RAD)))
        for step in range(1, steps + 1):
            distance, what = self._look(start + (end - start) * (step / steps))
            if distance < min(allowed, self.margin_m) - TOLERANCE_M:
                return what
            allowed = max(allowed, distance)
        return ''

    def ahead_flaw(self, position: np.ndarray, velocity: np.ndarray) -> str:
        """Say what a moving arm would hit even if it braked now, empty if nothing.

        An arm that is closer than the margin, but on its way out, is left alone.

        Args:
            position: where it is (n,), rad.
            velocity: how fast it is (n,), rad/s.
        """
        stop = position + velocity * (REACTION_S + np.abs(velocity) / (2.0 * self._braking))
        distance, what = self._look(stop)
        return what if what and distance < self.clearance(position) - TOLERANCE_M else ''

    def _shapes(self, where: np.ndarray) -> np.ndarray:
        """Choose the shapes that count among some."""
        colliding = where & ((self._model.geom_contype != 0)
                             | (self._model.geom_conaffinity != 0))
        return colliding if colliding.any() else where

    def _pose(self, position: np.ndarray) -> None:
        self._data.qpos[:] = self._model.qpos0
        self._data.qpos[self._addresses] = position
        mujoco.mj_kinematics(self._model, self._data)
        mujoco.mj_collision(self._model, self._data)

    def _look(self, position: np.ndarray) -> tuple[float, str]:
        self._pose(position)
        nearest, pair = self.margin_m, None
        count = self._data.ncon
        if count:
            contacts = self._data.contact
            for (first, second), distance in zip(contacts.geom[:count].tolist(),
                                                 contacts.dist[:count].tolist(), strict=True):
                if distance < nearest and not self._ignored[self._body[first],
                                                            self._body[second]]:
                    nearest, pair = distance, (first, second)
        what = ''
        if pair is not None:
            what = ' and '.join(self._name(geom) for geom in pair)
        if self._over_floor.size:
            heights = self._heights()
            lowest = int(heights.argmin())
            if heights[lowest] < nearest:
                nearest = float(heights[lowest])
                what = f'{self._name(self._over_floor[lowest])} and floor'
        return nearest, f'{what} are {1e3 * nearest:.0f} mm apart' if what else ''

    def _heights(self) -> np.ndarray:
        """Give the heights over the floor of the boxes around shapes, m."""
        model, which = self._model, self._over_floor
        vertical = self._data.geom_xmat[which, 6:9]
        centre, half = model.geom_aabb[which, :3], model.geom_aabb[which, 3:]
        lowest = (self._data.geom_xpos[which, 2] + (vertical * centre).sum(1)
                  - (np.abs(vertical) * half).sum(1))
        return np.asarray(lowest - self._floor_m)

    def _name(self, geom: int) -> str:
        body = self._model.body(int(self._model.geom_bodyid[geom])).name
        return self._model.geom(int(geom)).name or body or f'shape {geom}'
