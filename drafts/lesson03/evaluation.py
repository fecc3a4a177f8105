# %%
import math
import torch
from torchvision.transforms.functional import gaussian_blur
from course_lib import Schedule
from course_lib.lab import data, features, metrics, plots
from course_lib.samplers import ddim, grid, last

torch.manual_seed(0)
digits, labels = data.mnist("train")
schedule = Schedule.cosine()

# %% [markdown]
# ## 3.? Is it good? Evaluation
#
# You look at a hundred samples and like them. **How far is their distribution from that of the data?** Begin with two Gaussians on a line, and call *distance* the least work that turns one into the other: pair every $x$ of the first with a $y$ of the second (a *coupling*) so that the mean of $(x-y)^2$ is smallest. For any coupling, with means $m_1, m_2$ and standard deviations $s_1, s_2$,
#
# $$E(x-y)^2 = (m_1-m_2)^2 + s_1^2 + s_2^2 - 2\operatorname{Cov}(x,y) \tag{3.?COUPLING}$$
#
# Only the covariance is ours to choose. By Cauchy-Schwarz it is at most $s_1s_2$, and $y = m_2 + \frac{s_2}{s_1}(x-m_1)$ reaches that: it has mean $m_2$, standard deviation $s_2$, and covariance $\frac{s_2}{s_1}s_1^2$ with $x$. So
#
# $$d^2 = (m_1-m_2)^2 + s_1^2 + s_2^2 - 2s_1s_2 = (m_1-m_2)^2 + (s_1-s_2)^2 \tag{3.?LINE}$$

# %%
x, z = torch.randn(2, 5000)
partner = {"independent": 0.5 + 0.4 * z, "opposite": 0.5 - 0.4 * x, "best": 0.5 + 0.4 * x}      # all of them N(0.5, 0.4^2)
plots.scatter({f"{name}\nmean (x-y)^2 = {(x - y).square().mean():.2f}": torch.stack([x, y], 1) for name, y in partner.items()},
              limit=3.5, title="Three ways to pair x from N(0, 1) with y from N(0.5, 0.4^2)")
print(f"(0 - 0.5)^2 + (1 - 0.4)^2 = {0.5**2 + 0.6**2:.2f}")

# %% [markdown]
# **What the figure shows.** The same two distributions, three costs; the rising line is the cheapest, and costs what (3.?LINE) says.
#
# In $d$ dimensions, with covariances $A$ and $B$, only the last term is new:
#
# $$E|x-y|^2 = |\mu_1-\mu_2|^2 + \operatorname{tr}A + \operatorname{tr}B - 2\operatorname{tr}\operatorname{Cov}(x,y) \tag{3.?PAIRS}$$
#
# **How large can that trace be?** Write $x = \mu_1 + A^{1/2}u$, $y = \mu_2 + B^{1/2}v$, where $u$ and $v$ have covariance $I$, and $K = E\,uv^\top$. Then $\operatorname{tr}\operatorname{Cov}(x,y) = \operatorname{tr}A^{1/2}KB^{1/2} = \operatorname{tr}KM$ with $M = B^{1/2}A^{1/2}$. For unit vectors $p, q$, Cauchy-Schwarz says $q^\top Kp = E\,(q\cdot u)(p\cdot v) \le 1$. Take $M$ apart into its singular values, $M = \sum_i s_i\,p_iq_i^\top$:
#
# $$\operatorname{tr}KM = \sum_i s_i\,q_i^\top Kp_i \le \sum_i s_i = \operatorname{tr}R, \qquad R = \big(A^{1/2}BA^{1/2}\big)^{1/2}, \tag{3.?BOUND}$$
#
# because the $s_i^2$ are the eigenvalues of $M^\top M = A^{1/2}BA^{1/2}$. If $A$ is invertible, a symmetric map reaches the bound:
#
# $$y = \mu_2 + T(x-\mu_1), \qquad T = A^{-1/2}RA^{-1/2} \tag{3.?MAP}$$
#
# Indeed $\operatorname{Cov}(y) = TAT = A^{-1/2}R^2A^{-1/2} = B$, and $\operatorname{tr}\operatorname{Cov}(x,y) = \operatorname{tr}AT = \operatorname{tr}R$. The result, squared as is usual, is the **Fréchet distance**:
#
# $$d^2 = |\mu_1-\mu_2|^2 + \operatorname{tr}\big(A + B - 2\,(A^{1/2}BA^{1/2})^{1/2}\big) \tag{3.?FRECHET}$$

