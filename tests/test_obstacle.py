"""The point and the obstacle: the expert's law, pairs without an off-by-one, and closed loops."""
import pytest
import torch
from torch import nn

from course_lib import Denoiser, Schedule
from course_lib.lab.data import obstacle
from course_lib.lab.data.obstacle import LIMIT, NEAR, RADIUS, SPEED, demonstrations, expert, run
from course_lib.lab.evaluation.policies import Regression

stay = lambda observation, g: torch.zeros(len(observation), 1, 2)
ahead = lambda observation, g: observation[:, None, 2:] - observation[:, None, :2]


def round_it(side: float):
    """A policy by hand: up (1) or down (-1) to the height 0.7, along, and then to the goal."""
    def policy(observation, g):
        position, goal = observation.split(2, dim=1)
        target = torch.stack([position[:, 0] + 0.05, torch.full((len(position),), side * 0.7)], 1)
        target = torch.where(position[:, :1] > 0.5, goal, target)
        return 10 * (target - position)[:, None]
    return policy


def before_end(episodes) -> torch.Tensor:
    """Which steps were made: (n, LIMIT) bool"""
    return torch.arange(LIMIT) < episodes.time[:, None]


def gusts(episodes) -> torch.Tensor:
    """What moved the point beside its actions: (n, LIMIT, 2)"""
    return episodes.paths.diff(dim=1) - SPEED * episodes.actions


def test_ten_are_the_first_of_a_hundred():
    for few, many in ((expert(10, 3, 0.3), expert(100, 3, 0.3)),
                      (run(round_it(1.0), 10, 3), run(round_it(1.0), 100, 3))):
        for a, b in zip(few, many):
            assert torch.equal(a, b[:10])
    few, many = demonstrations(10, 3), demonstrations(100, 3)
    for name, value in few.items():
        assert torch.equal(value, many[name][: len(value)])
    assert not torch.equal(expert(10, 3).paths, expert(10, 4).paths)


def test_every_policy_meets_the_same_world():
    one, other, shown = run(stay, 50, 2, perturbation=0.3), run(ahead, 50, 2), expert(50, 2)
    for episodes in (other, shown):
        assert torch.equal(one.paths[:, 0], episodes.paths[:, 0])
        assert torch.equal(one.goals, episodes.goals)
    shown = expert(4000)
    starts = shown.paths[:, 0] - torch.tensor([-1.0, 0.0])
    goals = shown.goals - torch.tensor([1.0, 0.0])
    for x in (starts, goals):
        assert x.abs().max() <= 0.1 and x.abs().max() > 0.099
        assert x.mean(0).abs().max() < 4 * 0.1 / (3 * 4000) ** 0.5


def test_the_side_is_a_fair_coin_and_the_start_does_not_load_it():
    n = 4000
    episodes = expert(n)
    assert episodes.success.all() and not episodes.touched.any() and (episodes.side != 0).all()
    side = episodes.side.double()
    assert side.mean().abs() < 4 / n**0.5
    for place in (episodes.paths[:, 0], episodes.goals):
        for x in place.double().T:
            assert ((x - x.mean()) / x.std() * side).mean().abs() < 4 / n**0.5
    middle = episodes.paths[:, :, 0].abs() < 0.05
    height = torch.where(middle, episodes.paths[:, :, 1], torch.nan).nanmean(1)
    seen = ~height.isnan()
    assert torch.equal(height.sign()[seen], episodes.side[seen].float())    # left is above


def test_the_expert_varies_in_distance_and_pace():
    episodes = expert(4000)
    distance = episodes.paths.norm(dim=2).amin(1) - RADIUS
    low, middle, high = distance.quantile(torch.tensor([0.01, 0.5, 0.99])).tolist()
    assert 0.08 < low < 0.11 and abs(middle - 0.175) < 0.01 and 0.24 < high < 0.27
    length = episodes.actions[:, :10].norm(dim=2).mean(1)
    low, middle, high = length.quantile(torch.tensor([0.01, 0.5, 0.99])).tolist()
    assert 0.57 < low < 0.61 and abs(middle - 0.75) < 0.01 and 0.89 < high < 0.93
    # on the straight way to the goal, the noise across it
    way = episodes.goals[:, None] - episodes.paths[:, :-1]
    across = way[..., 0] * episodes.actions[..., 1] - way[..., 1] * episodes.actions[..., 0]
    straight = before_end(episodes) & (episodes.paths[:, :-1, 0] > 0.7)
    noise = (across / way.norm(dim=2))[straight]
    assert noise.std().item() == pytest.approx(0.05, rel=0.03) and noise.mean().abs() < 0.002


def test_no_step_is_longer_than_the_speed_limit():
    greedy = run(lambda observation, g: 100 * ahead(observation, g), 50)
    for episodes in (greedy, expert(500)):
        assert episodes.paths.diff(dim=1).norm(dim=2).max() < SPEED + 1e-6
    assert greedy.paths.diff(dim=1).norm(dim=2)[:, 0].min() > SPEED - 1e-6
    slow = run(lambda observation, g: torch.tensor([0.3, -0.4]).expand(len(observation), 1, 2), 9)
    torch.testing.assert_close(slow.paths[:, 1] - slow.paths[:, 0],
                               SPEED * torch.tensor([0.3, -0.4]).expand(9, 2))


