# %% [markdown]
# ## 7.x Cards and rules
#
# **What must somebody know who takes your model?** A **model card** (Mitchell et al. 2019) says what a model is, what it is for and what not, on which data it was trained and judged, how well it does, for whom it does worse. A **data sheet** (Gebru et al. 2021) asks the same of data: who is in them, who was asked, under which licence. `python tools/cards.py` writes one for every file that this course ships ([docs/cards](../docs/cards/README.md)). Numbers come from the files; what nobody wrote down is called "not recorded". How much is in our own headers?

# %%
def recorded(about):
    """What the header of a checkpoint says: {what: yes or no}."""
    metrics = about.get("metrics", {})
    seconds = metrics.get("training", metrics).get("seconds", about.get("seconds"))
    return {"its command": "command" in about,
            "its data": "data" in about or "source" in about,
            "a measured number": any(k == "metrics" or k[:5] == "test_" for k in about),
            "the seconds of its training": isinstance(seconds, int | float),
            "the date": "date" in about,
            "what it is for, its limits, who was asked": "intended_use" in about}

abouts = [storage.load_header(file).get("about", {})
          for file in sorted(storage.CHECKPOINTS.glob("*.safetensors"))]
rows = {what: {"headers": sum(recorded(about)[what] for about in abouts),
               "of": len(abouts)} for what in recorded({})}
tables.table(rows, index="says", caption="The headers of the shipped checkpoints")

# %% [markdown]
# **What the table shows.** A program writes down what it knows: the command, the data. Fewer headers say how long the training took, none says when. None says what the model is for or who was asked. A person writes that (`tools/cards.toml`), or nobody.
#
# **Licences** travel with data. MNIST's is **share-alike**, CC BY-SA 3.0: who passes on an *adaptation* must use the same licence. Are trained weights one? That is not settled; our cards say so, and list all data behind a model, also through a teacher or an autoencoder. CC BY asks that makers be named, CC0 asks nothing, CIFAR-10 states no licence. A licence is the author's **consent**, not that of the people shown: a card has a line for each.
#
# **Disclosure.** Say that a picture was made by a model, in the file and beside it. Rules ask for that, too; they have dates: section 7.y.

# %% [markdown]
# ## 7.y Rules, and questions without a single answer · deeper
#
# This is no legal advice. The table was written from what was known in **November 2025**; the last column says what to look up before you rely on a row.
#
# | rule | what it says | date and source | check |
# | --- | --- | --- | --- |
# | EU, AI Act, article 50(2) | The **provider** of a system that generates pictures, sound, video or text marks the output in a machine-readable way, so that it can be detected as artificial: effective, interoperable, robust and reliable, as far as technically feasible. Not where it only assists ordinary editing. | Regulation (EU) 2024/1689, in force since 1 August 2024; article 50 applies from 2 August 2026 (article 113) | the next row |
# | ..., the "digital omnibus" | The Commission *proposes* to give systems that were on the market before 2 August 2026 until 2 February 2027 for 50(2). | proposal of 19 November 2025 | whether, and how, it was adopted; whether the code of practice on marking is there |
# | ..., article 50(4) | The **deployer**, who uses such a system, discloses a **deep fake**. In evidently artistic or satirical work it is enough to say that it was generated, in a way that does not spoil the work. | as 50(2) | |
# | ..., article 50(1), (5) | Who talks to a system is told that it is one, unless that is obvious. All this clearly, and at the latest at the first encounter. | as 50(2) | |
# | ..., article 2(12) | A free and open-source licence exempts from much of the Act, not from article 50. | as 50(2) | |
# | ..., article 53(1) | Providers of *general-purpose* models keep a copyright policy and publish a summary of the training data: a data sheet by law. | applies from 2 August 2025 | whether your model is one (mini-SD is hardly) |
# | C2PA | No law, a technical standard: a signed statement in the file about where it comes from. Who removes it leaves no trace (section 7.z). | version 1.0, January 2022 | the current version |
# | US Copyright Office, part 2 | Works need a human author. Prompts alone, as systems are today, do not give enough control. | report of 29 January 2025, no law | later cases |
# | ..., part 3 | Training on protected works may be fair use or not, case by case. | pre-publication version, 9 May 2025, no law | the final version; later cases |
# | ..., part 1 | A federal law on digital replicas of persons is recommended; protection of an artist's style is not. | report of 31 July 2024, no law | |
# | US, Take It Down Act | Intimate pictures of people published without their consent are a crime, generated ones as well; platforms remove them within 48 hours of a valid request. | signed 19 May 2025; platforms have a year for their procedure | |
# | Getty Images v Stability AI, England | The weights of Stable Diffusion are no "infringing copy", since they do not store the works; trade marks were infringed to a small extent, by generated watermarks. The claim about training itself had been dropped. | High Court, [2025] EWHC 2863 (Ch), 4 November 2025 | appeal? |
# | GEMA v OpenAI, Munich | Song texts that a language model has memorised *are* reproduced in its weights. | Landgericht München I, 11 November 2025, 42 O 14139/24 | appeal? |
#
# Two courts, one week apart, on what weights are. The facts differed: pictures that could not be shown to be stored, and texts that came out word for word. So the measurements of this part, near copies and duplicates, are what such a dispute is about.
#
# **Deep fakes.** The Act's term (article 3(60)) means content that resembles existing persons, objects, places or events and would falsely appear authentic. A pixel figure is none. A face or a voice of a real person can be, whatever the licence of the data says.
#
# **Style.** Copyright protects works, not a style as such. That does not make it fair to train an adapter on a living person's dozen pictures and to sell what it draws under their name; names and marks have rules of their own.
#
# **Who is what?** With section 7.z's service you would be a provider: mark what comes out (Gaussian Shading, metadata, a C2PA signature: three ways, each lost by another attack). Who puts such a picture on a page is a deployer: the caption says so.
#
# **Five questions, each with more than one answer that can be defended.**
#
# 1. The people who wrote MNIST's digits were, as far as we know, never asked. Nothing names them, and everyone uses the digits. What would have to be in the pictures for your answer to change: a signature, a face, an illness?
# 2. Lesson 6 measured near copies among samples of drums and shapes, beside held-out data. At what share of near copies are weights a copy of their data: any, more than held-out data have, half? Would the share change which licence you give them?
# 3. Two adapters, each trained on a dozen pictures by one artist. One artist has chosen CC0, the other has said no on their page. The mathematics is the same. What may you publish: the pictures, the adapter, the recipe?
# 4. A watermark detector has a false-positive rate of one in a million, and somebody can forge the mark. A student's drawing is flagged. What should follow from it, and who should be told of the rate?
# 5. Weights that you released contain one person's photographs, and the person asks you to take them out. Others have downloaded the file. What do you owe: a new file, a note on the card, a retraining, nothing that helps? What could you have done before?

