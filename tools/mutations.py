"""Break a formula on purpose: does a test go red?    python tools/mutations.py

Each entry changes one expression, of the library or of a lesson's formula as its test writes it down, in a copy of the
repository, and runs the tests that should notice. `python tools/mutations.py posterior` runs the entries whose line contains that word
(or "equations": the formulas of the lessons).
Prints one line per entry; exit status 1 if any change went unnoticed.
"""
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
#   file            from                                                        to                                                  tests
MUTATIONS = [
    ("schedules.py", "torch.cumprod(1 - betas, dim=0)])", "torch.cumprod(1 - betas / 2, dim=0)])", "schedules"),
    ("schedules.py", "lambda t: (1 - at(t)).sqrt(), betas", "lambda t: 1 - at(t), betas", "schedules"),
    ("schedules.py", "* (1000 / T)", "* 1.0", "schedules"),
    ("schedules.py", "(u + 0.008) / 1.008", "(u + 0.08) / 1.08", "schedules"),
    ("schedules.py", "torch.sigmoid(3 - 6 * u)", "torch.sigmoid(6 * u - 3)", "schedules"),
    ("schedules.py", "clamp(max=0.999)", "clamp(max=0.9999)", "schedules"),
    ("schedules.py", "root[0] / (root[0] - root[-1])", "1.0", "schedules"),
    ("schedules.py", "sigma_max * t**rho", "sigma_max * t", "schedules"),
    ("schedules.py", "return 2 * (self.alpha(t).log()", "return (self.alpha(t).log()", "schedules"),
    ("schedules.py", "(self.sigma(t) ** 2 - (ratio * self.sigma(s)) ** 2)", "(self.sigma(t) ** 2 - self.sigma(s) ** 2)", "schedules"),
    ("schedules.py", "t * T - left)", "t * T - left - 0.1)", "schedules"),
    ("schedules.py", "over(self.sigma(t), x0) * eps", "over(self.sigma(t) ** 2, x0) * eps", "schedules"),
    ("schedules.py", "return self.sigma(t).float().to(device) *", "return", "schedules"),
    ("denoiser.py", "(-sigma, alpha),  ", "(sigma, alpha),  ", "denoiser"),
    ("denoiser.py", "determinant = alpha * b - sigma * a", "determinant = alpha * b + sigma * a", "denoiser"),
    ("denoiser.py", "over(b / determinant, x) * x - ", "over(b / determinant, x) * x + ", "denoiser"),
    ("denoiser.py", "- over(b, x0) * eps).square()", "+ over(b, x0) * eps).square()", "denoiser"),
    ("denoiser.py", ".square().flatten(1).mean(1)", ".square().flatten(1).sum(1)", "denoiser"),
    ("denoiser.py", '"flow": lambda alpha, sigma: (-1 + 0 * alpha', '"flow": lambda alpha, sigma: (1 + 0 * alpha', "denoiser"),
    ("ddpm.py", "(1 - alpha_bar).sqrt(), x0) * eps", "(1 - alpha_bar), x0) * eps", "ddpm"),
    ("ddpm.py", "beta * previous.sqrt() / (1 - alpha_bar)", "beta * alpha_bar.sqrt() / (1 - alpha_bar)", "ddpm"),
    ("ddpm.py", "(1 - previous) * (1 - beta).sqrt()", "(1 - previous) * (1 - beta)", "ddpm"),
    ("ddpm.py", "beta * (1 - previous) / (1 - alpha_bar)\n", "beta\n", "ddpm"),
    ("ddpm.py", "over(variance.sqrt(), x) * randn_like", "over(variance, x) * randn_like", "ddpm"),
    ("ddpm.py", "(torch.as_tensor(i) + 1).to(x.dtype)", "torch.as_tensor(i).to(x.dtype)", "ddpm"),
    ("ddpm.py", "/ over(alpha_bar.sqrt(), x)", "/ over(alpha_bar, x)", "ddpm"),
    ("samplers.py", "std = eta * sigma_s * (1 - (ratio * sigma_s / sigma_t) ** 2)", "std = eta * sigma_s * (1 - (sigma_s / sigma_t) ** 2)", "samplers"),
    ("samplers.py", "(sigma_s**2 - std**2)", "(sigma_s**2)", "samplers"),
    ("samplers.py", "(x - over(schedule.alpha(t), x) * x0_hat) / over", "(x - x0_hat) / over", "samplers"),
    ("samplers.py", "over(alpha_s, x) * x0_hat + over((sigma_s", "over(alpha_t, x) * x0_hat + over((sigma_s", "samplers"),
    ("samplers.py", "if sigma_hat else std", "if sigma_hat else std * 0.9", "samplers"),
    ("samplers.py", ".clamp(min=0).sqrt() * (s > 0)", ".clamp(min=0).sqrt()", "samplers"),
    ("samplers.py", "t, s, 1.0, generator, sigma_hat)", "t, s, 0.0, generator, sigma_hat)", "ddpm"),
    ("samplers.py", "-torch.expm1(-h) / 2", "-torch.expm1(-h)", "samplers_fast"),
    ("samplers.py", "of_square = 1 - 2 * of_line / h", "of_square = 1 - of_line / h", "samplers_fast"),
    ("samplers.py", "d1 - over(v, D0) * bend", "d1 + over(v, D0) * bend", "samplers_fast"),
    ("samplers.py", "(eps_hat + eps_ahead) / 2", "eps_ahead", "samplers_fast"),
    ("samplers.py", "up, generator), s_noise), up", "up, generator), 1.0), up", "samplers_fast"),
    ("samplers.py", "churn / len(steps), 2**0.5 - 1", "churn / len(steps), 1.0", "samplers_fast"),
    ("samplers.py", "rho: float = 7.0, low", "rho: float = 5.0, low", "samplers_fast"),
    ("samplers.py", "x0_hat = (x - over(schedule.sigma(t), x) * eps_hat)", "x0_hat = (x - over(schedule.sigma(s), x) * eps_hat)", "samplers_fast"),
    ("samplers.py", "((1 - share) * angle).sin()", "((1 - share) * angle).cos()", "samplers_fast"),
    ("guidance.py", "/ over(s, x) * least", "* least", "samplers_fast"),
    ("consistency.py", "(u * self.levels).ceil()", "(u * self.levels).floor()", "consistency"),
    ("consistency.py", "r = (t - 1 / self.levels)", "r = (t - 2 / self.levels)", "consistency"),
    ("consistency.py", "/ over(self.schedule.sigma(t), x)", "* over(self.schedule.sigma(t), x)", "consistency"),
    ("consistency.py", "        with torch.no_grad():\n            cleaner", "        if True:\n            cleaner", "consistency"),
    ("consistency.py", "self.guide = guide and (lambda *inputs, **condition: guide(*inputs, **condition))", "self.guide = guide", "consistency"),
    ("samplers.py", "x = schedule.perturb(D(x, t, **condition), s, randn_like", "x = schedule.perturb(D(x, t, **condition), t, randn_like", "equations_04"),
    ("lab/batches.py", "mean - std * torch.special.ndtri(share)", "mean + std * torch.special.ndtri(share)", "training_runs"),
    ("lab/bridge.py", "(t * schedule.T - 1)", "(t * schedule.T)", "samplers_fast"),
    ("guidance.py", "torch.lerp(D(x, t, **condition | null), D(x, t, **condition)", "torch.lerp(D(x, t, **condition), D(x, t, **condition | null)", "samplers"),
    ("lab/metrics.py", "A.trace() + B.trace() - 2 * cross)", "A.trace() + B.trace() - cross)", "lab"),
    ("lab/data.py", "variance = (alpha * self.stds) ** 2 + sigma**2", "variance = (alpha * self.stds) ** 2 + sigma", "lab"),
    ("lab/data.py", "pull = (alpha * self.stds**2 / variance)", "pull = (self.stds**2 / variance)", "lab"),
    ("lab/batches.py", "< p   ", "> p   ", "train"),
    ("lab/run.py", "1 - (1 - 1 / self.step) ** 10", "1 - (1 - 1 / self.step) ** 9", "train"),
    ("lab/muon.py", "c * gram @ gram", "b * gram @ gram", "train"),
    ("lab/muon.py", "return p.grad.lerp(average, keep)", "return average", "train"),
    ("networks/unet.py", "1000 * t.float()", "t.float()", "networks"),
    ("networks/unet.py", "q * q.shape[-1] ** -0.5 @", "q @", "networks"),
    ("networks/unet.py", "masked_fill(~mask, -math.inf)", "masked_fill(mask, -math.inf)", "networks"),
    ("networks/unet.py", "split = lambda tokens: tokens.view(B, tokens.shape[1], self.heads, -1).transpose(1, 2)",
     "split = lambda tokens: tokens.reshape(B, self.heads, -1, tokens.shape[1]).transpose(2, 3)", "networks"),
    ("networks/unet.py", "F.pad(mask, (1, 0), value=True)", "F.pad(mask, (1, 0), value=False)", "networks"),
    ("networks/unet.py", "self.norm2(h), 1 + scale)", "self.norm2(h), scale)", "equations_02"),
    ("networks/dit.py", "x = x + gate1 * self._attend(", "x = x + self._attend(", "networks"),
    ("networks/dit.py", "+ self.positions.to(x.dtype)", "", "networks"),
    ("networks/dit.py", "torch.cat([rows, columns], dim=2)", "torch.cat([columns, rows], dim=2)", "networks"),
    ("lab/cost.py", "// 2", "", "networks"),
    ("denoiser.py", "return sigma / (sigma_data * r), -sigma_data * alpha / r", "return sigma / (sigma_data * r), sigma_data * alpha / r", "denoiser"),
    ("denoiser.py", "(sigma**2 + (self.sigma_data * alpha) ** 2).rsqrt()", "(sigma**2 + self.sigma_data * alpha**2).rsqrt()", "denoiser"),
    ("denoiser.py", "alpha.clamp(min=1e-4)).log() / 4", "alpha.clamp(min=1e-4)).log() / 2", "denoiser"),
    ("ddpm.py", "u = (v + 1) / 2\n", "u = v\n", "ddpm"),
    ("ddpm.py", "weight * self.T * self._vlb", "weight * self._vlb", "ddpm"),
    ("ddpm.py", "(eps_hat.detach(), v)", "(eps_hat, v)", "ddpm"),
    ("ddpm.py", "log_ratio.expm1() - log_ratio +", "log_ratio.expm1() + log_ratio +", "ddpm"),
    ("ddpm.py", "torch.where(x0 > 0.999, 1.0,", "torch.where(x0 > 1.999, 1.0,", "ddpm"),
    ("ddpm.py", "ndtr((x0 + 1 / 255 - mean)", "ndtr((x0 + 2 / 255 - mean)", "ddpm"),
    ("ddpm.py", "nats.flatten(1).mean(1) / math.log(2)", "nats.flatten(1).mean(1)", "ddpm"),
    ("ddpm.py", "over((1 - alpha_bar).log(), x0), zero, zero)", "over(alpha_bar.log(), x0), zero, zero)", "ddpm"),
    ("lab/metrics.py", "torch.outer(step, step) * (self.n * n / total)", "torch.outer(step, step) * (n / total)", "metrics"),
    ("lab/metrics.py", "torch.linalg.eigvalsh(S.T @ B @ S)", "torch.linalg.eigvalsh(S @ B @ S.T)", "metrics"),
    ("lab/metrics.py", "(K_aa.sum() - K_aa.trace())", "K_aa.sum()", "metrics"),
    ("lab/metrics.py", "x.shape[1] + 1) ** 3)", "x.shape[1] + 1) ** 2)", "metrics"),
    ("lab/metrics.py", "/ (2 * width**2)", "/ width**2", "metrics"),
    ("lab/metrics.py", "kthvalue(k + 1, dim=1)", "kthvalue(k, dim=1)", "metrics"),
    ("lab/metrics.py", "_covered(generated, real, k), _covered(real, generated, k)", "_covered(real, generated, k), _covered(generated, real, k)", "metrics"),
    ("lab/metrics.py", "torch.xlogy(part, part) - torch.xlogy(part, mean)", "torch.xlogy(part, part) - torch.xlogy(mean, part)", "metrics"),
    ("lab/features.py", "difference.sum(1).mean((1, 2))", "difference.mean((1, 2, 3))", "metrics"),
    ("lab/batches.py", "slice(rank * self.size // world, (rank + 1)", "slice(0, (rank + 1)", "training_runs"),
    ("lab/batches.py", "x0.flip(-1), x0)", "x0.flip(-2), x0)", "training_runs"),
    ("lab/run.py", "self.weight(self.D.schedule.log_snr(t))", "self.weight(-self.D.schedule.log_snr(t))", "training_runs"),
    ("lab/run.py", "for name, value in condition.items()}) / parts", "for name, value in condition.items()})", "training_runs"),
    ("lab/run.py", "self.D.parameters(), self.clip)", "self.D.parameters(), 2 * self.clip)", "training_runs"),
    ("lab/run.py", "if self._losses else {}", "if False else {}", "training_runs"),
    ("lab/run.py", "self.scaler.unscale_(optimizer)", "pass", "training_runs"),
]
#   formula  from                                                       to
FORMULAS = [
    ("1.1", "close_variance(x, 0.36 * 4 + 0.49)", "close_variance(x, 0.6 * 4 + 0.7)"),
    ("1.2", "wanted * (0.7 / 0.5 - 1.0 / 0.2)", "wanted * (0.7 / 0.5 + 1.0 / 0.2)"),
    ("1.3", "(0.3 + 1.5**2) / 2.0 - 1)", "(0.3 + 1.5**2) / 2.0)"),
    ("1.6", "a2 * (1 - a1) + (1 - a2) ==", "a2 * (1 - a1) + (1 - a1) =="),
    ("1.8", "SNR, SNR_BEFORE = ALPHA_BAR / (1 - ALPHA_BAR)", "SNR, SNR_BEFORE = ALPHA_BAR.sqrt() / (1 - ALPHA_BAR)"),
    ("1.9", "a.sqrt() * m, a * 0.09 + 1 - a).exp()", "a.sqrt() * m, a * 0.3 + 1 - a).exp()"),
    ("1.10", "(t - 1) / 999", "t / 1000"),
    ("1.12", "sig(-3 + 6 * t / 1000)", "sig(3 - 6 * t / 1000)"),
    ("1.13", "/ (2 * (1 - a)), dim=1)", "/ (1 - a), dim=1)"),
    ("1.14", "- 3 * a - 3 * torch.log1p(-a)", "- 3 * a + 3 * torch.log1p(-a)"),
    ("1.15", "log_normal(x, (1 - beta) ** 0.5 * Y, beta)", "log_normal(x, (1 - beta) * Y, beta)"),
    ("1.16", "mean - c - beta / (1 - beta) * slope", "mean - c + beta / (1 - beta) * slope"),
    ("1.16", "abs(variance - beta / (1 - beta))", "abs(variance - 1.2 * beta / (1 - beta))"),
    ("1.17", "BETA_TILDE = BETAS * (1 - BEFORE)", "BETA_TILDE = BETAS * (1 - ALPHA_BAR)"),
    ("1.18", "BEFORE[i].sqrt() * BETAS[i] * x0", "ALPHA_BAR[i].sqrt() * BETAS[i] * x0"),
    ("1.19", "m, v = mean, 0.64 * v + variance", "m, v = mean, 0.8 * v + variance"),
    ("1.20", "L = log_q - log_model(x)", "L = log_model(x) - log_q"),
    ("1.21", "for i in (1, 2):", "for i in (0, 1):"),
    ("1.22", "L_T + sum(between) + L_0 - direct", "L_T + sum(between) - L_0 - direct"),
    ("1.23", "+ tilde / variance - 1)", "+ variance / tilde - 1)"),
    ("1.24", "0.5 * (SNR_BEFORE[i] - SNR[i])", "(SNR_BEFORE[i] - SNR[i])"),
    ("1.25", "variance * (1 - BETAS[i]) * (1 - ALPHA_BAR[i]))", "variance * (1 - ALPHA_BAR[i]))"),
    ("1.26", "pytest.approx(ALPHA_BAR[14].item(), rel=0.02)", "pytest.approx(1 - ALPHA_BAR[14].item(), rel=0.02)"),
    ("1.28", "+ (m - guess) ** 2).item()", "- (m - guess) ** 2).item()"),
    ("1.29", "approx((-mean_eps / (1 - a).sqrt()).item())", "approx((-mean_eps / (1 - a)).item())"),
    ("1.30", "((0.3 + (1 - a) * score) / a.sqrt())", "((0.3 + (1 - a).sqrt() * score) / a.sqrt())"),
    ("1.31", "means + a.sqrt() * 0.09 / (a * 0.09", "means + a * 0.09 / (a * 0.09"),
    ("1.32", "belief(x, a) @ STORED, exact", "belief(x, a) @ STORED * a.sqrt(), exact"),
    ("1.33", "- 0.5 * (20 - 0.1) * t**2", "- (20 - 0.1) * t**2"),
    ("1.34", "posterior_mean(x / schedule.alpha(t), torch", "posterior_mean(x, torch"),
    ("1.35", "posterior_mean(x / total, flow", "posterior_mean(x, flow"),
    ("1.36", "math.exp(-level / 2)", "math.exp(-level)"),
    ("2.1", "r + (kernel - 1) * jump", "r + kernel * jump"),
    ("2.2", "H * W * 5 * 7 * kernel**2", "H * W * 5 * 7 * 3 * kernel"),
    ("2.3", "10_000 ** (-k / (K - 1))", "10_000 ** (-k / K)"),
    ("2.4", "torch.cos(1000 * 0.03 * frequency)", "torch.sin(1000 * 0.03 * frequency)"),
    ("2.5", "groups.var((2, 3, 4), correction=0", "groups.var((3, 4), correction=0"),
    ("2.6", "z / (1 + (-z).exp())", "z / (1 + z.exp())"),
    ("2.7", "h = (1 + a) * block.norm2(", "h = a * block.norm2("),
    ("2.5", "(variance + 1e-5).sqrt())", "(variance.sqrt() + 1e-5))"),
    ("2.8", "(1 - tau) * a + tau * b", "tau * a + (1 - tau) * b"),
    ("2.12", "+ 1e-6).sqrt()", "+ 1e-12).sqrt()"),
    ("2.8", "math.sqrt((1 - tau) ** 2 + tau**2)", "math.sqrt((1 - tau) + tau**2)"),
    ("2.9", "(query * key).sum().item() / math.sqrt(8)", "(query * key).sum().item() / 8"),
    ("2.11", "+ 2 * (side**2) ** 2 * C", "+ (side**2) ** 2 * C**2 // 16"),
    ("2.12", "z.square().mean(-1, keepdim=True) + 1e-6", "z.square().sum(-1, keepdim=True) + 1e-6"),
    ("2.13", "h = x + g1 * block.proj(", "h = x + block.proj("),
    ("2.14", "q @ (R(theta * (n - m)) @ k))", "q @ (R(theta * (m - n)) @ k))"),
    ("2.15", "12 * N * d**2 + 2 * N**2 * d", "12 * N * d**2 + N**2 * d"),
    ("2.10", "pytest.approx(d, rel=0.03)", "pytest.approx(d**0.5, rel=0.03)"),
    ("3.1", "pytest.approx(SKEW.mean().item()", "pytest.approx(SKEW.median().item()"),
    ("3.2", "(y < best).double().mean() - (y > best)", "(y < best).double().mean() + (y > best)"),
    ("3.3", ".clamp(-0.7, 0.7)", ".clamp(-7, 7)"),
    ("3.4", "((alpha * b - sigma * a) / sigma) ** 2", "((alpha * b + sigma * a) / sigma) ** 2"),
    ("3.5", "(1 + snr_flow.sqrt()) ** 2", "1 + snr_flow"),
    ("3.6", "pytest.approx((eps - x0).item())", "pytest.approx((x0 - eps).item())"),
    ("3.7", "speed = (eps - x0)[near]", "speed = (x0 - eps)[near]"),
    ("3.8", "(torch.sin, torch.cos)", "(torch.cos, torch.sin)"),
    ("3.9", "excess(u + other)", "excess(-u + other)"),
    ("3.10", "x + (s - t) * mean_speed", "x + (t - s) * mean_speed"),
    ("3.11", "sigma.log() / 4", "sigma.log() / 2"),
    ("3.12", "C_IN, C_SKIP, C_OUT = 1 / SIZE,", "C_IN, C_SKIP, C_OUT = 1 / SIZE**2,"),
    ("3.13", "c_out = ((1 - c) ** 2 * S**2 + c**2", "c_out = ((1 - c) ** 2 * S**2 + c"),
    ("3.14", "S**2 / SIZE**2, SIGMA * S / SIZE", "S**2 / SIZE**2, SIGMA / SIZE"),
    ("3.15", "(snr + 1) * v, snr.clamp(max=5)", "snr * v, snr.clamp(max=5)"),
    ("3.16", "w(t) * L(t) / (2 * t)", "w(t) * L(t) * (2 * t)"),
    ("3.17", "best = moment(g / g.mean())", "best = moment(g**2 / (g**2).mean())"),
    ("3.18", "(0.6 / 0.8) + 2 * math.log(k)", "(0.6 / 0.8) + math.log(k)"),
    ("3.19", "k * t / (1 + (k - 1) * t)", "t / (k - (k - 1) * t)"),
    ("3.20", "0.75 * log_variance[0.0] + 0.25 * log_variance[1.0]", "0.25 * log_variance[0.0] + 0.75 * log_variance[1.0]"),
    ("3.21", "simple + 0.001 * 50 * bits", "simple + 0.001 * bits"),
    ("3.21", "/ 2 / math.log(2)).mean(1)", "/ 2).mean(1)"),
    ("3.22", "torch.where(levels > 0.999, 1.0, normal", "torch.where(levels > 1.999, 1.0, normal"),
    ("3.22", "torch.where(levels < -0.999, 0.0, normal", "torch.where(levels < -1.999, 0.0, normal"),
    ("3.23", "(1 - beta) * beta**k for k", "(1 - beta) * beta ** (k + 1) for k"),
    ("3.24", "((gamma + 1) / n * (k / n) ** gamma)[300:]", "(gamma / n * (k / n) ** gamma)[300:]"),
    ("3.25", "(0.4**2 + 0.6**2)", "0.6**2"),
    ("3.26", "alpha**2 * 0.6**2 + sigma**2)", "alpha * 0.6**2 + sigma**2)"),
    ("3.27", "assert_close(alpha * x_t - sigma * v, x0)", "assert_close(alpha * x_t + sigma * v, x0)"),
    ("3.28", "alpha * sigma * (1 - s**2) /", "alpha * sigma * (1 + s**2) /"),
    ("3.29", "- 2 * 1.5 * 0.5 * 0.6", "- 1.5 * 0.5 * 0.6"),
    ("3.30", "(0.3 + 0.4) ** 2 + (1.5 - 0.5) ** 2", "(0.3 + 0.4) ** 2 + 1.5**2 - 0.5**2"),
    ("3.31", "cross = power(A, 0.5) @ K @ power(B, 0.5)", "cross = power(A, 0.5) @ K.T @ power(B, 0.5)"),
    ("3.32", "M = power(B, 0.5) @ power(A, 0.5)", "M = B @ A"),
    ("3.33", "T = power(A, -0.5) @ R @ power(A, -0.5)", "T = power(A, -0.5) @ power(B, 0.5)"),
    ("3.34", "(A + B - 2 * R).trace()", "(A + B - 2 * power(A, 0.5) @ power(B, 0.5)).trace()"),
    ("3.35", "second = 0.5 * (", "second = 0.25 * ("),
    ("3.35", "(0.5 * (1 / LAM[:, None] + 1 / LAM)", "((1 / LAM[:, None] + 1 / LAM)"),
    ("3.36", "bracket = LAM.sum() + 0.5 *", "bracket = 0.5 *"),
    ("3.36", "(0.25 + 0.25) * (1 / n + 1 / m)", "(0.25 + 0.125) * (1 / n + 1 / m)"),
    ("3.37", "k(x, x) + k(y, y) - 2 * k(x, y)", "k(x, x) + k(y, y) - k(x, y)"),
    ("3.38", "mean + (itself - mean) / n", "mean + itself / n"),
    ("3.39", "if i != j) / 30", "if i != j) / 36"),
    ("3.40", "entropy(mean) - entropy(p).mean()", "entropy(p).mean() - entropy(mean)"),
    ("3.41", "for o in cloud)[k]", "for o in cloud)[k - 1]"),
    ("3.42", ".nan_to_num().sum() / (H * W)", ".nan_to_num().sum() / (H + W)"),
    ("3.43", "- (wrong - best).square().sum(1)", "+ (wrong - best).square().sum(1)"),
    ("4.2", "mean = a_s * x0 + covariance / var_t * (x_t - a_t * x0)", "mean = a_s * x0 + covariance / var_t * (x_t + a_t * x0)"),
    ("4.2", "close(s_s**2 * v / s_t**2, s_s**2 - covariance**2 / var_t)", "close(s_s * v / s_t**2, s_s**2 - covariance**2 / var_t)"),
    ("4.3", "(a_s * v / s_t**2) ** 2 * x0_given", "(a_s * v / s_t**2) * x0_given"),
    ("4.4", "x_s = a_s * x0 + (s_s**2 - v**2).sqrt() *", "x_s = a_s * x0 + (s_s - v) *"),
    ("4.5", "variance = (s_s**2 - v**2) / s_t**2 * variance + v**2", "variance = (s_s**2 - v**2) / s_t**2 * variance + v"),
    ("4.6", "close((s_s**2 - tilde2).sqrt(), r * s_s**2 / s_t)", "close((s_s**2 - tilde2).sqrt(), r * s_s / s_t)"),
    ("4.7", "(a_s - a_t / s_t * (s_s**2 - v**2).sqrt()) ** 2", "(a_s - a_t / s_t * s_s) ** 2"),
    ("4.8", "step = a_s * x0 + (s_s**2 - (eta * tilde) ** 2).sqrt() * eps", "step = a_s * x0 + (s_s**2 - tilde ** 2).sqrt() * eps"),
    ("4.9", "X / a_t + (s_s / a_s - s_t / a_t) * eps", "X / a_t + (s_s - s_t) * eps"),
    ("4.11", "schedule.d_alpha(T) * x0 + schedule.d_sigma(T) * eps, slope", "schedule.d_alpha(T) * x0 - schedule.d_sigma(T) * eps, slope"),
    ("4.13", "(2 * b * db - 2 * b**2 * da / a) / 2 * score", "(2 * b * db - 2 * b**2 * da / a) * score"),
    ("4.14", "v**2 / 2 * score", "v**2 * score"),
    ("4.15", "close(left, 0.5 * (weight[:, None] * slope * (q.score(x) - p.score(x)))", "close(left, 0.5 * (weight[:, None] * slope * (q.score(x) + p.score(x)))"),
    ("4.16", "-0.5 * (p * (-(x - 0.7)", "0.5 * (p * (-(x - 0.7)"),
    ("4.17", "h**2 / 2 * torch.sin(x) * torch.cos(x)", "h**2 * torch.sin(x) * torch.cos(x)"),
    ("4.20", "a / b * x0, rtol", "b / a * x0, rtol"),
    ("4.21", "s_s / s_t * X + s_s * total", "s_s / s_t * X + s_t * total"),
    ("4.22", "            I = h**k - k * I\n            close", "            I = h**k + k * I\n            close"),
    ("4.23", "now + h / (2 * before) * (now - old)", "now + h / before * (now - old)"),
    ("4.25", "low ** (1 / rho) - high ** (1 / rho))) ** rho for i", "low ** (1 / rho) - high ** (1 / rho))) for i"),
    ("4.27", "lifted = x + (hat**2 - r**2).sqrt()", "lifted = x + (hat - r)"),
    ("4.31", "up = a_to / a_from * (X - s_from * eps) + s_to * eps", "up = a_to / a_from * (X - s_to * eps) + s_to * eps"),
    ("4.33", 'for target in ("v", "eps", "flow", "edm")', 'for target in ("v", "eps", "flow", "x0")'),
    ("4.34", "[:, 0] / cosine.sigma(t)\n        close", "[:, 0] / cosine.alpha(t)\n        close"),
    ("4.35", "close(var, (a_s - s_s / s_t * a_t) ** 2 * x0_var)", "close(var, (a_s - a_t) ** 2 * x0_var)"),
    ("4.36", "0.5 * bend(torch.tensor", "bend(torch.tensor"),
    ("4.37", "schedule.alpha(S) * 0.3 + schedule.sigma(S) *", "schedule.alpha(S) * 0.3 + schedule.sigma(S) ** 2 *"),
    ("4.38", "target = (x_s - ratio * X) / (schedule.alpha(s) - ratio * schedule.alpha(T))", "target = (x_s - ratio * X) / schedule.alpha(s)"),
    ("4.39", "close(x - (t - r) * mean_velocity", "close(x + (t - r) * mean_velocity"),
    ("4.40", "close(u, v - (t - r) * du)", "close(u, v + (t - r) * du)"),
    ("4.41", "mean_velocity(x - d * first, t - 2 * d, t - d)", "mean_velocity(x, t - 2 * d, t - d)"),
]