# %%
def power(C, p):
    """A power of a symmetric matrix."""
    w, V = torch.linalg.eigh(C)
    return (V * w.clamp(min=0) ** p) @ V.T

def my_frechet(a, b):
    """a: (N, d), b: (M, d)"""
    A, B = a.T.cov(), b.T.cov()
    R = power(power(A, 0.5) @ B @ power(A, 0.5), 0.5)
    return (a.mean(0) - b.mean(0)).square().sum() + (A + B - 2 * R).trace()

a, b = ((torch.randn(2000, 3) @ torch.randn(3, 3) + torch.randn(3)).double() for _ in range(2))
torch.testing.assert_close(my_frechet(a, b).item(), metrics.frechet_distance(a, b))
A, B = a.T.cov(), b.T.cov()
T = power(A, -0.5) @ power(power(A, 0.5) @ B @ power(A, 0.5), 0.5) @ power(A, -0.5)
y = b.mean(0) + (a - a.mean(0)) @ T
torch.testing.assert_close(y.T.cov(), B)
print(f"distance {my_frechet(a, b):.3f}, work of the map {(a - y).square().sum(1).mean():.3f}")

# %% [markdown]
# **Features.** Pictures first go through a network that sees what matters: here the digit classifier, with 128 features. The published **FID** takes 2,048 features of Inception, trained on photographs. The code stays the same; the scale does not, so never compare across networks. The door (91 MB, fetched once, checked by digest; needs torch-fidelity):
#
# ```python
# look = metrics.inception()                              # or metrics.dinov2()
# metrics.frechet_distance(look(photos), look(samples))   # (N, 3, H, W) in [-1, 1]
# ```
#
# ### The bias: why FID at n = 500 says nothing
#
# **What do *real* digits score?** Not zero: from $n$ points, mean and covariance are only estimated. Let two clouds of $n$ and $m$ points come from one distribution with covariance $C$, in coordinates where $C$ is diagonal with entries $\lambda_i$. The means contribute $E|\bar x-\bar y|^2 = (\frac1n+\frac1m)\operatorname{tr}C$. For the covariances put $A = C$, $B = C + E$ with a small $E$, and expand $R = C + X + Y$ in first and second order of $E$. From $R^2 = C^2 + C^{1/2}EC^{1/2}$ follow $(\lambda_i+\lambda_j)X_{ij} = \sqrt{\lambda_i\lambda_j}E_{ij}$ and $2\lambda_iY_{ii} = -\sum_jX_{ij}^2$. In the trace the first order cancels. What is left is $-2\operatorname{tr}Y$; take the mean of this sum and of the same with $i$ and $j$ exchanged:
#
# $$\operatorname{tr}(A + B - 2R) \approx \sum_{ij}\frac{X_{ij}^2}{\lambda_i} = \frac12\sum_{ij}\Big(\frac1{\lambda_i}+\frac1{\lambda_j}\Big)X_{ij}^2 = \frac12\sum_{ij}\frac{E_{ij}^2}{\lambda_i+\lambda_j} \tag{3.?SECOND}$$
#
# For Gaussians the error $E_{ij}$ of $n$ points has mean square $\lambda_i\lambda_j/n$, twice that where $i = j$; the errors of the two clouds add. Together
#
# $$E\,d^2 \approx \Big(\frac1n+\frac1m\Big)\Big[\operatorname{tr}C + \frac12\sum_{ij}\frac{\lambda_i\lambda_j}{\lambda_i+\lambda_j} + \frac14\operatorname{tr}C\Big] \tag{3.?BIAS}$$
#
# It falls like $1/n$; for $d$ equal eigenvalues the bracket is $\lambda(d^2+5d)/4$. Measure it, with all the disjoint draws that 10,000 digits give (shuffled: in the file, the easier test digits come first).

