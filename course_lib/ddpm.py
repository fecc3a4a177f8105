"""The textbook: Ho, Jain & Abbeel 2020, DDPM, in the paper's own symbols."""
import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from . import validate
from .schedules import Schedule, append_dims, randn_like


class DDPM:
    """DDPM of Ho et al. 2020: steps i = 0 ... T-1, betas (T,) as given, a network that predicts
    eps.

    The network is called as net(x, t) at t = (i + 1) / T. `samplers.ancestral` with target "eps"
    computes the same for any schedule (a test compares them). With learn_variance the network
    returns (B, 2C, ...), eps and v; v interpolates the log variance of p between the logs of
    beta_tilde_t (v = -1) and of beta_t (v = 1). (Nichol & Dhariwal 2021, section 3.1)
    """

    def __init__(self, net: nn.Module, betas: Tensor, learn_variance: bool = False):
        if net is not None:                                 # None: for what needs no network
            validate.function(net, "net", "(x, t) -> eps, such as UNet(channels=1)")
        if not isinstance(learn_variance, bool):
            raise TypeError(f"learn_variance must be True or False; got {learn_variance!r}")
        if hasattr(net, "schedule"):
            raise TypeError("net must be the bare network; this is a denoiser: pass D.net")
        self.net = net
        self.learn_variance = learn_variance
        self.betas = Schedule.from_betas(betas).betas  # (T,) float64, checked
        self.T = len(self.betas)
        self.alphas = 1 - self.betas
        self.alphas_cumprod = torch.cumprod(self.alphas, dim=0)  # alpha_bar_t
        # alpha_bar_{t-1}
        self.alphas_cumprod_prev = torch.cat([torch.ones(1), self.alphas_cumprod[:-1]])
        # beta_tilde_t, 0 at i = 0
        tilde = self.betas * (1 - self.alphas_cumprod_prev) / (1 - self.alphas_cumprod)
        # its log is -inf at i = 0: that of step 1 there, as in the paper's code
        first = tilde[1:2] if self.T > 1 else self.betas
        self.log_beta_tilde = torch.cat([first, tilde[1:]]).log()

    def q_sample(self, x0: Tensor, i: Tensor, eps: Tensor | None = None) -> Tensor:
        """One draw from q(x_t | x_0): eq. 4.   x0, eps: (B, ...), i: (B,) steps 0 ... T-1

        Raises ValueError for steps that do not exist.
        """
        x0 = validate.real(x0, "x0")
        eps = randn_like(x0) if eps is None else validate.real(eps, "eps", like=x0)
        alpha_bar = self._at(self.alphas_cumprod, i, x0)
        signal = append_dims(alpha_bar.sqrt(), x0) * x0
        return signal + append_dims((1 - alpha_bar).sqrt(), x0) * eps

    def q_posterior(self, x0: Tensor, x: Tensor, i: Tensor) -> tuple[Tensor, Tensor]:
        """Mean (B, ...) and variance (B,) of q(x_{t-1} | x_t, x_0): eq. 6 and 7.

        At i = 0 the variance is 0.
        """
        x = validate.real(x)
        x0 = validate.real(x0, "x0", like=x)
        beta = self._at(self.betas, i, x)
        alpha_bar = self._at(self.alphas_cumprod, i)
        previous = self._at(self.alphas_cumprod_prev, i)
        coefficient_x0 = beta * previous.sqrt() / (1 - alpha_bar)
        coefficient_x = (1 - previous) * (1 - beta).sqrt() / (1 - alpha_bar)
        mean = append_dims(coefficient_x0, x) * x0 + append_dims(coefficient_x, x) * x
        return mean, beta * (1 - previous) / (1 - alpha_bar)

    def p_losses(self, x0: Tensor, i: Tensor, eps: Tensor | None = None) -> Tensor:
        """L_simple, eq. 14: the mean squared error of the predicted noise, per example: (B,)."""
        x, eps = self._noised(x0, i, eps)
        return (self._network(x, i)[0] - eps).square().flatten(1).mean(1)

    def p_mean_variance(
        self,
        x: Tensor,
        i: Tensor,
        clip_denoised: bool = False,
        outputs: tuple[Tensor, Tensor | None] | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Mean (B, ...) and variance (B,) of p(x_{t-1} | x_t), and the prediction of x0: eq. 15,
        then eq. 7.

        clip_denoised: clip the predicted x0 to [-1, 1]. A learned variance has the shape of x.
        outputs: eps and v of the network, where they were computed before.
        Raises ValueError where alpha_bar = 0.
        """
        x = validate.real(x)
        alpha_bar = self._at(self.alphas_cumprod, i, x)
        if (alpha_bar == 0).any():
            raise ValueError(
                "an eps network says nothing about x0 where alpha_bar = 0 (a last beta of 1): use "
                "Denoiser with target v"
            )
        eps_hat, v = self._network(x, i) if outputs is None else _pair(outputs, x)
        if self.learn_variance and v is None:
            raise ValueError("with learn_variance outputs are eps and v; got no v")
        x0_hat = x - append_dims((1 - alpha_bar).sqrt(), x) * eps_hat
        x0_hat = x0_hat / append_dims(alpha_bar.sqrt(), x)
        if clip_denoised:
            x0_hat = x0_hat.clamp(-1, 1)
        mean, variance = self.q_posterior(x0_hat, x, i)
        return mean, variance if v is None else self._learned_variance(v, i), x0_hat

    def p_sample(
        self,
        x: Tensor,
        i: Tensor,
        generator: torch.Generator | None = None,
        clip_denoised: bool = False,
    ) -> Tensor:
        """One step of algorithm 2: a draw from p(x_{t-1} | x_t). No noise is added at i = 0."""
        x = validate.real(x)
        validate.generator(generator)
        mean, variance, _ = self.p_mean_variance(x, i, clip_denoised)
        noisy = append_dims(torch.as_tensor(i) > 0, x)
        return mean + noisy * append_dims(variance.sqrt(), x) * randn_like(x, generator)

    @torch.no_grad()
    def sample(
        self,
        shape: tuple[int, ...],
        generator: torch.Generator | None = None,
        device="cpu",
        clip_denoised: bool = False,
    ) -> Iterator[Tensor]:
        """Algorithm 2: yields x_T, ..., x_0, T + 1 states (`samplers.last` keeps only x_0).

        shape: (B, ...)
        """
        shape = validate.shape(shape)
        validate.generator(generator)
        x = randn_like(torch.empty(shape, device=validate.device(device)), generator)
        yield x
        for i in reversed(range(self.T)):
            x = self.p_sample(x, torch.full(shape[:1], i), generator, clip_denoised)
            yield x

    # ---- the variational bound in bits, and the loss that learns the variance from it

    def vlb_terms(self, x0: Tensor, i: Tensor, eps: Tensor | None = None) -> Tensor:
        """Step i's term of the bound on -log2 p(x0), in bits per dimension: (B,).

        KL(q(x_{t-1} | x_t, x0) || p(x_{t-1} | x_t)), eq. 5; at i = 0 it is -log2 p(x0 | x_1) of a
        256-level image, eq. 13. Summed over all i, plus `prior_bits`, it is the bound.
        """
        x, _ = self._noised(x0, i, eps)
        return self._vlb(x0, x, i, self._network(x, i))

    def prior_bits(self, x0: Tensor) -> Tensor:
        """KL(q(x_T | x0) || N(0, I)), the bound's first term, in bits per dimension: (B,).

        It does not depend on the network.
        """
        x0 = validate.real(x0, "x0")
        alpha_bar, zero = self.alphas_cumprod[-1], torch.zeros_like(x0)
        mean = append_dims(alpha_bar.sqrt(), x0) * x0
        log_variance = append_dims((1 - alpha_bar).log(), x0)
        return bits_per_dim(gaussian_kl(mean, log_variance, zero, zero))

    def hybrid_loss(
        self, x0: Tensor, i: Tensor, eps: Tensor | None = None, weight: float = 0.001
    ) -> Tensor:
        """L_simple + weight L_vlb, (B,): the first trains eps, the second v. (Nichol & Dhariwal
        2021, eq. 16)

        L_vlb, a sum over T steps, is estimated by T times one of them, in bits per dimension as in
        the paper's code. Raises ValueError without learn_variance.
        """
        if not self.learn_variance:
            raise ValueError(
                "hybrid_loss trains a variance: make DDPM(net, betas, learn_variance=True), or "
                "use p_losses"
            )
        validate.number(weight, "weight", 0)
        x, eps = self._noised(x0, i, eps)
        eps_hat, v = self._network(x, i)
        simple = (eps_hat - eps).square().flatten(1).mean(1)
        return simple + weight * self.T * self._vlb(x0, x, i, (eps_hat.detach(), v))

    def _vlb(
        self, x0: Tensor, x: Tensor, i: Tensor, outputs: tuple[Tensor, Tensor | None]
    ) -> Tensor:
        """Step i's term of the bound, from the network's outputs at x: (B,)"""
        mean, variance, _ = self.p_mean_variance(x, i, outputs=outputs)
        q_mean = self.q_posterior(x0, x, i)[0]
        q_log_variance = append_dims(self._at(self.log_beta_tilde, i), x)
        # a fixed variance is q's own
        log_variance = variance.log() if self.learn_variance else q_log_variance
        kl = gaussian_kl(q_mean, q_log_variance, mean, log_variance)
        pixels = -discretised_gaussian_log_prob(x0, mean, (log_variance / 2).exp())
        first = torch.as_tensor(i).to(x.device) == 0
        return torch.where(first, bits_per_dim(pixels), bits_per_dim(kl))

    def _learned_variance(self, v: Tensor, i: Tensor) -> Tensor:
        """exp(u log beta_t + (1 - u) log beta_tilde_t), u = (v + 1) / 2: Nichol & Dhariwal 2021,
        eq. 15.

        v: (B, ...)
        """
        u = (v + 1) / 2
        high = append_dims(self._at(self.betas.log(), i), v)
        low = append_dims(self._at(self.log_beta_tilde, i), v)
        return (u * high + (1 - u) * low).exp()

    def _at(self, table: Tensor, i: Tensor, x: Tensor | None = None) -> Tensor:
        """table[i]: (B,). Raises ValueError for steps that do not exist, or not one for each of x.
        """
        i = validate.tensor(i, "steps")
        if x is not None and (i.ndim > 1 or i.ndim and len(i) not in (1, len(x))):
            raise ValueError(f"steps are one each, ({len(x)},); got {tuple(i.shape)}")
        if i.is_floating_point() or not ((i >= 0) & (i < self.T)).all():
            raise ValueError(
                f"steps are integers from 0 to {self.T - 1}; got {i.flatten()[:4].tolist()}"
            )
        i = i.long()
        return table[i.cpu()] if i.device.type == "mps" else table.to(i.device)[i]

    def _noised(self, x0: Tensor, i: Tensor, eps: Tensor | None) -> tuple[Tensor, Tensor]:
        """x_t, and the noise in it."""
        x0 = validate.real(x0, "x0")
        eps = randn_like(x0) if eps is None else eps
        return self.q_sample(x0, i, eps), eps

    def _network(self, x: Tensor, i: Tensor) -> tuple[Tensor, Tensor | None]:
        """The network's outputs, eps and v, each like x; v is None where no variance is learned."""
        t = (torch.as_tensor(i) + 1).to(x.dtype) / self.T
        out = self.net(x, t.to(x.device, non_blocking=True).expand(len(x))).to(x.dtype)
        if not self.learn_variance:
            return validate.real(out, "what the network returns", like=x), None
        if out.shape[1] != 2 * x.shape[1]:
            raise ValueError(
                f"with learn_variance the network returns eps and v, {2 * x.shape[1]} channels for "
                f"these x; got {out.shape[1]}"
            )
        return out.chunk(2, dim=1)


def _pair(outputs: tuple[Tensor, Tensor | None], x: Tensor) -> tuple[Tensor, Tensor | None]:
    """The network's outputs eps and v, each like x; v may be None."""
    if not isinstance(outputs, tuple) or len(outputs) != 2:
        raise TypeError("outputs are a pair, eps and v (or None), of the network")
    eps_hat, v = outputs
    eps_hat = validate.real(eps_hat, "eps", like=x)
    return eps_hat, None if v is None else validate.real(v, "v", like=x)


def gaussian_kl(
    mean: Tensor, log_variance: Tensor, other_mean: Tensor, other_log_variance: Tensor
) -> Tensor:
    """KL(N(mean, variance) || N(other_mean, other_variance)) of each number, in nats."""
    mean = validate.real(mean, "mean", ndim=0)
    other_mean = validate.broadcast(other_mean, mean, "other_mean")
    log_variance = validate.broadcast(log_variance, mean, "log_variance")
    other_log_variance = validate.broadcast(other_log_variance, mean, "other_log_variance")
    log_ratio = log_variance - other_log_variance
    distance = (mean - other_mean) ** 2 * (-other_log_variance).exp()
    return (log_ratio.expm1() - log_ratio + distance) / 2               # expm1(a) is exp(a) - 1


def discretised_gaussian_log_prob(x0: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """log of the mass of N(mean, std^2) in each pixel's bin, one of 256 in [-1, 1]: Ho et al. 2020,
    eq. 13.

    Bins are 2/255 wide. The first and the last also take the tails, so that the 256 masses add up
    to 1. Raises TypeError or ValueError for images outside [-1, 1] and a std that is not above 0.
    """
    x0 = validate.real(x0, "x0", ndim=0)
    mean = validate.broadcast(mean, x0, "mean")
    std = validate.broadcast(std, x0, "std")
    if x0.device.type == "cpu" and (x0.abs().max() > 10 or not (std > 0).all()):
        raise ValueError("x0 must lie in [-1, 1] and std be above 0")
    below_upper_edge = torch.where(x0 > 0.999, 1.0, torch.special.ndtr((x0 + 1 / 255 - mean) / std))
    below_lower_edge = torch.where(
        x0 < -0.999, 0.0, torch.special.ndtr((x0 - 1 / 255 - mean) / std)
    )
    return (below_upper_edge - below_lower_edge).clamp(min=1e-12).log()


def bits_per_dim(nats: Tensor) -> Tensor:
    """Nats to bits, averaged over each example's dimensions: (B, ...) -> (B,)"""
    nats = validate.real(nats, "nats")
    return nats.reshape(len(nats), -1).mean(1) / math.log(2)