# %% [markdown]
# ---
# **For the sheet's second half.** Everything below is the exercise; its check is in `sec_cards_check.py`.

# %% [markdown]
# ## 7.N Write the card of a checkpoint of yours (3 points, 20 minutes)
#
# `about` is what a header says: `data`, `command`, `steps`, `seconds`, and `metrics`, in which `n` and `judged_by` stand beside the measures. A measure is a number, or a list of a number and its standard error. `said` is what a person adds: section, in small letters, to text. Any of all this may be missing. Write `model_card`, which returns a text:
#
# - the nine sections of Mitchell et al. 2019, in this order, each a line `## Section`;
# - *Model details* has `command`, `steps`, `seconds` and `judged_by`, *Training data* has `data`, *Quantitative analyses* a line for each measure, with its name, its value to at least three digits, its standard error if there is one, and `n = ...`;
# - the other six have the text that was said;
# - what is missing is called `not recorded`. No other number stands in the card.

# %%
SECTIONS = ("Model details", "Intended use", "Factors", "Metrics", "Evaluation data",
            "Training data", "Quantitative analyses", "Ethical considerations",
            "Caveats and recommendations")

# %% tags=["answer:7.N"]
def model_card(about, said):
    """A header's `about` and what a person says -> the card, a text"""
    ### BEGIN SOLUTION
    def known(table, key):
        return "not recorded" if table.get(key) is None else table[key]

    def shown(value):
        if isinstance(value, list):
            return f"{value[0]:.4g} ± {value[1]:.3g}"
        return f"{value:.4g}"

    metrics = about.get("metrics", {})
    details = [f"{key}: {known(about, key)}" for key in ("command", "steps", "seconds")]
    text = {
        "Model details": "\n".join([*details, f"judged_by: {known(metrics, 'judged_by')}"]),
        "Training data": known(about, "data"),
        "Quantitative analyses": "\n".join(
            f"- {name}: {shown(value)}, n = {known(metrics, 'n')}"
            for name, value in metrics.items() if name not in ("n", "judged_by"))}
    pages = [f"## {section}\n{text.get(section) or known(said, section.lower())}\n"
             for section in SECTIONS]
    return "\n".join(pages)
    ### END SOLUTION

# %% tags=["check:7.N"]
check("7.N", model_card)
### BEGIN HIDDEN TESTS
assert check.passed("7.N")
### END HIDDEN TESTS

# %% [markdown]
# Now for a checkpoint of yours: any run of yours in `runs/`, or a few steps on digits as here. `train.save` keeps what you say about it in the header. Write the six texts before you look at the samples once more. Which of them was hardest to fill honestly?

# %% tags=["solution"]
torch.manual_seed(0)
D = Denoiser(UNet(1, widths=(16, 32), patch_size=2, num_classes=10), Schedule.cosine(), "v")
start = time.perf_counter()
D = train.train(D, data.mnist("train"), steps=200, batch_size=64)
seconds = round(time.perf_counter() - start, 1)
y = torch.arange(200) % 10
x, _, _ = sampling.sample_labels(D, sampling.SAMPLERS["dpmpp"], 10, y, scale=2.0)
agreement = metrics.class_agreement(x, y)
error = (agreement * (1 - agreement) / len(y)) ** 0.5
file = Path(tempfile.mkdtemp()) / "mine.safetensors"
train.save(D, file, data="mnist", command="this cell", seconds=seconds,
           metrics={"n": len(y), "class_agreement": [agreement, error],
                    "judged_by": "this cell, by mnist_classifier"})

# %% tags=["solution"]
said = {
    "intended use": "This exercise. Not for reading or forging handwriting.",
    "factors": "The digit; the writer, whom the data do not name.",
    "metrics": "The share of samples that the shipped classifier reads as asked for.",
    "evaluation data": "No data: samples alone, as many of each digit.",
    "caveats and recommendations": "Trained for 200 steps. The judge was trained on the "
    "same digits. Agreement at this guidance scale says nothing of variety."}
print(model_card(storage.load_header(file)["about"], said))

# %% [markdown] tags=["solution"]
# **What the card shows.** The steps are "not recorded", though the cell knew them: nobody passed them to `train.save`, and no file can tell afterwards. *Ethical considerations* is empty because nothing was said: the writers' consent is not known to us, and that would be the sentence to write. Agreement comes with an error and n, so that a reader sees what 200 samples can tell.
