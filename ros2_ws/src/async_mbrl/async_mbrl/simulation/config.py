"""Settings of the simulated plant; no simulator is needed to read or check them."""

from __future__ import annotations

from dataclasses import dataclass

from async_mbrl.core.config import ConfigError, param


@dataclass(frozen=True)
class PlantConfig:
    """What is simulated, and how far it is from ideal."""

    physics_rate_hz: float = param('physics steps a second, Hz', 500.0, minimum=20.0,
                                   maximum=5000.0)
    state_rate_hz: float = param('joint states published a second, Hz; divides physics_rate_hz',
                                 500.0, minimum=1.0, maximum=5000.0)
    friction_ratio: float = param('dry friction of a joint as a share of friction_reference', 0.1,
                                  minimum=0.0, maximum=2.0)
    friction_reference: tuple[float, ...] = param(
        'torques that friction_ratio refers to, one a joint, N m; none: the action_scale of a '
        'robot with effort commands', (), minimum=0.0)
    armature: tuple[float, ...] = param(
        'inertia of the rotors as the joints feel it, one a joint, kg m^2; none: that of the model',
        (), minimum=0.0)
    position_noise_rad: float = param('standard deviation of measured positions, rad', 0.001,
                                      minimum=0.0)
    velocity_noise_rad_s: float = param('standard deviation of measured velocities, rad/s', 0.01,
                                        minimum=0.0)
    command_latency_s: float = param(
        'from a command to its effect, s; rounded to whole physics steps', 0.02, minimum=0.0,
        maximum=0.5)
    driver_timeout: str = param(
        'what the driver does when commands stop: none keeps the last one, as the forward command '
        'controllers of ros2_control do; hold holds the arm where it is', 'none',
        choices=('none', 'hold'))
    driver_timeout_s: float = param('silence after which driver_timeout strikes, s', 0.1,
                                    minimum=0.01, maximum=10.0)
    position_stiffness: float = param(
        'inner loop of position commands and of holding: torque for an error of 1 rad, as a '
        'multiple of limits.effort', 6.0, minimum=0.0)
    position_damping: float = param(
        'inner loop of position commands and of holding: torque against 1 rad/s, as a multiple of '
        'limits.effort', 0.6, minimum=0.0)
    velocity_gain: float = param(
        'inner loop of velocity commands: torque for an error of 1 rad/s, as a multiple of '
        'limits.effort', 1.2, minimum=0.0)

    def __post_init__(self) -> None:
        ratio = self.physics_rate_hz / self.state_rate_hz
        if ratio < 1.0 or abs(ratio - round(ratio)) > 1e-9:
            raise ConfigError(f'state_rate_hz: {self.state_rate_hz} does not divide '
                              f'physics_rate_hz {self.physics_rate_hz}')
