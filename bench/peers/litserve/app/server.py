"""LitServe with batching, as its guide writes an API: FOLDER PORT eager|ours BATCH.

``ours`` computes with FedFleet's backends instead of with eager PyTorch, and decodes as FedFleet
does; all the rest is LitServe's.
"""

import base64
import sys
from pathlib import Path

import litserve as ls
import numpy as np
import torch
from model import Eager, read_model

from fedfleet.data.decode import decode_image, fit_pixels
from fedfleet_inference_api.backends.backend import Prepared
from fedfleet_inference_api.backends.choice import Backends


class EagerAPI(ls.LitAPI):
    def setup(self, device):
        self.eager = Eager(FOLDER)

    def decode_request(self, request):
        return self.eager.decode(request)

    def batch(self, inputs):
        return torch.stack(inputs)

    def predict(self, batch):
        return self.eager.answer(batch)

    def encode_response(self, output):
        return self.eager.encode(output)


class OurBackendAPI(EagerAPI):
    def setup(self, device):
        super().setup(device)
        card, module = read_model(FOLDER)
        backends = Backends("auto", max_batch=BATCH)
        self.backend = backends.of(card, Prepared(module, card.inputs))
        self.inputs = card.inputs

    def decode_request(self, request):
        inputs = self.inputs
        image = decode_image(
            base64.b64decode(request["image"]), side=max(inputs.height, inputs.width)
        )
        return fit_pixels(image, channels=inputs.channels, height=inputs.height, width=inputs.width)

    def batch(self, inputs):
        return np.stack(inputs)

    def predict(self, batch):
        return torch.softmax(torch.from_numpy(self.backend.run(batch)), dim=1)


FOLDER, PORT, BATCH = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[4])
WINDOW_S = 0.01  # as in its own performance test, and its queue for many requests per second

if __name__ == "__main__":
    api = {"eager": EagerAPI, "ours": OurBackendAPI}[sys.argv[3]]
    server = ls.LitServer(
        api(max_batch_size=BATCH, batch_timeout=WINDOW_S),
        accelerator="cpu",
        workers_per_device=1,
        fast_queue=True,
    )
    server.run(
        host="127.0.0.1",
        port=PORT,
        log_level="error",
        access_log=False,
        generate_client_file=False,
        num_api_servers=1,
    )
