"""The claims of AttentionDrop (arXiv 2504.12088), and where each of its figures was read.

The paper's full text was not at hand: every figure is second-hand and carries the tag of the page it was read
on. To correct one, change its PaperValue here and name the page or table of the PDF in SOURCES.
"""

from attnbench.claims.hypothesis import (
    Arm,
    Attacked,
    Calibration,
    Contrast,
    Corrupted,
    CostAtMost,
    CostInside,
    Difference,
    FreeAtEvaluation,
    Hypothesis,
    PaperValue,
    Rule,
    Unable,
    VarianceFall,
)

SOURCES = {
    "S0": "second-hand: arxivlens.com's machine summary of v1 (June 2025)",
    "S3": "second-hand: one reader's notes from the PDF (github.com/sidgairo18/llm-wiki, 5e8d58a)",
    "S5": "second-hand: alphaxiv.org/overview/2504.12088v2",
    "none": "the paper gives no figure",
}
NAME, ARXIV = "attentiondrop", "2504.12088"
VIT_B = {"layers": 12, "width": 768, "heads": 12}

SOFTMAX = Arm(("softmax",))
DROPOUT = Arm(("dropout",))
DROPOUT_2X = Arm(("dropout",), budget=2.0)
DROPCONNECT = Arm(("dropconnect",))
R_DROP = Arm(("dropout",), objective="r_drop")
HARD = Arm(("attentiondrop_hard",))
BLUR = Arm(("attentiondrop_blur",))
BLUR_CONSISTENT = Arm(("attentiondrop_blur",), objective="consistency")


def _accuracy(cifar10: float, cifar100: float) -> tuple[PaperValue, ...]:
    return (
        PaperValue(cifar10 / 100, "accuracy", "CIFAR-10, ViT-B/16", "S3", "cifar10"),
        PaperValue(cifar100 / 100, "accuracy", "CIFAR-100, ViT-B/16", "S3", "cifar100"),
    )


def _one(value: float, unit: str, what: str, source: str) -> tuple[PaperValue, ...]:
    return (PaperValue(value, unit, what, source),)


def _claim(
    number: str, statement: str, metric: str, direction: str, rule: Rule, *contrasts: Contrast
) -> Hypothesis:
    """AD-<family>-<n>."""
    family = number.rsplit("-", 1)[0]
    return Hypothesis(
        f"AD-{number}", NAME, ARXIV, family, statement, metric, direction, rule, contrasts, VIT_B
    )


