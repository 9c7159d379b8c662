"""`nox -s quality` fails if autoencoders are worse than a baseline: copy it into your noxfile."""

import nox

RUNS, TOKENS, BASELINE = "runs/", "data/heldout.txt", "baseline.json"


@nox.session
def quality(session: nox.Session) -> None:
    """Evaluate the runs and compare; `-- update` accepts what changed."""
    session.install("prolu-eval")
    # 1 says that some runs could not be evaluated: the comparison names them.
    session.run("prolu-eval", "evaluate", RUNS, "--tokens", TOKENS, "--quiet", success_codes=[0, 1])
    if "update" in session.posargs:
        session.run("prolu-eval", "baseline", "update", RUNS, "--baseline", BASELINE)
    else:
        session.run("prolu-eval", "compare", RUNS, "--baseline", BASELINE,
                    "--html", "comparison.html")  # fmt: skip
