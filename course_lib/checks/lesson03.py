"""The questions of lesson 3. Each judge computes the right answer and the well-known wrong ones, and tells them apart."""
import copy
import io
import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from ..lab.data import GaussianMixture
from ..lab.metrics import frechet_distance, precision_recall
from ..schedules import Schedule
from . import Question, Wrong, compare, function, number
from .lesson01 import F64
from .lesson02 import one_thread
from .trainings import DEFECTS, PATIENTS, SmallRun, examined, patient

# ---- random inputs: new ones each time, so that a number learned by heart is of no use


def source() -> torch.Generator:
    """A generator seeded by the machine; torch's own random numbers stay as they are."""
    g = torch.Generator()
    g.seed()
    return g


def between(low: float, high: float, *shape: int) -> Tensor:
    return low + (high - low) * torch.rand(shape, generator=source(), dtype=F64)


def apart(case: Callable[[], tuple], rtol: float = 1e-3, atol: float = 1e-3) -> tuple:
    """Draw a case (inputs, right, mistakes) until no two of its answers could be taken for each other."""
    for _ in range(300):
        inputs, right, mistakes = case()
        answers = [right, *mistakes.values()]
        if all(a.shape != b.shape or torch.allclose(a, b, rtol=1e-9, atol=1e-12) or not torch.allclose(a, b, rtol=3 * rtol, atol=3 * atol)
               for k, a in enumerate(answers) for b in answers[:k]):
            break
    return inputs, right, mistakes


def refuse(*suspects: tuple[object, str]) -> None:
    """Raise the diagnosis of the first suspect (a condition, its diagnosis) that is guilty."""
    for guilty, words in suspects:
        if guilty:
            raise Wrong(words)


# ---- 3.1 and 3.2: weights

WEIGHTS = {                                                         # of the x0 error in each target's loss, from the SNR
    "v": lambda snr: snr + 1,
    "flow": lambda snr: (1 + snr.sqrt()) ** 2,
    "eps": lambda snr: snr,
    "x0": torch.ones_like,
}


def judge_error(f: Callable) -> None:
    """3.1: x0_error(loss, target, log_snr), a loss of any target in units of the x0 error."""
    for target, weight in WEIGHTS.items():
        def case():
            loss, log_snr = between(0.1, 1, 6), between(-3, 3, 6)
            snr, root = log_snr.exp(), (log_snr / 2).exp()
            others = {
                "v": {"that is eps' weight; v's is SNR + 1": loss / snr, "that is flow's weight, right where alpha + sigma = 1; v's is SNR + 1": loss / (1 + root) ** 2,
                      "1 + 1/SNR is v's weight on the error of *eps*, or your SNR is upside down; on the error of x0 it is SNR + 1": loss / (1 + 1 / snr)},
                "flow": {"that is v's weight, right where alpha^2 + sigma^2 = 1; with alpha = 1 - t and sigma = t there is a mixed term": loss / (snr + 1),
                         "flow's weight has the root of SNR in it: (1 + sqrt(SNR))^2": loss / (1 + snr) ** 2, "1 + sqrt(SNR) is still to be squared": loss / (1 + root)},
                "eps": {"eps: that is v's weight; here it is SNR alone": loss / (snr + 1), "alpha/sigma is still to be squared: an error counts by its square": loss / root},
                "x0": {"the loss of target x0 is the error of x0: leave it as it is": loss / snr, "x0: its own weight is 1, not SNR + 1": loss / (snr + 1)},
            }
            return (loss, log_snr), loss / weight(snr), others[target] | {
                f"{target}: you multiply by the weight; loss = weight * error, so divide": loss * weight(snr),
                f"{target}: you use log SNR as if it were SNR: take its exp first": loss / weight(log_snr),
                f"{target}: exp(log_snr / 2) is alpha / sigma; SNR is its square, exp(log_snr)": loss / weight(root),
                f"{target}: your SNR is upside down: data over noise is exp(log_snr)": loss / weight(1 / snr),
                f"{target}: the logarithm is the natural one: exp(log_snr), not 10**log_snr": loss / weight(10**log_snr),
                f"{target}: that is the weight; the loss divided by it is wanted": weight(snr),
                f"{target}: that is a root; the squared error is wanted": (loss / weight(snr)).sqrt(),
                f"{target}: that is the loss as it came; divide by the weight of this target": loss,
            }
        (loss, log_snr), right, mistakes = apart(case)
        compare(function(f)(loss.clone(), target, log_snr.clone()), right, mistakes, rtol=1e-3, atol=1e-6,
                otherwise=f"target {target!r}: put eps = (x_t - alpha x0) / sigma into the target, for the truth and for the guess, and subtract")


