"""A Flower client that trains on the shard of its partition number."""

from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from training.task import load
from training.task import train as train_locally

app = ClientApp()


@app.train()
def train(message: Message, context: Context) -> Message:
    """Train from the arrays that came."""
    work = load(context.run_config["work"])
    model = work.model
    model.load_state_dict(message.content["arrays"].to_torch_state_dict())
    images, labels = work.examples(int(context.node_config["partition-id"]))
    loss = train_locally(model, images, labels, work.settings)
    metrics = MetricRecord({"num-examples": len(labels), "train_loss": loss})
    content = RecordDict({"arrays": ArrayRecord(model.state_dict()), "metrics": metrics})
    return Message(content=content, reply_to=message)
