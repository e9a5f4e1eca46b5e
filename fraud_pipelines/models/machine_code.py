"""Machine code of the loops that score, made while a Bento is built, so that no first start has to wait for it.

The compiler's cache holds it beside the modules it was made of, and knows it by the digest of their source, its own
version and the processor: where one of them differs, the service compiles as if nothing were there.
"""

import logging
import shutil
from pathlib import Path
from types import ModuleType
from typing import Any

from fraud_pipelines.errors import FraudPipelinesError
from fraud_pipelines.features import kernel
from fraud_pipelines.features.online import OnlineEngine
from fraud_pipelines.models import tree_shap
from fraud_pipelines.models.bundle import Bundle

logger = logging.getLogger(__name__)
# A module, and one of its compiled functions, which knows where the cache is.
COMPILED: tuple[tuple[ModuleType, Any], ...] = ((kernel, kernel.compute), (tree_shap, tree_shap._contributions))


def add_machine_code(bundle: Bundle, code: Path) -> None:
    """Compile what `bundle` needs to score, unless that was done before, and copy it to the modules' places in `code`.

    A model that cannot score gets none: what is wrong with it is the service's to find and to report.

    Args:
        code: folder with the package fraud_pipelines, as in this checkout.
    """
    try:
        OnlineEngine(bundle.spec).warm_up()
        bundle.contributions(bundle.sample(1))
    except (FraudPipelinesError, ValueError) as error:
        logger.warning("The Bento gets no machine code, its first start compiles: %s", error)
        return
    for module, function in COMPILED:
        package, _, name = module.__name__.rpartition(".")
        beside = code.joinpath(*package.split("."), "__pycache__")
        beside.mkdir(exist_ok=True)
        # An index after the files it names: another process may be adding to both.
        for suffix in ("nbc", "nbi"):
            for file in Path(function.stats.cache_path).glob(f"{name}.*.{suffix}"):
                shutil.copy(file, beside)