# %%
g = torch.Generator().manual_seed(0)
shuffle, order = torch.randperm(60_000, generator=g), torch.randperm(10_000, generator=g)
train_x, (test_x, test_y) = digits[shuffle[:10_000]], (part[order] for part in data.mnist("test"))
metrics.classifier().to(memory_format=torch.channels_last)                          # the same numbers, faster on a CPU
test_z = metrics.test_features()[order]                                             # (10000, 128)
look = lambda x: torch.cat([metrics.features(part) for part in x.split(100)])       # small parts stay in the cache
noise = lambda count: torch.randn(count, 1, 28, 28, generator=g)
train_z, noise_z = look(train_x), look(noise(50).clamp(-1, 1))                      # (10000, 128), (50, 128)

# %%
sizes, reference = [100, 200, 500, 1000, 2000, 5000, 10_000], metrics.Statistics(test_z)
draws = [torch.tensor([metrics.frechet_distance(part, reference) for part in train_z.split(n)]) for n in sizes]
for size, d in zip(sizes, draws):
    print(f"{size:6} real digits: {d.mean():.3f}" + (f" +- {d.std():.3f} ({len(d)} draws)" if len(d) > 1 else " (1 draw)"))
n, mean = torch.tensor(sizes).double(), torch.stack([d.mean() for d in draws]).double()
line, w = torch.stack([1 / n, torch.ones(7)], 1), n.sqrt()[:, None]                 # (7, 2); a mean of many small draws errs like 1 / sqrt(n)
slope, limit = torch.linalg.lstsq(w * line, w * mean[:, None]).solution[:, 0]
lam = torch.linalg.eigvalsh(test_z.T.cov()).clamp(min=1e-12)
bracket = 1.25 * lam.sum() + 0.5 * (lam[:, None] * lam / (lam[:, None] + lam)).sum()
print(f"fitted: {slope:.0f} / n + {limit:.3f},   predicted: {bracket:.0f} / n + {bracket / 10_000:.3f}")
spoiled = metrics.frechet_distance(torch.cat([train_z[25:5000], noise_z[:25]]), reference)
print(f"  5000 of which 25 are pure noise: {spoiled:.3f}")
plots.curves(n, {"real digits": mean, "a / n + b, fitted": slope / n + limit, "prediction for Gaussians": bracket / n + bracket / 10_000,
                 "5,000, 25 of them noise": torch.full((7,), spoiled)}, xscale="log", yscale="log",
             title="Real digits against the 10,000 test digits", xlabel="number of digits n", ylabel="Fréchet distance")

