"""Tool points from joint positions for imagined rollouts, with their gradient in closed form."""

from __future__ import annotations

from typing import Any

import torch

from async_mbrl.core.kinematics import KinematicChain, ToolKinematics


class ToolPoints:
    """The points of :class:`ToolKinematics`, as a torch function that is cheap to differentiate.

    A revolute joint i with world axis a_i through o_i moves a point p by a_i x (p - o_i), so a
    gradient g of the points goes back to joint i as a_i . sum((p - o_i) x g). That needs the frames
    of all joints, which the forward pass forms anyway, and is about ten operations where the
    recorded graph of the product has a hundred.
    """

    def __init__(self, chain: KinematicChain) -> None:
        """Build the constants."""
        constant, sine, cosine, tool = ToolKinematics(chain, torch).constants
        joints = chain.joints
        self.constant = constant.reshape(joints, 1, 16)
        self.turn = torch.stack([sine, cosine], 1).reshape(joints, 2, 16)
        self.tool = tool
        axes = torch.tensor(chain.joint_axes).view(joints, 3)
        self.axes = (axes / axes.norm(dim=1, keepdim=True)).t()[:, :, None].contiguous()
        # e[i, j, k] = 1 for even, -1 for odd permutations: (a x b)_k = a_i b_j e[i, j, k].
        permutation = torch.zeros(3, 3, 3)
        for first, second, third in ((0, 1, 2), (1, 2, 0), (2, 0, 1)):
            permutation[first, second, third] = 1.0
            permutation[second, first, third] = -1.0
        self.cross_of_outer = permutation.reshape(9, 3)
        self.cross_matrix = permutation.transpose(0, 1).reshape(3, 9)

    def __call__(self, position: torch.Tensor) -> torch.Tensor:
        """Tool points (..., 3 * points), m, of joint positions (..., joints), rad."""
        return _ToolPoints.apply(position, self)

    def frames(self, position: torch.Tensor) -> list[torch.Tensor]:
        """World frame (rows, 4, 4) of each joint, turned by its own angle; positions (rows, n)."""
        angle = position.t()
        turned = torch.baddbmm(self.constant, torch.stack([angle.sin(), angle.cos()], -1),
                               self.turn).view(len(angle), -1, 4, 4)
        frames = [turned[0]]
        for link in turned[1:]:
            frames.append(torch.bmm(frames[-1], link))
        return frames


class _ToolPoints(torch.autograd.Function):
    """Forward and backward of :class:`ToolPoints`."""

    @staticmethod
    def forward(ctx: Any, position: torch.Tensor, kinematics: ToolPoints) -> torch.Tensor:
        frames = kinematics.frames(position.reshape(-1, position.shape[-1]))
        points = (frames[-1][:, :3] @ kinematics.tool).transpose(1, 2)
        if position.requires_grad:
            ctx.kinematics = kinematics
            ctx.save_for_backward(torch.stack(frames, 1), points)
        return points.reshape(*position.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        gradient = gradients[0]
        frames, points = ctx.saved_tensors
        kinematics = ctx.kinematics
        force = gradient.reshape(points.shape)
        moment = torch.bmm(points.transpose(1, 2), force).view(-1, 9) @ kinematics.cross_of_outer
        force = force.sum(1)
        # The axis does not change when the joint turns about it.
        x, y, z = kinematics.axes
        axes = frames[:, :, :3, 0] * x + frames[:, :, :3, 1] * y + frames[:, :, :3, 2] * z
        # (o x f) for the origin of each joint, as a product with the matrix of f.
        cross = (force @ kinematics.cross_matrix).view(-1, 3, 3)
        about_joint = torch.baddbmm(moment[:, None], frames[:, :, :3, 3], cross, alpha=-1)
        joint_gradient = (axes * about_joint).sum(-1)
        return joint_gradient.view(*gradient.shape[:-1], -1), None
