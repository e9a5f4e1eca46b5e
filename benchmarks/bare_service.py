"""What serving is measured against: the least a service with this model can be, in FastAPI on uvicorn.

One route, one model, features that are sent ready-made; no state, no reasons, nothing kept. The model is a booster as
XGBoost itself runs it, or the compiled graph that our service runs.

    MODEL=boosted_trees.ubj python -m uvicorn benchmarks.bare_service:app
"""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
from fastapi import FastAPI
from pydantic import BaseModel

app = FastAPI()


def _predictor(path: Path) -> Callable[[np.ndarray], float]:
    if path.suffix == ".ubj":
        import xgboost

        booster = xgboost.Booster(model_file=str(path))
        booster.set_param({"nthread": 1})
        return lambda values: float(booster.inplace_predict(values)[0])
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(path.read_bytes(), options)
    return lambda values: float(session.run(["fraud_probability"], {"features": values})[0][0, 0])


_predict = _predictor(Path(os.environ["MODEL"]))


class Row(BaseModel):
    """Feature values in the model's order; null is missing."""

    features: list[float | None]


class Score(BaseModel):
    """Probability of fraud."""

    fraud_probability: float


@app.post("/score")
async def score(row: Row) -> Score:
    """Score one row."""
    return Score(fraud_probability=_predict(np.array([row.features], np.float32)))