# %% [markdown]
# **What the figure shows.** Real digits against real digits fall nearly as predicted. Extrapolated to infinite $n$, no more is left than the error of the 10,000 test digits themselves. **500 perfect digits score worse than 5,000 of which 25 are pure noise**: at $n = 500$ the distance measures $n$. For Inception's 2,048 features 50,000 pictures are the custom. So keep to one $n$, and print beside it the *floor*, what as many real pictures score, with its spread.
#
# **Can the bias be avoided?** Compare only means, but of many features $\phi$, given through a kernel $k(x,y) = \phi(x)\cdot\phi(y)$. With independent $x, x'$ from one distribution and $y, y'$ from the other,
#
# $$D^2 = |E\phi(x)-E\phi(y)|^2 = E\,k(x,x') + E\,k(y,y') - 2E\,k(x,y) \tag{3.?MMD}$$
#
# Among all $n^2$ pairs are $n$ of a point with itself, which is not independent of itself:
#
# $$E\,\frac1{n^2}\sum_{i,j}k(x_i,x_j) = |E\phi(x)|^2 + \frac1n\big(E\,k(x,x) - |E\phi(x)|^2\big) \tag{3.?DIAGONAL}$$
#
# There is the bias again. Leave the diagonal out, and every pair has the right mean, whatever $n$:
#
# $$\hat D^2 = \frac{\sum_{i\ne j}k(x_i,x_j)}{n(n-1)} + \frac{\sum_{i\ne j}k(y_i,y_j)}{m(m-1)} - \frac{2}{nm}\sum_{i,j}k(x_i,y_j) \tag{3.?UNBIASED}$$
#
# An unbiased estimate of 0 is often negative. **KID** takes $k = (x\cdot y/d+1)^3$, which compares moments up to the third; **CMMD** takes $e^{-|x-y|^2/2w^2}$ with $w = 10$, which compares everything, and features of CLIP. **What does each miss?** The second cell tries clouds of 1,000 numbers with mean 0 and variance 1.

# %%
def my_mmd(a, b, kernel):
    """a: (N, d), b: (M, d); every pair, but no point with itself"""
    within = lambda z: (kernel(z, z).sum() - kernel(z, z).trace()) / (len(z) * (len(z) - 1))
    return within(a) + within(b) - 2 * kernel(a, b).mean()

cubic = lambda x, y: (x @ y.T / x.shape[1] + 1) ** 3
gauss = lambda x, y: (-torch.cdist(x, y) ** 2 / (2 * 10.0**2)).exp()
whole_kid = lambda a, b: metrics.kid(a, b, size=min(len(a), len(b)), subsets=1)[0]
a, b = train_z[:500], test_z[:500]
torch.testing.assert_close(my_mmd(a, b, cubic).item(), whole_kid(a, b))
torch.testing.assert_close(my_mmd(a, b, gauss).item(), metrics.gaussian_kernel_distance(a, b))
for size in (100, 200, 500, 1000):
    parts = zip(train_z.split(size), test_z.split(size))
    k, f = torch.tensor([(1000 * whole_kid(*part), metrics.frechet_distance(*part)) for part in parts]).T
    print(f"{size:5} real digits against {size:4}, {len(k):3} draws: 1000 KID {k.mean():6.2f} +- {k.std():5.2f},   Fréchet {f.mean():.2f} +- {f.std():.2f}")

# %%
pick, (normal, other, r) = torch.rand(1000, 1, generator=g), torch.randn(3, 1000, 1, generator=g).double()
shapes = {"N(0, 1) again": other, "two bumps": torch.where(pick < 0.5, -0.9, 0.9) + 0.19**0.5 * r,
          "a long tail": torch.where(pick < 0.2, 1.6, -0.4) + 0.6 * r}
for name, z in shapes.items():
    print(f"{name:13} Fréchet {metrics.frechet_distance(normal, z):.3f}, KID {whole_kid(normal, z):6.3f}, "
          f"Gaussian kernel {metrics.gaussian_kernel_distance(normal, z, width=0.5):6.3f}")
line = torch.linspace(-4, 4, 200)[:, None]
mixtures = {"N(0, 1)": ([[0.0]], 1.0), "two bumps": ([[-0.9], [0.9]], 0.19**0.5), "a long tail": ([[1.6], [-0.4]], 0.6, [0.2, 0.8])}
plots.curves(line[:, 0], {name: data.GaussianMixture(*m).log_prob(line).exp() for name, m in mixtures.items()},
             title="Mean 0 and variance 1, all three", xlabel="x", ylabel="density")