def judge_min_snr(f: Callable) -> None:
    """3.2: min_snr_factor(target, log_snr, gamma), the factor on a target's loss that makes the x0 error weigh min(SNR, gamma)."""
    for target in ("v", "eps", "x0"):
        def case():
            gamma, log_snr = between(2, 4).item(), torch.cat([between(-3, 0, 3), between(4.2, 5, 3)])
            snr = log_snr.exp()
            cut, weight = snr.clamp(max=gamma), WEIGHTS[target](snr)
            forms = {
                "eps": (f"{target}: that is the form for eps, min(SNR, gamma) / SNR; "
                        f"{'v has the weight SNR + 1 already: at log SNR = -3 your factor is 21 times too large' if target == 'v' else 'x0 has the weight 1'}", cut / snr),
                "x0": (f"{target}: that is the form for x0; the loss of {target} has a weight of its own already: divide by it", cut),
                "v": (f"{target}: that is the form for v; the weight of {target} is not SNR + 1", cut / (snr + 1)),
            }
            others = {
                "v": {"you cut v's own weight, SNR + 1, at gamma; SNR is what is to be cut": (snr + 1).clamp(max=gamma) / (snr + 1),
                      "the + 1 belongs below the line only: the x0 error shall weigh min(SNR, gamma)": (cut + 1) / (snr + 1),
                      "that is P2's weight, SNR / (SNR + 1)^2": snr / (snr + 1) ** 2},
                "eps": {"gamma / SNR alone gives noisy images a weight above 1: where SNR is below gamma the factor is 1": gamma / snr,
                        "eps: upside down: the factor is 1 for *noisy* images and falls for clean ones": (snr / gamma).clamp(max=1)},
            }
            return (log_snr, gamma), cut / weight, {words: value for name, (words, value) in forms.items() if name != target} | others.get(target, {}) | {
                f"{target}: you take the larger of SNR and gamma; the smaller one is wanted": snr.clamp(min=gamma) / weight,
                f"{target}: you multiply by the target's own weight; divide": cut * weight if target != "x0" else cut * (snr + 1),
                f"{target}: you use log SNR as if it were SNR: take its exp first": log_snr.clamp(max=gamma) / WEIGHTS[target](log_snr),
                f"{target}: you cut log SNR at gamma; cut SNR itself": log_snr.clamp(max=gamma).exp() / weight,
                f"{target}: your SNR is upside down: data over noise is exp(log_snr)": (1 / snr).clamp(max=gamma) / WEIGHTS[target](1 / snr),
                f"{target}: your gamma is always 5; use the one that is given": snr.clamp(max=5.0) / weight,
                f"{target}: the whole factor is upside down": weight / cut,
                f"{target}: nothing is cut; gamma is the most that the x0 error may weigh": snr / weight,
            }
        (log_snr, gamma), right, mistakes = apart(case)
        compare(function(f)(target, log_snr.clone(), gamma), right, mistakes, rtol=1e-3, atol=1e-6,
                otherwise=f"target {target!r}: your factor times the weight of question 3.1 must be min(SNR, gamma)")
    for target, ends in {"v": [0.0, 0.0], "eps": [1.0, 0.0], "x0": [0.0, 3.0]}.items():
        got = function(f)(target, torch.tensor([-math.inf, math.inf], dtype=F64), 3.0)
        if not torch.allclose(torch.as_tensor(got, dtype=F64), torch.tensor(ends, dtype=F64), atol=1e-4):
            said = [round(value, 3) for value in torch.as_tensor(got).tolist()]
            raise Wrong(f"right in between, but for {target} at log SNR = -inf (zero terminal SNR) and inf (t = 0) yours is {said}, and {ends} is wanted: 0 / 0 and inf / inf are no numbers; write it so that neither is formed")


# ---- 3.3, 3.4 and 3.9: distances

def root(C: Tensor) -> Tensor:
    """The symmetric root of a symmetric matrix."""
    w, V = torch.linalg.eigh(C)
    return (V * w.clamp(min=0).sqrt()) @ V.T


