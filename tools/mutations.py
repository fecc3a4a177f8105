"""Break a formula on purpose: does a test go red?    python tools/mutations.py

Each entry changes one expression of the library, in a copy of the repository, and runs the tests that should notice.
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
    ("ddpm.py", "return mean + over(variance.sqrt(), x)", "return mean + over(variance, x)", "ddpm"),
    ("ddpm.py", "(torch.as_tensor(i) + 1).to(x.dtype)", "torch.as_tensor(i).to(x.dtype)", "ddpm"),
    ("ddpm.py", "/ over(alpha_bar.sqrt(), x)", "/ over(alpha_bar, x)", "ddpm"),
    ("samplers.py", "std = eta * sigma_s * (1 - (ratio * sigma_s / sigma_t) ** 2)", "std = eta * sigma_s * (1 - (sigma_s / sigma_t) ** 2)", "samplers"),
    ("samplers.py", "(sigma_s**2 - std**2)", "(sigma_s**2)", "samplers"),
    ("samplers.py", "(x - over(alpha_t, x) * x0_hat) / over(sigma_t, x)", "(x - x0_hat) / over(sigma_t, x)", "samplers"),
    ("samplers.py", "over(alpha_s, x) * x0_hat + over((sigma_s", "over(alpha_t, x) * x0_hat + over((sigma_s", "samplers"),
    ("samplers.py", "if sigma_hat else std", "if sigma_hat else std * 0.9", "samplers"),
    ("samplers.py", ".clamp(min=0).sqrt() * (s > 0)", ".clamp(min=0).sqrt()", "samplers"),
    ("samplers.py", "t, s, 1.0, generator, sigma_hat)", "t, s, 0.0, generator, sigma_hat)", "ddpm"),
    ("guidance.py", "torch.lerp(D(x, t, **condition | null), D(x, t, **condition)", "torch.lerp(D(x, t, **condition), D(x, t, **condition | null)", "samplers"),
    ("lab/metrics.py", "- 2 * cross)", "- cross)", "lab"),
    ("lab/data.py", "variance = (alpha * self.stds) ** 2 + sigma**2", "variance = (alpha * self.stds) ** 2 + sigma", "lab"),
    ("lab/data.py", "pull = (alpha * self.stds**2 / variance)", "pull = (self.stds**2 / variance)", "lab"),
    ("lab/run.py", "< p   ", "> p   ", "train"),
    ("lab/run.py", "1 - (1 - 1 / self.step) ** 10", "1 - (1 - 1 / self.step) ** 9", "train"),
    ("lab/muon.py", "c * gram @ gram", "b * gram @ gram", "train"),
    ("lab/muon.py", "return p.grad.lerp(average, keep)", "return average", "train"),
    ("networks/unet.py", "1000 * t.float()", "t.float()", "networks"),
    ("networks/unet.py", "q * q.shape[-1] ** -0.5 @", "q @", "networks"),
]


def noticed(copy: Path, file: str, old: str, new: str, tests: str) -> bool:
    """Whether the tests of one module fail once `old` reads `new`."""
    path = copy / "course_lib" / file
    text = path.read_text()
    if text.count(old) != 1:
        raise SystemExit(f"{file}: {old!r} stands there {text.count(old)} times; this list must follow the code")
    path.write_text(text.replace(old, new))
    done = subprocess.run([sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", f"tests/test_{tests}.py", "tests/test_equations_01.py"],
                          cwd=copy, env=os.environ | {"PYTHONPATH": str(copy)}, capture_output=True, text=True)
    path.write_text(text)
    if done.returncode not in (0, 1):
        raise SystemExit(done.stdout + done.stderr)
    return done.returncode == 1


def main() -> int:
    missed = 0
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder, "course")
        shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(".git", ".venv", "runs", "*.ipynb", "__pycache__"))
        for file, old, new, tests in MUTATIONS:
            red = noticed(copy, file, old, new, tests)
            missed += not red
            print(f"{'red ' if red else 'GREEN'}  {file}: {old.strip()}  ->  {new.strip()}", flush=True)
    print(f"{len(MUTATIONS) - missed} of {len(MUTATIONS)} noticed")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
