"""A script that loads what lies in each folder of a folder, and says what came of it.

It prints a line of JSON for each: name, errors, and by how many MiB the peak of memory grew. A
checkpoint named "benign" is loaded first, so that what every loading takes is counted for none.
"""

import json
import resource
import sys
from pathlib import Path

from prolu_eval.checkpoints import discover, load_run, load_sae
from prolu_eval.errors import ProluEvalError
from prolu_eval.runs import Run


def _main(root: Path) -> None:
    def peak() -> int:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024

    resource.setrlimit(resource.RLIMIT_AS, (16 << 30, 16 << 30))
    load_sae(root / "benign")
    for folder in sorted(root.iterdir()):
        before, errors = peak(), []
        try:
            for item in discover(folder):
                if isinstance(item, Run):
                    load_run(item)
                else:
                    errors.append(item.error)
        except ProluEvalError as error:
            errors.append(str(error))
        print(json.dumps({"name": folder.name, "errors": errors, "grew": peak() - before}))


if __name__ == "__main__":
    _main(Path(sys.argv[1]))
