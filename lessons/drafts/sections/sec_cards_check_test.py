"""Catalogue of wrong answers to 7.N, each with its own diagnosis."""
import re, sys
sys.path[:0] = ["/tmp/agents", "/work/main"]
import sec_cards_check as k
from course_lib.checks.common import Wrong
import inspect
src = open("/tmp/agents/sec_cards.py").read()
body = re.search(r'^def model_card.*?### END SOLUTION', src, re.S | re.M).group()
def variant(*subs):
    code = body.replace("### BEGIN SOLUTION", "").replace("### END SOLUTION", "")
    for a, b in subs:
        assert a in code, a
        code = code.replace(a, b)
    ns = {"SECTIONS": k.SECTIONS}
    exec(code, ns)
    return ns["model_card"]
right = variant()
for _ in range(200): k.judge_card(right)
NOTREC='return "not recorded" if table.get(key) is None else table[key]'
W = {
 "`or` and `if value`": variant(('return f"{value:.4g}"\n', 'return f"{value:.4g}" if value else "not recorded"\n')),
 "left out": None,
 "`None` stands": variant((NOTREC, 'return table.get(key)'), (" or known(said, section.lower())", " or said.get(section.lower())")),
 "changes the header": variant(('details = [', 'metrics.pop("n", None)\n    details = [')),
 "is a text; got dict": lambda a, s: {x: "" for x in k.SECTIONS},
 "the section 'Factors' is missing": lambda a, s: right(a, s).replace("## Factors\n", ""),
 "another order": lambda a, s: "\n".join(reversed(re.findall(r"^## .*?(?=^## |\Z)", right(a, s)+"\n", re.S | re.M))),
 "has no line under": variant(('if name not in ("n", "judged_by")', 'if name in ("sharpness", "near_copies")')),
 "fewer than three digits": variant((':.4g}"\n\n    metrics', ':.1g}"\n\n    metrics')),
 "the standard error of wetness": variant((' ± {value[1]:.3g}', '')),
 "without its n": variant((", n = {known(metrics, 'n')}", "")),
 "the header has no n": variant(("n = {known(metrics, 'n')}", "n = {metrics.get('n', '?')}")),
 "the text that was said is missing": variant(("known(said, section.lower())", "known(said, section)")),
 "nobody said anything": variant(("known(said, section.lower())", "said.get(section.lower(), '')")),
 "is in the header and not under Model details": variant(('"steps", "seconds")', '"steps")')),
 "the header does not say": variant((NOTREC, 'return ("-" if key in ("seconds", "steps") else "not recorded") if table.get(key) is None else table[key]')),
 "are not under Training data": variant(('"Training data": known(about, "data")', '"Training data": "MNIST"')),
 "names no data": variant(('"Training data": known(about, "data")', '"Training data": about.get("data", "photographs")')),
 "though all of it is known": lambda a, s: right(a, s) + "\nlicence: not recorded\n",
 "neither in the header nor": lambda a, s: right(a, s) + "\nabout 99 % are right\n",
 "your function raises KeyError": variant((NOTREC, 'return table[key]')),
}
W.pop("left out")
seen = set()
for words, f in W.items():
    for _ in range(30):
        try: k.judge_card(f); said = "PASSED"
        except Wrong as e: said = str(e)
        if words not in said: print("BAD", words, "|", said); break
    else: print("ok ", said[:140])
    seen.add(said)
print(len(seen), len(W))
for odd in (3, "text", [1.0], lambda *a: "text", lambda *a: 1/0, lambda *a: a[0], lambda: None, lambda *a: 5, lambda *a: k.SECTIONS and "\n".join("## "+s for s in k.SECTIONS)):
    try: k.judge_card(odd); print("PASSED odd", odd)
    except Exception as e: print(type(e).__name__, str(e)[:90])