# %% [markdown]
# At every $n$, KID is zero within its spread; but the spread is wide. **What the figure shows.** The Fréchet distance cannot tell the three shapes apart. The cubic kernel sees the long tail, a third moment, but not the bumps; the Gaussian kernel sees both.
#
# ### Scores that ask one question
#
# The **Inception Score** asks a classifier whether each picture is surely something, and all together many things. With $p(y) = E\,p(y|x)$ and the entropy $H$,
#
# $$\mathrm{IS} = \exp E\,\mathrm{KL}\big(p(y|x)\,\|\,p(y)\big) = \exp\big(H[p(y)] - E\,H[p(y|x)]\big), \tag{3.?IS}$$
#
# since $E\sum_yp(y|x)\log p(y) = \sum_yp(y)\log p(y)$. A KL is never negative, so IS is at least 1; $H[p(y)]$ is at most $\log 10$, so IS is at most 10. Real data appear nowhere:

# %%
def my_inception_score(p):
    """p: (N, 10), rows adding up to 1"""
    entropy = lambda q: -torch.xlogy(q, q).sum(-1)
    return (entropy(p.mean(0)) - entropy(p).mean()).exp().item()

head = metrics.classifier().head
belief = lambda z: head(z.float()).double().softmax(1)                              # (N, 128) -> (N, 10)
torch.testing.assert_close(belief(test_z[:200]), metrics.probabilities(test_x[:200]), rtol=1e-3, atol=1e-6)
torch.testing.assert_close(my_inception_score(belief(test_z)), metrics.inception_score(belief(test_z), splits=1)[0])
ten = belief(train_z).argmax(0)                                                     # the surest picture of each class
for name, z in {"10,000 test digits": test_z, "ten pictures, 200 times": train_z[ten].repeat(200, 1),
                "one picture, 2,000 times": train_z[ten[:1]].repeat(2000, 1)}.items():
    print(f"{name:24} Inception Score {my_inception_score(belief(z)):6.3f}")

# %% [markdown]
# Ten pictures beat all of MNIST. **Precision and recall** do look at the data $r_i$. Around each $r_i$ lay a ball that reaches to its $k$-th neighbour in the data, of radius $\rho_k(r_i)$. For samples $g_j$
#
# $$\mathrm{precision} = \frac1M\sum_{j=1}^M\mathbf 1\big[\,|g_j-r_i|\le\rho_k(r_i)\ \text{for some } i\,\big], \qquad \mathrm{recall}: g \text{ and } r \text{ exchanged} \tag{3.?BALLS}$$
#
# Precision asks whether the samples are good, recall whether they are all there. Construct the failures:

# %%
def inside(points, cloud, k=3):
    """Which points lie in a ball of the cloud?   (N, d), (M, d) -> (N,) bool"""
    radius = torch.cdist(cloud, cloud).kthvalue(k + 1, dim=1).values                # (M,); the nearest is itself
    return (torch.cdist(points, cloud) <= radius).any(1)

angle = torch.arange(8) * math.pi / 4
ring = 1.4 * torch.stack([angle.cos(), angle.sin()], 1)                             # (8, 2)
real, model = (data.GaussianMixture(ring, 0.1).sample(1000, seed).double() for seed in (1, 2))
rubbish, strays = (5 * torch.rand(count, 2, generator=g).double() - 2.5 for count in (500, 20))
clouds = {"right": model, "half missing": model[model[:, 1] > 0], "half rubbish": torch.cat([model[:500], rubbish]),
          "eight points": ring.double().repeat(100, 1)}
scores = {name: metrics.precision_recall(real, z) for name, z in clouds.items()}
for name, z in clouds.items():
    torch.testing.assert_close(scores[name], (inside(z, real).double().mean().item(), inside(real, z).double().mean().item()))
plots.scatter({f"{name}\nprecision {scores[name][0]:.2f}\nrecall {scores[name][1]:.2f}": z for name, z in clouds.items()},
              title="Samples of a ring of eight bumps, 1,000 real points not shown")
print(f"precision of half rubbish when 20 of the real points are strays: {metrics.precision_recall(torch.cat([real, strays]), clouds['half rubbish'])[0]:.2f}")