HYPOTHESES = (
    _claim(
        "OV-1", "hard masking costs about 3 % of a training step", "step time ratio - 1", "at most",
        CostAtMost(),
        Contrast(HARD, SOFTMAX, _one(0.03, "time", "V100, ViT-B/16, batch 256", "S0")),
    ),
    _claim(
        "OV-2", "blurring costs about 6 % of a training step", "step time ratio - 1", "at most",
        CostAtMost(),
        Contrast(BLUR, SOFTMAX, _one(0.06, "time", "V100, ViT-B/16, batch 256", "S0")),
    ),
    _claim(
        "OV-3", "consistency halves the throughput", "throughput ratio", "equal", CostInside(0.45, 0.60),
        Contrast(BLUR_CONSISTENT, BLUR, _one(0.5, "throughput", "against one pass of the variant", "S0")),
    ),
    _claim(
        "OV-4", "needs 0.2 to 0.4 GB more memory", "peak bytes", "at most",
        Unable("not_run", "needs ViT-B/16 at batch 256 on a GPU (arithmetic: plain autograd fails it)"),
    ),
    _claim(
        "OV-5", "costs nothing at evaluation", "equal outputs, evaluation time ratio - 1", "equal",
        FreeAtEvaluation(),
        Contrast(HARD, SOFTMAX, _one(0.0, "time", "evaluation", "S5")),
        Contrast(BLUR, SOFTMAX, _one(0.0, "time", "evaluation", "S5")),
    ),
    _claim(
        "GV-1", "gradient variance falls by about 10 %", "tr Cov(g) ratio - 1", "lower", VarianceFall(),
        Contrast(HARD, SOFTMAX, _one(0.10, "variance", "where and which variant: not known", "S0")),
        Contrast(BLUR, SOFTMAX, _one(0.10, "variance", "where and which variant: not known", "S0")),
    ),
    _claim(
        "GV-2", "the fall is not just a smaller gradient", "tr Cov(g) / |E g|^2 ratio - 1", "lower",
        VarianceFall(scaled=True), Contrast(HARD, SOFTMAX), Contrast(BLUR, SOFTMAX),
    ),
    _claim(
        "GV-3", "the lemma's condition holds", "Cov(g_base, delta) - Var[delta]/2", "positive",
        Unable("not_run", "needs inner products of both arms' gradients"),
    ),
    _claim(
        "ACC-1", "hard masking beats dropout", "test accuracy", "higher", Difference("test_accuracy"),
        Contrast(HARD, DROPOUT, _accuracy(1.0, 1.1)),
    ),
    _claim(
        "ACC-2", "blurring beats dropout", "test accuracy", "higher", Difference("test_accuracy"),
        Contrast(BLUR, DROPOUT, _accuracy(0.8, 0.9)),
    ),
    _claim(
        "ACC-3", "blur with consistency beats dropout, and dropout given twice the steps",
        "test accuracy", "higher",
        Difference("test_accuracy"),
        Contrast(BLUR_CONSISTENT, DROPOUT, _accuracy(1.3, 1.4)),
        Contrast(BLUR_CONSISTENT, DROPOUT_2X),
    ),
    _claim(
        "ACC-4", "beats a tuned R-Drop", "test accuracy", "higher", Difference("test_accuracy"),
        Contrast(HARD, R_DROP, _accuracy(0.4, 0.3)),
        Contrast(BLUR_CONSISTENT, R_DROP, _accuracy(0.7, 0.6)),
    ),
    _claim(
        "ACC-5", "beats DropConnect", "test accuracy", "higher", Difference("test_accuracy"),
        Contrast(HARD, DROPCONNECT), Contrast(BLUR_CONSISTENT, DROPCONNECT),
    ),
    _claim(
        "ACC-6", "translates better than dropout and R-Drop", "BLEU", "higher",
        Unable("not_run", "needs a sequence-to-sequence host and a translation workload"),
    ),
    _claim(
        "ACC-7", "gains on ImageNet-1K", "top-1", "higher",
        Unable("not_run", "needs ImageNet-1K and days of several GPUs; no figure of the paper was read"),
    ),
    _claim(
        "CAL-1", "better calibrated than dropout and R-Drop", "ECE, 15 bins", "lower", Calibration(),
        Contrast(HARD, DROPOUT, _one(0.013, "ECE", "data set not known", "S3")),
        Contrast(BLUR, DROPOUT, _one(0.011, "ECE", "data set not known", "S3")),
        Contrast(BLUR_CONSISTENT, DROPOUT, _one(0.016, "ECE", "data set not known", "S3")),
        Contrast(HARD, R_DROP, _one(0.006, "ECE", "data set not known", "S3")),
        Contrast(BLUR_CONSISTENT, R_DROP, _one(0.009, "ECE", "data set not known", "S3")),
    ),
    _claim(
        "ROB-1", "more robust to PGD than dropout and R-Drop", "accuracy under PGD-20", "higher",
        Attacked(),
        Contrast(HARD, DROPOUT, _one(0.041, "accuracy", "radius and data set not known", "S3")),
        Contrast(BLUR_CONSISTENT, DROPOUT, _one(0.051, "accuracy", "radius and data set not known", "S3")),
        Contrast(HARD, R_DROP, _one(0.015, "accuracy", "radius and data set not known", "S3")),
        Contrast(BLUR_CONSISTENT, R_DROP, _one(0.025, "accuracy", "radius and data set not known", "S3")),
    ),
    _claim(
        "ROB-2", "robustness to corruption (not a claim of the paper)", "mean accuracy over severities",
        "two-sided",
        Corrupted(), Contrast(HARD, DROPOUT), Contrast(BLUR, DROPOUT), Contrast(BLUR_CONSISTENT, DROPOUT),
    ),
    _claim(
        "ABL-1", "p above 0.5 costs more than 2 points", "test accuracy", "positive",
        Unable("not_run", "needs a grid over p with seeds of its own, apart from the tuned comparison"),
    ),
    _claim(
        "ABL-2", "w above 9 costs more than 2 points", "test accuracy", "positive",
        Unable("not_run", "needs a grid over w and sigma_max on rows longer than 17 tokens"),
    ),
    _claim(
        "ABL-3", "blur with consistency > hard > blur", "test accuracy", "order",
        Unable("not_run", "needs both adjacent differences decided (arms of AD-ACC-1 to 3)"),
    ),
    _claim(
        "CTL-1", "it matters that the TOP logits are dropped", "test accuracy", "two-sided",
        Unable("not_run", "needs hard masking with select: random as a tuned arm"),
    ),
    _claim(
        "CTL-2", "zero and minus infinity differ", "test accuracy", "two-sided",
        Unable("not_run", "needs hard masking with mask_value: neginf as a tuned arm"),
    ),
    _claim(
        "CTL-3", "helps more when data are few", "interaction of accuracy", "positive",
        Unable("not_run", "needs the comparison at 5 to 10 % of the training data as well"),
    ),
    _claim(
        "MEC-1", "attention is less peaked at evaluation", "mean row entropy", "higher",
        Unable("not_run", "needs the attention maps of trained models"),
    ),
    _claim(
        "TH-1", "the PAC-Bayes bound is non-vacuous", "complexity term", "below 1",
        Unable(
            "not_testable",
            "arithmetic, not an experiment: for one layer of ViT-B at 224 with 50,000 samples the term is "
            "2.03 at sigma 0.1 and 0.94 at 0.2; above 0.242 the per-logit term is negative, no KL is",
        ),
    ),
)  # fmt: skip
