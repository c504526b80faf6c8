"""A plain FastAPI handler in eager PyTorch: FOLDER PORT."""

import sys
from pathlib import Path

import uvicorn
from fastapi import FastAPI
from model import Eager
from pydantic import BaseModel

eager = Eager(Path(sys.argv[1]))
app = FastAPI()


class Body(BaseModel):
    image: str


@app.post("/predict")
def predict(body: Body) -> dict:
    batch = eager.decode({"image": body.image})[None]
    return eager.encode(eager.answer(batch)[0])


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[2]), log_level="error", access_log=False)