# %% [markdown]
# **What the figure shows.** Each failure is told from the others. (The balls have gaps: even the right model stays below 1.) The last line is the weak spot: a stray point has far neighbours, hence a huge ball, and rubbish in it counts as good.
#
# **LPIPS** is not about sets: it says how different *two* pictures look. On five layers $l$ of AlexNet, the features of each place are brought to length 1 (hats), compared, and weighted with $w_{lc}\ge0$ fitted to people's judgement:
#
# $$d(x,y) = \sum_l\frac1{H_lW_l}\sum_{h,w,c}w_{lc}\,\big(\hat a_{lchw}(x)-\hat a_{lchw}(y)\big)^2 \tag{3.?LPIPS}$$
#
# It serves for reconstructions (small is good) and diversity (its mean over pairs of samples: large is varied). Beside the pixels' square error:

# %%
def my_lpips(x, y):
    """x, y: (B, 3, H, W) in [-1, 1] -> (B,)"""
    net, total = features.lpips_network(), 0.0
    a, b = ((z - net.shift) / net.scale for z in (x, y))                            # AlexNet's own scale
    unit = lambda h: h / h.norm(dim=1, keepdim=True).clamp(min=1e-10)
    for k, layer in enumerate(net.body):
        a, b = layer(a), layer(b)                                                   # (B, C, H', W')
        if k in net.LAYERS:
            total = total + (net.heads[net.LAYERS.index(k)] * (unit(a) - unit(b)) ** 2).sum(1).mean((1, 2))
    return total

big = torch.rand(4, 3, 64, 64) * 2 - 1
torch.testing.assert_close(my_lpips(big[:2], big[2:]), metrics.lpips(big[:2], big[2:]))

# %%
x = test_x[:16]
versions = {"original": x, "one pixel right": x.roll(1, 3), "blurred": gaussian_blur(x, 7, 1.0), "another digit": x.roll(1, 0)}
plots.show(versions, title="Which is nearest to the original?")
for name in list(versions)[1:]:
    d = metrics.lpips(x, versions[name])
    print(f"{name:15} mean square error {(x - versions[name]).square().mean():.3f}, LPIPS {d.mean():.3f} +- {d.std() / 4:.3f} (16 pairs)")

# %% [markdown]
# **What the figure shows.** To the pixels, blur is nearer than a shift by one pixel; to LPIPS, as to us, the shift is hardly anything.
#
# ### Metrics that disagree
#
# **Which metric sees which damage?** Spoil 1,000 real test digits in ways we know, and compare with 1,000 others. All the rest gives nine draws of the floor. Copies are of training digits.

# %%
n = 1000
real_z, *others = test_z.split(n)                                                   # ten times (1000, 128)
x, z, y = test_x[n:2 * n], others[0], test_y[n:]
noisy, mirrored = (x + 0.1 * noise(n)).clamp(-1, 1), x[:200].flip(3)
mirrored_z = look(mirrored)
damages = {"half the classes": torch.cat(others)[y < 5][:n], "slight blur": look(gaussian_blur(x, 5, 0.5)), "noise of sd 0.1": look(noisy),
           "ten images, repeated": train_z[ten].repeat(100, 1), "copies of training set": train_z[:n],
           "5 % pure noise": torch.cat([z[50:], noise_z]), "5 % mirrored": torch.cat([z[50:], mirrored_z[:50]]),
           "20 % mirrored": torch.cat([z[200:], mirrored_z])}
plots.show({"real": x[:14], "blurred": gaussian_blur(x[:14], 5, 0.5), "noise of sd 0.1": noisy[:14], "mirrored": mirrored[:14]}, title="Damages")

# %%
def judged(z):
    """Six numbers for features z (n, 128)"""
    return torch.tensor([metrics.frechet_distance(z, real_z), 1000 * whole_kid(z, real_z), 1000 * metrics.gaussian_kernel_distance(z, real_z),
                         my_inception_score(belief(z)), *metrics.precision_recall(real_z, z)])

