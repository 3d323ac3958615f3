"""Pictures of a four-room grid."""

from __future__ import annotations

import numpy as np
import torch

from torchrl_recall.envs import FourRoomsEnv
from torchrl_recall.envs.four_rooms.drawing import draw


def test_pictures_show_walls_goal_agent_values_and_traces():
    env = FourRoomsEnv(5, start=(1, 1), batch_size=[1])
    plain = env.render(pixels=8)
    assert plain.shape == (40, 40, 3)
    assert plain.dtype == np.uint8
    assert (plain[:8] == 0).all()  # the wall
    assert (plain[24:32, 24:32] == (60, 170, 90)).all()  # the goal
    assert (plain[8:16, 8:16] == 255).all()
    agent = env.render(env.reset(), pixels=8)
    assert (agent[12, 12] == (240, 140, 30)).all()
    values = torch.zeros(25)
    values[7] = 3.0
    shaded = env.render(values=values, traces=torch.tensor([[8]]), pixels=8)
    assert (shaded[8:16, 16:24] == (33, 82, 165)).all()
    assert (shaded[12, 28] == (200, 40, 60)).all()


def test_infinite_values_are_white_and_hide_no_others():
    layout = FourRoomsEnv(11).layout
    distances = layout.distances()  # infinite at walls
    image = draw(layout, values=distances)
    finite = draw(layout, values=distances.nan_to_num(posinf=0.0))
    assert np.array_equal(image, finite)
    assert len(np.unique(image.reshape(-1, 3), axis=0)) > 10