def test_actions_and_gusts_explain_the_paths():
    assert gusts(expert(200)).abs().max() < 1e-6
    blown = run(stay, 4000, perturbation=0.3)
    wind = gusts(blown)
    assert (wind[..., 0] == 0).all()
    came = wind[..., 1].abs() > 1e-3
    assert (came.sum(1) == 1).all()                         # one for each episode
    size = wind[..., 1][came]
    torch.testing.assert_close(size.abs(), torch.full((4000,), 0.3))
    assert size.sign().mean().abs() < 4 / 4000**0.5
    share = came.double().mean(0)
    assert (share[:10] - 0.1).abs().max() < 4 * (0.09 / 4000) ** 0.5 and share[10:].sum() == 0


def test_a_gust_does_not_change_the_side_that_the_expert_chose():
    calm, blown = expert(400, 1), expert(400, 1, 0.3)
    both = calm.success & blown.success
    assert torch.equal(calm.side[both], blown.side[both]) and both.sum() > 350
    assert blown.touched.any()                              # no law saves one that is blown there


@pytest.mark.parametrize("chunk", [1, 3, 8])
def test_pairs_of_observation_and_actions_by_hand(chunk):
    n, seed = 20, 5
    calm, blown = expert(n, seed), expert(n, seed, 0.3)
    x0, seen = [], []
    for k in range(n):
        episodes = blown if k % 2 else calm
        if not episodes.success[k]:
            continue
        wind = gusts(episodes)[k].abs().amax(1) > 1e-3
        for step in range(int(episodes.time[k])):
            end = step + chunk
            rows = episodes.actions[k, step:end]
            if not wind[step:end].any():
                x0.append(torch.cat([rows, torch.zeros(chunk - len(rows), 2)]))
                seen.append(torch.cat([episodes.paths[k, step], episodes.goals[k]]))
    found = demonstrations(n, seed, chunk, 0.3)
    assert torch.equal(found["x0"], torch.stack(x0))
    assert torch.equal(found["observation"], torch.stack(seen))


def test_the_actions_of_a_pair_lead_from_its_observation():
    """Without gusts: the k-th action ends where the k-th next observation is, or at the goal."""
    found = demonstrations(30, 2, 5)
    position, goal = found["observation"].split(2, dim=1)
    same = (goal[1:] == goal[:-1]).all(1)                   # of one episode
    assert same.sum() == len(goal) - 30
    first = position[:-1] + SPEED * found["x0"][:-1, 0]
    torch.testing.assert_close(first[same], position[1:][same])
    assert torch.equal(found["x0"][:-1, 1][same], found["x0"][1:, 0][same])
    last = torch.cat([~same, torch.tensor([True])])
    assert (found["x0"][last, 1:] == 0).all() and (found["x0"][last, 0] != 0).any(1).all()
    end = position[last] + SPEED * found["x0"][last].sum(1)
    assert ((end - goal[last]).norm(dim=1) < NEAR).all()


def test_episodes_that_touch_are_not_shown():
    blown = expert(400, 7, 0.3)
    found = demonstrations(400, 7, 1, 0.3)
    failed = ~blown.success & (torch.arange(400) % 2 == 1)
    assert failed.any()
    shown = {tuple(row) for row in found["observation"][:, 2:].tolist()}
    shows = torch.tensor([tuple(goal) in shown for goal in blown.goals.tolist()])
    assert torch.equal(shows, ~failed)