floors = torch.stack([judged(z) for z in others])                                   # (9, 6)
mean, sd = floors.mean(0), floors.std(0)
row = lambda name, values, marks=" " * 6: print(f"{name:22}" + " ".join(f"{v:8.2f}{m}" for v, m in zip(values.tolist(), marks)))
print(" " * 23 + "Fréchet  1000 KID  1000 Gau        IS precision   recall")
row("floor, 9 draws", mean), row("   standard deviation", sd)
for name, z in damages.items():
    values = judged(z)
    row(name, values, ["*" if gap > 4 else " " for gap in (values - mean).abs() / sd])
print(f"10,000 training digits as the reference: Fréchet distance of their copies {abs(metrics.frechet_distance(train_z, train_z)):.3f}, "
      f"of 10,000 test digits {metrics.frechet_distance(test_z, train_z):.3f}")

# %% [markdown]
# A star marks what lies more than 4 standard deviations from the floor. **What the table shows.**
#
# - *Half the classes missing*: seen by all but precision, rightly, for what is there is good. *Ten images, repeated*: recall 0, and the highest Inception Score of all.
# - *Slight blur* costs recall only. *Noise* of sd 0.1, hardly visible, costs more Fréchet distance than 5 % of pictures that are nothing but noise: it counts what the features notice.
# - *Mirrored digits* are what a network samples that was trained on flips and never told (**augmentation leakage**). At 5 % only the Inception Score falls; at 20 % precision, too. The Fréchet distance stays within its floor.
# - *Copies* have no star: to all these metrics a training set learned by heart is perfect. With the training set as the reference, as is usual for CIFAR-10, it even beats new digits (last line).
#
# So believe no single number: take a Fréchet or kernel distance for the whole, precision and recall for what is wrong, each beside its floor, and look at pictures.
#
# ### Our samples, and have they been learned by heart?
#
# The next cell judges the samples at their own $n$. But **memory** none of these numbers sees, so look for it: how far is each sample from its *nearest training image*? Divide by the median for test digits, which nobody can have learned by heart. The cell after it tries this on copies, too, disguised by a little noise or by a shift of one pixel.

# %%
# SAMPLES: from the shipped checkpoint in the finished lesson; for now real digits, slightly blurred
samples, asked = gaussian_blur(digits[shuffle[-500:]], 5, 0.5), labels[shuffle[-500:]]
samples_z, n = look(samples), len(samples)
scores = lambda z: (metrics.frechet_distance(z, reference), 1000 * whole_kid(z, test_z[:n]), *metrics.precision_recall(test_z[:n], z))
floor = torch.tensor([scores(z) for z in train_z.split(n)[:5]])                     # (5, 4)
print(f"{n} samples: the classifier sees what was asked for in {metrics.class_agreement(samples, asked):.1%}")
for name, value, m, s in zip(("Fréchet", "1000 KID", "precision", "recall"), scores(samples_z), floor.mean(0), floor.std(0)):
    print(f"{name:10} {value:6.2f},   {n} real digits {m:6.2f} +- {s:.2f}")

# %%
copies, stored = train_x[:200], train_x.flatten(1)                                  # (10000, 784)
nearest = {"in pixels": lambda x: torch.cdist(x.flatten(1), stored).min(1).values,
           "in features": lambda x: torch.cdist(look(x), train_z).min(1).values}
sets = {"test": test_x[200:400], "noisy": (copies + 0.1 * noise(200)).clamp(-1, 1),
        "shifted": copies.roll(1, 3), "samples": samples[:200]}
at, shares = torch.linspace(0, 2.5, 101), {}
for where, d in nearest.items():
    usual = d(test_x[:200]).median()
    ratios = {name: d(x) / usual for name, x in sets.items()}
    shares[where] = {name: (r[:, None] <= at).double().mean(0) for name, r in ratios.items()}
    print(f"{where:11} median ratio: " + ", ".join(f"{name} {r.median():.2f}" for name, r in ratios.items()))
