# Sketch of the sheet, first half: questions, solutions, and the wrong answers that each check must diagnose.

# 6.1 Derivation: a Gaussian, backwards (3 points, 20 min)
#   data N(0, v). q(x_s | x_t) for s < t by Bayes: factor and variance.
#   factor   = (alpha_t / alpha_s) Var_s / Var_t          (regression of x_s on x_t)
#   variance = Var_s (1 - (alpha_t/alpha_s)^2 Var_s / Var_t)
#   wrong: the posterior given x0 (lesson 1); Var_t / Var_s upside down; variance of added noise; a standard
#          deviation for the variance; the ODE's factor sqrt(Var_s / Var_t)
def reverse_gaussian(schedule, v, t, s):
    var = lambda u: schedule.alpha(u) ** 2 * v + schedule.sigma(u) ** 2
    ratio = schedule.alpha(t) / schedule.alpha(s)
    factor = ratio * var(s) / var(t)
    return factor, var(s) * (1 - ratio**2 * var(s) / var(t))

# 6.2 From a blank stub: Hutchinson (3 points, 20 min)
#   divergence_estimate(f, x, generator): one Rademacher probe, one backward pass -> (B,)
#   wrong: one probe shared by the batch (right mean; the check looks at the covariance of two rows); 0/1 in place of
#          +-1; normal probes (variance too large where the diagonal is large: diagnosis by f(x) = c x, where signs are
#          exact); sum over the batch; missing create_graph is no mistake
def divergence_estimate(f, x, generator):
    x = x.detach().requires_grad_()
    z = torch.randint(0, 2, x.shape, generator=generator).to(x) * 2 - 1
    grad = torch.autograd.grad((f(x) * z).sum(), x)[0]
    return (grad * z).flatten(1).sum(1)

# 6.3 Bug hunt (5 points, 30 min): two functions, three bugs
#   a) bits per dimension without dequantisation noise; b) minus 8 bits for data in [-1, 1] (that offset belongs to
#   [0, 256) or, as log2(128), to bins of 2/256); c) an SDE step: noise scaled by g sqrt(h) AND score factor of the ODE
#   (or: noise enters twice, lambda g in the drift's place)

# 6.4 Convert (4 points, 20 min): as_flow(D) -> a denoiser under Schedule.flow(), without sde.change_schedule; sample it
#   wrong: same t; same t but rescaled; log SNR halved (lambda); x not rescaled; rescaled by sigma ratio at t = 0

# 6.5 From samples alone (2 points, 10 min): four latent models; which one forgot its scale, and was c > 1 or c < 1?

# 6.6 Optimal-transport coupling of a batch (3 points, 20 min): scipy.optimize.linear_sum_assignment on squared
#   distances; returns eps reordered. wrong: greedy nearest (repeats), distances not squared, rows for columns,
#   sorted by the first coordinate

# 6.7 Open (5 points, an evening): how few channels does Nouns need? table of channels against right parts after
#   decoding and after sampling; what would you ship? (nouns_vae uses six of its eight: two collapsed)