@pytest.mark.parametrize("execute", [1, 3, 8])
def test_chunks_of_the_expert_replay_its_episodes(execute):
    """An off-by-one between looking, acting and looking again would leave its path."""
    shown = expert(40, 6)
    actions = torch.nn.functional.pad(shown.actions, (0, 0, 0, 8))
    looks = []

    def policy(observation, g):
        step = execute * len(looks)
        looks.append(step)
        torch.testing.assert_close(observation[:, :2], shown.paths[:, step])
        return actions[:, step : step + 8]
    again = run(policy, 40, 6, execute=execute)
    torch.testing.assert_close(again.paths, shown.paths)
    assert torch.equal(again.time, shown.time) and torch.equal(again.side, shown.side)
    assert len(looks) == -(-int(shown.time.max()) // execute)       # and not one look more


def test_what_is_not_executed_does_not_matter():
    def policy(observation, g):
        never = torch.full((len(observation), 4, 2), 9.0)
        return torch.cat([round_it(1.0)(observation, g), never], dim=1)
    for a, b in zip(run(policy, 20), run(round_it(1.0), 20)):
        assert torch.equal(a, b)


def test_the_policy_s_noise_comes_from_the_seed():
    noisy = lambda o, g: round_it(1.0)(o, g) + 0.1 * torch.randn(len(o), 1, 2, generator=g)
    assert torch.equal(run(noisy, 20, 1).paths, run(noisy, 20, 1).paths)
    g = torch.Generator().manual_seed(1)
    first = torch.randn(20, 1, 2, generator=g)
    found = run(lambda o, g: 0.1 * torch.randn(len(o), 1, 2, generator=g), 20, 1)
    torch.testing.assert_close(found.actions[:, :1], 0.1 * first)


def test_success_sides_and_times():
    for side in (1, -1):
        good = run(round_it(side), 100)
        assert good.success.all() and not good.touched.any() and (good.side == side).all()
        distance = (good.paths - good.goals[:, None]).norm(dim=2)
        rows = torch.arange(100)
        assert (distance[rows, good.time] < NEAR).all()
        assert (distance[rows, good.time - 1] >= NEAR).all()
    bad = run(ahead, 100)
    assert bad.touched.all() and not bad.success.any() and (bad.side == 0).all()
    end = bad.paths[torch.arange(100), bad.time - 1]
    assert (end.norm(dim=1) >= RADIUS).all()
    late = run(stay, 100)
    assert not (late.success | late.touched).any() and (late.time == LIMIT).all()


def test_after_its_end_a_point_stays():
    for episodes in (run(ahead, 50), run(round_it(1.0), 50, perturbation=0.2)):
        assert (episodes.time < LIMIT).all()
        rest = ~before_end(episodes)
        assert (episodes.paths.diff(dim=1)[rest] == 0).all() and (episodes.actions[rest] == 0).all()


def test_a_step_that_cuts_the_obstacle_touches_it():
    g = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, 500, 2, generator=g)
    between = torch.lerp(a[:, None], b[:, None], torch.linspace(0, 1, 2001)[:, None])
    torch.testing.assert_close(obstacle._distance(a, b), between.norm(dim=2).amin(1),
                               atol=2e-3, rtol=0)
    torch.testing.assert_close(obstacle._distance(a, a), a.norm(dim=1))     # no way at all
    start, goal = torch.tensor([[-0.049, 0.398]]), torch.tensor([[1.0, 0.0]])
    right = lambda observation, step: torch.tensor([[[0.98, 0.0]]])
    cut = obstacle._simulate(right, (start, goal, torch.zeros(1, LIMIT, 2)), 1)
    assert cut.touched.all() and cut.time == 1              # both ends of the step lie outside
    assert (cut.paths[0, :2].norm(dim=1) > RADIUS).all()
    aside = run(stay, 200, perturbation=9.0)                # blown far, but not across
    assert not aside.touched.any()


def test_the_mean_of_chunks_runs_into_the_obstacle_and_a_single_one_does_not():
    """Nearest neighbours in place of networks: what averages, and what draws."""
    shown = demonstrations(300, 101)

    def near(observation):
        return torch.cdist(observation, shown["observation"]).topk(16, largest=False).indices

    def mean(observation, g):
        return shown["x0"][near(observation)].mean(1)

    def draw(observation, g):
        chosen = torch.randint(16, (len(observation), 1), generator=g)
        return shown["x0"][near(observation).gather(1, chosen)[:, 0]]
    averaged, drawn = (run(policy, 100, 1, execute=8) for policy in (mean, draw))
    assert averaged.success.double().mean() < 0.75 and drawn.success.double().mean() > 0.9
    assert 0.3 < (drawn.side[drawn.success] == 1).double().mean() < 0.7


@pytest.mark.parametrize("call, said", [
    (lambda: expert(0), "n must be a whole number, at least 1; got 0"),
    (lambda: expert(3, -1), "seed must be"),
    (lambda: expert(3, perturbation=-0.1), "perturbation must be a number, at least 0"),
    (lambda: demonstrations(3, chunk=0), "chunk must be a whole number, at least 1"),
    (lambda: demonstrations(3, chunk=1.5), "chunk must be"),
    (lambda: run(None, 3), "policy must be a function"),
    (lambda: run(Regression(len), 3), "got the model, a Regression: pass its sample"),
    (lambda: run(Denoiser(nn.Identity(), Schedule.flow()), 3), "or diffusion_policy"),
    (lambda: run(stay, 3, execute=0), "execute must be"),
    (lambda: run(stay, 3, execute=2), "execute is 2, and the policy's chunks have 1 actions"),
    (lambda: run(lambda o, g: None, 3), r"a chunk of actions \(3, K, 2\); got NoneType"),
    (lambda: run(lambda o, g: o[:, :2], 3), r"chunk of actions \(3, K, 2\); got \(3, 2\)"),
    (lambda: run(lambda o, g: o[:1, None, :2], 3), r"\(3, K, 2\); got \(1, 1, 2\)"),
    (lambda: run(lambda o, g: o[:, None], 3), r"\(3, K, 2\); got \(3, 1, 4\)"),
    (lambda: run(lambda o, g: torch.nan * o[:, None, :2], 3), "chunk has 6 values that are"),
])
def test_bad_input_is_said(call, said):
    with pytest.raises((TypeError, ValueError), match=said):
        call()
