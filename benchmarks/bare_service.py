"""What serving is measured against: the least a service with this model can be, in FastAPI on uvicorn.

One route, the model's compiled graph, features that are sent ready-made; no state, no reasons, nothing kept.

    MODEL=model.onnx python -m uvicorn benchmarks.bare_service:app
"""

import os
from pathlib import Path

import numpy as np
import onnxruntime
from fastapi import FastAPI
from pydantic import BaseModel

app = FastAPI()
_options = onnxruntime.SessionOptions()
_options.intra_op_num_threads = _options.inter_op_num_threads = 1
_session = onnxruntime.InferenceSession(Path(os.environ["MODEL"]).read_bytes(), _options)


class Row(BaseModel):
    """Feature values in the model's order; null is missing."""

    features: list[float | None]


class Score(BaseModel):
    """Probability of fraud."""

    fraud_probability: float


@app.post("/score")
async def score(row: Row) -> Score:
    """Score one row."""
    values = np.array([row.features], np.float32)
    return Score(fraud_probability=float(_session.run(["fraud_probability"], {"features": values})[0][0, 0]))