def covariance(d: int, dead: int = 0) -> Tensor:
    """A random covariance (d, d) whose axes are far from the coordinates'; `dead` coordinates, the first ones, never vary."""
    live = d - dead
    V, _ = torch.linalg.qr(torch.randn(live, live, generator=source(), dtype=F64))
    w = torch.cat([between(0.05, 0.5, live // 2), between(1, 4, live - live // 2)])
    return torch.nn.functional.pad((V * w) @ V.T, (dead, 0, dead, 0))


def judge_frechet(f: Callable) -> None:
    """3.3: frechet(mu_a, A, mu_b, B), the squared Fréchet distance of two Gaussians."""
    def case(d, dead):
        def draw():
            a, b, A, B = between(-2, 2, d), between(-2, 2, d), covariance(d), covariance(d, dead)
            while ((A @ B).diagonal()[dead:] <= 0.01).any():        # so that even the elementwise root has a trace
                A = covariance(d)
            means, traces = (a - b).square().sum(), A.trace() + B.trace()
            cross = root(root(A) @ B @ root(A)).trace()
            R, total = root(root(A) @ B @ root(A)), means + traces
            mistakes = {
                "the distance of the means is still to be squared": (a - b).norm() + traces - 2 * cross,
                "the means are missing": traces - 2 * cross,
                "the squared differences of the means are added up, not averaged": (a - b).square().mean() + traces - 2 * cross,
                "square each difference of the means first, then add up": (a - b).sum() ** 2 + traces - 2 * cross,
                "that root is taken entry by entry; the root of a matrix is the R with R R = A B (.sqrt() does not know that)": total - 2 * (A @ B).sqrt().trace(),
                "A * B multiplies entry by entry, so only the two diagonals are left; the matrix product is A @ B": total - 2 * (A * B).diagonal().sqrt().sum(),
                "tr(A^(1/2) B^(1/2)) is the root's trace only where A and B commute: take the root of the whole product A^(1/2) B A^(1/2)": total - 2 * (root(A) @ root(B)).trace(),
                "the factor 2 is missing": total - cross,
                "the last trace is subtracted: two equal Gaussians have distance 0": total + 2 * cross,
                "that is the distance's square root; the squared distance is wanted, as is usual": (total - 2 * cross).sqrt(),
                "the root is missing in the last trace": total - 2 * (A @ B).trace(),
                "that is the root of a trace; take the trace of the root": total - 2 * (A @ B).trace().sqrt(),
                "a trace is the sum of the diagonal; you add up all entries": means + (A + B - 2 * R).sum(),
                "eigh takes a symmetric matrix and reads only half of it; A B is not symmetric, A^(1/2) B A^(1/2) is": total - 2 * torch.linalg.eigvalsh(A @ B).clamp(min=0).sqrt().sum(),
                "the singular values of A B are not its eigenvalues, since A B is not symmetric": total - 2 * torch.linalg.svdvals(A @ B).sqrt().sum(),
                "that is the distance of the means alone": means,
                "the traces of A and B are missing": means - 2 * cross,
            }
            return (a, A, b, B), total - 2 * cross, mistakes
        return draw

    for d, dead in ((3, 0), (5, 0), (4, 1)):
        atol = 4e-3 if dead else 5e-4                               # in float32 an eigenvalue of 0 comes as 1e-6, and its root as 1e-3
        inputs, right, mistakes = apart(case(d, dead), atol=max(atol, 1e-3))
        try:
            got = function(f)(*(x.clone() for x in inputs))
        except torch.linalg.LinAlgError as error:
            raise Wrong(f"{'right so far, but here a covariance is singular, since one feature never varies' if dead else 'a matrix could not be taken apart'} ({str(error).split('.')[0]}): eigh can take any symmetric matrix apart") from None
        if torch.is_tensor(got) and got.is_complex():
            raise Wrong("your answer is complex: eigenvalues of a product that is not symmetric come as complex numbers; take .real, or the symmetric product")
        got = number(got)
        if got.isnan():
            raise Wrong("your answer is nan: is the root taken entry by entry, where some entries are negative?" if not dead else
                        "right so far, but nan where a covariance is singular: rounding makes an eigenvalue of 0 slightly negative; clamp(min=0) before the root")
        compare(got, right, mistakes, rtol=3e-4, atol=atol, otherwise="not the Fréchet distance: try it on A = B (the traces must cancel) and on one dimension, where it is (mu_a - mu_b)^2 + (s_a - s_b)^2")


def fitted(u: Tensor, values: Tensor, degree: int = 1) -> Tensor:
    """Least squares: what a straight line (or a parabola) through values (K,) over u (K,) has at u = 0."""
    return torch.linalg.lstsq(torch.stack([u**k for k in range(degree + 1)], 1), values[:, None]).solution[0, 0]


def judge_extrapolate(f: Callable) -> None:
    """3.4: extrapolate(ns, values), the limit of a / n + b from measurements at several n."""
    def case():
        n = torch.tensor([100, 150, 250, 400, 600, 800, 900, 1000], dtype=F64) + between(-20, 20, 8).round()
        a, b = between(100, 300), between(1, 5)
        values = a / n + b
        return (n, values), b, {
            "that is the slope of the line; the limit is where 1/n = 0, its intercept": a,
            "that is the value at the largest n; go on to n = infinity": values[-1],
            "that is the value at the smallest n": values[0],
            "that is the mean of the values": values.mean(),
            "the line is fitted against n itself; the bias falls like 1/n, so fit against 1/n": fitted(n, values),
            "the line is fitted against log n; the bias falls like 1/n": fitted(n.log(), values),
            "the line is fitted against 1/sqrt(n); the *spread* falls like that, the bias like 1/n": fitted(n.rsqrt(), values),
            "the line is fitted against 1/n^2; the bias falls like 1/n": fitted(n**-2, values),
            "a straight line in log-log goes to 0: the limit must be a number of its own in the fit": fitted(n.log(), values.log()).exp(),
            "your limit is 0: does the line have an intercept?": torch.zeros((), dtype=F64),
            "that is the line's value at n = 1, slope and limit together": a + b,
            "the sign of the limit is wrong": -b,
        }
    (n, values), right, mistakes = apart(case)
    given = n.clone(), values.clone()
    try:
        got = function(f)(*given)
    except RuntimeError as error:
        refuse(("dtype" in str(error) or "Double" in str(error), f"float32 and float64 are mixed ({error}): make everything .double()"))
        raise
    refuse((not (torch.equal(given[0], n) and torch.equal(given[1], values)), "your function changes the tensors it was given: compute new ones"),
           (isinstance(got, (tuple, list)) or torch.is_tensor(got) and got.numel() == 2, "one number is wanted, the limit; you return slope and limit together"))
    compare(number(got), right, mistakes, rtol=1e-3, atol=1e-3, otherwise=f"for values that follow a / n + {right:.3f} exactly the limit is {right:.3f}; yours says {number(got):.3f}")
    noisy = values + 0.05 * torch.tensor([-1, 1, 1, -1, 1, -1, 1, -1], dtype=F64)           # about what draws differ by
    got = number(f(n, noisy))
    is_that = lambda wrong: abs(got - wrong) < 1e-4
    refuse((is_that(fitted(1 / n[-2:], noisy[-2:])), "right without errors, but you use the two largest n alone, and their errors are multiplied by more than ten: use all values"),
           (is_that(fitted(1 / n[-3:], noisy[-3:])), "right without errors, but you use the last three values alone: use all"),
           (is_that(fitted(1 / n, noisy, 2)), "right without errors, but a parabola in 1/n follows the errors of the values; a straight line is what the derivation gives"),
           (is_that(fitted(1 / n[[0, -1]], noisy[[0, -1]])), "right without errors, but you use the first and the last value alone: use all"),
           (abs(got - right) > 0.12, f"right without errors; but when the values are wrong by 0.05 each, your limit is wrong by {abs(got - right):.2f}: use all values, and fit no more than a line"))


# ---- 3.5: the average of weights

def averaged(history: list[list[Tensor]], decay: Callable[[int, int], float], swap: bool = False) -> Tensor:
    """The average after each update in history (each a list of parameters), where `decay` is given (update, parameter)."""
    average, all_averages = history[0], []
    for n, parameters in enumerate(history[1:]):
        share = [1 - decay(n, k) if swap else decay(n, k) for k in range(len(parameters))]
        average = [d * a + (1 - d) * p for d, a, p in zip(share, average, parameters)]
        all_averages.append(torch.cat([a.flatten() for a in average]))
    return torch.stack(all_averages)


def judge_ema(EMA: Callable) -> None:
    """3.5: the class EMA(net, decay), with update(net) and the averaged network in .net."""
    with one_thread(), torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.manual_seed(source().initial_seed() % 2**31)
        for decay in (0.3, 0.99):
            net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
            values = lambda module: [p.detach().double().clone() for p in module.parameters()]
            try:
                ema = function(EMA)(net, decay)
                first_look(ema, net)
                history, got, mean = [values(net)], [], ema.net[1].running_mean.clone().double()       # mean: as an average would have it
                for n in range(8):
                    with torch.no_grad():
                        for p in net.parameters():
                            p.add_(torch.randn_like(p))
                    net(3 + torch.randn(20, 3))                                             # moves the buffers of the BatchNorm
                    before = copy.deepcopy(net.state_dict())
                    ema.update(net)
                    refuse((any(not torch.equal(value, before[name]) for name, value in net.state_dict().items()), "update changes the network itself; only the average may move"),
                           (any(a.data_ptr() == p.data_ptr() for a, p in zip(ema.net.parameters(), net.parameters())),
                            "after an update the average shares its memory with the network (such as a.data = p.data): the next step of the optimizer moves both"))
                    history.append(values(net))
                    got.append(torch.cat([p.flatten() for p in values(ema.net)]))
                    mean = torch.lerp(net[1].running_mean.double(), mean, min(decay, (1 + n) / (10 + n)))
            except RuntimeError as error:
                refuse((any(word in str(error) for word in ("Long", "integer", "can't be cast")), f"a buffer of whole numbers (BatchNorm counts its batches) cannot be averaged ({error}): copy buffers"),
                       ("leaf Variable that requires grad" in str(error), "the average is changed in place while autograd watches: put @torch.no_grad() on update"))
                raise
            judge_average(ema.net, torch.stack(got), history, decay)
            judge_buffers(ema.net[1], net[1], mean)


def first_look(ema: object, net: nn.Module) -> None:
    """What must hold before the first update."""
    refuse((not isinstance(getattr(ema, "net", None), nn.Module), "keep the averaged network, a module, in self.net from the start"))
    shared = any(a.data_ptr() == p.data_ptr() for a, p in zip(ema.net.state_dict().values(), net.state_dict().values()))
    refuse((ema.net is net, "ema.net is the network itself, not a copy: copy.deepcopy(net)"),
           (shared, "the average shares its tensors with the network: deepcopy, a shallow copy is not enough"),
           (any(not p.requires_grad for p in net.parameters()), "the network that is being trained no longer requires gradients: copy first, then requires_grad_(False) on the copy"),
           (any(not torch.equal(a, p) for a, p in zip(ema.net.parameters(), net.parameters())), "before the first update the average must equal the network it was given"))


def judge_average(average: nn.Module, got: Tensor, history: list[list[Tensor]], decay: float) -> None:
    """The parameters after the updates, and how they are kept."""
    refuse((any(p.grad_fn is not None for p in average.parameters()), "the average has grown a graph that reaches back through all updates: put @torch.no_grad() on update"),
           (any(p.requires_grad for p in average.parameters()), "the average still requires gradients: requires_grad_(False), nobody trains it"))
    warm, count = (lambda n: (1 + n) / (10 + n)), len(history[0])
    way = lambda d, **more: averaged(history, lambda n, k: d(n), **more)
    compare(got, way(lambda n: min(decay, warm(n))), {
        "decay and 1 - decay have changed places: the *old* average is multiplied by decay": way(lambda n: min(decay, warm(n)), swap=True),
        "there is no warm-up: in the first updates the decay is (1 + n) / (10 + n), far below the final one": way(lambda n: decay),
        "max where min belongs: the warm-up is a limit from above": way(lambda n: max(decay, warm(n))),
        "your n runs ahead: in the first update n = 0 and the decay is 1/10": way(lambda n: min(decay, warm(n + 1))),
        "your first update only copies, and the network given to __init__ is forgotten: with n = 0 the decay is 1/10": way(lambda n: min(decay, n / (9 + n))),
        "n is never counted up: the decay stays at 1/10": way(lambda n: min(decay, warm(0))),
        "n is counted up for every parameter; count updates": averaged(history, lambda n, k: min(decay, warm(n * count + k))),
        "the warm-up never ends: the decay must stop growing at the one that is given": way(warm),
        "the average never moves: does update write into self.net?": way(lambda n: 1.0),
        "that is a copy of the last weights; average": way(lambda n: 0.0),
        "that is the plain mean of all weights, which never forgets the start": way(lambda n: (n + 1) / (n + 2)),
        "the warm-up is multiplied by the decay; take the smaller of the two": way(lambda n: decay * warm(n)),
    }, rtol=1e-4, atol=1e-4, otherwise=f"with decay {decay} the average is not where it should be after {1 + (got - way(lambda n: min(decay, warm(n)))).abs().amax(1).gt(1e-4).int().argmax()} update(s): the decay of update n = 0, 1, 2, ... is min(decay, (1 + n) / (10 + n))")


def judge_buffers(got: nn.Module, wanted: nn.Module, averaged_mean: Tensor) -> None:
    """The buffers of the BatchNorm: copied, neither averaged nor forgotten."""
    count, same = got.num_batches_tracked, torch.allclose(got.running_mean, wanted.running_mean)
    refuse((not same and torch.allclose(got.running_mean.double(), averaged_mean, atol=1e-5),
            "the weights are right; the running statistics of the BatchNorm are averages already: copy buffers, do not average them again"),
           (not same, "the weights are right, but the buffers (running_mean of the BatchNorm) are not the network's: copy net.buffers(), too"),
           (count.is_floating_point(), "the weights are right, but the BatchNorm's count of batches became a floating-point number: copy_ into the buffer"),
           (count != wanted.num_batches_tracked, f"the weights are right, but the buffer num_batches_tracked says {count} where the network says {wanted.num_batches_tracked}: copy buffers of whole numbers, too"))


# ---- 3.6: seven trainings, most of them broken

def contradiction(letter: str, name: str) -> str:
    """The measurement in which a training differs most from one that has the defect it is said to have."""
    here, there = patient(letter).numbers, examined(name).numbers

    def gap(what: str) -> float:
        a, b = here[what], there[what]
        return abs(a - b) * 5 if what.startswith(("share", "correlation")) else abs(math.log(max(a, 0.01) / max(b, 0.01)))
    what = max(here, key=gap)
    return f"with {name!r} the {what} is {there[what]:.3f}, and {letter} has {here[what]:.3f}"


def judge_diagnoses(answer: object) -> None:
    """3.6: a dict letter -> name of the defect. What is wrong is contradicted by a measurement; the right name stays unsaid."""
    answer = answer() if callable(answer) else answer
    if not isinstance(answer, dict):
        raise Wrong(f"a dict is wanted, such as {{'A': 'rate x 30', ...}}; got {'None: does it end with `return`?' if answer is None else type(answer).__name__}")
    unknown, missing = [letter for letter in answer if letter not in PATIENTS], [letter for letter in PATIENTS if letter not in answer]
    names = {letter: str(name).strip().lower() for letter, name in answer.items()}
    strange = [answer[letter] for letter, name in names.items() if name not in DEFECTS]
    twice = [[letter for letter, given in names.items() if given == name] for name in DEFECTS]
    refuse((unknown, f"there is no training {unknown[:1]}: they are called {', '.join(PATIENTS)}"), (missing, f"an answer for {', '.join(missing)} is missing"),
           (strange, f"{strange[:1]} is not on the list; it has {', '.join(DEFECTS)}"),
           *((len(letters) > 1, f"{' and '.join(letters)} cannot both be {name!r}: no two trainings have the same defect") for name, letters in zip(DEFECTS, twice)))
    wrong = [letter for letter in PATIENTS if DEFECTS[PATIENTS[letter]] != names[letter]]
    if wrong:
        raise Wrong(f"{', '.join(wrong)} {'is' if len(wrong) == 1 else 'are'} not right yet; " + "; ".join(contradiction(letter, names[letter]) for letter in wrong))


# ---- 3.7: going on after a stop

def judge_resume(answer: object) -> None:
    """3.7: (state, restore), which make a SmallRun go on as if it had never been stopped."""
    if not isinstance(answer, (tuple, list)) or len(answer) != 2 or not all(callable(f) for f in answer):
        raise Wrong("pass your two functions, check(\"3.7\", (state, restore))")
    state, restore = answer
    with one_thread(), torch.random.fork_rng(devices=[]), torch.enable_grad():
        seed = source().initial_seed() % 2**31
        untouched, run = SmallRun(seed), SmallRun(seed)
        for _ in range(12):
            untouched.advance(), run.advance()
        s = state(run)
        refuse((s is None, "state returned None: does it end with `return`?"))
        read, wanted = on_disk(s), [untouched.advance() for _ in range(8)]
        refuse(([run.advance() for _ in range(8)] != wanted, "taking the state changes the run: its next losses are others than without; state may only look"))
        twin, *elsewhere = SmallRun(seed), *(SmallRun(seed + 1) for _ in range(3))
        for run, steps in ((twin, 12), *((other, 3) for other in elsewhere)):
            for _ in range(steps):
                run.advance()
        for run, given, words in zip(elsewhere, (read(), s, s), ("", "from a file it works; but the state itself changed while the run went on: it holds the run's own tensors. state_dict() copies nothing, copy.deepcopy does",
                                     "right the first time; but the resumed run writes into the state, and the second run that is restored from it goes astray: optimizer.load_state_dict keeps the tensors it is given, so give it copies")):
            try:
                restored(run, restore, given, twin, wanted, untouched)
            except Wrong as diagnosis:
                raise Wrong(words or str(diagnosis)) from None


def on_disk(s: object) -> Callable[[], object]:
    """The state as a file would keep it; every call reads it anew."""
    file = io.BytesIO()
    try:
        torch.save(s, file)
        read = lambda: (file.seek(0), torch.load(file, weights_only=True))[1]
        read()
    except Exception as error:
        raise Wrong(f"this state cannot be read back from a file (torch.load with weights_only, {type(error).__name__}): keep tensors, numbers and their dicts, such as "
                    "state_dict() and get_state(), not whole objects") from None
    return read


def restored(run: SmallRun, restore: Callable, s: object, twin: SmallRun, wanted: list[float], end: SmallRun) -> None:
    """Whether the run goes on from s as the untouched one did; if not, the first part that differs from its twin at the stop."""
    restore(run, s)
    flat = lambda net: torch.cat([p.detach().flatten() for p in net.parameters()])
    own = {id(p) for p in run.net.parameters()}
    refuse((any(id(p) not in own for group in run.optimizer.param_groups for p in group["params"]),
            "the optimizer moves tensors that are no longer the network's: load into the network that is there, run.net.load_state_dict, do not replace it"),
           (not torch.allclose(flat(run.net), flat(twin.net), atol=1e-2), "the network's weights are not restored"),
           (not torch.equal(flat(run.net), flat(twin.net)), "the weights come back rounded: bit for bit means float32, as they were"))
    moments, there = run.optimizer.state_dict()["state"], twin.optimizer.state_dict()["state"]
    differ = lambda *names: any(not torch.equal(torch.as_tensor(moments[k][name]), torch.as_tensor(there[k][name])) for k in there for name in names)
    refuse((not moments, "the optimizer is forgotten: Adam's two averages of the gradient are empty, and its next steps have another size"))
    refuse((differ("exp_avg", "exp_avg_sq"), "Adam's averages of the gradient are not those of the stopped run: keep optimizer.state_dict()"),
           (differ("step"), "Adam's own count of steps is not restored, and its correction of the first steps starts again"),
           (run.step == 3, "the step is forgotten: the rate falls by run.step, so its schedule goes on from somewhere else"),
           (run.step != twin.step, f"the run was stopped after {twin.step} steps and believes it is at step {run.step}"))
    seed, state = twin.generator.initial_seed(), run.generator.get_state()
    again = any(torch.equal(state, g.get_state()) for g in (torch.Generator().manual_seed(seed), SmallRun(seed).generator))
    refuse((again, "the generator starts again from its seed: the run would see the same data and noise a second time"),
           (not torch.equal(state, twin.generator.get_state()), "the generator's state is forgotten: the resumed run draws other data and other noise; get_state() and set_state()"),
           (torch.equal(flat(run.average), flat(run.net)), "the average of weights starts anew from the network's weights; it has a state of its own"),
           (not torch.equal(flat(run.average), flat(twin.average)), "the average of weights is not restored; the losses do not show it, the samples would"),
           ([run.advance() for _ in range(8)] != wanted, "the parts are all there, but the next losses are not those of the run that was never stopped: print both, and see where they part"),
           (not torch.equal(flat(run.average), flat(end.average)), "the losses agree, but eight steps later the average does not: does run.average still follow run.net?"))


# ---- 3.8: a schedule for larger images

def judge_shifted(f: Callable) -> None:
    """3.8: shifted(base, side, base_side) -> a Schedule whose log SNR is lower by 2 log(side / base_side), with alpha^2 + sigma^2 = 1."""
    for name, base in {"cosine": Schedule.cosine(), "sigmoid": Schedule.sigmoid(), "zero_terminal_snr": Schedule.zero_terminal_snr()}.items():
        def case():
            t, side, base_side = between(0.1, 0.9, 6), int(between(80, 250)), int(between(24, 40))
            a, s, k = base.alpha(t), base.sigma(t), side / base_side
            by = lambda k: torch.stack([a, k * s]) / (a**2 + (k * s) ** 2).sqrt()
            clock = k * t / (1 + (k - 1) * t)
            capped, less = (k * s).clamp(max=1), a / k
            return (t, side, base_side), by(k), {
                "the shift has the wrong sign: a larger image shows *more* at the same t, so it needs more noise, not less": by(1 / k),
                "a factor 2 is missing: log SNR must fall by 2 log(side / base_side), so sigma / alpha grows by side / base_side itself, not by its root": by(k**0.5),
                "that is the factor of the area: averaging k x k pixels divides the noise's *variance* by k^2, its standard deviation by k": by(k**2),
                "sigma alone is multiplied, and alpha^2 + sigma^2 is no longer 1: divide both by the root of their squares' sum": torch.stack([a, k * s]),
                "sigma is cut off at 1: most times would show pure noise; multiply the *ratio* sigma / alpha": torch.stack([(1 - capped**2).sqrt(), capped]),
                "sigma is cut off at 1, and alpha is left as it was": torch.stack([a, capped]),
                "alpha alone is divided; then alpha^2 + sigma^2 is not 1": torch.stack([less, s]),
                "alpha is divided and sigma made to fit, which is right only near t = 1: multiply the *ratio* sigma / alpha": torch.stack([less, (1 - less**2).sqrt()]),
                "nothing is shifted": torch.stack([a, s]),
                "that clock, k t / (1 + (k - 1) t), is the flow schedule's; here sigma / alpha is another function of t": torch.stack([base.alpha(clock), base.sigma(clock)]),
                "these are alpha^2 and sigma^2; a Schedule is made of standard deviations": by(k) ** 2,
                "the shift is measured from 64, as in a paper whose base is 64 pixels wide; here the base is base_side": by(side / 64),
                "alpha and sigma have changed places": by(k).flip(0),
                "the sides are subtracted; what counts is their ratio": by(float(side - base_side)),
            }
        (t, side, base_side), right, mistakes = apart(case)
        got = function(f)(base, side, base_side)
        if not isinstance(got, Schedule):
            raise Wrong(f"return a Schedule: Schedule(alpha, sigma) takes two functions of t; got {'None: does it end with `return`?' if got is None else type(got).__name__}")
        compare(torch.stack([got.alpha(t), got.sigma(t)]).double(), right, mistakes, rtol=1e-3, atol=1e-4,
                otherwise=f"from {name} at {base_side} to {side} pixels: at t = {t[0]:.2f} the log SNR falls by {(base.log_snr(t) - got.log_snr(t))[0]:.2f}; after averaging k x k pixels the base's own must be left, so by {2 * math.log(side / base_side):.2f}")
        ends = torch.stack([torch.stack([got.alpha(float(e)), got.sigma(float(e))]) for e in (0, 1)])
        k = side / base_side
        wanted = torch.stack([torch.stack([base.alpha(float(e)), k * base.sigma(float(e))]) for e in (0, 1)])
        if not torch.allclose(ends.double(), wanted / wanted.norm(dim=1, keepdim=True), atol=1e-4):
            raise Wrong(f"right in between, but at t = 0 and t = 1 of {name} alpha and sigma are {[[round(v, 3) for v in row] for row in ends.tolist()]}: there log SNR is inf or -inf; without logarithms, nothing special happens")


# ---- 3.9: fooling the Fréchet distance

def crooked(n: int, d: int) -> Tensor:
    """Seven small bumps around an empty middle, unequal in weight, then stretched along an oblique axis and moved: (n, d)."""
    directions = torch.nn.functional.normalize(torch.randn(7, d, generator=source(), dtype=F64), dim=1)
    axis = torch.nn.functional.normalize(between(0.3, 1, d), dim=0)
    places = between(2, 3, 7, 1) * directions @ (torch.eye(d, dtype=F64) + torch.outer(axis, axis)) + between(1, 3, d)
    x = GaussianMixture(places, 0.1, between(0.3, 1.3, 7)).sample(n, int(between(0, 1e6))).double()
    return x if torch.cdist(x.mean(0)[None], x).min() > 0.7 else crooked(n, d)


def judge_fool(f: Callable) -> None:
    """3.9: fool(real, n) -> n points with Fréchet distance 0 to the real ones, few of them where the real ones are."""
    for n_real, n, d in ((800, 500, 2), (600, 700, 3)):
        real = crooked(n_real, d)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(source().initial_seed() % 2**31)
            x = function(f)(real.clone(), n)
        refuse((x is None, "your function returned None: does it end with `return`?"),
               (not torch.is_tensor(x) or x.shape != (n, d) or x.is_complex(), f"{n} points in {d} dimensions are wanted, a tensor of shape ({n}, {d}); got "
                f"{f'{x.dtype} {tuple(x.shape)}' if torch.is_tensor(x) else type(x).__name__}"))
        refuse((not x.isfinite().all(), "some of your points are nan or inf"))
        judge_cloud(x.detach().double(), real)


def judge_cloud(x: Tensor, real: Tensor) -> None:
    """The diagnosis of a cloud that should fool: first where its points lie, then its covariance, then its mean."""
    (n, d), C, got = x.shape, real.T.cov(), x.T.cov()
    copies, precision = (torch.cdist(x, real).min(1).values < 1e-6).double().mean(), precision_recall(real, x)[0]
    refuse((copies > 0.5, f"{copies:.0%} of your points are real points: that is no fooling, the distance is right about them"),
           (precision > 0.5, f"{precision:.0%} of your points lie among the real ones (precision): they are good samples, and a small distance is deserved"))
    distance, off, L, diagonal = frechet_distance(x, real), (x.mean(0) - real.mean(0)).norm(), torch.linalg.cholesky(C), C.diagonal().diag()
    if distance < 1e-5 * C.trace():
        return
    near = lambda B, tolerance=1e-5: bool((got - B).norm() < tolerance * B.norm())
    other = not near(C * got.trace() / C.trace(), 0.2)                                      # another shape than the real points', not only another size
    chance, centred = 6 * (d / n) ** 0.5, off < 6 * (C.trace() / n) ** 0.5
    refuse((got.trace() < 1e-9 * C.trace(), "all your points are in one place: the mean is one half of the distance, the covariance is the other"),
           (near(C), f"the covariance is that of the real points; the mean is off by {off:.3g}"),
           (near(got.trace() / d * torch.eye(d, dtype=F64)), "your points are white, covariance I: now give them the real points' covariance, with a root of it"),
           (near(C @ C) or near(C @ C, 0.2) and other, "you multiply by the covariance itself, which gives its square: multiply by its *root*"),
           (near(L.T @ L), "rows and columns have changed places: with points as rows, z @ L.T has the covariance L L^T"),
           (near(diagonal) or near(diagonal, 0.2) and other, "each coordinate has its own width, but they are not correlated: the whole covariance is wanted, not only its diagonal"),
           (near(C, chance) and centred, f"nearly: these are draws from the right Gaussian, so their own mean and covariance are off by chance, and the distance is {distance:.2g}. "
            "Whiten the draws first, by *their* mean and covariance"),
           (not centred, f"your points' mean is off by {off:.2f}: give them the mean of the real points"),
           (True, f"the Fréchet distance is {distance:.2g}; it is 0 when mean and covariance agree: compare x.mean(0) and x.T.cov() with those of the real points"))


QUESTIONS = [
    Question("3.1", 2, judge_error, "the four losses measure one error with four weights; so losses of different targets can be compared after all",
             ("Every target's loss is weight * error of x0. Which weight has which target? The lesson's section 3.2 has all four.", "SNR = exp(log_snr); the weights are SNR, 1, SNR + 1 and (1 + sqrt(SNR))^2.",
              "snr = log_snr.exp(); return loss / {\"eps\": snr, \"x0\": torch.ones_like(snr), \"v\": snr + 1, \"flow\": (1 + snr.sqrt())**2}[target]")),
    Question("3.2", 3, judge_min_snr, "one weight, three factors: a weight means nothing until one says on which error it is put",
             ("factor * (the target's own weight of 3.1) = min(SNR, gamma). Solve for the factor.", "At log SNR = -inf SNR is 0, and min(SNR, gamma) / SNR is 0 / 0. How else can min(SNR, gamma) / SNR be written?",
              "eps: (gamma / snr).clamp(max=1); x0: snr.clamp(max=gamma); v: snr.clamp(max=gamma) / (snr + 1)")),
    Question("3.3", 3, judge_frechet, "also where the covariances do not commute, and where one is singular",
             ("The root of a symmetric matrix: take it apart by torch.linalg.eigh, take the roots of the eigenvalues, put it together again.",
              "A^(1/2) B A^(1/2) is symmetric; the trace of its root is the sum of the roots of its eigenvalues.",
              "w, V = torch.linalg.eigh(A); R = (V * w.clamp(min=0).sqrt()) @ V.T; torch.linalg.eigvalsh(R @ B @ R).clamp(min=0).sqrt().sum()")),
    Question("3.4", 3, judge_extrapolate, "a line in 1/n, and its value at 1/n = 0",
             ("Plot the values against 1/n. Where on that axis is n = infinity?", "Least squares: torch.linalg.lstsq(matrix, values[:, None]).solution, where the matrix has the columns 1/n and 1.",
              "torch.linalg.lstsq(torch.stack([1 / ns, torch.ones_like(ns)], 1), values[:, None]).solution[1, 0]")),
    Question("3.5", 3, judge_ema, "a slow copy that starts fast, with a memory of its own",
             ("In __init__: a deep copy, without gradients, and n = 0. In update: the decay first, then the parameters, then the buffers, then n.", "a.lerp_(p, 1 - decay) moves a towards p by the share 1 - decay.",
              "for a, p in zip(self.net.parameters(), net.parameters()): a.lerp_(p, 1 - d); for a, b in zip(self.net.buffers(), net.buffers()): a.copy_(b); self.n += 1")),
    Question("3.6", 3, judge_diagnoses, "three of the seven have the very losses of a healthy run: only samples, and code that the training does not share, can find them",
             ("Sort by the losses first: which trainings have the same ones, step by step? What differs between those must lie after the loss, or in a sign.",
              "The validation is computed by the library. Whose is bad everywhere, whose at one end only? Who is better than the perfect network can be?",
              "Correlation 1 with the starting noise: nothing was done to it. Labels right no more often than by chance, and a large spread: the steps go the wrong way. Thin arcs with a healthy validation: look at the sampler.")),
    Question("3.7", 3, judge_resume, "bit for bit: nothing that the next step depends on is missing",
             ("Go through advance() line by line: what does it read that an earlier step has written?", "Five things: net, average, optimizer, generator, step. The first three have state_dict() and load_state_dict(), the generator get_state() and set_state().",
              "state: copy.deepcopy({\"net\": run.net.state_dict(), ..., \"generator\": run.generator.get_state(), \"step\": run.step}). Restore the optimizer from a deep copy, too: it keeps the tensors it is given.")),
    Question("3.8", 3, judge_shifted, "a shift of the log SNR is a factor on sigma / alpha; then both are divided by one number",
             ("Averaging k x k pixels divides the noise's standard deviation by k. So by what must sigma / alpha be multiplied?", "The pair (alpha, k sigma) has the right ratio, but its squares do not add up to 1. Divide both by the same number.",
              "r = lambda t: (base.alpha(t)**2 + (k * base.sigma(t))**2).sqrt(); Schedule(lambda t: base.alpha(t) / r(t), lambda t: k * base.sigma(t) / r(t))")),
    Question("3.9", 3, judge_fool, "distance 0, and fewer than half of the points where the data are: a small Fréchet distance says that mean and covariance agree, and no more",
             ("The Fréchet distance sees the mean and the covariance only. Which cloud has the same two, and another shape?", "Take any draws, make their own mean 0 and their own covariance I, then give them the real ones.",
              "z = z - z.mean(0); z = z @ power(z.T.cov(), -0.5); x = z @ power(real.T.cov(), 0.5) + real.mean(0)")),
]