plots.panels(at, shares, title="How near is the nearest training image?", xlabel="ratio to test median", ylabel="share nearer than this")

# %% [markdown]
# **What the figure shows.** Pixels find every noisy copy and are blind to a shift. Features find that the shifted copies, as a set, are too near, and are blind to the noise. So check with more than one distance, and look at the nearest pairs.
#
# ### Why not simply the loss?
#
# **If the loss falls, do the samples get better?** With $D^*(x_t) = E[x_0|x_t]$, the exact denoiser, the loss at one noise level is
#
# $$E|D(x_t)-x_0|^2 = E|D^*(x_t)-x_0|^2 + E|D(x_t)-D^*(x_t)|^2, \tag{3.?EXCESS}$$
#
# because for each $x_t$ the error $D^*-x_0$ has mean 0, so the mixed term is gone. The first part no network can lower. The second is ours, and the total loss adds it up over all levels, with some weight. Take eight bumps, and two denoisers with one fault each:

# %%
bumps = data.GaussianMixture(ring, 0.03)
exact, two = bumps.denoiser(schedule), data.GaussianMixture(ring[:2], 0.03).denoiser(schedule)
late = lambda x, t: exact(x, t) if t > 0.025 else x / schedule.alpha(t).to(x)       # leaves the last noise where it is
early = lambda x, t: two(x, t) if t > 0.75 else exact(x, t)                         # at first believes in two bumps only
denoisers = {"exact": exact, "A: wrong at t < 0.025": late, "B: wrong at t > 0.75": early}
x0, ts = bumps.sample(2000, seed=1), (torch.arange(100) + 0.5) / 100
levels = [(schedule.perturb(x0, t, torch.randn(2000, 2, generator=g)), t) for t in ts]
least = torch.stack([(exact(x, t) - x0).square().mean() for x, t in levels])        # (100,)
excess = {name: torch.stack([(D(x, t) - exact(x, t)).square().mean() for x, t in levels]) for name, D in denoisers.items()}
weights = {"eps": schedule.log_snr(ts).exp(), "v": 1 / schedule.sigma(ts) ** 2}     # of the error in x0
plots.curves(ts, {name: weights["eps"] * e for name, e in list(excess.items())[1:]}, yscale="log", ylim=(1e-4, 2),
             title="Above the least possible loss, by noise level", xlabel="t", ylabel="excess loss of eps")

# %%
z, fresh, clouds = torch.randn(2000, 2, generator=g), bumps.sample(2000, seed=3), {}
for name, D in denoisers.items():
    x = last(ddim(D, schedule, z, grid(schedule, 50)))
    share = torch.cdist(x, ring).argmin(1).bincount(minlength=8) / len(x)
    clouds[f"{name}\nshares {share.min():.0%} to {share.max():.0%}"] = x[:400]
    loss = "".join(f", {target} {(w * (least + excess[name])).mean():.4f}" for target, w in weights.items())
    print(f"{name:21} loss{loss[1:]};   samples: Fréchet {metrics.frechet_distance(x, fresh):.4f}, "
          f"Gaussian kernel {metrics.gaussian_kernel_distance(x, fresh, width=0.5):.4f}, mean log density {bumps.log_prob(x).mean():.2f}")
plots.scatter(clouds, title="Samples from the same noise, and how much of them a bump gets")

# %% [markdown]
# **What the figures show.** B has the lower eps loss, but gives some bumps several times as many samples as others, and both distances see it. A's bumps are merely a little wide. The loss of v, the same errors in another weighting, puts A first. (The mean log density asks of each sample alone whether its place is likely, and prefers B. Metrics disagree here, too.)
#
# So watch the loss *by noise level*, on held-out data: it shows where something is broken. Compare totals only between runs with the same target, weighting and schedule. Choose between models by their samples.
