"""The claims of the Learnable Attention Mask, LAM (arXiv 2406.02761): no figure of the paper could be read.

So only a direction can be judged, against a practical floor: 0.5 points of accuracy, 0.2 where the paper
itself calls the gain modest.
"""

from attnbench.claims.hypothesis import (
    Arm,
    Calibration,
    Contrast,
    CostBelowOne,
    Difference,
    Hypothesis,
    Rule,
    Unable,
)

SOURCES: dict[str, str] = {}
NAME, ARXIV = "lam", "2406.02761"
SOFTMAX = Arm(("softmax",))
LAM = Arm(("lam",))
NO_TASK = "needs a host for several modalities and the paired-needle task with planted tokens"


def _claim(
    number: str, statement: str, metric: str, direction: str, rule: Rule, *contrasts: Contrast
) -> Hypothesis:
    """LAM-<family>-<n>."""
    return Hypothesis(
        f"LAM-{number}", NAME, ARXIV, number.rsplit("-", 1)[0], statement, metric, direction, rule, contrasts
    )


HYPOTHESES = (
    _claim(
        "ACC-1", "multi-layer LAM helps multimodal tasks", "accuracy, recall", "higher",
        Unable("not_run", NO_TASK),
    ),
    _claim(
        "ACC-2", "helps single-modality tasks a little", "test accuracy", "higher",
        Difference("test_accuracy", floor=0.002), Contrast(LAM, SOFTMAX),
    ),
    _claim(
        "ACC-3", "the gain is larger on multimodal tasks", "interaction", "positive",
        Unable("not_run", NO_TASK),
    ),
    _claim("ACC-4", "multi-layer beats single", "accuracy", "higher", Unable("not_run", NO_TASK)),
    _claim(
        "PAR-1", "the gain is not explained by parameters", "accuracy", "higher than each control",
        Unable("not_run", "needs five controls of equal size (residual MLP, block, FFN, N x N, temperature)"),
    ),
    _claim(
        "OV-1", "computation is reduced", "step time ratio, FLOP ratio", "lower", CostBelowOne(),
        Contrast(LAM, SOFTMAX),
    ),
    _claim(
        "OV-2", "the same quality in fewer steps", "steps and seconds to the baseline's loss", "lower",
        Unable("not_run", "needs runs with an early stop at the baseline's final loss"),
    ),
    _claim(
        "OV-3", "attention becomes prunable", "share of weights below 1e-3", "higher",
        Unable("not_run", "needs the attention maps of trained models"),
    ),
    _claim("MEC-1", "critical tokens are favoured", "attention mass", "higher", Unable("not_run", NO_TASK)),
    _claim(
        "MEC-2", "the mask uses content, not only position", "accuracy drop under a mean mask", "positive",
        Unable("not_run", "needs an intervention that replaces the mask by its mean over the data set"),
    ),
    _claim(
        "CTL-1", "the gain is not the initialisation", "test accuracy", "two-sided",
        Unable("not_run", "needs both initialisations as tuned arms"),
    ),
    _claim(
        "CTL-2", "unconstrained sign is harmless", "test accuracy", "two-sided",
        Unable("not_run", "needs the positive activations as tuned arms"),
    ),
    _claim(
        "CTL-3", "multiply equals add", "test accuracy", "two-sided",
        Unable("not_run", "needs both ways to combine as tuned arms"),
    ),
    _claim(
        "LEN-1", "works on other lengths", "accuracy at other lengths", "stays above 0",
        Unable("not_run", "needs evaluation at lengths other than the training one"),
    ),
    _claim("ROB-1", "noisy or missing modality (ours)", "accuracy", "two-sided", Unable("not_run", NO_TASK)),
    _claim(
        "CAL-1", "calibration (ours)", "ECE, 15 bins", "two-sided", Calibration(report_only=True),
        Contrast(LAM, SOFTMAX),
    ),
    _claim(
        "GV-1", "gradient variance (ours)", "tr Cov(g) ratio - 1", "two-sided",
        Unable("not_run", "needs own weights of LAM at identity initialisation and equal training loss"),
    ),
    _claim(
        "X-1", "LAM and AttentionDrop combine (ours)", "accuracy, ECE", "two-sided",
        Unable("not_run", "needs lam, attentiondrop_hard and both together as tuned arms"),
    ),
)  # fmt: skip