def noticed(path: Path, old: str, new: str, tests: list[str]) -> bool:
    """Whether these tests fail once `old` reads `new` in this file."""
    text = path.read_text()
    if text.count(old) != 1:
        raise SystemExit(f"{path.name}: {old!r} stands there {text.count(old)} times; this list must follow the code")
    path.write_text(text.replace(old, new))
    root = next(p for p in path.parents if (p / "pyproject.toml").exists())
    done = subprocess.run([sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *tests],
                          cwd=root, env=os.environ | {"PYTHONPATH": str(root)}, capture_output=True, text=True)
    path.write_text(text)
    if done.returncode not in (0, 1):
        raise SystemExit(done.stdout + done.stderr)
    return done.returncode == 1


def main() -> int:
    wanted, missed, tried = sys.argv[1] if len(sys.argv) > 1 else "", 0, 0
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder, "course")
        shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(".git", ".venv", "runs", "*.ipynb", "__pycache__"))
        entries = [(copy / "course_lib" / file, old, new, [f"tests/test_{tests}.py", "tests/test_equations_01.py"]) for file, old, new, tests in MUTATIONS]
        for formula, old, new in FORMULAS:
            lesson, number = formula.split(".")
            file = f"tests/test_equations_{int(lesson):02d}.py"
            entries.append((copy / file, old, new, [f"{file}::test_eq_{lesson}_{number}"]))
        for path, old, new, tests in entries:
            line = f"{tests[0]}: {old.strip()}  ->  {new.strip()}"
            if wanted not in line:
                continue
            red = noticed(path, old, new, tests)
            tried, missed = tried + 1, missed + (not red)
            print(f"{'red ' if red else 'GREEN'}  {line}", flush=True)
    print(f"{tried - missed} of {tried} noticed")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
